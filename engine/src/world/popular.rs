//! The most popular rows, kept up to date from one snapshot to the next.
//!
//! A list is what a full scan would give, bit for bit, but most of the time it is made from the list of the snapshot
//! before and the rows that changed since: on one day the popularity of a row that nothing happened to never rises, and
//! most of the time it is the same.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use super::{Popularity, WEEK, World};
use crate::types::Row;

/// Length of the list that is given out.
const POPULAR_MAX_ITEMS: usize = 4_096;
/// So many more are kept, so that rows may leave the list without a new scan.
const KEPT_MAX_ITEMS: usize = POPULAR_MAX_ITEMS + 1_024;
/// With more changed rows than one in so many of the catalogue, a scan is no slower.
const CHANGED_SHARE: usize = 8;

/// No row of positive score stands behind it.
const NONE_LEFT_OUT: (Row, f32) = (0, 0.0);

/// One list.
#[derive(Debug)]
pub(super) struct List {
    /// Best first, ties by row.
    best: Vec<(Row, f32)>,
    /// The first row that was left out: no row outside `best` stands before it. [`NONE_LEFT_OUT`] when every row of positive
    /// score is in it.
    bound: (Row, f32),
    /// The state that the scores are of: day, and what a surface's scores are relative to.
    day: i32,
    unit: f64,
}

/// A list of an earlier snapshot, and the rows that changed since.
type Seed = (Arc<List>, Arc<Vec<Row>>);

/// The lists of one snapshot, each made when it is first asked for.
#[derive(Debug, Default)]
pub(super) struct Lists {
    slots: Vec<(OnceLock<Arc<List>>, Option<Seed>)>,
}

impl Lists {
    /// The lists of a snapshot, with those of the one before as a start; `changed` is `None` when that is not known.
    pub(super) fn after(previous: &Lists, count: usize, changed: Option<&Arc<Vec<Row>>>) -> Lists {
        let seed = |at: usize| -> Option<Seed> {
            let (changed, (made, seed)) = (changed?, previous.slots.get(at)?);
            match (made.get(), seed) {
                (Some(list), _) => Some((list.clone(), changed.clone())),
                (None, Some((list, before))) if before.is_empty() => Some((list.clone(), changed.clone())),
                (None, Some((list, before))) => {
                    let mut both = [before.as_slice(), changed.as_slice()].concat();
                    both.sort_unstable();
                    both.dedup();
                    Some((list.clone(), Arc::new(both)))
                }
                (None, None) => None,
            }
        };
        Lists { slots: (0..count).map(|at| (OnceLock::new(), seed(at))).collect() }
    }

    /// The list of that number, whose rows are scored by `by`.
    pub(super) fn get(&self, at: usize, world: &World, by: Popularity) -> &[(Row, f32)] {
        let Some((list, seed)) = self.slots.get(at) else { return &[] };
        let list = list.get_or_init(|| {
            let unit = match by {
                Popularity::Surface(_) => world.week_unit(),
                _ => 1.0,
            };
            let advanced = seed.as_ref().and_then(|(list, changed)| list.advanced(world, by, unit, changed));
            Arc::new(advanced.unwrap_or_else(|| List::scan(world, by, unit)))
        });
        &list.best[..list.best.len().min(POPULAR_MAX_ITEMS)]
    }
}

impl List {
    fn scan(world: &World, by: Popularity, unit: f64) -> List {
        let rows = (0..world.rows() as Row).filter(|&row| world.exists(row));
        let popularity = world.popularities(by);
        List::of(rows.map(|row| (row, popularity(row))), NONE_LEFT_OUT, (world.day(), unit))
    }

    /// From rows with their scores; no other row stands before `bound`.
    fn of(scored: impl Iterator<Item = (Row, f32)>, bound: (Row, f32), (day, unit): (i32, f64)) -> List {
        let mut best: Vec<(Row, f32)> = scored.filter(|row| by_score(row, &bound).is_lt()).collect();
        let mut bound = bound;
        if best.len() > KEPT_MAX_ITEMS {
            let (_, first_left_out, _) = best.select_nth_unstable_by(KEPT_MAX_ITEMS, by_score);
            bound = *first_left_out;
            best.truncate(KEPT_MAX_ITEMS);
        }
        best.sort_unstable_by(by_score);
        List { best, bound, day, unit }
    }

    /// The same list of a later snapshot; `None` when only a scan can tell.
    fn advanced(&self, world: &World, by: Popularity, unit: f64, changed: &[Row]) -> Option<List> {
        // On another day, or relative to less, scores of rows that did not change may have risen.
        if self.day != world.day() || unit < self.unit || changed.len() > world.rows() / CHANGED_SHARE {
            return None;
        }
        let popularity = world.popularities(by);
        let scored = |row: Row| (row, popularity(row));
        let changed_now = changed.iter().copied().filter(|&row| world.exists(row)).map(scored);
        let kept = self.best.iter().copied().filter(|(row, _)| changed.binary_search(row).is_err());
        let list = if unit == self.unit {
            self.merged(kept, changed_now)
        } else {
            List::of(kept.map(|(row, _)| scored(row)).chain(changed_now), self.bound, (self.day, unit))
        };
        (list.bound == NONE_LEFT_OUT || list.best.len() >= POPULAR_MAX_ITEMS).then_some(list)
    }

    /// What [`List::of`] makes of both, where rows that are kept score as they did, and are in order.
    fn merged(&self, kept: impl Iterator<Item = (Row, f32)>, changed: impl Iterator<Item = (Row, f32)>) -> List {
        let mut changed: Vec<(Row, f32)> = changed.filter(|row| by_score(row, &self.bound).is_lt()).collect();
        changed.sort_unstable_by(by_score);
        let mut changed = changed.into_iter().peekable();
        let mut best = Vec::with_capacity(self.best.len() + changed.len());
        for row in kept {
            while let Some(better) = changed.next_if(|other| by_score(other, &row).is_lt()) {
                best.push(better);
            }
            best.push(row);
        }
        best.extend(changed);
        let bound = best.get(KEPT_MAX_ITEMS).copied().unwrap_or(self.bound);
        best.truncate(KEPT_MAX_ITEMS);
        List { best, bound, ..*self }
    }
}

/// The best first, ties by row.
fn by_score(a: &(Row, f32), b: &(Row, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

impl World {
    /// What the popularity of a surface takes the popularity of all surfaces relative to.
    pub(super) fn week_unit(&self) -> f64 {
        let best = self.popular(Popularity::HalfLife(WEEK)).first();
        best.map_or(1.0, |&(_, score)| f64::from(score)).max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;
    use crate::types::{DAY_MS, Item, LogEntry, Touch};
    use crate::world::WorldBuilder;

    /// More items than a list holds.
    const ITEMS: u64 = 6_000;

    fn item(at: u64) -> Arc<str> {
        format!("i{}", at % ITEMS).into()
    }

    /// Numbers that look random.
    fn draw(seed: u64) -> u64 {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 31)
    }

    /// A world that a log grows, entry by entry.
    struct Log {
        builder: WorldBuilder,
        end: u64,
    }

    impl Log {
        /// Of [`ITEMS`] items.
        fn with_items() -> Log {
            let mut log = Log { builder: WorldBuilder::new(Arc::new(Bundle::empty())), end: 0 };
            for at in 0..ITEMS {
                let item = Arc::new(Item { id: item(at), ..Item::default() });
                log.apply(&LogEntry::Upsert { item, time_ms: 0 });
            }
            log
        }

        fn apply(&mut self, entry: &LogEntry) {
            self.end += 1;
            self.builder.apply(self.end, entry);
        }
    }

    #[test]
    fn rows_that_score_alike_stand_where_a_scan_has_them() {
        let mut log = Log::with_items();
        let liked = Touch { weight: 1.0, rating: f32::NAN, seen: true, interaction: true };
        let like = |at: u64, touch: Touch| LogEntry::Event { item: item(at), touch, time_ms: 0, surface: "".into() };
        // More rows than are kept score the same; the first and every 50th have nothing yet.
        (0..ITEMS).filter(|at| at % 50 != 0).for_each(|at| log.apply(&like(at, liked)));
        let mut carried = 0;
        for step in 0..200 {
            let world = log.builder.snapshot();
            let scan = List::scan(&world, Popularity::Ever, 1.0);
            assert_eq!(world.popular(Popularity::Ever), &scan.best[..POPULAR_MAX_ITEMS], "step {step}");
            let (_, seed) = &log.builder.popular.slots[0];
            let list = seed.as_ref().and_then(|(list, rows)| list.advanced(&world, Popularity::Ever, 1.0, rows));
            carried += usize::from(list.is_some());
            // Into the ties, out of them, and an event that leaves a row where it is.
            let other = Touch { weight: 0.0, ..liked };
            log.apply(&like(step * 50 % ITEMS, liked));
            log.apply(&like(draw(step) % ITEMS, other));
            if step % 4 == 0 {
                log.apply(&LogEntry::Delete { item: item(draw(step) % 5_000) });
            }
        }
        assert!(carried > 150, "{carried}");
    }

    #[test]
    fn a_list_carried_along_is_the_list_of_a_scan() {
        let mut log = Log::with_items();
        let touch = Touch { weight: 1.0, rating: f32::NAN, seen: true, interaction: true };
        let by = [Popularity::Ever, Popularity::HalfLife(0), Popularity::HalfLife(WEEK), Popularity::Surface(0)];
        let (mut scans, mut carried) = (0, 0);
        for step in 0..120_u64 {
            for at in 0..if step == 0 { 40_000 } else { 300 } {
                let number = draw(step << 32 | at);
                // Mostly today, mostly items that many like.
                let time_ms = (100 - (number >> 40) as i64 % 9 + step as i64 / 50) * DAY_MS;
                let item = item((number >> 8) % ITEMS * ((number >> 20) % ITEMS) / ITEMS);
                let surface = if number.is_multiple_of(3) { "" } else { "home" }.into();
                match number % 101 {
                    0 if step % 10 == 9 => log.apply(&LogEntry::Delete { item }),
                    _ => log.apply(&LogEntry::Event { item, touch, time_ms, surface }),
                }
            }
            let world = log.builder.snapshot();
            for (surface, row) in [(Some(0), step as Row), (None, (step * 47) as Row)] {
                let all = world.all_popularities(surface)(row);
                assert_eq!(all.ever.to_bits(), world.popularity(row, Popularity::Ever).to_bits());
                for (at, score) in all.by_half_life.into_iter().enumerate() {
                    assert_eq!(score.to_bits(), world.popularity(row, Popularity::HalfLife(at)).to_bits());
                }
                let by = surface.map_or(Popularity::HalfLife(WEEK), Popularity::Surface);
                assert_eq!(all.on_surface.to_bits(), world.popularity(row, by).to_bits());
            }
            for by in by {
                let unit = if matches!(by, Popularity::Surface(_)) { world.week_unit() } else { 1.0 };
                let scan = List::scan(&world, by, unit);
                let wanted = &scan.best[..scan.best.len().min(POPULAR_MAX_ITEMS)];
                assert_eq!(world.popular(by), wanted, "{by:?} in step {step}");
                let slot = match by {
                    Popularity::Ever => 0,
                    Popularity::HalfLife(at) => 1 + at,
                    Popularity::Surface(_) => 5,
                };
                let (_, seed) = &log.builder.popular.slots[slot];
                let is_carried =
                    seed.as_ref().is_some_and(|(list, rows)| list.advanced(&world, by, unit, rows).is_some());
                *if is_carried { &mut carried } else { &mut scans } += 1;
            }
        }
        assert!(carried > 200 && scans > 4, "{carried} carried along, {scans} scanned");
    }
}
