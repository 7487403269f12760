//! The ranker: what does the model say of each row of features?
//!
//! Useful for: loading an ONNX model (tree ensembles of XGBoost, dense networks of PyTorch) from memory
//! and scoring rows with it. Must not know: files, what a feature means, how heads are weighed.
//!
//! Read in this order: `check` (what is refused before anything runs), `onnx_op` (our tree operator for
//! tract), `tree` (the flat ensemble), `layout` (how it is made), `walk` (its hot loop), `dense_op`, `dense` and
//! `columns` (our layers and steps in place of tract's), `graph` (everything else that tract runs).

mod batch;
mod check;
mod columns;
mod complete;
mod dense;
mod dense_op;
mod graph;
mod layout;
mod onnx_op;
mod tree;
mod walk;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::Framework;

use graph::Plan;

/// Why a model cannot rank. The text names the reason; it is for operators and their logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no ONNX model, or contradict themselves: make the file again.
    #[error("not a sound ONNX model: {0}")]
    Malformed(String),
    /// A sound model that uses what rankers may not: export it differently.
    #[error("the ranker does not support {0}")]
    Unsupported(String),
    /// Inputs or outputs are not those of a ranker over these columns: wrong model or wrong features.
    #[error("the model does not fit: {0}")]
    Signature(String),
    /// The caller's features are not `rows` rows: a bug of the caller.
    #[error("{given} feature values are not {rows} rows of {columns}")]
    Features {
        /// Numbers given.
        given: usize,
        /// Rows announced.
        rows: usize,
        /// Columns of a row.
        columns: usize,
    },
    /// The model failed on these rows: rank without it.
    #[error("the model failed while scoring: {0}")]
    Failed(String),
}

/// A loaded ranker. Thread-safe, immutable.
#[derive(Debug)]
pub struct Ranker {
    plan: Plan,
    columns: usize,
    heads: Vec<String>,
}

impl Ranker {
    /// Loads a model from the bytes of its ONNX file. `columns` is the number of feature columns.
    ///
    /// Accepted: one f32 input `[rows, columns]`, whose batch dimension is symbolic, unset or a number;
    /// one or more f32 outputs `[rows]` or `[rows, k]`. Everything is decided here: a model that loads has
    /// scored rows already, and does not let rows influence each other.
    ///
    /// # Errors
    /// `Malformed`, `Unsupported` (foreign operators, external data, subgraphs) or `Signature`.
    pub fn from_onnx(bytes: &[u8], columns: usize) -> Result<Ranker, Error> {
        let model = guarded(|| onnx_op::onnx().proto_model_for_read(&mut &*bytes).map_err(|e| format!("{e:#}")));
        Ranker::from_proto(&model.map_err(Error::Malformed)?, columns)
    }

    fn from_proto(model: &ModelProto, columns: usize) -> Result<Ranker, Error> {
        if columns == 0 || columns > tree::COLUMNS_MAX {
            let max = tree::COLUMNS_MAX;
            return Err(Error::Signature(format!("{columns} feature columns; 1 to {max} can be used")));
        }
        let declared = check::check(model, columns)?;
        let plan = guarded(|| Plan::load(model, &declared, columns).map_err(|e| format!("{e:#}")));
        let plan = plan.map_err(Error::Malformed)?;
        let heads = heads(declared.outputs, &plan.widths());
        Ok(Ranker { plan, columns, heads })
    }

    /// Names of the output heads, in the order of the scores: `score` when there is one, else the names
    /// of the outputs; an output of several columns gives `name_0`, `name_1`, ...
    pub fn heads(&self) -> &[String] {
        &self.heads
    }

    /// Scores `features`, row-major rows x columns, NaN meaning unknown. `out` is replaced by rows x
    /// heads scores, row-major. A row's scores have the same bits whatever the other rows are.
    ///
    /// # Errors
    /// `Features` when the lengths do not fit; `Failed` when the model does (`out` is then empty).
    pub fn score(&self, features: &[f32], rows: usize, out: &mut Vec<f32>) -> Result<(), Error> {
        out.clear();
        if rows.checked_mul(self.columns) != Some(features.len()) {
            return Err(Error::Features { given: features.len(), rows, columns: self.columns });
        }
        out.resize(rows * self.heads.len(), 0.0);
        let scored = guarded(|| self.plan.score(features, self.columns, out).map_err(|e| format!("{e:#}")));
        scored.map_err(|why| {
            out.clear();
            Error::Failed(why)
        })
    }
}

fn heads(outputs: Vec<String>, widths: &[usize]) -> Vec<String> {
    if widths == [1] {
        return vec!["score".into()];
    }
    let names = outputs.into_iter().zip(widths).flat_map(|(name, &width)| match width {
        1 => vec![name],
        _ => (0..width).map(|at| format!("{name}_{at}")).collect(),
    });
    names.collect()
}

/// Runs code of libraries that may panic on odd models, and makes that an error.
fn guarded<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Err(format!("a library gave up: {}", text.unwrap_or("without a reason")))
    })
}
