//! Dense networks: which of them need no tract, and that they compute what they say.

use super::models::{int, matrix, model, noise, op, tensor_type};
use super::*;
use tract_onnx::pb::{NodeProto, TensorProto};

fn weights() -> Vec<TensorProto> {
    let width = COLUMNS as i64;
    vec![
        matrix("w1", &[37, width], 1),
        matrix("b1", &[37], 1000),
        matrix("w2", &[37, 19], 2000),
        matrix("b2", &[19], 3000),
        matrix("w3", &[1, 19], 4000),
        matrix("b3", &[1], 5000),
    ]
}

fn nodes() -> Vec<NodeProto> {
    vec![
        op("Gemm", &["features", "w1", "b1"], "h1", vec![int("transB", 1)]),
        op("Relu", &["h1"], "r1", vec![]),
        op("MatMul", &["r1", "w2"], "m2", vec![]),
        op("Add", &["m2", "b2"], "h2", vec![]),
        op("Relu", &["h2"], "r2", vec![]),
        op("Gemm", &["r2", "w3", "b3"], "click", vec![int("transB", 1)]),
    ]
}

/// The network as a textbook would write it, in 64 bits.
fn naive(row: &[f32]) -> f64 {
    let weights = weights();
    let [w1, b1, w2, b2, w3, b3] = [0, 1, 2, 3, 4, 5].map(|at| &weights[at].float_data);
    let dot = |a: &[f64], b: &mut dyn Iterator<Item = f32>| a.iter().zip(b).map(|(a, b)| a * f64::from(b)).sum::<f64>();
    let row: Vec<f64> = row.iter().map(|&value| value.into()).collect();
    let wide =
        |at: usize| f64::max(dot(&row, &mut w1[at * COLUMNS..][..COLUMNS].iter().copied()) + f64::from(b1[at]), 0.0);
    let first: Vec<f64> = (0..37).map(wide).collect();
    let narrow =
        |at: usize| f64::max(dot(&first, &mut w2.iter().copied().skip(at).step_by(19)) + f64::from(b2[at]), 0.0);
    let second: Vec<f64> = (0..19).map(narrow).collect();
    dot(&second, &mut w3.iter().copied()) + f64::from(b3[0])
}

fn rows() -> Vec<Vec<f32>> {
    (0..211).map(|at| (0..COLUMNS as u32).map(|column| noise(at * 5 + column) * 2.0).collect()).collect()
}

fn check(ranker: &Ranker) {
    let rows = rows();
    let scores = score(ranker, &rows);
    for (row, score) in rows.iter().zip(&scores) {
        let (got, wanted) = (f64::from(f32::from_bits(score[0])), naive(row));
        assert!((got - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{got} instead of {wanted}");
    }
    let single: Vec<_> = rows.iter().flat_map(|row| super::score(ranker, std::slice::from_ref(row))).collect();
    assert_eq!(single, scores);
}

#[test]
fn a_network_of_layers_needs_no_tract() {
    let ranker = load(&model(nodes(), weights(), vec![tensor_type("click", None, 1)]));
    assert!(matches!(ranker.plan, Plan::Network(_)), "three layers, biases and cuts within: {:?}", ranker.plan);
    check(&ranker);
}

#[test]
fn layers_among_other_operators_are_ours_too() {
    let mut nodes = nodes();
    nodes[5].output = vec!["logit".into()];
    nodes.push(op("Neg", &["logit"], "less", vec![]));
    nodes.push(op("Neg", &["less"], "click", vec![]));
    nodes.push(op("Sigmoid", &["logit"], "p", vec![]));
    let ranker = load(&model(nodes, weights(), vec![tensor_type("click", None, 1), tensor_type("p", None, 1)]));
    assert!(matches!(ranker.plan, Plan::Chunks(_)));
    check(&ranker);
}

#[test]
fn filling_scaling_and_a_sigmoid_belong_to_the_network() {
    let width = COLUMNS as i64;
    let mut nodes = vec![
        op("IsNaN", &["features"], "unknown", vec![]),
        op("Where", &["unknown", "mean", "features"], "filled", vec![]),
        op("Sub", &["filled", "mean"], "centred", vec![]),
        op("Div", &["centred", "deviation"], "scaled", vec![]),
    ];
    nodes.extend(super::layers::nodes());
    nodes[4].input[0] = "scaled".into();
    let last = nodes.last_mut().unwrap();
    last.output = vec!["logit".into()];
    nodes.push(op("Sigmoid", &["logit"], "click", vec![]));
    let mut weights = weights();
    weights.push(matrix("mean", &[width], 6000));
    weights.push(matrix("deviation", &[1, width], 7000));
    let (mean, deviation) = (weights[6].float_data.clone(), weights[7].float_data.clone());
    let ranker = load(&model(nodes, weights, vec![tensor_type("click", None, 1)]));
    assert!(matches!(ranker.plan, Plan::Network(_)), "{:?}", ranker.plan);
    let mut rows = rows();
    rows.iter_mut().step_by(3).for_each(|row| row[1] = f32::NAN);
    for (row, score) in rows.iter().zip(score(&ranker, &rows)) {
        let prepared = row.iter().enumerate().map(|(at, &value)| {
            let filled = if value.is_nan() { mean[at] } else { value };
            (filled - mean[at]) / deviation[at]
        });
        let logit = naive(&prepared.collect::<Vec<_>>());
        let (got, wanted) = (f64::from(f32::from_bits(score[0])), 1.0 / (1.0 + (-logit).exp()));
        assert!((got - wanted).abs() <= 1e-5, "{got} instead of {wanted}");
    }
}

#[test]
fn a_bias_that_is_also_an_output_is_not_swallowed() {
    let mut nodes = nodes();
    nodes.truncate(3);
    nodes.push(op("Add", &["m2", "b2"], "h2", vec![]));
    let outputs = vec![tensor_type("m2", None, 19), tensor_type("h2", None, 19)];
    let ranker = load(&model(nodes, weights(), outputs));
    let b2 = weights()[3].float_data.clone();
    for scores in score(&ranker, &rows()) {
        let (plain, biased) = scores.split_at(19);
        for ((plain, biased), bias) in plain.iter().zip(biased).zip(&b2) {
            assert_eq!(f32::from_bits(*plain) + bias, f32::from_bits(*biased));
        }
    }
}

#[test]
fn alpha_and_beta_of_a_gemm_count() {
    let scaled = |name: &str, value: f32| AttributeProto {
        f: value,
        ..models::attribute(name, tract_onnx::pb::attribute_proto::AttributeType::Float)
    };
    let gemm = |attributes| {
        let nodes = vec![op("Gemm", &["features", "w1", "b1"], "h", attributes)];
        load(&model(nodes, weights(), vec![tensor_type("h", None, 37)]))
    };
    let plain = gemm(vec![int("transB", 1)]);
    let twice = gemm(vec![int("transB", 1), scaled("alpha", 2.0), scaled("beta", 2.0)]);
    for (once, twice) in score(&plain, &rows()).concat().into_iter().zip(score(&twice, &rows()).concat()) {
        let (once, twice) = (2.0 * f32::from_bits(once), f32::from_bits(twice));
        assert!((once - twice).abs() <= 1e-5 * once.abs().max(1.0), "{twice} instead of {once}");
    }
}

#[test]
fn an_unknown_value_reaches_the_score() {
    let ranker = load(&model(nodes(), weights(), vec![tensor_type("click", None, 1)]));
    let mut rows = vec![vec![0.5; COLUMNS]; 9];
    rows[4][2] = f32::NAN;
    let scores: Vec<f32> = score(&ranker, &rows).concat().into_iter().map(f32::from_bits).collect();
    assert_eq!(
        scores.iter().map(|score| score.is_nan()).collect::<Vec<_>>(),
        (0..9).map(|at| at == 4).collect::<Vec<_>>()
    );
}
