//! What is refused before tract sees a model.
//!
//! Answers: is this protobuf one that a ranker may be? Must not know how it will run. tract panics on
//! some malformed graphs, ignores operator domains, and would read files for external data; so whatever
//! can be said from the protobuf alone is said here, in plain words.

use rustc_hash::FxHashSet;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto};

use super::Error;

/// Rows of a batch dimension fixed by the model.
const BATCH_ROWS_MAX: usize = 4096;
/// Output tensors of a model.
const OUTPUTS_MAX: usize = 64;

const DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// Operators that a ranker may use: those of tree ensembles and of dense networks. Absent on purpose:
/// randomness, control flow, sequences, convolutions.
#[rustfmt::skip]
const OPERATORS: &[&str] = &[
    "TreeEnsembleRegressor",
    "Gemm", "MatMul", "Einsum", "LinearRegressor",
    "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Log", "Neg", "Abs", "Reciprocal", "Sum", "Mean", "Min", "Max",
    "Clip", "Sign", "Floor", "Ceil", "Round",
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Erf", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh",
    "Softplus", "Softsign", "Softmax", "LogSoftmax", "Mish", "Swish",
    "BatchNormalization", "LayerNormalization", "RMSNormalization", "Dropout",
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or", "Xor", "Where", "IsNaN", "IsInf",
    "Identity", "Cast", "Constant", "ConstantOfShape", "Shape", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
    "Transpose", "Concat", "Split", "Slice", "Gather", "Expand",
];

/// What a model declares of itself.
#[derive(Debug)]
pub(super) struct Declared {
    /// The batch dimension, where it is a number.
    pub(super) batch_rows: Option<usize>,
    /// Names of the outputs, in order; at least one, all different.
    pub(super) outputs: Vec<String>,
}

/// Refuses what no ranker may be. `columns` is the width that the input must have.
pub(super) fn check(model: &ModelProto, columns: usize) -> Result<Declared, Error> {
    let graph = model.graph.as_ref().ok_or_else(|| Error::Malformed("it holds no graph".into()))?;
    if model.opset_import.is_empty() {
        return Err(Error::Malformed("it names no operator set".into()));
    }
    if !model.functions.is_empty() {
        return Err(Error::Unsupported("model-local functions".into()));
    }
    if !graph.sparse_initializer.is_empty() {
        return Err(Error::Unsupported("sparse initializers".into()));
    }
    graph.initializer.iter().try_for_each(tensor)?;
    graph.node.iter().try_for_each(operator)?;
    let batch_rows = input(graph, columns)?;
    let outputs = outputs(graph)?;
    names(graph)?;
    Ok(Declared { batch_rows, outputs })
}

fn operator(node: &NodeProto) -> Result<(), Error> {
    let op = &node.op_type;
    if !DOMAINS.contains(&&*node.domain) {
        return Err(Error::Unsupported(format!("operator {op} of the domain {}", node.domain)));
    }
    if !OPERATORS.contains(&&**op) {
        return Err(Error::Unsupported(format!("operator {op}")));
    }
    for attribute in &node.attribute {
        if attribute.g.is_some() || !attribute.graphs.is_empty() || !attribute.ref_attr_name.is_empty() {
            return Err(Error::Unsupported(format!("a subgraph in {op}")));
        }
        if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
            return Err(Error::Unsupported(format!("a sparse tensor in {op}")));
        }
        attribute.t.iter().chain(&attribute.tensors).try_for_each(tensor)?;
    }
    Ok(())
}

/// External data is refused, and the declared shape must be that of the data that is there.
fn tensor(tensor: &TensorProto) -> Result<(), Error> {
    let name = &tensor.name;
    if !tensor.external_data.is_empty() || tensor.data_location == Some(DataLocation::External as i32) {
        return Err(Error::Unsupported(format!("external data (tensor {name:?})")));
    }
    let size = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Double | DataType::Int64 | DataType::Uint64) => 8,
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Float16 | DataType::Int16 | DataType::Uint16) => 2,
        Ok(DataType::Bool | DataType::Int8 | DataType::Uint8) => 1,
        _ => {
            return Err(Error::Unsupported(format!("element type {} (tensor {name:?})", tensor.data_type)));
        }
    };
    let count = tensor.dims.iter().try_fold(1_usize, |n, &d| n.checked_mul(usize::try_from(d).ok()?));
    let typed = [tensor.float_data.len(), tensor.double_data.len(), tensor.int32_data.len(), tensor.int64_data.len()];
    let held = if tensor.raw_data.is_empty() { typed.iter().sum::<usize>() * size } else { tensor.raw_data.len() };
    if count.and_then(|n| n.checked_mul(size)) != Some(held) {
        return Err(Error::Malformed(format!("tensor {name:?} holds {held} bytes, not its shape {:?}", tensor.dims)));
    }
    Ok(())
}

/// Every value has one name and one origin, and every output has an origin (tract panics otherwise).
fn names(graph: &GraphProto) -> Result<(), Error> {
    let inputs = graph.input.iter().map(|i| &i.name);
    let produced = graph.node.iter().flat_map(|n| &n.output).filter(|name| !name.is_empty());
    let mut known: FxHashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    known.extend(inputs.map(|name| &**name));
    for name in produced {
        if !known.insert(name) {
            return Err(Error::Malformed(format!("the value {name:?} is made twice")));
        }
    }
    let used = graph.node.iter().flat_map(|n| &n.input).filter(|name| !name.is_empty());
    match used.chain(graph.output.iter().map(|o| &o.name)).find(|name| !known.contains(&***name)) {
        Some(name) => Err(Error::Malformed(format!("nothing makes the value {name:?}"))),
        None => Ok(()),
    }
}

/// The batch dimension of the only input, where it is a number.
fn input(graph: &GraphProto, columns: usize) -> Result<Option<usize>, Error> {
    let initialized: FxHashSet<&str> = graph.initializer.iter().map(|t| &*t.name).collect();
    let inputs: Vec<_> = graph.input.iter().filter(|i| !initialized.contains(&*i.name)).collect();
    let [input] = inputs[..] else {
        return Err(Error::Signature(format!("it has {} inputs instead of one", inputs.len())));
    };
    let shape = float_tensor(input)?.shape.as_ref();
    let shape = shape.ok_or_else(|| Error::Signature("the input declares no shape".into()))?;
    let [batch, width] = &shape.dim[..] else {
        let rank = shape.dim.len();
        return Err(Error::Signature(format!("the input has {rank} dimensions instead of rows and columns")));
    };
    match &width.value {
        Some(DimValue(width)) if usize::try_from(*width) != Ok(columns) => {
            return Err(Error::Signature(format!("the input is {width} columns wide; the features are {columns}")));
        }
        _ => {}
    }
    match &batch.value {
        Some(DimValue(rows)) => match usize::try_from(*rows) {
            Ok(rows) if (1..=BATCH_ROWS_MAX).contains(&rows) => Ok(Some(rows)),
            _ => Err(Error::Signature(format!("the batch dimension is {rows}; 1 to {BATCH_ROWS_MAX} can be used"))),
        },
        Some(DimParam(_)) | None => Ok(None),
    }
}

fn outputs(graph: &GraphProto) -> Result<Vec<String>, Error> {
    let count = graph.output.len();
    if count == 0 || count > OUTPUTS_MAX {
        return Err(Error::Signature(format!("it has {count} outputs; 1 to {OUTPUTS_MAX} can be used")));
    }
    graph.output.iter().try_for_each(|output| float_tensor(output).map(|_| ()))?;
    let names: Vec<_> = graph.output.iter().map(|o| o.name.clone()).collect();
    if names.iter().collect::<FxHashSet<_>>().len() != count {
        return Err(Error::Signature("two outputs have one name".into()));
    }
    Ok(names)
}

fn float_tensor(value: &ValueInfoProto) -> Result<&type_proto::Tensor, Error> {
    match value.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) if tensor.elem_type == DataType::Float as i32 => Ok(tensor),
        _ => Err(Error::Signature(format!("{:?} is not a tensor of 32-bit floats", value.name))),
    }
}
