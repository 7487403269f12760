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
    let known: Vec<(f64, Row)> = moment
        .history
        .iter()
        .take(FOLD_IN_MAX_ITEMS)
        .enumerate()
        .map(|(position, past)| (f64::from(recency(position) * embedding.alpha), past.row))
        .filter(|&(weight, row)| (row as usize) < embedding.index.len() && weight > 0.0)
        .collect();
    let mut system = System::new(&embedding.gram, embedding.index.dims(), embedding.regularization);
    for items in known.chunks(ITEMS_AT_ONCE) {
        let of =
            |at: usize| items.get(at).map_or((0.0, &[][..]), |&(weight, row)| (weight, embedding.index.vector(row)));
        system.add(std::array::from_fn(of));
    }
    let solution = if known.is_empty() { None } else { system.solve() };
    solution.map(|numbers| numbers.into_iter().map(|number| number as f32).collect())
}

/// Items whose products are added in one pass over the matrix.
const ITEMS_AT_ONCE: usize = 4;
/// Numbers that are computed together.
const WIDTH: usize = 8;

/// A symmetric system of equations. Every number is the sum of its terms in one order, on every processor: the loops run
/// over the numbers that do not depend on each other, and Rust neither reorders nor fuses floating point operations.
struct System {
    /// Numbers of a row, a multiple of [`WIDTH`]; those beyond `dims` are 0.
    stride: usize,
    dims: usize,
    /// The upper triangle by row (that is the lower one by column). What lies below it is not read.
    matrix: Vec<f64>,
    right: Vec<f64>,
    /// Of the items that are added: vectors, and vectors times weight.
    vectors: Vec<f64>,
    scaled: Vec<f64>,
}

/// Runs a method with the processor's features.
macro_rules! with_features {
    ($self:ident . $inline:ident ( $($argument:ident : $type:ty),* ) -> $result:ty) => {{
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2(system: &mut System, $($argument: $type),*) -> $result {
                system.$inline($($argument),*)
            }
            #[target_feature(enable = "avx512f")]
            fn avx512(system: &mut System, $($argument: $type),*) -> $result {
                system.$inline($($argument),*)
            }
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature was just detected.
                return unsafe { avx512($self, $($argument),*) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was just detected.
                return unsafe { avx2($self, $($argument),*) };
            }
        }
        $self.$inline($($argument),*)
    }};
}

impl System {
    /// `(gram + regularization I) u = 0`, of `dims` x `dims` numbers.
    fn new(gram: &[f32], dims: usize, regularization: f32) -> System {
        let stride = dims.next_multiple_of(WIDTH);
        let zeros = |rows: usize| vec![0.0; rows * stride];
        let (vectors, scaled) = (zeros(ITEMS_AT_ONCE), zeros(ITEMS_AT_ONCE));
        let mut system = System { stride, dims, matrix: zeros(dims), right: zeros(1), vectors, scaled };
        for (row, (to, from)) in system.matrix.chunks_exact_mut(stride).zip(gram.chunks_exact(dims)).enumerate() {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = f64::from(from));
            to[row] += f64::from(regularization);
        }
        system
    }

    /// Adds `weight v v'` to the left and `weight v` to the right, item by item. An item of weight 0 adds 0, which changes no
    /// sum.
    fn add(&mut self, items: [(f64, &[f32]); ITEMS_AT_ONCE]) {
        with_features!(self.add_inline(items: [(f64, &[f32]); ITEMS_AT_ONCE]) -> ());
    }

    #[inline(always)]
    fn add_inline(&mut self, items: [(f64, &[f32]); ITEMS_AT_ONCE]) {
        let System { stride, matrix, right, vectors, scaled, .. } = self;
        let stride = *stride;
        let of_items = vectors.chunks_exact_mut(stride).zip(scaled.chunks_exact_mut(stride)).zip(items);
        for ((vector, scaled), (weight, item)) in of_items {
            // An item that is not there has no number; its weight of 0 makes nothing of what is left here.
            vector.iter_mut().zip(item).for_each(|(to, &from)| *to = f64::from(from));
            scaled.iter_mut().zip(&*vector).for_each(|(to, from)| *to = weight * from);
            right.iter_mut().zip(&*scaled).for_each(|(sum, number)| *sum += number);
        }
        for (row, sums) in matrix.chunks_exact_mut(stride).enumerate() {
            let factors: [f64; ITEMS_AT_ONCE] = std::array::from_fn(|item| vectors[item * stride + row]);
            // From the diagonal on, and from a little before it.
            let from = row / WIDTH * WIDTH;
            let [a, b, c, d] = std::array::from_fn(|item| &scaled[item * stride + from..(item + 1) * stride]);
            for ((((sum, a), b), c), d) in sums[from..].iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum = (((*sum + a * factors[0]) + b * factors[1]) + c * factors[2]) + d * factors[3];
            }
        }
    }

    /// The solution by Cholesky's decomposition; `None` where the matrix is not positive definite.
    fn solve(mut self) -> Option<Vec<f64>> {
        let is_solved = self.solve_in_place();
        self.right.truncate(self.dims);
        is_solved.then_some(self.right)
    }

    fn solve_in_place(&mut self) -> bool {
        with_features!(self.solve_inline() -> bool)
    }

    #[inline(always)]
    fn solve_inline(&mut self) -> bool {
        let (stride, dims) = (self.stride, self.dims);
        for row in 0..dims {
            let (above, rest) = self.matrix.split_at_mut(row * stride);
            let numbers = &mut rest[..stride];
            for from in (row / WIDTH * WIDTH..stride).step_by(WIDTH) {
                let mut sums = [0.0; WIDTH];
                for before in above.chunks_exact(stride) {
                    let factor = before[row];
                    sums.iter_mut().zip(&before[from..from + WIDTH]).for_each(|(sum, number)| *sum += number * factor);
                }
                numbers[from..from + WIDTH].iter_mut().zip(sums).for_each(|(number, sum)| *number -= sum);
            }
            if numbers[row] <= 0.0 || !numbers[row].is_finite() {
                return false;
            }
            let root = numbers[row].sqrt();
            numbers[row / WIDTH * WIDTH..].iter_mut().for_each(|number| *number /= root);
            numbers[row] = root;
        }
        let mut sums = vec![0.0; stride];
        for (row, numbers) in self.matrix.chunks_exact(stride).enumerate() {
            self.right[row] = (self.right[row] - sums[row]) / numbers[row];
            let factor = self.right[row];
            sums[row..].iter_mut().zip(&numbers[row..]).for_each(|(sum, number)| *sum += number * factor);
        }
        for (row, numbers) in self.matrix.chunks_exact(stride).enumerate().rev() {
            let sum: f64 = (row + 1..dims).map(|at| numbers[at] * self.right[at]).sum();
            self.right[row] = (self.right[row] - sum) / numbers[row];
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_positive_definite_system_is_solved() {
        let mut system = System::new(&[4.0, 2.0, 1.0, 2.0, 5.0, 3.0, 1.0, 3.0, 6.0], 3, 0.0);
        system.right[..3].copy_from_slice(&[4.0 * 1.0 + 2.0 * 2.0 + 3.0, 2.0 + 10.0 + 9.0, 1.0 + 6.0 + 18.0]);
        let found = system.solve().unwrap();
        assert_eq!(found.len(), 3);
        found.iter().zip([1.0, 2.0, 3.0]).for_each(|(found, wanted)| assert!((found - wanted).abs() < 1e-12));
    }

    #[test]
    fn an_indefinite_system_is_refused() {
        assert_eq!(System::new(&[-1.0], 1, 0.0).solve(), None);
        assert_eq!(System::new(&[1.0, 2.0, 2.0, 1.0], 2, 0.5).solve(), None);
    }

    /// The same sums in the plainest of loops, over the lower triangle.
    #[test]
    fn products_are_added_and_solved_to_the_bit_as_one_by_one() {
        let draw = |at: usize| ((at * 7919 % 1013) as f32 / 506.5 - 1.0) * 0.7;
        for (dims, items) in [(1, 3), (7, 9), (20, 4), (64, 50)] {
            let vectors: Vec<Vec<f32>> =
                (0..items).map(|item| (0..dims).map(|at| draw(item * 97 + at)).collect()).collect();
            let weight = |item: usize| f64::from((-(item as f32) / 10.0).exp() * 8.0);
            let mut gram = vec![0.0_f32; dims * dims];
            (0..dims * dims)
                .for_each(|at| gram[at] = if at % (dims + 1) == 0 { 40.0 } else { draw(at % dims * (at / dims)) });
            let mut system = System::new(&gram, dims, 0.1);
            for chunk in (0..items).collect::<Vec<_>>().chunks(ITEMS_AT_ONCE) {
                let of = |at: usize| chunk.get(at).map_or((0.0, &[][..]), |&item| (weight(item), &vectors[item][..]));
                system.add(std::array::from_fn(of));
            }
            let mut lower: Vec<f64> = gram.iter().map(|&number| f64::from(number)).collect();
            (0..dims).for_each(|at| lower[at * dims + at] += f64::from(0.1_f32));
            let mut right = vec![0.0; dims];
            for (item, vector) in vectors.iter().enumerate() {
                for i in 0..dims {
                    let scaled = weight(item) * f64::from(vector[i]);
                    right[i] += scaled;
                    (0..=i).for_each(|j| lower[i * dims + j] += scaled * f64::from(vector[j]));
                }
            }
            for i in 0..dims {
                for j in 0..=i {
                    let sum: f64 = (0..j).map(|k| lower[i * dims + k] * lower[j * dims + k]).sum();
                    let rest = lower[i * dims + j] - sum;
                    lower[i * dims + j] = if i == j { rest.sqrt() } else { rest / lower[j * dims + j] };
                }
            }
            for i in 0..dims {
                let sum: f64 = (0..i).map(|j| lower[i * dims + j] * right[j]).sum();
                right[i] = (right[i] - sum) / lower[i * dims + i];
            }
            for i in (0..dims).rev() {
                let sum: f64 = (i + 1..dims).map(|j| lower[j * dims + i] * right[j]).sum();
                right[i] = (right[i] - sum) / lower[i * dims + i];
            }
            assert_eq!(system.solve(), Some(right), "{dims} x {items}");
        }
    }
}
