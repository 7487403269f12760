//! Walks rows down the trees: the hot loop of ranking.
//!
//! Answers: the scores of these rows. Must not know how the ensemble came to be.
//!
//! Every walk adds a row's weights in the order of the trees, so all of them give the same bits,
//! whatever the number of rows and whatever the processor. Trees are taken in blocks whose nodes fit
//! the first-level cache; within a block, several walks are under way at once, because a single one
//! waits for memory at each step.

use super::tree::{Aggregate, Ensemble, Leaves, Tree};

/// Nodes of one block of trees: 24 KiB of nodes, half as much of weights.
const BLOCK_NODES: usize = 3072;
/// Walks under way at once in the portable batch loop.
const LANES: usize = 8;

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
            Leaves::Sum(weights) => {
                out.fill(self.base[0]);
                self.sum(weights, features, columns, out);
            }
            Leaves::Sparse { starts, weights, aggregate } => {
                let rows = features.chunks_exact(columns).zip(out.chunks_exact_mut(self.targets()));
                for (row, scores) in rows {
                    self.sparse(starts, weights, *aggregate, row, scores);
                }
            }
        }
    }

    fn sum(&self, weights: &[f32], features: &[f32], columns: usize, out: &mut [f32]) {
        if out.len() == 1 {
            return self.sum_portable(&self.trees, weights, features, columns, out);
        }
        #[cfg(target_arch = "x86_64")]
        let wide = std::is_x86_feature_detected!("avx2");
        for block in blocks(&self.trees, self.nodes.len()) {
            #[cfg(target_arch = "x86_64")]
            if wide {
                // SAFETY: the processor has AVX2; `score` checked the lengths.
                unsafe { self.sum_avx2(block, weights, features, columns, out) };
                continue;
            }
            self.sum_portable(block, weights, features, columns, out);
        }
    }

    /// As `score`, by the portable loop whatever the processor; for one summed target.
    #[cfg(test)]
    pub(super) fn score_portable(&self, features: &[f32], columns: usize, out: &mut [f32]) {
        let Leaves::Sum(weights) = &self.leaves else { panic!("one summed target") };
        out.fill(self.base[0]);
        self.sum_portable(&self.trees, weights, features, columns, out);
    }

    /// Adds the weights of `trees` to `out`.
    fn sum_portable(&self, trees: &[Tree], weights: &[f32], features: &[f32], columns: usize, out: &mut [f32]) {
        let whole = out.len() / LANES * LANES;
        let (batched, rest) = out.split_at_mut(whole);
        let (batched_rows, rest_rows) = features.split_at(whole * columns);
        for (rows, scores) in batched_rows.chunks_exact(LANES * columns).zip(batched.chunks_exact_mut(LANES)) {
            for tree in trees {
                let mut at = [tree.root as usize; LANES];
                for _ in 0..tree.depth {
                    for (lane, at) in at.iter_mut().enumerate() {
                        let node = self.nodes[*at];
                        *at += node.delta() + node.second(rows[lane * columns + node.feature()]);
                    }
                }
                for (score, at) in scores.iter_mut().zip(at) {
                    *score += weights[at];
                }
            }
        }
        for (row, score) in rest_rows.chunks_exact(columns).zip(rest) {
            for tree in trees {
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

/// Consecutive runs of trees of at most `BLOCK_NODES` nodes, or of one tree.
fn blocks(trees: &[Tree], nodes: usize) -> impl Iterator<Item = &[Tree]> {
    let mut rest = trees;
    std::iter::from_fn(move || {
        let start = rest.first()?.root as usize;
        let end = |at: usize| rest.get(at + 1).map_or(nodes, |next| next.root as usize);
        let count = (0..rest.len()).take_while(|&at| end(at) - start <= BLOCK_NODES).count().max(1);
        let (block, others) = rest.split_at(count);
        rest = others;
        Some(block)
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::super::tree::{DELTA_BITS, Ensemble, Node, SIGN, Tree};

    /// Rows in one register.
    const LANES: usize = 8;
    /// Trees walked at once: independent chains that hide the latency of the gathers.
    const CHAINS: usize = 4;

    impl Ensemble {
        /// As `sum_portable`, eight rows and four trees at a time.
        ///
        /// # Safety
        /// Needs AVX2, `features.len() == out.len() * columns`, `columns >= self.columns()`,
        /// `weights.len() == self.nodes.len()`, and `trees` to be of this ensemble.
        #[target_feature(enable = "avx2")]
        pub(super) unsafe fn sum_avx2(
            &self,
            trees: &[Tree],
            weights: &[f32],
            features: &[f32],
            columns: usize,
            out: &mut [f32],
        ) {
            let whole = out.len() / LANES * LANES;
            let (batched, rest) = out.split_at_mut(whole);
            let (batched_rows, rest_rows) = features.split_at(whole * columns);
            for (rows, scores) in batched_rows.chunks_exact(LANES * columns).zip(batched.chunks_exact_mut(LANES)) {
                // SAFETY: eight rows are readable from `rows`; the rest is this function's contract.
                unsafe { self.eight_rows(trees, weights, rows.as_ptr(), columns, scores) };
            }
            if !rest.is_empty() {
                self.sum_portable(trees, weights, rest_rows, columns, rest);
            }
        }

        /// # Safety
        /// As `sum_avx2`, with eight rows readable from `rows`.
        #[target_feature(enable = "avx2")]
        unsafe fn eight_rows(
            &self,
            trees: &[Tree],
            weights: &[f32],
            rows: *const f32,
            columns: usize,
            scores: &mut [f32],
        ) {
            let width = _mm256_set1_epi32(columns as i32);
            let starts = _mm256_mullo_epi32(width, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            // SAFETY: `scores` has LANES entries. Nodes are reached from roots by children only, which
            // `Ensemble::build` laid within `nodes`; their features are below `columns`.
            unsafe {
                let mut sum = _mm256_loadu_ps(scores.as_ptr());
                let mut groups = trees.chunks_exact(CHAINS);
                for group in &mut groups {
                    let mut at = [_mm256_setzero_si256(); CHAINS];
                    let mut depth = 0;
                    for (at, tree) in at.iter_mut().zip(group) {
                        *at = _mm256_set1_epi32(tree.root as i32);
                        depth = depth.max(tree.depth);
                    }
                    for _ in 0..depth {
                        for at in &mut at {
                            *at = step(&self.nodes, rows, starts, *at);
                        }
                    }
                    for at in at {
                        sum = _mm256_add_ps(sum, _mm256_i32gather_ps::<4>(weights.as_ptr(), at));
                    }
                }
                for tree in groups.remainder() {
                    let mut at = _mm256_set1_epi32(tree.root as i32);
                    for _ in 0..tree.depth {
                        at = step(&self.nodes, rows, starts, at);
                    }
                    sum = _mm256_add_ps(sum, _mm256_i32gather_ps::<4>(weights.as_ptr(), at));
                }
                _mm256_storeu_ps(scores.as_mut_ptr(), sum);
            }
        }
    }

    /// One level down for eight rows. A node is gathered whole, as one 64-bit number.
    ///
    /// # Safety
    /// Lanes of `at` index `nodes`; lanes of `starts` plus a node's feature are readable from `rows`.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn step(nodes: &[Node], rows: *const f32, starts: __m256i, at: __m256i) -> __m256i {
        // Swapping the middle halves makes the shuffles below give the lanes in order.
        let mixed = _mm256_permute4x64_epi64::<0b11_01_10_00>(at);
        let (near, far) = (_mm256_castsi256_si128(mixed), _mm256_extracti128_si256::<1>(mixed));
        // SAFETY: this function's contract.
        let (near, far) = unsafe {
            let base = nodes.as_ptr().cast::<i64>();
            (_mm256_i32gather_epi64::<8>(base, near), _mm256_i32gather_epi64::<8>(base, far))
        };
        let (near, far) = (_mm256_castsi256_ps(near), _mm256_castsi256_ps(far));
        let threshold = _mm256_shuffle_ps::<0b10_00_10_00>(near, far);
        let word = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(near, far));
        let sign = _mm256_and_si256(word, _mm256_set1_epi32(SIGN as i32));
        let delta = _mm256_and_si256(word, _mm256_set1_epi32((1 << DELTA_BITS) - 1));
        let feature = _mm256_srli_epi32::<{ DELTA_BITS as i32 }>(_mm256_xor_si256(word, sign));
        // SAFETY: this function's contract.
        let x = unsafe { _mm256_i32gather_ps::<4>(rows, _mm256_add_epi32(starts, feature)) };
        let x = _mm256_xor_ps(x, _mm256_castsi256_ps(sign));
        // The mask is -1 where the comparison holds, and false for NaN.
        let second = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(x, threshold));
        _mm256_sub_epi32(_mm256_add_epi32(at, delta), second)
    }
}
