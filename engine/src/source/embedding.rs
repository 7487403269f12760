//! The factor model: the user is folded in at request time, so a user who arrived a minute ago is a user.

use std::cell::RefCell;

use super::{Answer, Evidence, RANKS_MAX};
use crate::bundle::Embedding;
use crate::index::{Hit, Scratch};
use crate::moment::Moment;
use crate::types::Row;

/// The item at position p (0 is the newest) counts exp(-p / tau).
const RECENT_TAU: f32 = 10.0;
/// More items of the profile than these add nothing to a vector of some dozen numbers but time.
const FOLD_IN_MAX_ITEMS: usize = 500;

/// The two vectors of a user: of all items of the profile alike, and with the newest counting most.
pub(crate) fn fold_in(moment: &Moment<'_>, is_recent: bool) -> Option<Vec<f32>> {
    let embedding = moment.bundle.embedding()?;
    let recent = |position: usize| (-(position as f32) / RECENT_TAU).exp();
    if is_recent { fold(moment, embedding, recent) } else { fold(moment, embedding, |_| 1.0) }
}

/// All items of the profile alike.
pub(super) fn whole<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, false)
}

/// The newest count most.
pub(super) fn recent<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, true)
}

fn ask<'m>(moment: &'m Moment<'m>, is_recent: bool) -> Option<Answer<'m>> {
    let embedding = moment.bundle.embedding()?;
    let user = moment.user_vector(is_recent)?;
    Some(by_dot(&embedding.index, user.to_vec(), moment, None))
}

/// Scores a row whose vector is not the bundle's against a query.
pub(super) type ScoreFresh = fn(&Moment<'_>, Row, &[f32]) -> f32;

/// The answer of a source whose score is an inner product with the bundle's vectors. `fresh` scores rows whose
/// vector is not (or no longer) the bundle's; without it they are unknown.
pub(super) fn by_dot<'m>(
    index: &'m crate::index::Index,
    query: Vec<f32>,
    moment: &'m Moment<'m>,
    fresh: Option<ScoreFresh>,
) -> Answer<'m> {
    let evidence = ByDot { index, query, moment, fresh };
    let ranked = evidence.search(RANKS_MAX, &|row| moment.is_open(row), moment.world.rows());
    Answer { ranked, evidence: Box::new(evidence) }
}

struct ByDot<'m> {
    index: &'m crate::index::Index,
    query: Vec<f32>,
    moment: &'m Moment<'m>,
    fresh: Option<ScoreFresh>,
}

impl ByDot<'_> {
    /// A replaced item keeps its place in the factor model; its words may have changed.
    fn is_fresh(&self, row: Row) -> bool {
        row as usize >= self.index.len() || (self.fresh.is_some() && self.moment.world.is_changed(row))
    }

    /// `accepted` is about how many rows `accept` lets through.
    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool, accepted: usize) -> Vec<Hit> {
        let mut hits = Vec::new();
        SCRATCH.with_borrow_mut(|scratch| {
            let (accepted, ef) = (accepted.min(self.index.len()), self.moment.bundle.ef_search());
            if self.fresh.is_some() && self.moment.world.has_changes() {
                let accept_old = |row: Row| !self.is_fresh(row) && accept(row);
                self.index.search(&self.query, count, ef, accepted, accept_old, scratch, &mut hits);
            } else {
                self.index.search(&self.query, count, ef, accepted, accept, scratch, &mut hits);
            }
        });
        if self.fresh.is_none() || !self.moment.world.has_changes() {
            return hits;
        }
        let new = self.moment.world.changed().filter(|&row| self.is_fresh(row) && accept(row));
        hits.extend(new.map(|row| Hit { row, score: self.score(row) }).filter(|hit| hit.score.is_finite()));
        super::dense::best(hits, count)
    }
}

impl Evidence for ByDot<'_> {
    fn score(&self, row: Row) -> f32 {
        match self.fresh {
            Some(fresh) if self.is_fresh(row) => fresh(self.moment, row, &self.query),
            _ if (row as usize) < self.index.len() => self.index.dot(row, &self.query),
            _ => f32::NAN,
        }
    }

    fn scores(&self, rows: &[Row], out: &mut [f32]) {
        SCRATCH.with_borrow_mut(|scratch| self.index.dots(rows, &self.query, scratch, out));
        if let Some(fresh) = self.fresh.filter(|_| self.moment.world.has_changes()) {
            for (score, &row) in out.iter_mut().zip(rows).filter(|(_, row)| self.is_fresh(**row)) {
                *score = fresh(self.moment, row, &self.query);
            }
        }
    }

    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        ByDot::search(self, count, accept, self.moment.accepted_hint())
    }
}

thread_local! {
    /// Search memory; what is left in it never changes a result.
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The user's vector: argmin over u of the iALS objective (Hu, Koren, Volinsky 2008) with the item vectors fixed,
/// `(Y'Y + sum alpha w y y' + reg I) u = sum alpha w y`, where w is the recency weight of an item and the confidence of a
/// missing one is 1. `None` when the profile has no item of the model.
fn fold(moment: &Moment<'_>, embedding: &Embedding, recency: impl Fn(usize) -> f32) -> Option<Vec<f32>> {
    let dims = embedding.index.dims();
    let mut matrix: Vec<f64> = embedding.gram.iter().map(|&number| f64::from(number)).collect();
    let mut right = vec![0.0_f64; dims];
    (0..dims).for_each(|at| matrix[at * dims + at] += f64::from(embedding.regularization));
    let known: Vec<(f64, Row)> = moment
        .history
        .iter()
        .take(FOLD_IN_MAX_ITEMS)
        .enumerate()
        .map(|(position, past)| (f64::from(recency(position) * embedding.alpha), past.row))
        .filter(|&(weight, row)| (row as usize) < embedding.index.len() && weight > 0.0)
        .collect();
    let mut vectors = vec![0.0_f64; ITEMS_AT_ONCE * dims];
    for items in known.chunks(ITEMS_AT_ONCE) {
        vectors.fill(0.0);
        let mut weights = [0.0; ITEMS_AT_ONCE];
        for ((weight, vector), &(of_item, row)) in weights.iter_mut().zip(vectors.chunks_exact_mut(dims)).zip(items) {
            *weight = of_item;
            vector.iter_mut().zip(embedding.index.vector(row)).for_each(|(to, &from)| *to = f64::from(from));
        }
        add_products(&mut matrix, &mut right, &weights, &vectors);
    }
    let known = !known.is_empty();
    (known && solve(&mut matrix, &mut right)).then(|| right.into_iter().map(|number| number as f32).collect())
}

/// Items whose products are added in one pass over the matrix.
const ITEMS_AT_ONCE: usize = 4;

/// Adds `weight v v'` to the lower triangle (enough for Cholesky) and `weight v` to `right`, item by item: each number
/// is the sum in order of items, on every processor. An item of weight 0 adds 0, which changes no sum.
fn add_products(matrix: &mut [f64], right: &mut [f64], weights: &[f64; ITEMS_AT_ONCE], vectors: &[f64]) {
    #[cfg(target_arch = "x86_64")]
    {
        /// The same loop; Rust neither reorders nor fuses floating point operations, so that it gives the same bits.
        #[target_feature(enable = "avx2")]
        fn avx2(matrix: &mut [f64], right: &mut [f64], weights: &[f64; ITEMS_AT_ONCE], vectors: &[f64]) {
            add_products_plain(matrix, right, weights, vectors);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { avx2(matrix, right, weights, vectors) };
        }
    }
    add_products_plain(matrix, right, weights, vectors);
}

#[inline(always)]
fn add_products_plain(matrix: &mut [f64], right: &mut [f64], weights: &[f64; ITEMS_AT_ONCE], vectors: &[f64]) {
    let dims = right.len();
    let items: [&[f64]; ITEMS_AT_ONCE] = std::array::from_fn(|item| &vectors[item * dims..(item + 1) * dims]);
    for i in 0..dims {
        let scaled: [f64; ITEMS_AT_ONCE] = std::array::from_fn(|item| weights[item] * items[item][i]);
        scaled.iter().for_each(|number| right[i] += number);
        let [a, b, c, d] = items.map(|item| &item[..=i]);
        let row = &mut matrix[i * dims..=i * dims + i];
        for ((((sum, a), b), c), d) in row.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum = (((*sum + scaled[0] * a) + scaled[1] * b) + scaled[2] * c) + scaled[3] * d;
        }
    }
}

/// Solves a positive definite system in place by Cholesky's decomposition of the lower triangle.
fn solve(matrix: &mut [f64], right: &mut [f64]) -> bool {
    let dims = right.len();
    for i in 0..dims {
        for j in 0..=i {
            let (above, below) = matrix.split_at_mut(i * dims);
            let row_j = if i == j { &below[..j] } else { &above[j * dims..j * dims + j] };
            let sum: f64 = row_j.iter().zip(&below[..j]).map(|(a, b)| a * b).sum();
            let rest = below[j] - sum;
            if i == j {
                if rest <= 0.0 || !rest.is_finite() {
                    return false;
                }
                below[j] = rest.sqrt();
            } else {
                below[j] = rest / above[j * dims + j];
            }
        }
    }
    for i in 0..dims {
        let sum: f64 = (0..i).map(|j| matrix[i * dims + j] * right[j]).sum();
        right[i] = (right[i] - sum) / matrix[i * dims + i];
    }
    for i in (0..dims).rev() {
        let sum: f64 = (i + 1..dims).map(|j| matrix[j * dims + i] * right[j]).sum();
        right[i] = (right[i] - sum) / matrix[i * dims + i];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_positive_definite_system_is_solved() {
        let mut matrix = vec![4.0, 0.0, 0.0, 2.0, 5.0, 0.0, 1.0, 3.0, 6.0];
        let mut right = vec![4.0 * 1.0 + 2.0 * 2.0 + 3.0, 2.0 + 10.0 + 9.0, 1.0 + 6.0 + 18.0];
        assert!(solve(&mut matrix, &mut right));
        right.iter().zip([1.0, 2.0, 3.0]).for_each(|(found, wanted)| assert!((found - wanted).abs() < 1e-12));
    }

    #[test]
    fn an_indefinite_system_is_refused() {
        assert!(!solve(&mut [-1.0], &mut [1.0]));
    }
}
