//! Models as protobuf: trees as a human would write them, with the plainest evaluation there can be, and
//! a dense network as PyTorch exports it.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, type_proto,
};

use super::COLUMNS;

pub(super) const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

#[derive(Debug, Clone)]
pub(super) enum Tree {
    Leaf(Vec<(usize, f32)>),
    Branch { mode: usize, feature: usize, value: f32, missing_true: bool, yes: Box<Tree>, no: Box<Tree> },
}

impl Tree {
    fn leaf(&self, row: &[f32]) -> &[(usize, f32)] {
        match self {
            Tree::Leaf(weights) => weights,
            Tree::Branch { mode, feature, value, missing_true, yes, no } => {
                let x = row[*feature];
                let holds = match MODES[*mode] {
                    _ if x.is_nan() => *missing_true,
                    "BRANCH_LEQ" => x <= *value,
                    "BRANCH_LT" => x < *value,
                    "BRANCH_GTE" => x >= *value,
                    "BRANCH_GT" => x > *value,
                    "BRANCH_EQ" => x == *value,
                    _ => x != *value,
                };
                if holds { yes.leaf(row) } else { no.leaf(row) }
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Forest {
    pub(super) trees: Vec<Tree>,
    pub(super) base: Vec<f32>,
    pub(super) aggregate: &'static str,
}

impl Forest {
    pub(super) fn naive(&self, row: &[f32]) -> Vec<f32> {
        let score = |target: usize| {
            let weights = || {
                let leaves = self.trees.iter().map(|tree| tree.leaf(row));
                leaves.filter_map(|leaf| leaf.iter().find(|(t, _)| *t == target)).map(|(_, w)| *w)
            };
            let base = self.base[target];
            match self.aggregate {
                "SUM" => weights().fold(base, |sum, w| sum + w),
                "AVERAGE" => weights().fold(0.0, |sum, w| sum + w) / self.trees.len() as f32 + base,
                "MIN" => weights().reduce(f32::min).map_or(base, |w| w + base),
                _ => weights().reduce(f32::max).map_or(base, |w| w + base),
            }
        };
        (0..self.base.len()).map(score).collect()
    }

    fn node(&self) -> NodeProto {
        let mut a = Arrays::default();
        for (id, tree) in self.trees.iter().enumerate() {
            a.add(id as i64, tree, &mut 0);
        }
        NodeProto {
            op_type: "TreeEnsembleRegressor".into(),
            domain: "ai.onnx.ml".into(),
            input: vec!["features".into()],
            output: vec!["variable".into()],
            attribute: vec![
                ints("nodes_treeids", a.tree_ids),
                ints("nodes_nodeids", a.node_ids),
                ints("nodes_featureids", a.feature_ids),
                strings("nodes_modes", &a.modes),
                floats("nodes_values", a.values),
                ints("nodes_truenodeids", a.true_ids),
                ints("nodes_falsenodeids", a.false_ids),
                ints("nodes_missing_value_tracks_true", a.missing),
                ints("target_treeids", a.target_tree_ids),
                ints("target_nodeids", a.target_node_ids),
                ints("target_ids", a.target_ids),
                floats("target_weights", a.target_weights),
                floats("base_values", self.base.clone()),
                int("n_targets", self.base.len() as i64),
                string("aggregate_function", self.aggregate),
                string("post_transform", "NONE"),
            ],
            ..NodeProto::default()
        }
    }

    pub(super) fn model(&self) -> ModelProto {
        let targets = self.base.len() as i64;
        model(vec![self.node()], vec![], vec![tensor_type("variable", None, targets)])
    }
}

/// The attribute arrays of a `TreeEnsembleRegressor`.
#[derive(Default)]
struct Arrays {
    tree_ids: Vec<i64>,
    node_ids: Vec<i64>,
    feature_ids: Vec<i64>,
    modes: Vec<&'static str>,
    values: Vec<f32>,
    true_ids: Vec<i64>,
    false_ids: Vec<i64>,
    missing: Vec<i64>,
    target_tree_ids: Vec<i64>,
    target_node_ids: Vec<i64>,
    target_ids: Vec<i64>,
    target_weights: Vec<f32>,
}

impl Arrays {
    /// Appends a tree, parents first; returns the root's id.
    fn add(&mut self, tree_id: i64, tree: &Tree, next: &mut i64) -> i64 {
        let (id, at) = (*next, self.node_ids.len());
        *next += 1;
        self.tree_ids.push(tree_id);
        self.node_ids.push(id);
        self.feature_ids.push(0);
        self.modes.push("LEAF");
        self.values.push(0.0);
        self.true_ids.push(0);
        self.false_ids.push(0);
        self.missing.push(0);
        match tree {
            Tree::Leaf(weights) => {
                for (target, weight) in weights {
                    self.target_tree_ids.push(tree_id);
                    self.target_node_ids.push(id);
                    self.target_ids.push(*target as i64);
                    self.target_weights.push(*weight);
                }
            }
            Tree::Branch { mode, feature, value, missing_true, yes, no } => {
                self.feature_ids[at] = *feature as i64;
                self.modes[at] = MODES[*mode];
                self.values[at] = *value;
                self.missing[at] = i64::from(*missing_true);
                self.true_ids[at] = self.add(tree_id, yes, next);
                self.false_ids[at] = self.add(tree_id, no, next);
            }
        }
        id
    }
}

pub(super) fn attribute(name: &str, r#type: AttributeType) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: r#type as i32, ..AttributeProto::default() }
}

pub(super) fn ints(name: &str, ints: Vec<i64>) -> AttributeProto {
    AttributeProto { ints, ..attribute(name, AttributeType::Ints) }
}

pub(super) fn floats(name: &str, floats: Vec<f32>) -> AttributeProto {
    AttributeProto { floats, ..attribute(name, AttributeType::Floats) }
}

pub(super) fn strings(name: &str, strings: &[&str]) -> AttributeProto {
    let strings = strings.iter().map(|s| s.as_bytes().to_vec()).collect();
    AttributeProto { strings, ..attribute(name, AttributeType::Strings) }
}

pub(super) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

pub(super) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attribute(name, AttributeType::String) }
}

/// `[N or rows, width]` of f32.
pub(super) fn tensor_type(name: &str, rows: Option<i64>, width: i64) -> ValueInfoProto {
    let rows = rows.map_or(dimension::Value::DimParam("N".into()), dimension::Value::DimValue);
    let dim = [rows, dimension::Value::DimValue(width)];
    let dim = dim.map(|value| Dimension { value: Some(value), ..Dimension::default() });
    let shape = Some(TensorShapeProto { dim: dim.into() });
    let value = type_proto::Value::TensorType(type_proto::Tensor { elem_type: DataType::Float as i32, shape });
    let r#type = Some(TypeProto { value: Some(value), ..TypeProto::default() });
    ValueInfoProto { name: name.into(), r#type, ..ValueInfoProto::default() }
}

pub(super) fn model(node: Vec<NodeProto>, initializer: Vec<TensorProto>, output: Vec<ValueInfoProto>) -> ModelProto {
    let input = vec![tensor_type("features", None, COLUMNS as i64)];
    let graph = GraphProto { name: "ranker".into(), node, initializer, input, output, ..GraphProto::default() };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() }
}

pub(super) fn op(op_type: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = input.iter().map(|&i| i.into()).collect();
    NodeProto { op_type: op_type.into(), input, output: vec![output.into()], attribute, ..NodeProto::default() }
}

pub(super) fn matrix(name: &str, dims: &[i64], seed: u32) -> TensorProto {
    let count = dims.iter().product::<i64>() as u32;
    let float_data = (0..count).map(|at| noise(seed.wrapping_add(at))).collect();
    let data_type = DataType::Float as i32;
    TensorProto { name: name.into(), dims: dims.into(), data_type, float_data, ..TensorProto::default() }
}

pub(super) fn noise(at: u32) -> f32 {
    ((at.wrapping_mul(747_796_405) ^ 0x5bd1_e995).wrapping_mul(2_891_336_453) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// As PyTorch exports it: two layers, a sigmoid head and a raw one.
pub(super) fn dense() -> ModelProto {
    let nodes = vec![
        op("Gemm", &["features", "w1", "b1"], "h1", vec![int("transB", 1)]),
        op("Relu", &["h1"], "r1", vec![]),
        op("Concat", &["r1", "features"], "wide", vec![int("axis", 1)]),
        op("MatMul", &["wide", "w2"], "h2", vec![]),
        op("Tanh", &["h2"], "t2", vec![]),
        op("Gemm", &["t2", "w3", "b3"], "logit", vec![int("transB", 1)]),
        op("Sigmoid", &["logit"], "click", vec![]),
        op("MatMul", &["t2", "w4"], "watch", vec![]),
    ];
    let width = COLUMNS as i64;
    let weights = vec![
        matrix("w1", &[37, width], 1),
        matrix("b1", &[37], 1000),
        matrix("w2", &[37 + width, 19], 2000),
        matrix("w3", &[1, 19], 4000),
        matrix("b3", &[1], 5000),
        matrix("w4", &[19, 2], 6000),
    ];
    model(nodes, weights, vec![tensor_type("click", None, 1), tensor_type("watch", None, 2)])
}
