//! The factor model: the user is folded in at request time, so a user who arrived a minute ago is a user.

use std::cell::RefCell;

use super::{Answer, RANKS_MAX};
use crate::bundle::Embedding;
use crate::index::{Hit, Scratch};
use crate::moment::Moment;
use crate::types::Row;

/// The item at position p (0 is the newest) counts exp(-p / tau).
const RECENT_TAU: f32 = 10.0;
/// More items of the profile than these add nothing to a vector of some dozen numbers but time.
const FOLD_IN_MAX_ITEMS: usize = 500;

/// All items of the profile alike.
pub(super) fn whole<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |_| 1.0)
}

/// The newest count most.
pub(super) fn recent<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |position| (-(position as f32) / RECENT_TAU).exp())
}

fn ask<'m>(moment: &'m Moment<'m>, recency: impl Fn(usize) -> f32) -> Option<Answer<'m>> {
    let embedding = moment.bundle.embedding()?;
    let user = fold_in(moment, embedding, recency)?;
    Some(by_dot(&embedding.index, user, moment, None))
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
    let query = std::rc::Rc::new(query);
    let of_query = query.clone();
    // A replaced item keeps its place in the factor model; its words may have changed.
    let is_fresh = move |row: Row| row as usize >= index.len() || (fresh.is_some() && moment.world.is_changed(row));
    let score = move |row: Row| match fresh {
        Some(fresh) if is_fresh(row) => fresh(moment, row, &of_query),
        _ if (row as usize) < index.len() => index.dot(row, &of_query),
        _ => f32::NAN,
    };
    let score = std::rc::Rc::new(score);
    let of_fresh = score.clone();
    let search = move |count: usize, accept: &dyn Fn(Row) -> bool| {
        let mut hits = Vec::new();
        let accept_old = |row: Row| !is_fresh(row) && accept(row);
        SCRATCH.with_borrow_mut(|scratch| {
            let (rows, ef) = (index.len(), moment.bundle.ef_search());
            index.search(&query, count, ef, rows, accept_old, scratch, &mut hits);
        });
        if fresh.is_some() {
            let new = moment.world.changed().filter(|&row| is_fresh(row) && accept(row));
            hits.extend(new.map(|row| Hit { row, score: of_fresh(row) }).filter(|hit| hit.score.is_finite()));
        }
        super::dense::best(hits, count)
    };
    let ranked = search(RANKS_MAX, &|row| moment.is_open(row));
    Answer { ranked, score: Box::new(move |row| score(row)), search: Box::new(search) }
}

thread_local! {
    /// Search memory; what is left in it never changes a result.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// The user's vector: argmin over u of the iALS objective (Hu, Koren, Volinsky 2008) with the item vectors fixed,
/// `(Y'Y + sum alpha w y y' + reg I) u = sum alpha w y`, where w is the recency weight of an item and the confidence of a
/// missing one is 1. `None` when the profile has no item of the model.
pub(crate) fn fold_in(moment: &Moment<'_>, embedding: &Embedding, recency: impl Fn(usize) -> f32) -> Option<Vec<f32>> {
    let dims = embedding.index.dims();
    let mut matrix: Vec<f64> = embedding.gram.iter().map(|&number| f64::from(number)).collect();
    let mut right = vec![0.0_f64; dims];
    (0..dims).for_each(|at| matrix[at * dims + at] += f64::from(embedding.regularization));
    let mut known = false;
    for (position, past) in moment.history.iter().take(FOLD_IN_MAX_ITEMS).enumerate() {
        let (weight, row) = (f64::from(recency(position) * embedding.alpha), past.row as usize);
        if row >= embedding.index.len() || weight <= 0.0 {
            continue;
        }
        let vector = embedding.index.vector(past.row);
        known = true;
        for (i, &a) in vector.iter().enumerate() {
            let scaled = weight * f64::from(a);
            right[i] += scaled;
            // The lower triangle is enough for Cholesky.
            for (sum, &b) in matrix[i * dims..=i * dims + i].iter_mut().zip(vector) {
                *sum += scaled * f64::from(b);
            }
        }
    }
    (known && solve(&mut matrix, &mut right)).then(|| right.into_iter().map(|number| number as f32).collect())
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
