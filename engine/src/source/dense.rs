//! Scores summed by row: for sources that add up links.

use std::cmp::Ordering;

use super::top::Top;
use super::{Answer, Evidence, RANKS_MAX};
use crate::index::Hit;
use crate::moment::Moment;
use crate::scratch::{Floats, Lent, Numbers, Slots};
use crate::types::Row;

/// Sums by row.
pub(crate) struct Sums {
    slots: Lent<Slots>,
    values: Lent<Floats>,
    /// Of the rows that were added last.
    numbers: Lent<Numbers>,
}

impl Sums {
    /// All zero, for rows below `rows`.
    pub(crate) fn new(rows: usize) -> Sums {
        let mut values = Lent::<Floats>::take();
        values.clear();
        Sums { slots: Slots::empty(rows), values, numbers: Lent::take() }
    }

    /// Adds `factor` x amount to each of `rows`.
    pub(crate) fn add_all(&mut self, rows: &[Row], amounts: &[f32], factor: f32) {
        self.slots.insert_all(rows, &mut self.numbers);
        self.values.resize(self.slots.rows().len(), 0.0);
        for (&slot, &amount) in self.numbers.iter().zip(amounts) {
            self.values[slot as usize] += factor * amount;
        }
    }

    pub(crate) fn get(&self, row: Row) -> f32 {
        self.slots.get(row).map_or(0.0, |slot| self.values[slot])
    }

    /// The rows of highest positive sum that `accept` lets through, best first, ties by row.
    pub(crate) fn top(&self, count: usize, accept: impl Fn(Row) -> bool) -> Vec<Hit> {
        let mut top = Top::new(count);
        for (&score, &row) in self.values.iter().zip(self.slots.rows()) {
            if score >= top.threshold() && accept(row) {
                top.offer(row, score);
            }
        }
        top.finish()
    }

    /// The answer of a source whose scores these are.
    pub(crate) fn answer<'m>(self, moment: &'m Moment<'m>) -> Answer<'m> {
        Answer { ranked: self.top(RANKS_MAX, |row| moment.is_open(row)), evidence: Box::new(self) }
    }
}

impl Evidence for Sums {
    fn score(&self, row: Row) -> f32 {
        self.get(row)
    }

    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        self.top(count, accept)
    }
}

/// The `count` best hits, best first, ties by row.
pub(crate) fn best(mut hits: Vec<Hit>, count: usize) -> Vec<Hit> {
    if count < hits.len() && count > 0 {
        hits.select_nth_unstable_by(count - 1, by_score);
    }
    hits.truncate(count);
    hits.sort_unstable_by(by_score);
    hits
}

fn by_score(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.row.cmp(&b.row))
}
