//! Random forests and rows, with values that often meet thresholds exactly.

use proptest::prelude::*;

use super::COLUMNS;
use super::models::{Forest, MODES, Tree};

/// Few values, so that features often equal thresholds; the awkward ones among them.
pub(super) fn value() -> impl Strategy<Value = f32> {
    let tiny = f32::from_bits(1);
    prop_oneof![
        4 => (-3_i8..=3).prop_map(|v| f32::from(v) / 2.0),
        1 => prop::sample::select(vec![-0.0, tiny, -tiny, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY]),
        1 => (-3_i8..=3).prop_map(|v| (f32::from(v) / 2.0).next_up()),
    ]
}

pub(super) fn feature() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => value(),
        1 => prop::sample::select(vec![f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)]),
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

pub(super) fn tree(targets: usize) -> impl Strategy<Value = Tree> {
    let weight = prop_oneof![9 => (-1000_i16..1000).prop_map(|w| f32::from(w) / 777.0), 1 => Just(0.0)];
    let leaf = prop::collection::btree_map(0..targets, weight, 0..=targets);
    let leaf = leaf.prop_map(|weights| Tree::Leaf(weights.into_iter().collect()));
    leaf.prop_recursive(7, 60, 2, |inner| {
        (0..MODES.len(), 0..COLUMNS, value(), any::<bool>(), inner.clone(), inner).prop_map(
            |(mode, feature, value, missing_true, yes, no)| {
                let (yes, no) = (Box::new(yes), Box::new(no));
                Tree::Branch { mode, feature, value, missing_true, yes, no }
            },
        )
    })
}

pub(super) fn forest() -> impl Strategy<Value = Forest> {
    let aggregate = prop::sample::select(vec!["SUM", "SUM", "SUM", "AVERAGE", "MIN", "MAX"]);
    (1_usize..=3, aggregate).prop_flat_map(|(targets, aggregate)| {
        let base = prop::collection::vec((-8_i8..8).prop_map(|b| f32::from(b) / 3.0), targets);
        let trees = prop::collection::vec(tree(targets), 1..12);
        (trees, base).prop_map(move |(trees, base)| Forest { trees, base, aggregate })
    })
}

pub(super) fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
    prop::collection::vec(prop::collection::vec(feature(), COLUMNS), 1..45)
}
