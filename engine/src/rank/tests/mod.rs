//! Models are built here as protobuf, with random trees, and compared with the plainest evaluator there
//! can be. The golden model comes from XGBoost (`tests/golden/make.py`).

mod cases;
mod layers;
mod models;
mod refusals;
mod walks;

use proptest::prelude::*;
use tract_onnx::pb::{AttributeProto, ModelProto, type_proto};

use super::graph::Plan;
use super::{Error, Ranker};
use cases::{feature, forest, rows};
use models::{Forest, Tree, dense, noise, op, tensor_type};

const COLUMNS: usize = 5;

fn score(ranker: &Ranker, rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    let mut out = vec![f32::NAN; 3];
    ranker.score(&rows.concat(), rows.len(), &mut out).unwrap();
    assert_eq!(out.len(), rows.len() * ranker.heads().len());
    // NaN has many bit patterns, all of one meaning.
    let bits = |x: &f32| {
        if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
    };
    out.chunks_exact(ranker.heads().len()).map(|row| row.iter().map(bits).collect()).collect()
}

fn load(model: &ModelProto) -> Ranker {
    Ranker::from_proto(model, COLUMNS).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn random_trees_score_as_the_naive_evaluator_bit_for_bit(forest in forest(), rows in rows()) {
        let naive: Vec<Vec<u32>> =
            rows.iter().map(|row| forest.naive(row).into_iter().map(f32::to_bits).collect()).collect();
        prop_assert_eq!(score(&load(&forest.model()), &rows), naive);
    }

    #[test]
    fn permuting_rows_permutes_tree_scores((forest, rows) in (forest(), rows()), turn in 0_usize..40) {
        let ranker = load(&forest.model());
        let mut expected = score(&ranker, &rows);
        let mut permuted = rows;
        let turn = turn % permuted.len();
        permuted.rotate_left(turn);
        permuted.reverse();
        expected.rotate_left(turn);
        expected.reverse();
        prop_assert_eq!(score(&ranker, &permuted), expected);
    }

    #[test]
    fn one_row_scores_trees_as_in_a_batch(forest in forest(), rows in rows()) {
        let ranker = load(&forest.model());
        let single: Vec<_> = rows.iter().flat_map(|row| score(&ranker, std::slice::from_ref(row))).collect();
        prop_assert_eq!(single, score(&ranker, &rows));
    }

    #[test]
    fn dense_scores_do_not_depend_on_the_batch(rows in prop::collection::vec(
        prop::collection::vec(prop_oneof![8 => -2.0_f32..2.0, 1 => feature()], COLUMNS), 1..80), turn in 0_usize..80) {
        static DENSE: std::sync::LazyLock<Ranker> = std::sync::LazyLock::new(|| load(&dense()));
        let mut expected = score(&DENSE, &rows);
        let single: Vec<_> = rows.iter().flat_map(|row| score(&DENSE, std::slice::from_ref(row))).collect();
        prop_assert_eq!(&single, &expected);
        let mut permuted = rows;
        let turn = turn % permuted.len();
        permuted.rotate_left(turn);
        expected.rotate_left(turn);
        prop_assert_eq!(score(&DENSE, &permuted), expected);
    }

    #[test]
    fn flipped_bytes_never_panic(at in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4)) {
        let mut bytes = GOLDEN.to_vec();
        for (index, flip) in at {
            // Half the flips go to the names and shapes at the two ends, where they do most harm.
            let index = index.index(2 * bytes.len());
            let index = if index < bytes.len() { index } else { (index % 400 + bytes.len() - 200) % bytes.len() };
            bytes[index] ^= flip;
        }
        if let Ok(ranker) = Ranker::from_onnx(&bytes, 6) {
            ranker.score(&[0.5; 60], 10, &mut Vec::new()).unwrap();
        }
    }

    #[test]
    fn noise_is_no_model(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Ranker::from_onnx(&bytes, COLUMNS).is_err());
    }
}

// ---- The golden model ----

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/ranker.onnx");

#[derive(serde::Deserialize)]
struct Golden {
    columns: Vec<String>,
    rows: Vec<Vec<Option<f32>>>,
    scores: Vec<f32>,
}

#[test]
fn the_golden_ranker_scores_as_xgboost() {
    let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/ranker.json")).unwrap();
    let ranker = Ranker::from_onnx(GOLDEN, golden.columns.len()).unwrap();
    assert_eq!(ranker.heads(), ["score"]);
    let features: Vec<f32> = golden.rows.iter().flatten().map(|x| x.unwrap_or(f32::NAN)).collect();
    let mut scores = Vec::new();
    ranker.score(&features, golden.rows.len(), &mut scores).unwrap();
    // Same sums in the same order: not merely within 1e-5.
    assert_eq!(scores, golden.scores);
}

#[test]
fn every_truncation_is_an_error() {
    for len in (0..GOLDEN.len()).step_by(97).chain(GOLDEN.len() - 40..GOLDEN.len()) {
        assert!(Ranker::from_onnx(&GOLDEN[..len], 6).is_err(), "{len} bytes of {}", GOLDEN.len());
    }
}

#[test]
fn another_number_of_columns_is_refused() {
    for columns in [0, 5, 7, 100_000] {
        assert!(matches!(Ranker::from_onnx(GOLDEN, columns), Err(Error::Signature(_))), "{columns}");
    }
}

// ---- What is accepted ----

fn stump() -> Forest {
    let branch = Tree::Branch {
        mode: 0,
        feature: 4,
        value: 1.0,
        missing_true: true,
        yes: Box::new(Tree::Leaf(vec![(0, 0.25)])),
        no: Box::new(Tree::Leaf(vec![(0, -0.5)])),
    };
    Forest { trees: vec![branch], base: vec![1.0], aggregate: "SUM" }
}

#[test]
fn a_dense_model_has_its_named_heads() {
    assert_eq!(load(&dense()).heads(), ["click", "watch_0", "watch_1"]);
}

#[test]
fn no_rows_have_no_scores() {
    for model in [stump().model(), dense()] {
        assert!(score(&load(&model), &[]).is_empty());
    }
}

#[test]
fn a_deep_tree_is_walked_to_its_end() {
    let mut tree = Tree::Leaf(vec![(0, 7.0)]);
    for level in 0..1500_u16 {
        let (yes, no) = (Box::new(tree), Box::new(Tree::Leaf(vec![(0, 1.0)])));
        tree = Tree::Branch { mode: 3, feature: 0, value: f32::from(level), missing_true: false, yes, no };
    }
    let ranker = load(&Forest { trees: vec![tree], base: vec![0.0], aggregate: "SUM" }.model());
    let rows: Vec<_> = [1e6, 1499.0, f32::NAN].into_iter().cycle().take(24).map(|x| vec![x; COLUMNS]).collect();
    let scores: Vec<_> = score(&ranker, &rows).concat().into_iter().map(f32::from_bits).collect();
    assert_eq!(scores[..3], [7.0, 1.0, 1.0]);
    assert_eq!(scores[21..], [7.0, 1.0, 1.0]);
}

#[test]
fn trees_inside_a_larger_graph_score_alike() {
    let mut graph = stump().model();
    let inner = graph.graph.as_mut().unwrap();
    inner.node.push(op("Sigmoid", &["variable"], "p", vec![]));
    inner.output = vec![tensor_type("variable", None, 1), tensor_type("p", None, 1)];
    let rows: Vec<_> = (0..70).map(|at| vec![at as f32 / 35.0; COLUMNS]).collect();
    let (plain, both) = (score(&load(&stump().model()), &rows), score(&load(&graph), &rows));
    assert_eq!(load(&graph).heads(), ["variable", "p"]);
    assert!(plain.iter().zip(&both).all(|(plain, both)| plain[0] == both[0] && both[1] != both[0]));
}

#[test]
fn the_batch_dimension_may_be_fixed_or_unset() {
    let rows: Vec<_> = (0..50).map(|at| (0..5).map(|c| noise(at * 5 + c)).collect()).collect();
    for declared in [Some(1), Some(7), Some(64), None] {
        let mut model = dense();
        let graph = model.graph.as_mut().unwrap();
        graph.input = vec![tensor_type("features", declared, COLUMNS as i64)];
        if declared.is_none() {
            let Some(type_proto::Value::TensorType(tensor)) = &mut graph.input[0].r#type.as_mut().unwrap().value else {
                unreachable!("made by tensor_type")
            };
            tensor.shape.as_mut().unwrap().dim[0].value = None;
        }
        graph.output.iter_mut().for_each(|output| *output = tensor_type(&output.name, declared, 1));
        let ranker = load(&model);
        let once = score(&ranker, &rows);
        let reversed: Vec<_> = rows.iter().rev().cloned().collect();
        let again: Vec<_> = score(&ranker, &reversed).into_iter().rev().collect();
        assert_eq!(once, again, "{declared:?}");
    }
}

#[test]
fn features_of_another_length_are_the_callers_error() {
    let ranker = load(&stump().model());
    let mut out = vec![1.0];
    for rows in [0, 1, 3, usize::MAX] {
        let error = ranker.score(&[0.0; 2 * COLUMNS], rows, &mut out).unwrap_err();
        assert!(matches!(error, Error::Features { given: 10, columns: COLUMNS, .. }));
    }
}

#[test]
fn rankers_are_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Ranker>();
}

#[test]
fn shapes_noted_for_inner_values_do_not_matter() {
    let rows: Vec<_> = (0..50).map(|at| (0..5).map(|c| noise(at * 5 + c)).collect()).collect();
    let mut noted = dense();
    noted.graph.as_mut().unwrap().value_info = vec![tensor_type("h1", None, 37)];
    assert_eq!(score(&load(&noted), &rows), score(&load(&dense()), &rows));
}

#[test]
fn a_model_that_cannot_be_pinned_runs_with_its_own_symbol() {
    let symbolic = super::graph::as_declared(&dense()).unwrap();
    let plan = Plan::of(symbolic, 32, COLUMNS).unwrap();
    let features: Vec<f32> = (0..50 * COLUMNS as u32).map(noise).collect();
    let (mut symbolic, mut pinned) = (vec![0.0; 50 * 3], Vec::new());
    plan.score(&features, COLUMNS, &mut symbolic).unwrap();
    load(&dense()).score(&features, 50, &mut pinned).unwrap();
    let difference = symbolic.iter().zip(&pinned).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference <= 1e-5, "largest difference to the pinned plan: {difference}");
}
