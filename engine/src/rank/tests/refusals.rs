//! What does not load, and the reason that is given.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, type_proto};

use super::models::{attribute, dense, int, op, tensor_type};
use super::{COLUMNS, Ranker, stump};

/// The reason for which a model is refused, after `break_it`.
fn refusal(mut model: ModelProto, break_it: impl FnOnce(&mut GraphProto)) -> String {
    break_it(model.graph.as_mut().unwrap());
    Ranker::from_proto(&model, COLUMNS).unwrap_err().to_string()
}

#[track_caller]
fn check(model: ModelProto, reason: &str, break_it: impl FnOnce(&mut GraphProto)) {
    let refusal = refusal(model, break_it);
    assert!(refusal.contains(reason), "refused with: {refusal}");
}

fn attr<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut AttributeProto {
    graph.node[0].attribute.iter_mut().find(|a| a.name == name).unwrap()
}

#[test]
fn foreign_operators_are_refused() {
    check(dense(), "operator RandomNormalLike", |g| {
        g.node[1].op_type = "RandomNormalLike".into();
    });
    check(dense(), "operator Nonsense", |g| {
        g.node[1].op_type = "Nonsense".into();
    });
    check(dense(), "domain com.microsoft", |g| {
        g.node[1].domain = "com.microsoft".into();
    });
    check(dense(), "a subgraph", |g| {
        g.node[1]
            .attribute
            .push(AttributeProto { g: Some(GraphProto::default()), ..attribute("body", AttributeType::Graph) });
    });
}

#[test]
fn external_data_is_refused() {
    check(dense(), "external data", |g| {
        g.initializer[0].data_location = Some(DataLocation::External as i32);
    });
    check(dense(), "external data", |g| {
        g.initializer[0].external_data.push(Default::default());
    });
}

#[test]
fn wrong_inputs_and_outputs_are_refused() {
    check(dense(), "4 columns wide", |g| {
        g.input = vec![tensor_type("features", None, 4)];
    });
    check(dense(), "2 inputs", |g| {
        g.input.push(tensor_type("more", None, 1));
    });
    check(dense(), "0 inputs", |g| g.input.clear());
    check(dense(), "0 outputs", |g| g.output.clear());
    check(dense(), "nothing makes", |g| {
        g.output.push(tensor_type("nowhere", None, 1));
    });
    check(dense(), "nothing makes", |g| {
        g.node[0].input[0] = "nowhere".into();
    });
    check(dense(), "made twice", |g| g.node[1].output[0] = "h1".into());
    check(dense(), "batch dimension is 0", |g| {
        g.input = vec![tensor_type("features", Some(0), 5)];
    });
    check(dense(), "one name", |g| g.output[1].name = "click".into());
    check(dense(), "not its shape", |g| {
        g.initializer[0].dims = vec![37, 1 << 40];
    });
    check(dense(), "32-bit floats", |g| {
        let Some(type_proto::Value::TensorType(t)) = &mut g.output[0].r#type.as_mut().unwrap().value else {
            return;
        };
        t.elem_type = DataType::Int64 as i32;
    });
}

#[test]
fn models_whose_rows_see_each_other_are_refused() {
    check(dense(), "depends on the other rows", |g| {
        g.node[6] = op("Softmax", &["logit"], "click", vec![int("axis", 0)]);
    });
}

#[test]
fn malformed_trees_are_refused() {
    let model = || stump().model();
    check(model(), "does not exist", |g| {
        attr(g, "nodes_truenodeids").ints[0] = 9;
    });
    check(model(), "does not exist", |g| {
        attr(g, "nodes_modes").strings[0] = b"BRANCH_XOR".to_vec();
    });
    check(model(), "cycle", |g| {
        attr(g, "nodes_truenodeids").ints[0] = 0;
    });
    check(model(), "two parents", |g| {
        attr(g, "nodes_truenodeids").ints[0] = 2;
    });
    check(model(), "more than one root", |g| {
        attr(g, "nodes_modes").strings[0] = b"LEAF".to_vec();
    });
    check(model(), "twice", |g| attr(g, "nodes_nodeids").ints[2] = 1);
    check(model(), "nodes_values has 2 entries", |g| {
        attr(g, "nodes_values").floats.truncate(2);
    });
    check(model(), "base_values has 2 entries", |g| {
        attr(g, "base_values").floats.push(0.0);
    });
    check(model(), "NaN", |g| {
        attr(g, "nodes_values").floats[0] = f32::NAN;
    });
    check(model(), "not finite", |g| {
        attr(g, "target_weights").floats[0] = f32::INFINITY;
    });
    check(model(), "no leaf", |g| {
        attr(g, "target_nodeids").ints[0] = 0;
    });
    check(model(), "names target 1", |g| {
        attr(g, "target_ids").ints[0] = 1;
    });
    check(model(), "feature -1", |g| {
        attr(g, "nodes_featureids").ints[0] = -1;
    });
    check(model(), "look at 6 columns", |g| {
        attr(g, "nodes_featureids").ints[0] = 5;
    });
    check(model(), "n_targets is 0", |g| attr(g, "n_targets").i = -3);
    check(model(), "LOGISTIC", |g| {
        attr(g, "post_transform").s = b"LOGISTIC".to_vec();
    });
}
