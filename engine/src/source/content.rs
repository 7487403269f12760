//! Content: items whose words are like those of what the profile likes. It is what ranks new items.

use super::Answer;
use super::embedding::by_dot;
use crate::moment::Moment;
use crate::types::Row;

/// The liked item at position p of the profile counts exp(-p / tau).
const RECENT_TAU: f32 = 10.0;

/// All liked items alike.
pub(super) fn whole<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |_| 1.0)
}

/// The newest count most.
pub(super) fn recent<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |position| (-(position as f32) / RECENT_TAU).exp())
}

/// The score of an item: cosine between its vector and the weighted sum of the vectors of liked items.
fn ask<'m>(moment: &'m Moment<'m>, recency: impl Fn(usize) -> f32) -> Option<Answer<'m>> {
    let content = moment.bundle.content()?;
    let mut taste = vec![0.0_f32; content.index.dims()];
    for (position, past) in moment.history.iter().enumerate().filter(|(_, past)| past.is_liked()) {
        let weight = recency(position);
        let vector = vector(moment, past.row)?;
        taste.iter_mut().zip(vector).for_each(|(sum, &number)| *sum += weight * number);
    }
    let norm = taste.iter().map(|number| number * number).sum::<f32>().sqrt();
    if norm <= 1e-12 {
        return None;
    }
    taste.iter_mut().for_each(|number| *number /= norm);
    Some(by_dot(&content.index, taste, moment, Some(fresh)))
}

fn fresh(moment: &Moment<'_>, row: Row, taste: &[f32]) -> f32 {
    let dot = |vector: &[f32]| vector.iter().zip(taste).map(|(a, b)| a * b).sum();
    vector(moment, row).map_or(f32::NAN, dot)
}

/// The content vector of a row: the world's where it was added or replaced since, else the bundle's.
pub(crate) fn vector<'m>(moment: &'m Moment<'_>, row: Row) -> Option<&'m [f32]> {
    let changed = moment.world.get(row).and_then(|found| found.content.as_deref());
    let index = &moment.bundle.content()?.index;
    changed.or_else(|| ((row as usize) < index.len()).then(|| index.vector(row)))
}
