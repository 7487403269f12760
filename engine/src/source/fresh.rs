//! Fresh items: what came to the catalogue lately and has had few chances to be met.

use super::top::Top;
use super::{Answer, Evidence, RANKS_MAX, ROWS_AHEAD};
use crate::index::Hit;
use crate::moment::Moment;
use crate::types::{DAY_MS, Row, TimeMs};

/// An item is fresh for so long after the catalogue got it (or, where that is not known, after its first event).
const FRESH_DAYS: f32 = 30.0;
/// Interactions after which an item has had its chances: its score is halved.
const CHANCES: f32 = 50.0;

/// The score of an item: 1 when it is brand-new, falling linearly to 0 over its fresh days, less when many met it.
pub(super) fn ask<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    let evidence = Fresh { moment };
    let ranked = evidence.search(RANKS_MAX, &|row| moment.is_open(row));
    Some(Answer { ranked, evidence: Box::new(evidence) })
}

struct Fresh<'m> {
    moment: &'m Moment<'m>,
}

impl Fresh<'_> {
    /// Of something that nobody has met; what did so falls behind.
    fn unmet(&self, arrived: TimeMs) -> f32 {
        (1.0 - age_days(self.moment.query.now_ms, arrived) / FRESH_DAYS).clamp(0.0, 1.0)
    }

    fn of(&self, row: Row, arrived: TimeMs) -> f32 {
        let met = self.moment.world.stats(row).map_or(0.0, |stats| stats.events as f32);
        self.unmet(arrived) / (1.0 + met / CHANCES)
    }
}

impl Evidence for Fresh<'_> {
    fn score(&self, row: Row) -> f32 {
        let arrived = self.moment.world.arrived(row);
        // What is still to come is not fresh yet.
        let arrived = arrived.filter(|arrived| *arrived <= self.moment.query.now_ms);
        arrived.map_or(0.0, |arrived| self.of(row, arrived))
    }

    fn scores(&self, rows: &[Row], out: &mut [f32]) {
        for (at, (score, &row)) in out.iter_mut().zip(rows).enumerate() {
            rows.get(at + ROWS_AHEAD).into_iter().for_each(|&ahead| self.moment.world.prefetch(ahead));
            *score = self.score(row);
        }
    }

    /// Walks from the newest arrival back until nothing older can be among the best.
    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        let (mut top, mut until_next) = (Top::new(count), count);
        for (arrived, row) in self.moment.world.arrivals(self.moment.query.now_ms) {
            let most = self.unmet(arrived);
            if most < top.threshold() {
                break;
            }
            let score = self.of(row, arrived);
            if score >= top.threshold() && accept(row) {
                top.offer(row, score);
                until_next -= 1;
                if until_next == 0 {
                    // Raises the threshold as soon as there are enough.
                    top.worst();
                    until_next = count.max(1);
                }
            }
        }
        top.finish()
    }
}

fn age_days(now_ms: TimeMs, then_ms: TimeMs) -> f32 {
    (now_ms.saturating_sub(then_ms) as f64 / DAY_MS as f64).max(0.0) as f32
}
