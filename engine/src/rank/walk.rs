//! Walks rows down the trees: the hot loop of ranking.
//!
//! Answers: the scores of these rows. Must not know how the ensemble came to be.
//!
//! Every walk adds a row's weights in the order of the trees, so all of them give the same bits, whatever the number of
//! rows and whatever the processor. A few rows are walked one by one, many sixteen at a time (`batch`), or thirty-two where the
//! trees are shallow and the processor has AVX-512 (`complete`).

use super::batch::{Batch, LANES, Top};
use super::complete::{self, Complete};
use super::tree::{Aggregate, Ensemble, Leaves, Tree};

/// Fewer rows are walked one by one.
const BATCH_ROWS_MIN: usize = 4;
/// Rows that pass one group of trees before the next: what they ask for takes 64 bytes a slot and sixteen rows.
const ROWS_AT_ONCE: usize = 256;

impl Ensemble {
    /// Scores `features`, row-major rows of `columns` numbers, into `out`, row-major rows of
    /// `targets()` numbers. NaN is an unknown value; infinities are numbers.
    ///
    /// # Panics
    /// When the lengths do not fit each other, or `columns` is less than `columns()`.
    pub(super) fn score(&self, features: &[f32], columns: usize, out: &mut [f32]) {
        assert!(columns >= self.columns(), "rows are narrower than the trees");
        assert_eq!(features.len() % columns, 0, "the last row is incomplete");
        assert_eq!(out.len(), features.len() / columns * self.targets(), "one score for each row and target");
        match &self.leaves {
            Leaves::Sum { weights, batch, complete } => {
                out.fill(self.base[0]);
                match complete {
                    _ if out.len() < BATCH_ROWS_MIN => self.sum(weights, features, columns, out),
                    Some(trees) => batch.sum_complete(trees, features, columns, out),
                    None => batch.sum(features, columns, out, walk()),
                }
            }
            Leaves::Sparse { starts, weights, aggregate } => {
                let rows = features.chunks_exact(columns).zip(out.chunks_exact_mut(self.targets()));
                for (row, scores) in rows {
                    self.sparse(starts, weights, *aggregate, row, scores);
                }
            }
        }
    }

    /// As `score`, by one of the other walks; for one summed target.
    #[cfg(test)]
    pub(super) fn score_by(&self, by: Other, features: &[f32], columns: usize, out: &mut [f32]) {
        let Leaves::Sum { weights, batch, .. } = &self.leaves else { panic!("one summed target") };
        out.fill(self.base[0]);
        match by {
            Other::OneByOne => self.sum(weights, features, columns, out),
            Other::Portable => batch.sum(features, columns, out, portable::sixteen),
            Other::Sixteen => batch.sum(features, columns, out, walk()),
        }
    }

    /// Adds the trees' weights to `out`.
    fn sum(&self, weights: &[f32], features: &[f32], columns: usize, out: &mut [f32]) {
        for (row, score) in features.chunks_exact(columns).zip(out) {
            for tree in &self.trees {
                *score += weights[self.leaf(tree, row)];
            }
        }
    }

    /// The leaf at which `row` ends in `tree`.
    fn leaf(&self, tree: &Tree, row: &[f32]) -> usize {
        let mut at = tree.root as usize;
        loop {
            let node = self.nodes[at];
            if node.delta() == 0 {
                return at;
            }
            at += node.delta() + node.second(row[node.feature()]);
        }
    }

    /// Several targets, or an aggregate other than the sum. `scores` is one row's.
    fn sparse(&self, starts: &[u32], weights: &[(u32, f32)], aggregate: Aggregate, row: &[f32], scores: &mut [f32]) {
        // What no tree has touched: NaN in the extremes (weights are finite), replaced at the end.
        scores.fill(if matches!(aggregate, Aggregate::Min | Aggregate::Max) { f32::NAN } else { 0.0 });
        if aggregate == Aggregate::Sum {
            scores.copy_from_slice(&self.base);
        }
        for tree in &self.trees {
            let leaf = self.leaf(tree, row);
            for &(target, weight) in &weights[starts[leaf] as usize..starts[leaf + 1] as usize] {
                let score = &mut scores[target as usize];
                match aggregate {
                    Aggregate::Sum | Aggregate::Average => *score += weight,
                    Aggregate::Min => *score = score.min(weight),
                    Aggregate::Max => *score = score.max(weight),
                }
            }
        }
        let trees = self.trees.len() as f32;
        for (score, base) in scores.iter_mut().zip(&self.base) {
            match aggregate {
                Aggregate::Sum => {}
                Aggregate::Average => *score = *score / trees + base,
                Aggregate::Min | Aggregate::Max if score.is_nan() => *score = *base,
                Aggregate::Min | Aggregate::Max => *score += base,
            }
        }
    }
}

/// What a test holds `score` to.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Other {
    /// Row by row.
    OneByOne,
    /// Sixteen at a time, by the loops of any processor.
    Portable,
    /// Sixteen at a time, whatever the depth.
    Sixteen,
}

/// Sixteen numbers of each slot.
type Slots = [[f32; LANES]];
/// Adds the weights of some trees to sixteen sums.
///
/// # Safety
/// The trees are the batch's own, it has as many slots as these, and the processor can do it.
type Walk = unsafe fn(&Batch, &[Top], &Slots, &mut [f32; LANES]);

/// The fastest one for this processor.
fn walk() -> Walk {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return avx2::sixteen;
    }
    portable::sixteen
}

impl Batch {
    /// Adds the trees' weights to `out`; `columns` are those of a row.
    fn sum(&self, features: &[f32], columns: usize, out: &mut [f32], walk: Walk) {
        let slots = self.columns.len();
        let mut turned = vec![[0.0; LANES]; slots * ROWS_AT_ONCE.min(out.len()).div_ceil(LANES)];
        for (rows, scores) in features.chunks(ROWS_AT_ONCE * columns).zip(out.chunks_mut(ROWS_AT_ONCE)) {
            for (rows, slots) in rows.chunks(LANES * columns).zip(turned.chunks_mut(slots)) {
                self.turn(rows, columns, slots);
            }
            for group in &self.groups {
                for (scores, slots) in scores.chunks_mut(LANES).zip(turned.chunks(slots)) {
                    // Lanes beyond the last row walk along with numbers that are never looked at.
                    let mut sums = [0.0; LANES];
                    sums[..scores.len()].copy_from_slice(scores);
                    // SAFETY: `walk()` chose what the processor can do; trees and slots are this batch's.
                    unsafe { walk(self, &self.tops[group.clone()], slots, &mut sums) };
                    scores.copy_from_slice(&sums[..scores.len()]);
                }
            }
        }
    }

    /// As [`Batch::sum`], by shallow trees.
    fn sum_complete(&self, trees: &[Complete], features: &[f32], columns: usize, out: &mut [f32]) {
        /// A third of a MiB: processors with AVX-512 have a second-level cache of one or more.
        const TREES_AT_ONCE: usize = 512;
        let slots = self.columns.len();
        let mut turned = vec![[0.0; LANES]; 2 * slots * ROWS_AT_ONCE.min(out.len()).div_ceil(complete::ROWS)];
        for (rows, scores) in features.chunks(ROWS_AT_ONCE * columns).zip(out.chunks_mut(ROWS_AT_ONCE)) {
            for (rows, slots) in rows.chunks(LANES * columns).zip(turned.chunks_mut(slots)) {
                self.turn_wide(rows, columns, slots);
            }
            for trees in trees.chunks(TREES_AT_ONCE) {
                for (scores, both) in scores.chunks_mut(complete::ROWS).zip(turned.chunks(2 * slots)) {
                    let mut sums = [0.0; complete::ROWS];
                    sums[..scores.len()].copy_from_slice(scores);
                    let (low, high) = both.split_at(slots);
                    // SAFETY: there are such trees only where the processor can do it; trees and slots are this batch's.
                    #[cfg(target_arch = "x86_64")]
                    unsafe {
                        complete::add(trees, [low, high], &mut sums);
                    };
                    scores.copy_from_slice(&sums[..scores.len()]);
                }
            }
        }
    }

    /// As [`Batch::turn`], on a processor that walks shallow trees.
    fn turn_wide(&self, rows: &[f32], columns: usize, slots: &mut Slots) {
        #[cfg(target_arch = "x86_64")]
        if rows.len() == LANES * columns && LANES * columns <= i32::MAX as usize {
            // SAFETY: the processor can do it; rows are sixteen, and no column is beyond their width.
            return unsafe { complete::turn(&self.columns, rows, columns, slots) };
        }
        self.turn(rows, columns, slots);
    }

    /// Row-major rows, at most sixteen, as slots.
    fn turn(&self, rows: &[f32], columns: usize, slots: &mut Slots) {
        for (slot, &(column, sign)) in slots.iter_mut().zip(&self.columns) {
            for (lane, row) in slot.iter_mut().zip(rows.chunks_exact(columns)) {
                *lane = f32::from_bits(row[column as usize].to_bits() ^ sign);
            }
        }
    }

    /// Each row from one of its tree's sixteen nodes to its leaf, whose weight is added.
    ///
    /// # Safety
    /// `at` are nodes of one tree, `steps` above its deepest leaf or more; there are as many slots as `columns`.
    #[inline(always)]
    unsafe fn descend(&self, slots: *const f32, at: &[u32; LANES], steps: u32, sums: &mut [f32; LANES]) {
        for (lane, (&at, sum)) in at.iter().zip(sums).enumerate() {
            let mut at = at as usize;
            // SAFETY: `Batch::of` laid every node that is reached from these within the arrays, and their slots among `columns`.
            unsafe {
                for _ in 0..steps {
                    let x = *slots.add(*self.slots.get_unchecked(at) as usize + lane);
                    at = *self.next.get_unchecked(at) as usize + usize::from(x <= *self.thresholds.get_unchecked(at));
                }
                *sum += self.weights.get_unchecked(at);
            }
        }
    }
}

/// What all rows answer on the four levels of a [`Top`]: all its questions are asked, and a row's earlier answers pick which of
/// a level's answers is its own. A macro: inside a function, the caller's instructions could not be used.
macro_rules! answers {
    ($ask:ident, $pick:ident) => {{
        let first = $ask(0);
        let second = $pick(first, $ask(1), $ask(2));
        let pair = |at: usize, which| $pick(which, $ask(at), $ask(at + 1));
        let third = $pick(first, pair(3, second), pair(5, second));
        let four = |at: usize| $pick(second, pair(at, third), pair(at + 2, third));
        [first, second, third, $pick(first, four(7), four(11))]
    }};
}

mod portable {
    use super::super::batch::{Batch, LANES, Top};
    use super::Slots;

    type Answers = [bool; LANES];

    /// # Safety
    /// As `Walk`, for any processor.
    pub(super) unsafe fn sixteen(batch: &Batch, tops: &[Top], slots: &Slots, sums: &mut [f32; LANES]) {
        for top in tops {
            let ask = |question: usize| -> Answers {
                slots[top.slots[question] as usize / LANES].map(|x| x <= top.thresholds[question])
            };
            let pick = |which: Answers, no: Answers, yes: Answers| -> Answers {
                std::array::from_fn(|lane| if which[lane] { yes[lane] } else { no[lane] })
            };
            let [first, second, third, fourth] = answers!(ask, pick);
            let at = std::array::from_fn(|lane| {
                let answers = [first, second, third, fourth].map(|answers| u32::from(answers[lane]));
                top.first + answers.into_iter().fold(0, |path, answer| 2 * path + answer)
            });
            // SAFETY: four answers lead to one of the tree's sixteen nodes; the rest is `Walk`'s contract.
            unsafe { batch.descend(slots.as_flattened().as_ptr(), &at, top.steps, sums) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::super::batch::{Batch, LANES, Top};
    use super::Slots;

    /// Of eight rows and of the next eight.
    type Answers = [__m256; 2];

    /// # Safety
    /// As `Walk`, for processors with AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sixteen(batch: &Batch, tops: &[Top], slots: &Slots, sums: &mut [f32; LANES]) {
        let slots = slots.as_flattened().as_ptr();
        for top in tops {
            let ask = |question: usize| -> Answers {
                let threshold = _mm256_set1_ps(top.thresholds[question]);
                // SAFETY: a slot of the batch begins here, and is sixteen numbers long.
                let (low, high) = unsafe {
                    let slot = slots.add(top.slots[question] as usize);
                    (_mm256_loadu_ps(slot), _mm256_loadu_ps(slot.add(LANES / 2)))
                };
                // All bits where the comparison holds, none for NaN.
                [_mm256_cmp_ps::<_CMP_LE_OQ>(low, threshold), _mm256_cmp_ps::<_CMP_LE_OQ>(high, threshold)]
            };
            let pick = |which: Answers, no: Answers, yes: Answers| -> Answers {
                [_mm256_blendv_ps(no[0], yes[0], which[0]), _mm256_blendv_ps(no[1], yes[1], which[1])]
            };
            let [first, second, third, fourth] = answers!(ask, pick);
            let mut at = [0; LANES];
            for (half, at) in at.chunks_exact_mut(LANES / 2).enumerate() {
                // A yes is -1.
                let on = |path, answers: Answers| {
                    _mm256_add_epi32(_mm256_add_epi32(path, path), _mm256_castps_si256(answers[half]))
                };
                let path = on(on(on(_mm256_castps_si256(first[half]), second), third), fourth);
                let node = _mm256_sub_epi32(_mm256_set1_epi32(top.first.cast_signed()), path);
                // SAFETY: eight numbers wide.
                unsafe { _mm256_storeu_si256(at.as_mut_ptr().cast(), node) };
            }
            // SAFETY: four answers lead to one of the tree's sixteen nodes; the rest is this function's contract. The usual
            // numbers of steps are loops that the compiler unrolls.
            unsafe {
                match top.steps {
                    0 => batch.descend(slots, &at, 0, sums),
                    1 => batch.descend(slots, &at, 1, sums),
                    2 => batch.descend(slots, &at, 2, sums),
                    3 => batch.descend(slots, &at, 3, sums),
                    4 => batch.descend(slots, &at, 4, sums),
                    steps => batch.descend(slots, &at, steps, sums),
                }
            }
        }
    }
}
