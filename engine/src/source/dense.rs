//! Scores summed into a dense array: for sources that add up links from the profile.

use std::cmp::Ordering;

use super::{Answer, RANKS_MAX};
use crate::index::Hit;
use crate::moment::Moment;
use crate::types::Row;

/// Sums by row, and which rows were touched.
pub(crate) struct Sums {
    values: Vec<f32>,
    is_touched: Vec<bool>,
    touched: Vec<Row>,
}

impl Sums {
    pub(crate) fn new(rows: usize) -> Sums {
        Sums { values: vec![0.0; rows], is_touched: vec![false; rows], touched: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row, amount: f32) {
        let at = row as usize;
        self.values[at] += amount;
        if !self.is_touched[at] {
            self.is_touched[at] = true;
            self.touched.push(row);
        }
    }

    pub(crate) fn get(&self, row: Row) -> f32 {
        self.values.get(row as usize).copied().unwrap_or(0.0)
    }

    /// The rows of highest positive sum that `accept` lets through, best first, ties by row.
    pub(crate) fn top(&self, count: usize, accept: impl Fn(Row) -> bool) -> Vec<Hit> {
        let positive = self.touched.iter().map(|&row| Hit { row, score: self.get(row) }).filter(|hit| hit.score > 0.0);
        best(positive.filter(|hit| accept(hit.row)).collect(), count)
    }

    /// The answer of a source whose scores these are.
    pub(crate) fn answer<'m>(self, moment: &'m Moment<'m>) -> Answer<'m> {
        let ranked = self.top(RANKS_MAX, |row| moment.is_open(row));
        let sums = std::rc::Rc::new(self);
        let scores = sums.clone();
        Answer {
            ranked,
            score: Box::new(move |row| scores.get(row)),
            search: Box::new(move |count, accept| sums.top(count, accept)),
        }
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
