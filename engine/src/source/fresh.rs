//! Fresh items: what came to the catalogue lately and has had few chances to be met.

use super::{Answer, RANKS_MAX};
use crate::index::Hit;
use crate::moment::Moment;
use crate::types::{DAY_MS, Row, TimeMs};

/// An item is fresh for so long after the catalogue got it (or, where that is not known, after its first event).
const FRESH_DAYS: f32 = 30.0;
/// Interactions after which an item has had its chances: its score is halved.
const CHANCES: f32 = 50.0;

/// The score of an item: 1 when it is brand-new, falling linearly to 0 over its fresh days, less when many met it.
pub(super) fn ask<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    let world = moment.world;
    let score = move |row: Row| -> f32 {
        let stats = world.stats(row);
        let first = stats.filter(|stats| stats.events > 0).map(|stats| stats.first_ms);
        let created = world.get(row).and_then(|found| found.created_ms).or(first);
        // What is still to come is not fresh yet.
        let created = created.filter(|created| *created <= moment.query.now_ms);
        let left = created.map_or(0.0, |created| 1.0 - age_days(moment.query.now_ms, created) / FRESH_DAYS);
        let met = stats.map_or(0.0, |stats| stats.events as f32);
        left.clamp(0.0, 1.0) / (1.0 + met / CHANCES)
    };
    let search = move |count: usize, accept: &dyn Fn(Row) -> bool| {
        let rows = (0..world.rows() as Row).map(|row| Hit { row, score: score(row) });
        super::dense::best(rows.filter(|hit| hit.score > 0.0 && accept(hit.row)).collect(), count)
    };
    let ranked = search(RANKS_MAX, &|row| moment.is_open(row));
    Some(Answer { ranked, score: Box::new(score), search: Box::new(search) })
}

fn age_days(now_ms: TimeMs, then_ms: TimeMs) -> f32 {
    (now_ms.saturating_sub(then_ms) as f64 / DAY_MS as f64).max(0.0) as f32
}
