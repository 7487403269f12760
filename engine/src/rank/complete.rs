//! Trees of at most six levels, laid out complete: for processors with AVX-512.
//!
//! Answers: where do all of a shallow tree's questions and weights stand, and what do thirty-two rows answer? Must not know:
//! protobuf, tract, how an ensemble is checked (`tree`).
//!
//! **Layout.** Questions are numbered from 1, those below question `n` are `2n` (after a no) and `2n + 1` (after a yes); a row's
//! number after six answers, less 64, is that of its leaf. Where a tree is shallower, the questions that are missing are
//! answered with no by every row. A level's questions, and the weights, lie in a few registers, so that each row's own is
//! found by a permutation; from the fourth level on only the rows' numbers are gathered.

#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "no other processor walks them"))]

use super::batch::{Batch, LANES, Step};
use super::tree::{Node, Tree};

/// Questions on the way to a leaf.
const LEVELS: u32 = 6;
/// Leaves; and one more than there are questions.
const LEAVES: usize = 1 << LEVELS;

/// One tree.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Complete {
    /// `x <= threshold` is a yes; NaN where the tree asks nothing. The first one is no question.
    thresholds: [f32; LEAVES],
    /// Where the slot of each question begins, as in [`Batch`].
    slots: [u32; LEAVES],
    weights: [f32; LEAVES],
}

/// More trees than these are walked sixteen rows at a time: they would take more than 24 MiB once more.
const TREES_MAX: usize = 1 << 15;

/// All trees, when none of them is deeper and the processor has use for it. `weights` has one entry a node.
pub(super) fn lay_out(batch: &Batch, nodes: &[Node], trees: &[Tree], weights: &[f32]) -> Option<Vec<Complete>> {
    if !is_supported() || trees.len() > TREES_MAX {
        return None;
    }
    trees.iter().map(|tree| Complete::of(batch, nodes, weights, tree.root as usize)).collect()
}

fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

impl Complete {
    /// `None` for a deeper tree.
    fn of(batch: &Batch, nodes: &[Node], weights: &[f32], root: usize) -> Option<Complete> {
        let mut tree = Complete { thresholds: [f32::NAN; LEAVES], slots: [0; LEAVES], weights: [0.0; LEAVES] };
        // Node of the source, number of the question.
        let mut open = vec![(root, 1)];
        while let Some((at, question)) = open.pop() {
            match Step::of(nodes, at) {
                Step::Pass { to } => open.push((to, question)),
                Step::Stay => {
                    // Every row says no from here on.
                    let leaf = question << (LEVELS - usize::ilog2(question));
                    tree.weights[leaf - LEAVES] = weights[at];
                }
                Step::Ask { .. } if question >= LEAVES => return None,
                Step::Ask { first } => {
                    (tree.thresholds[question], tree.slots[question]) = (nodes[at].threshold, batch.slot(nodes[at]));
                    open.extend([(first, 2 * question), (first + 1, 2 * question + 1)]);
                }
            }
        }
        Some(tree)
    }
}

/// Rows that are walked together: twice as many as a register holds, so that one half's answers are worked out while the
/// other's numbers come.
pub(super) const ROWS: usize = 2 * LANES;

/// Adds the trees' weights to the sums of two times sixteen rows; `slots` are those of the first sixteen, then of the others.
///
/// # Safety
/// The trees are those of the batch whose slots these are, and [`lay_out`] made them on this processor.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add(trees: &[Complete], slots: [&[[f32; LANES]]; 2], sums: &mut [f32; ROWS]) {
    use std::arch::x86_64::*;

    let one = _mm512_set1_epi32(1);
    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let slots = slots.map(|slots| slots.as_flattened().as_ptr());
    // SAFETY: sixteen numbers each.
    let mut totals = unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(LANES))] };
    for tree in trees {
        // SAFETY: four times sixteen numbers each, aligned to a line.
        let floats =
            |numbers: &[f32; LEAVES], line: usize| unsafe { _mm512_load_ps(numbers.as_ptr().add(line * LANES)) };
        let whole = |numbers: &[u32; LEAVES], line: usize| unsafe {
            _mm512_load_si512(numbers.as_ptr().add(line * LANES).cast())
        };
        for (slots, total) in slots.into_iter().zip(&mut totals) {
            // SAFETY: a slot of the batch begins there, and is sixteen numbers long.
            let of = |question: usize| unsafe { _mm512_loadu_ps(slots.add(tree.slots[question] as usize)) };
            let gather = |at: __m512i| unsafe { _mm512_i32gather_ps::<4>(_mm512_add_epi32(at, lanes), slots) };
            let below = |node: __m512i, x: __m512, thresholds: __m512| {
                let (no, yes) = (_mm512_add_epi32(node, node), _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, thresholds));
                (_mm512_mask_add_epi32(no, yes, no, one), yes)
            };
            let first_line = (floats(&tree.thresholds, 0), whole(&tree.slots, 0));
            let own = |node: __m512i| _mm512_permutexvar_ps(node, first_line.0);
            let (node, first) = below(one, of(1), _mm512_set1_ps(tree.thresholds[1]));
            let (node, second) = below(node, _mm512_mask_blend_ps(first, of(2), of(3)), own(node));
            let no = _mm512_mask_blend_ps(second, of(4), of(5));
            let yes = _mm512_mask_blend_ps(second, of(6), of(7));
            let (node, _) = below(node, _mm512_mask_blend_ps(first, no, yes), own(node));
            let (node, _) = below(node, gather(_mm512_permutexvar_epi32(node, first_line.1)), own(node));
            let at = _mm512_permutexvar_epi32(node, whole(&tree.slots, 1));
            let (node, _) = below(node, gather(at), _mm512_permutexvar_ps(node, floats(&tree.thresholds, 1)));
            let at = _mm512_permutex2var_epi32(whole(&tree.slots, 2), node, whole(&tree.slots, 3));
            let thresholds = floats(&tree.thresholds, 2);
            let thresholds = _mm512_permutex2var_ps(thresholds, node, floats(&tree.thresholds, 3));
            let (leaf, _) = below(node, gather(at), thresholds);
            let low = _mm512_permutex2var_ps(floats(&tree.weights, 0), leaf, floats(&tree.weights, 1));
            let high = _mm512_permutex2var_ps(floats(&tree.weights, 2), leaf, floats(&tree.weights, 3));
            let is_high = _mm512_test_epi32_mask(leaf, _mm512_set1_epi32(32));
            *total = _mm512_add_ps(*total, _mm512_mask_blend_ps(is_high, low, high));
        }
    }
    // SAFETY: sixteen numbers each.
    unsafe {
        _mm512_storeu_ps(sums.as_mut_ptr(), totals[0]);
        _mm512_storeu_ps(sums.as_mut_ptr().add(LANES), totals[1]);
    }
}

/// Sixteen row-major rows of `columns` numbers as slots: of each pair the column, its numbers turned by the sign.
///
/// # Safety
/// The processor has AVX-512, and no column is beyond the rows' width.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn turn(pairs: &[(u32, u32)], rows: &[f32], columns: usize, slots: &mut [[f32; LANES]]) {
    use std::arch::x86_64::*;

    let first = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(columns as i32),
    );
    for (slot, &(column, sign)) in slots.iter_mut().zip(pairs) {
        // SAFETY: one number of each row; a slot is sixteen numbers.
        unsafe {
            let numbers = _mm512_i32gather_epi32::<4>(first, rows.as_ptr().add(column as usize).cast());
            let turned = _mm512_xor_si512(numbers, _mm512_set1_epi32(sign.cast_signed()));
            _mm512_storeu_si512(slot.as_mut_ptr().cast(), turned);
        }
    }
}
