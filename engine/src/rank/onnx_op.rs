//! `TreeEnsembleRegressor` for tract, which has none of its own.
//!
//! Answers: how does tract read, type and run this operator? Must not know how a tree is walked.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::pb_helpers::{AttrSliceType, AttrTVecType};
use tract_onnx::tract_hir::internal::*;

use super::tree::{Aggregate, Ensemble, Mode, Source};

const NAME: &str = "TreeEnsembleRegressor";

/// tract's ONNX reader, with our operator among its own.
pub(super) fn onnx() -> tract_onnx::Onnx {
    let mut onnx = tract_onnx::onnx();
    onnx.op_register.insert(NAME, |_, node| build(node));
    onnx
}

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

fn build(node: &NodeProto) -> Built {
    let ensemble = Ensemble::build(&source(node)?).map_err(|why| format_err!("{why}"))?;
    Ok((expand(TreeEnsembleRegressor(Arc::new(ensemble))), vec![]))
}

/// Reads the attributes. What they mean together is checked by `Ensemble::build`.
fn source(node: &NodeProto) -> TractResult<Source> {
    if let Some(double) = node.attribute.iter().find(|a| a.name.ends_with("_as_tensor")) {
        bail!("{} is not supported: float attributes only", double.name);
    }
    match node.get_attr_opt("post_transform")?.unwrap_or("NONE") {
        "NONE" => {}
        other => bail!("post_transform {other} is not supported, only NONE"),
    }
    Ok(Source {
        tree_ids: slice(node, "nodes_treeids")?,
        node_ids: slice(node, "nodes_nodeids")?,
        feature_ids: slice(node, "nodes_featureids")?,
        modes: modes(node)?,
        values: slice(node, "nodes_values")?,
        true_ids: slice(node, "nodes_truenodeids")?,
        false_ids: slice(node, "nodes_falsenodeids")?,
        missing_tracks_true: slice::<i64>(node, "nodes_missing_value_tracks_true")?.iter().map(|&m| m != 0).collect(),
        target_tree_ids: slice(node, "target_treeids")?,
        target_node_ids: slice(node, "target_nodeids")?,
        target_ids: slice(node, "target_ids")?,
        target_weights: slice(node, "target_weights")?,
        targets: usize::try_from(node.get_attr_opt::<i64>("n_targets")?.unwrap_or(1)).unwrap_or(0),
        base_values: slice(node, "base_values")?,
        aggregate: match node.get_attr_opt("aggregate_function")?.unwrap_or("SUM") {
            "SUM" => Aggregate::Sum,
            "AVERAGE" => Aggregate::Average,
            "MIN" => Aggregate::Min,
            "MAX" => Aggregate::Max,
            other => bail!("aggregate_function {other} does not exist"),
        },
    })
}

/// An absent list is an empty one.
fn slice<'a, T: AttrSliceType<'a> + Clone + 'a>(node: &'a NodeProto, name: &str) -> TractResult<Vec<T>> {
    Ok(node.get_attr_opt_slice(name)?.map(<[T]>::to_vec).unwrap_or_default())
}

fn modes(node: &NodeProto) -> TractResult<Vec<Mode>> {
    let names = <&str>::get_attr_opt_tvec(node, "nodes_modes")?.unwrap_or_default();
    let mode = |name: &&str| {
        Ok(match *name {
            "BRANCH_LEQ" => Mode::Leq,
            "BRANCH_LT" => Mode::Lt,
            "BRANCH_GTE" => Mode::Gte,
            "BRANCH_GT" => Mode::Gt,
            "BRANCH_EQ" => Mode::Eq,
            "BRANCH_NEQ" => Mode::Neq,
            "LEAF" => Mode::Leaf,
            other => bail!("the node mode {other} does not exist"),
        })
    };
    names.iter().map(mode).collect()
}

/// `[rows, columns]` to `[rows, targets]`, both f32.
#[derive(Debug, Clone)]
pub(super) struct TreeEnsembleRegressor(pub(super) Arc<Ensemble>);

// tract compares operators to merge equal nodes. The same ensemble is equal; a copy need not be found.
impl PartialEq for TreeEnsembleRegressor {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TreeEnsembleRegressor {}

impl Expansion for TreeEnsembleRegressor {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        s: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, DatumType::F32)?;
        s.equals(&inputs[0].rank, 2)?;
        s.equals(&outputs[0].datum_type, DatumType::F32)?;
        s.equals(&outputs[0].rank, 2)?;
        s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        s.equals(&outputs[0].shape[1], self.0.targets().to_dim())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for TreeEnsembleRegressor {
    fn name(&self) -> StaticName {
        NAME.into()
    }

    op_as_typed_op!();
}

impl EvalOp for TreeEnsembleRegressor {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let &[rows, columns] = input.shape() else { bail!("{NAME} takes rows of columns") };
        ensure!(columns >= self.0.columns(), "the trees look at {} columns of {columns}", self.0.columns());
        let mut scores = Tensor::zero::<f32>(&[rows, self.0.targets()])?;
        let features = input.try_as_plain_ram()?;
        self.0.score(features.as_slice()?, columns, scores.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(scores.into_tvalue()))
    }
}

impl TypedOp for TreeEnsembleRegressor {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [rows, columns] = &*inputs[0].shape else { bail!("{NAME} takes rows of columns") };
        if let Ok(columns) = columns.to_usize() {
            ensure!(columns >= self.0.columns(), "the trees look at {} columns of {columns}", self.0.columns());
        }
        Ok(tvec!(f32::fact([rows.clone(), self.0.targets().to_dim()])))
    }

    as_op!();
}
