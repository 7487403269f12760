//! One by one, sixteen at a time, with the processor's own instructions: every walk gives the same bits.

use proptest::prelude::*;

use super::cases::{forest, rows};
use super::models::{Forest, MODES, Tree, attribute, noise};
use super::{COLUMNS, Ranker, load};
use crate::rank::graph::Plan;
use crate::rank::walk::Other;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, ModelProto};

fn all_walks_agree(model: &ModelProto, features: &[f32]) -> Result<(), TestCaseError> {
    let ranker = load(model);
    let Plan::Trees(trees) = &ranker.plan else { panic!("nothing but trees") };
    let rows = features.len() / COLUMNS;
    let mut fast = vec![f32::NAN; rows];
    trees.score(features, COLUMNS, &mut fast);
    for by in [Other::OneByOne, Other::Portable, Other::Sixteen] {
        let mut other = vec![f32::NAN; rows];
        trees.score_by(by, features, COLUMNS, &mut other);
        prop_assert_eq!(bits(&other), bits(&fast), "{:?}", by);
    }
    Ok(())
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn random_trees_score_the_same_by_every_walk(forest in forest(), rows in rows()) {
        let one_sum = forest.base.len() == 1 && forest.aggregate == "SUM";
        let forest = if one_sum { forest } else { Forest { base: vec![0.5], aggregate: "SUM", trees: first_targets(forest.trees) } };
        all_walks_agree(&forest.model(), &rows.concat())?;
    }
}

/// The same trees with one target.
fn first_targets(trees: Vec<Tree>) -> Vec<Tree> {
    let of = |tree| match tree {
        Tree::Leaf(weights) => Tree::Leaf(weights.into_iter().filter(|(target, _)| *target == 0).collect()),
        Tree::Branch { mode, feature, value, missing_true, yes, no } => {
            let [yes, no] = [*yes, *no].map(|side| Box::new(first_targets(vec![side]).remove(0)));
            Tree::Branch { mode, feature, value, missing_true, yes, no }
        }
    };
    trees.into_iter().map(of).collect()
}

/// A tree whose every leaf is `depth` questions away.
fn complete(depth: usize, seed: &mut u32) -> Box<Tree> {
    *seed += 1;
    let at = *seed;
    if depth == 0 {
        return Box::new(Tree::Leaf(vec![(0, noise(at))]));
    }
    let (feature, mode) = (at as usize % COLUMNS, at as usize / COLUMNS % MODES.len());
    let (yes, no) = (complete(depth - 1, seed), complete(depth - 1, seed));
    Box::new(Tree::Branch { mode, feature, value: noise(at + 7), missing_true: at.is_multiple_of(3), yes, no })
}

#[test]
fn rows_and_trees_beyond_one_group_are_all_walked() {
    let mut seed = 0;
    // 3 to 9 questions deep: some of them more than a group's nodes alone.
    let trees = (0..70).map(|at| *complete(3 + at % 7, &mut seed)).collect();
    let forest = Forest { trees, base: vec![0.25], aggregate: "SUM" };
    for rows in [0, 1, 3, 4, 15, 16, 17, 255, 256, 257, 530] {
        let value = |at: u32| if at.is_multiple_of(9) { f32::NAN } else { noise(at) };
        let features: Vec<f32> = (0..rows * COLUMNS as u32).map(value).collect();
        all_walks_agree(&forest.model(), &features).unwrap();
        if rows == 17 {
            let naive: Vec<f32> = features.chunks(COLUMNS).map(|row| forest.naive(row)[0]).collect();
            let mut scores = Vec::new();
            load(&forest.model()).score(&features, 17, &mut scores).unwrap();
            assert_eq!(bits(&scores), bits(&naive));
        }
    }
}

#[test]
fn equalities_below_each_other_are_laid_out_once() {
    // Each one leads by two ways to what follows: twice as much with every question, were it laid out for each.
    let equal = |at: u32, no| Tree::Branch {
        mode: 4,
        feature: at as usize % COLUMNS,
        value: noise(at),
        missing_true: at.is_multiple_of(2),
        yes: Box::new(Tree::Leaf(vec![(0, noise(at + 3))])),
        no: Box::new(no),
    };
    let chain = (0..200).fold(Tree::Leaf(vec![(0, 0.5)]), |no, at| equal(at, no));
    let forest = Forest { trees: vec![chain], base: vec![0.25], aggregate: "SUM" };
    let features: Vec<f32> = (0..60 * COLUMNS as u32).map(|at| noise(at % 217)).collect();
    all_walks_agree(&forest.model(), &features).unwrap();
}

#[test]
fn an_ensemble_of_too_many_trees_is_refused() {
    let mut model = super::stump().model();
    let node = &mut model.graph.as_mut().unwrap().node[0];
    let trees = (1 << 20) + 1;
    let ints = |values: Vec<i64>| AttributeProto { ints: values, ..attribute("", AttributeType::Ints) };
    for given in &mut node.attribute {
        let name = given.name.clone();
        let count: i64 = if name.starts_with("nodes_") { trees } else { 1 };
        let made = match name.as_str() {
            "nodes_treeids" => ints((0..trees).collect()),
            "nodes_modes" => AttributeProto {
                strings: vec![b"LEAF".to_vec(); trees as usize],
                ..attribute("", AttributeType::Strings)
            },
            "nodes_values" => {
                AttributeProto { floats: vec![0.0; trees as usize], ..attribute("", AttributeType::Floats) }
            }
            "target_weights" => AttributeProto { floats: vec![1.0], ..attribute("", AttributeType::Floats) },
            other if other.starts_with("nodes_") || other.starts_with("target_") => ints(vec![0; count as usize]),
            _ => continue,
        };
        *given = AttributeProto { name, ..made };
    }
    let refusal = Ranker::from_proto(&model, COLUMNS).unwrap_err().to_string();
    assert!(refusal.contains("has 1048577 trees; at most 1048576"), "{refusal}");
}
