//! Any accepted model, run by tract in batches of a fixed number of rows.
//!
//! Answers: how does a graph score rows so that no row's score depends on the others? Must not know
//! what features mean. Matrix kernels are chosen by batch size and may round differently, so there is
//! only one size: rows are cut into chunks, the last one padded with zeros, and at load the plan is
//! probed: a row must keep its bits at another place among other rows.

use std::cell::RefCell;
use std::sync::Arc;

use tract_onnx::pb::ModelProto;
use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_hir::tract_core::ops::nn::Sigmoid;

use super::check::Declared;
use super::columns::Columns;
use super::dense::Layer;
use super::dense_op::{self, ByColumn, Dense};
use super::onnx_op::{self, TreeEnsembleRegressor};
use super::tree::Ensemble;

/// Rows of a chunk, where the model leaves it open.
const CHUNK_ROWS: usize = 48;
/// Rows that pass through all dense layers together; a multiple of the six that a layer takes at once.
const BLOCK_ROWS: usize = 96;

/// A model ready to run.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing but trees: no need of tract any more.
    Trees(Arc<Ensemble>),
    /// Nothing but dense layers, with steps by column before them and a sigmoid behind: neither.
    Network(Network),
    Chunks(Chunks),
}

/// A graph and the batch that it takes.
#[derive(Debug)]
pub(super) struct Chunks {
    plan: Arc<TypedRunnableModel>,
    rows: usize,
    columns: usize,
    /// Columns of each output.
    widths: Vec<usize>,
}

impl Plan {
    pub(super) fn load(model: &ModelProto, declared: &Declared, columns: usize) -> TractResult<Plan> {
        let rows = declared.batch_rows.unwrap_or(CHUNK_ROWS);
        // Some exports (dynamo's) may resist a number, and still run with their own symbol.
        let typed = pinned(model, rows, columns).or_else(|why| as_declared(model).map_err(|_| why))?;
        Plan::of(typed, rows, columns)
    }

    pub(super) fn of(typed: TypedModel, rows: usize, columns: usize) -> TractResult<Plan> {
        if let Some(trees) = only_trees(&typed) {
            return Ok(Plan::Trees(trees));
        }
        if let Some(network) = network(&typed, columns) {
            return Ok(Plan::Network(network));
        }
        let plan = typed.into_runnable()?;
        Chunks { plan, rows, columns, widths: vec![] }.probed().map(Plan::Chunks)
    }

    /// Columns of each output.
    pub(super) fn widths(&self) -> Vec<usize> {
        match self {
            Plan::Trees(trees) => vec![trees.targets()],
            Plan::Network(network) => vec![network.heads()],
            Plan::Chunks(chunks) => chunks.widths.clone(),
        }
    }

    /// `out` has room for exactly the scores of the rows of `features`.
    pub(super) fn score(&self, features: &[f32], columns: usize, out: &mut [f32]) -> TractResult<()> {
        match self {
            Plan::Trees(trees) => {
                trees.score(features, columns, out);
                Ok(())
            }
            Plan::Network(network) => {
                network.score(features, columns, out);
                Ok(())
            }
            Plan::Chunks(chunks) => chunks.score(features, out),
        }
    }
}

/// The model for exactly `rows` rows. The shapes noted for inner values are ignored: they repeat what tract
/// infers, with a symbol for the rows that contradicts the number.
fn pinned(model: &ModelProto, rows: usize, columns: usize) -> TractResult<TypedModel> {
    let read = onnx_op::onnx().with_ignore_value_info(true).model_for_proto_model(model)?;
    optimized(read.with_input_fact(0, f32::fact([rows, columns]).into())?)
}

/// The model for any number of rows, as it says of itself.
pub(super) fn as_declared(model: &ModelProto) -> TractResult<TypedModel> {
    optimized(onnx_op::onnx().model_for_proto_model(model)?)
}

fn optimized(read: InferenceModel) -> TractResult<TypedModel> {
    dense_op::replace(read.into_typed()?)?.into_decluttered()?.into_optimized()
}

/// The ensemble, when the graph is an input and an ensemble.
fn only_trees(model: &TypedModel) -> Option<Arc<Ensemble>> {
    let (&[input], &[output]) = (model.inputs.as_slice(), model.outputs.as_slice()) else {
        return None;
    };
    let node = model.node(output.node);
    let trees = node.op_as::<TreeEnsembleRegressor>()?;
    (node.inputs == [input]).then(|| trees.0.clone())
}

/// The network, when the graph is an input of so many columns and one part behind the other.
fn network(model: &TypedModel, columns: usize) -> Option<Network> {
    let (&[input], &[output]) = (model.inputs.as_slice(), model.outputs.as_slice()) else {
        return None;
    };
    let mut at = output;
    let mut step = || {
        let node = model.node(at.node);
        let &[before] = &*node.inputs else { return None };
        at = before;
        Some(node)
    };
    let mut node = step()?;
    let is_sigmoid = node.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<Sigmoid>());
    if is_sigmoid {
        node = step()?;
    }
    let mut layers = Vec::new();
    while let Some(dense) = node.op_as::<Dense>() {
        layers.push(dense.0.clone());
        node = step().unwrap_or(model.node(input.node));
    }
    let prepare = match node.op_as::<ByColumn>() {
        Some(steps) => {
            node = step().unwrap_or(model.node(input.node));
            Some(steps.0.clone())
        }
        None => None,
    };
    layers.reverse();
    let is_whole = node.id == input.node && layers.first()?.inputs() == columns;
    is_whole.then_some(Network { prepare, layers, is_sigmoid })
}

/// Dense layers, one behind the other.
#[derive(Debug)]
pub(super) struct Network {
    prepare: Option<Arc<Columns>>,
    /// At least one.
    layers: Vec<Arc<Layer>>,
    /// The last layer gives logits.
    is_sigmoid: bool,
}

impl Network {
    fn heads(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.outputs())
    }

    /// All layers in turn, a block of rows at a time, so that what lies between them stays in the cache.
    fn score(&self, features: &[f32], columns: usize, out: &mut [f32]) {
        thread_local! {
            static BETWEEN: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
        }
        let blocks = features.chunks(columns * BLOCK_ROWS).zip(out.chunks_mut(self.heads() * BLOCK_ROWS));
        BETWEEN.with_borrow_mut(|[from, to]| {
            for (rows, scores) in blocks {
                let count = rows.len() / columns;
                from.clear();
                from.extend_from_slice(rows);
                if let Some(prepare) = &self.prepare {
                    prepare.run(from);
                }
                for layer in &self.layers {
                    to.clear();
                    to.resize(count * layer.outputs(), 0.0);
                    layer.run(from, to);
                    std::mem::swap(from, to);
                }
                scores.copy_from_slice(from);
                if self.is_sigmoid {
                    scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + (-*score).exp()));
                }
            }
        });
    }
}

impl Chunks {
    fn score(&self, features: &[f32], out: &mut [f32]) -> TractResult<()> {
        let heads: usize = self.widths.iter().sum();
        let mut state = self.plan.spawn()?;
        for (rows, scores) in features.chunks(self.rows * self.columns).zip(out.chunks_mut(self.rows * heads)) {
            let mut input = Tensor::zero::<f32>(&[self.rows, self.columns])?;
            input.try_as_plain_ram_mut()?.as_slice_mut::<f32>()?[..rows.len()].copy_from_slice(rows);
            let outputs = state.run(tvec!(input.into_tvalue()))?;
            let mut first = 0;
            for (output, &width) in outputs.iter().zip(&self.widths) {
                let view = output.try_as_plain_ram()?;
                let values = view.as_slice::<f32>()?.chunks_exact(width);
                for (row, values) in scores.chunks_exact_mut(heads).zip(values) {
                    row[first..first + width].copy_from_slice(values);
                }
                first += width;
            }
        }
        Ok(())
    }

    /// Learns the widths of the outputs, and checks that rows do not see each other.
    fn probed(mut self) -> TractResult<Chunks> {
        let (rows, columns) = (self.rows, self.columns);
        let first: Vec<f32> = (0..rows * columns).map(|at| probe_value(at as u32)).collect();
        let input = Tensor::from_shape(&[rows, columns], &first)?;
        self.widths =
            self.plan.run(tvec!(input.into_tvalue()))?.iter().map(|o| width(o, rows)).collect::<Result<_, _>>()?;
        let heads: usize = self.widths.iter().sum();

        // The same rows backwards, every second one replaced.
        let mut second: Vec<f32> = first.chunks_exact(columns).rev().flatten().copied().collect();
        for (row, values) in second.chunks_exact_mut(columns).enumerate().filter(|(row, _)| row % 2 == 1) {
            let fresh = (rows + row) * columns;
            values.iter_mut().enumerate().for_each(|(at, value)| *value = probe_value((fresh + at) as u32));
        }
        let mut scores = [vec![0.0; rows * heads], vec![0.0; rows * heads]];
        self.score(&first, &mut scores[0])?;
        self.score(&second, &mut scores[1])?;
        let there = scores[1].chunks_exact(heads).step_by(2);
        for (here, there) in scores[0].chunks_exact(heads).rev().step_by(2).zip(there) {
            let same = here.iter().zip(there).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
            ensure!(same, "a row's score depends on the other rows of its batch: {here:?} became {there:?}");
        }
        Ok(self)
    }
}

/// Columns of an output of `rows` rows.
fn width(output: &Tensor, rows: usize) -> TractResult<usize> {
    ensure!(output.datum_type() == f32::datum_type(), "an output is {:?}", output.datum_type());
    match *output.shape() {
        [n] if n == rows => Ok(1),
        [n, width] if n == rows && width > 0 => Ok(width),
        _ => bail!("an output has the shape {:?} for {rows} rows", output.shape()),
    }
}

/// Numbers from -2 to 2 without pattern (a Weyl sequence).
fn probe_value(at: u32) -> f32 {
    at.wrapping_mul(2_654_435_769) as f32 / u32::MAX as f32 * 4.0 - 2.0
}
