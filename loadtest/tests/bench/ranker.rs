//! A ranker of two trees, written as ONNX by hand, and the golden rows that go with it.

use std::path::Path;

use marquee_engine::Engine;
use marquee_engine::bundle::arrays::ArraysWriter;
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// Each tree: column < threshold (or unknown) gives the first leaf, else the second one.
const STUMPS: [(i64, f32, [f32; 2]); 2] = [(0, 0.5, [0.25, 1.0]), (3, 0.2, [-0.5, 0.75])];

/// Writes `ranker.onnx` and `golden.safetensors`.
pub(crate) fn write(models: &Path) {
    let columns = Engine::columns().len();
    std::fs::write(models.join("ranker.onnx"), model(columns as i64).encode_to_vec()).unwrap();
    let rows = 8;
    let features: Vec<f32> =
        (0..rows * columns).map(|at| if at % 11 == 0 { f32::NAN } else { (at % 7) as f32 / 7.0 }).collect();
    let leaf = |row: &[f32], (column, threshold, leaves): (i64, f32, [f32; 2])| {
        let value = row[column as usize];
        leaves[usize::from(!value.is_nan() && value >= threshold)]
    };
    let scores: Vec<f32> =
        features.chunks_exact(columns).map(|row| STUMPS.iter().map(|&stump| leaf(row, stump)).sum()).collect();
    ArraysWriter::default()
        .add("features", &[rows, columns], &features)
        .add("scores", &[rows, 1], &scores)
        .write(&models.join("golden.safetensors"))
        .unwrap();
}

fn model(columns: i64) -> ModelProto {
    // Nodes of each tree: 0 is the branch, 1 and 2 its leaves.
    let trees = 0..STUMPS.len() as i64;
    let each = |branch: &dyn Fn(usize) -> i64, leaf: i64| -> Vec<i64> {
        (0..STUMPS.len()).flat_map(|tree| [branch(tree), leaf, leaf]).collect()
    };
    let ids: Vec<i64> = trees.clone().flat_map(|_| [0, 1, 2]).collect();
    let tree_ids: Vec<i64> = trees.clone().flat_map(|tree| [tree; 3]).collect();
    let modes =
        trees.clone().flat_map(|_| ["BRANCH_LT", "LEAF", "LEAF"].map(|mode| mode.as_bytes().to_vec())).collect();
    let values = STUMPS.iter().flat_map(|(_, threshold, _)| [*threshold, 0.0, 0.0]).collect();
    let node = NodeProto {
        op_type: "TreeEnsembleRegressor".into(),
        domain: "ai.onnx.ml".into(),
        input: vec!["features".into()],
        output: vec!["score".into()],
        attribute: vec![
            ints("nodes_treeids", tree_ids),
            ints("nodes_nodeids", ids),
            ints("nodes_featureids", each(&|tree| STUMPS[tree].0, 0)),
            AttributeProto { strings: modes, ..attribute("nodes_modes", AttributeType::Strings) },
            floats("nodes_values", values),
            ints("nodes_truenodeids", each(&|_| 1, 0)),
            ints("nodes_falsenodeids", each(&|_| 2, 0)),
            ints("nodes_missing_value_tracks_true", each(&|_| 1, 0)),
            ints("target_treeids", trees.clone().flat_map(|tree| [tree; 2]).collect()),
            ints("target_nodeids", trees.flat_map(|_| [1, 2]).collect()),
            ints("target_ids", vec![0; STUMPS.len() * 2]),
            floats("target_weights", STUMPS.iter().flat_map(|(_, _, leaves)| *leaves).collect()),
            AttributeProto { i: 1, ..attribute("n_targets", AttributeType::Int) },
            AttributeProto { s: b"NONE".to_vec(), ..attribute("post_transform", AttributeType::String) },
        ],
        ..NodeProto::default()
    };
    let (input, output) = (vec![tensor("features", columns)], vec![tensor("score", 1)]);
    let graph = GraphProto { name: "ranker".into(), node: vec![node], input, output, ..GraphProto::default() };
    let opset_import = vec![
        OperatorSetIdProto { domain: String::new(), version: 17 },
        OperatorSetIdProto { domain: "ai.onnx.ml".into(), version: 1 },
    ];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }
}

fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type as i32, ..AttributeProto::default() }
}

fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { ints, ..attribute(name, AttributeType::Ints) }
}

fn floats(name: &str, floats: Vec<f32>) -> AttributeProto {
    AttributeProto { floats, ..attribute(name, AttributeType::Floats) }
}

/// `[N, width]` of f32.
fn tensor(name: &str, width: i64) -> ValueInfoProto {
    let dim = [dimension::Value::DimParam("N".into()), dimension::Value::DimValue(width)];
    let dim = dim.map(|value| Dimension { value: Some(value), ..Dimension::default() });
    let shape = Some(TensorShapeProto { dim: dim.into() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: DataType::Float as i32, shape });
    let r#type = Some(TypeProto { value: Some(value), ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}
