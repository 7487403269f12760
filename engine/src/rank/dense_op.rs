//! Our dense layers and column steps in place of tract's operators, which are several times slower than they could be.
//!
//! Answers: which parts of a graph are layers with weights of their own, or steps by column, and how does tract run
//! them? Must not know how these are computed ([`super::dense`] and [`super::columns`] do).

use std::sync::Arc;

use tract_onnx::tract_hir::internal::*;
use tract_onnx::tract_hir::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_hir::tract_core::ops::einsum::EinSum;
use tract_onnx::tract_hir::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_hir::tract_core::ops::logic::Iff;
use tract_onnx::tract_hir::tract_core::ops::math::{Add, Div, IsNan, Max, Mul, Sub};

use super::columns::{Columns, Step};
use super::dense::Layer;

/// `[rows, inputs]` to `[rows, outputs]`, both f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dense(pub(super) Arc<Layer>);

impl Eq for Dense {}

/// `[rows, columns]` to the same shape, both f32.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ByColumn(pub(super) Arc<Columns>);

impl Eq for ByColumn {}

/// Puts our layers in the place of all products of two-dimensional inputs with weights that the model holds, and our steps
/// in the place of operations with a number for each column.
pub(super) fn replace(mut model: TypedModel) -> TractResult<TypedModel> {
    for id in 0..model.nodes().len() {
        let node = model.node(id);
        let patch = if let Some((input, layer)) = layer(&model, node)? {
            TypedModelPatch::replace_single_op(&model, node, &[input], Dense(Arc::new(layer)))?
        } else if let Some((input, columns)) = columns(&model, node)? {
            TypedModelPatch::replace_single_op(&model, node, &[input], ByColumn(Arc::new(columns)))?
        } else {
            continue;
        };
        patch.apply(&mut model)?;
    }
    Ok(model)
}

/// The step that this node is, and what it changes. What is added to a layer is left: it becomes the layer's bias.
fn columns(model: &TypedModel, node: &TypedNode) -> TractResult<Option<(OutletId, Columns)>> {
    let (input, held, make): (_, _, fn(Vec<f32>) -> Step) = match (node.op_as::<TypedBinOp>(), &*node.inputs) {
        (Some(op), &[input, held]) if op.0.is::<Sub>() => (input, held, Step::Subtract),
        (Some(op), &[input, held]) if op.0.is::<Div>() => (input, held, Step::Divide),
        (Some(op), &[input, held]) if op.0.is::<Mul>() => (input, held, Step::Multiply),
        (Some(op), &[input, held]) if op.0.is::<Add>() && !model.node(input.node).op_is::<Dense>() => {
            (input, held, Step::Add)
        }
        (None, &[known, held, input]) if node.op_is::<Iff>() => {
            let asked = model.node(known.node);
            let is_unknown = asked.op_as::<ElementWiseOp>().is_some_and(|op| op.0.is::<IsNan>());
            if !is_unknown || asked.inputs[..] != [input] {
                return Ok(None);
            }
            (input, held, Step::Fill)
        }
        _ => return Ok(None),
    };
    let rows = model.outlet_fact(input)?;
    let (Some(numbers), [_, width]) = (model.outlet_fact(held)?.konst.as_ref(), &*rows.shape) else { return Ok(None) };
    let Ok(width) = width.to_usize() else { return Ok(None) };
    if rows.konst.is_some() || rows.datum_type != f32::datum_type() || numbers.datum_type() != f32::datum_type() {
        return Ok(None);
    }
    let by_column = match *numbers.shape() {
        [1, columns] if columns == width => numbers.try_as_plain_ram()?.as_slice::<f32>()?.to_vec(),
        [1, 1] => vec![numbers.try_as_plain_ram()?.as_slice::<f32>()?[0]; width],
        _ => return Ok(None),
    };
    Ok(Columns::new(make(by_column), width).map(|columns| (input, columns)))
}

/// The layer that this node is, and what it multiplies.
fn layer(model: &TypedModel, node: &TypedNode) -> TractResult<Option<(OutletId, Layer)>> {
    let (Some(product), &[input, weights]) = (node.op_as::<EinSum>(), node.inputs.as_slice()) else {
        return Ok(None);
    };
    let (rows, held) = (model.outlet_fact(input)?, model.outlet_fact(weights)?);
    let Some(held) = held.konst.as_ref() else { return Ok(None) };
    let is_plain = rows.datum_type == f32::datum_type() && held.datum_type() == f32::datum_type();
    if !is_plain || rows.rank() != 2 || held.rank() != 2 {
        return Ok(None);
    }
    let Some(is_transposed) = transposed(&product.axes.to_string()) else { return Ok(None) };
    let by_input =
        if is_transposed { held.clone().into_tensor().permute_axes(&[1, 0])? } else { held.clone().into_tensor() };
    let &[inputs, outputs] = by_input.shape() else { return Ok(None) };
    let layer = Layer::new(by_input.try_as_plain_ram()?.as_slice::<f32>()?, inputs, outputs);
    Ok(layer.map(|layer| (input, layer)))
}

/// Whether the weights are `[outputs, inputs]`; `None` when it is no product of rows with a matrix.
fn transposed(axes: &str) -> Option<bool> {
    let axes: Vec<char> = axes.chars().filter(|letter| !letter.is_whitespace()).collect();
    match axes[..] {
        [m, k, ',', a, b, '-', '>', p, q] if p == m && m != k && q != k && q != m => match (a == k, b == k) {
            (true, false) => (b == q).then_some(false),
            (false, true) => (a == q).then_some(true),
            _ => None,
        },
        _ => None,
    }
}

impl Op for Dense {
    fn name(&self) -> StaticName {
        "Dense".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Dense {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let &[rows, columns] = input.shape() else { bail!("a dense layer takes rows of columns") };
        ensure!(columns == self.0.inputs(), "the layer takes {} columns, not {columns}", self.0.inputs());
        let mut out = Tensor::zero::<f32>(&[rows, self.0.outputs()])?;
        let features = input.try_as_plain_ram()?;
        self.0.run(features.as_slice()?, out.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(out.into_tvalue()))
    }
}

impl TypedOp for Dense {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let [rows, columns] = &*inputs[0].shape else { bail!("a dense layer takes rows of columns") };
        if let Ok(columns) = columns.to_usize() {
            ensure!(columns == self.0.inputs(), "the layer takes {} columns, not {columns}", self.0.inputs());
        }
        Ok(tvec!(f32::fact([rows.clone(), self.0.outputs().to_dim()])))
    }

    /// Takes in the bias that is added to it, and the cut at zero that follows.
    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        if model.output_outlets()?.contains(&node.id.into()) {
            return Ok(None);
        }
        let Some(next) = model.single_succ(node.id)? else { return Ok(None) };
        let (Some(op), [a, b]) = (next.op_as::<TypedBinOp>(), next.inputs.as_slice()) else { return Ok(None) };
        let other = if a.node == node.id { *b } else { *a };
        let Some(values) = model.outlet_fact(other)?.konst.clone() else { return Ok(None) };
        if values.datum_type() != f32::datum_type() {
            return Ok(None);
        }
        let plain = values.try_as_plain_ram()?;
        let values: &[f32] = plain.as_slice()?;
        let merged = if op.0.is::<Add>() {
            let outputs = self.0.outputs();
            let bias = if values.len() == 1 { vec![values[0]; outputs] } else { values.to_vec() };
            // One number for each output, not for each row.
            let is_by_output = values.len() == 1
                || model.outlet_fact(other)?.shape.last().is_some_and(|last| *last == outputs.to_dim());
            if is_by_output { self.0.with_bias(&bias) } else { None }
        } else if op.0.is::<Max>() && values.iter().all(|value| value.to_bits() == 0) && values.len() == 1 {
            Some(self.0.rectified())
        } else {
            None
        };
        let Some(merged) = merged else { return Ok(None) };
        TypedModelPatch::fuse_with_next(model, node, Dense(Arc::new(merged))).map(Some)
    }

    as_op!();
}

impl Op for ByColumn {
    fn name(&self) -> StaticName {
        "ByColumn".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ByColumn {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let mut rows = args_1!(inputs).into_tensor();
        ensure!(rows.shape().last() == Some(&self.0.width()), "the steps take {} columns", self.0.width());
        self.0.run(rows.try_as_plain_ram_mut()?.as_slice_mut()?);
        Ok(tvec!(rows.into_tvalue()))
    }
}

impl TypedOp for ByColumn {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(inputs[0].without_value()))
    }

    /// Takes in the steps that follow.
    fn declutter(&self, model: &TypedModel, node: &TypedNode) -> TractResult<Option<TypedModelPatch>> {
        if model.output_outlets()?.contains(&node.id.into()) {
            return Ok(None);
        }
        let Some(next) = model.single_succ(node.id)?.and_then(|next| next.op_as::<ByColumn>()) else { return Ok(None) };
        let both = ByColumn(Arc::new(self.0.then(&next.0)));
        TypedModelPatch::fuse_with_next(model, node, both).map(Some)
    }

    as_op!();
}

#[cfg(test)]
mod tests {
    use super::transposed;

    #[test]
    fn only_products_of_rows_with_a_matrix_are_layers() {
        assert_eq!(transposed("mk,kn->mn"), Some(false));
        assert_eq!(transposed("mk,nk->mn"), Some(true));
        for other in ["km,kn->mn", "mk,kn->nm", "bmk,kn->bmn", "mk,kk->mk", "mn,mn->mn", "mk,kn->m", ""] {
            assert_eq!(transposed(other), None, "{other}");
        }
    }
}
