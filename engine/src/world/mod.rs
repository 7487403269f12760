//! The world: an immutable snapshot of items and their statistics up to a watermark of the event log.
//!
//! A pure function of the bundle and of the log entries after it: integer sums, so that the order of events
//! within the watermark cannot matter, and no clock (decay is taken as of the newest event). It must not know
//! where the log is kept or how often snapshots are taken.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use crate::index::prefetch_first;
use crate::types::{Item, Row, Seq, TimeMs};

mod arrivals;
mod builder;
mod chunked;
mod histogram;
mod popular;
mod row;
mod stats;

pub(crate) use arrivals::Arrivals;
pub use builder::WorldBuilder;
pub use chunked::Chunked;
pub(crate) use histogram::Histogram;
pub(crate) use row::Flags;
pub use row::{ItemRow, Terms};
pub use stats::{Day, DayCounts, Decayed, HALF_LIVES_DAYS, ItemStats, Totals, day_of};

/// Surfaces whose popularity is kept apart; events of further ones count for the whole only.
pub const SURFACES_MAX: usize = 32;

/// A half-life of a week, as an index of [`HALF_LIVES_DAYS`].
pub const WEEK: usize = 2;

/// How much of the popularity without decay every decayed one holds: far less than one event of today, but enough to
/// order what is left when nothing happened for years, so that a stranger's slate is not empty then.
const TRACE_OF_EVER: f64 = 1e-6;

/// Which popularity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popularity {
    /// All positive interactions ever.
    Ever,
    /// Decayed with the half-life of that index of [`HALF_LIVES_DAYS`].
    HalfLife(usize),
    /// On the surface of that number.
    Surface(u16),
}

/// One row's popularity by all that there is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct AllPopularities {
    pub(crate) on_surface: f32,
    pub(crate) by_half_life: [f32; HALF_LIVES_DAYS.len()],
    pub(crate) ever: f32,
}

/// The snapshot. Rows below the bundle's number of items are the bundle's; the rest came since.
#[derive(Debug)]
pub struct World {
    state: State,
    derived: Derived,
}

/// What follows from the state, computed when it is first asked for.
#[derive(Debug)]
struct Derived {
    /// The most popular rows: ever, by each half-life, on each surface.
    popular: Arc<popular::Lists>,
    /// How many existing items have fewer interactions than each number that occurs.
    fewer: OnceLock<histogram::Fewer>,
    decayed_totals: OnceLock<Decayed>,
}

#[derive(Debug, Clone)]
struct State {
    bundle_version: Arc<str>,
    bundle_rows: usize,
    watermark: Seq,
    /// Time of the newest event; decay is taken as of its day.
    newest_ms: TimeMs,
    items: Chunked<Option<Arc<ItemRow>>>,
    flags: Chunked<Flags>,
    stats: Chunked<ItemStats>,
    /// Existing items.
    existing: usize,
    histogram: Arc<Histogram>,
    arrivals: Arrivals,
    bundle_ids: Arc<FxHashMap<Arc<str>, Row>>,
    new_ids: Arc<FxHashMap<Arc<str>, Row>>,
    /// Rows that were added or replaced since the bundle and still exist.
    changed: Arc<BTreeSet<Row>>,
    surfaces: Arc<Vec<Arc<str>>>,
    totals: Totals,
    /// Largest number of interactions of one item.
    events_max: u32,
    /// Grows with every change of an item.
    item_changes: u64,
    /// [`id_hash`] of users erased since the bundle: as neighbours they no longer count.
    forgotten: Arc<BTreeSet<u64>>,
}

/// What sums over existing items know of one row: its interactions, and when it arrived.
type Counted = (Option<u32>, Option<TimeMs>);

impl State {
    fn row(&self, id: &str) -> Option<Row> {
        self.bundle_ids.get(id).or_else(|| self.new_ids.get(id)).copied()
    }

    fn flags(&self, row: Row) -> u8 {
        self.flags.get(row as usize).map_or(0, |flags| flags.0)
    }

    fn counted(&self, row: Row) -> Counted {
        let exists = self.flags(row) & Flags::EXISTS != 0;
        let events = || self.stats.get(row as usize).map_or(0, |stats| stats.events);
        (exists.then(events), self.arrived(row))
    }

    /// Brings the sums up to date after a change of a row.
    fn recount(&mut self, row: Row, before: Counted) {
        let after = self.counted(row);
        if before.0 != after.0 {
            let histogram = Arc::make_mut(&mut self.histogram);
            histogram.move_one(before.0, after.0);
            self.existing = self.existing + usize::from(after.0.is_some()) - usize::from(before.0.is_some());
        }
        if let (true, Some(time_ms)) = (before.1 != after.1, after.1) {
            self.arrivals.add(time_ms, row);
        }
    }

    /// When the catalogue got it, else when it was first met; `None` when neither is known.
    fn arrived(&self, row: Row) -> Option<TimeMs> {
        let created = self.items.get(row as usize)?.as_ref().and_then(|found| found.created_ms);
        created.or_else(|| self.stats.get(row as usize).filter(|stats| stats.events > 0).map(|stats| stats.first_ms))
    }
}

impl World {
    /// Version of the bundle whose rows it speaks of.
    pub fn bundle_version(&self) -> &str {
        &self.state.bundle_version
    }

    /// Log position of the last entry that it reflects.
    pub fn watermark(&self) -> Seq {
        self.state.watermark
    }

    /// Grows with every change of an item since the bundle; cached slates of another value are stale.
    pub fn item_changes(&self) -> u64 {
        self.state.item_changes
    }

    /// Rows, deleted ones included.
    pub fn rows(&self) -> usize {
        self.state.items.len()
    }

    /// Rows of the bundle; rows from here on came since.
    pub fn bundle_rows(&self) -> usize {
        self.state.bundle_rows
    }

    /// Items that exist.
    pub fn len(&self) -> usize {
        self.state.existing
    }

    /// Whether no item exists.
    pub fn is_empty(&self) -> bool {
        self.state.existing == 0
    }

    /// Whether the row's item exists.
    pub(crate) fn exists(&self, row: Row) -> bool {
        self.state.flags(row) & Flags::EXISTS != 0
    }

    /// Whether the row's item exists and may be recommended at `at`.
    #[inline]
    pub(crate) fn is_available(&self, row: Row, at: TimeMs) -> bool {
        match self.state.flags(row) & (Flags::ALWAYS | Flags::WINDOWED) {
            Flags::ALWAYS => true,
            0 => false,
            _ => self.get(row).is_some_and(|found| found.item.is_available(at)),
        }
    }

    /// The item of that id, if it exists.
    pub fn item(&self, id: &str) -> Option<&Arc<Item>> {
        self.get(self.row(id)?).map(|row| &row.item)
    }

    /// The row of that id, also of a deleted item.
    pub fn row(&self, id: &str) -> Option<Row> {
        self.state.row(id)
    }

    /// What is in that row; `None` when the item was deleted.
    pub fn get(&self, row: Row) -> Option<&ItemRow> {
        self.state.items.get(row as usize)?.as_deref()
    }

    /// Statistics of that row.
    pub fn stats(&self, row: Row) -> Option<&ItemStats> {
        self.state.stats.get(row as usize)
    }

    /// Asks the processor to fetch what [`World::get`] and [`World::stats`] give; only a hint.
    #[inline]
    pub(crate) fn prefetch(&self, row: Row) {
        if let Some(item) = self.get(row) {
            prefetch_first::<2, _>(std::slice::from_ref(item));
        }
        self.prefetch_stats(row);
    }

    /// Asks the processor to fetch what [`World::stats`] gives; only a hint.
    #[inline]
    pub(crate) fn prefetch_stats(&self, row: Row) {
        const LINES: usize = size_of::<ItemStats>().div_ceil(64);
        if let Some(stats) = self.stats(row) {
            prefetch_first::<LINES, _>(std::slice::from_ref(stats));
        }
    }

    /// Rows that were added or replaced since the bundle and still exist, ascending.
    pub fn changed(&self) -> impl Iterator<Item = Row> + '_ {
        self.state.changed.iter().copied()
    }

    /// Whether the row's content is no longer the bundle's.
    pub fn is_changed(&self, row: Row) -> bool {
        self.state.flags(row) & Flags::CHANGED != 0
    }

    /// Whether any row was added or replaced since the bundle.
    pub(crate) fn has_changes(&self) -> bool {
        !self.state.changed.is_empty()
    }

    /// When the catalogue got the item, else when it was first met; `None` when neither is known.
    pub fn arrived(&self, row: Row) -> Option<TimeMs> {
        self.state.arrived(row)
    }

    /// Rows in order of [`World::arrived`], newest first, from `until_ms` (inclusive) back.
    pub fn arrivals(&self, until_ms: TimeMs) -> impl Iterator<Item = (TimeMs, Row)> + '_ {
        /// Rows that are fetched before they are looked at.
        const AHEAD: usize = 8;
        let mut entries = self.state.arrivals.until(until_ms);
        let mut fetched: VecDeque<(TimeMs, Row)> = VecDeque::with_capacity(AHEAD + 1);
        let all = std::iter::from_fn(move || {
            while fetched.len() <= AHEAD
                && let Some(entry) = entries.next()
            {
                self.prefetch(entry.1);
                fetched.push_back(entry);
            }
            fetched.pop_front()
        });
        all.filter(|&(time_ms, row)| self.arrived(row) == Some(time_ms))
    }

    /// Whether the user of that [`id_hash`] was erased since the bundle.
    pub fn is_forgotten(&self, user_hash: u64) -> bool {
        self.state.forgotten.contains(&user_hash)
    }

    /// Whether any user was.
    pub fn has_forgotten(&self) -> bool {
        !self.state.forgotten.is_empty()
    }

    /// Sums over all items.
    pub fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// Largest number of interactions of one item.
    pub fn events_max(&self) -> u32 {
        self.state.events_max
    }

    /// Time of the newest interaction; 0 when there is none.
    pub fn newest_ms(&self) -> TimeMs {
        self.state.newest_ms
    }

    /// The day as of which decay is taken.
    pub fn day(&self) -> i32 {
        day_of(self.state.newest_ms)
    }

    /// Number of a surface that had events.
    pub fn surface(&self, name: &str) -> Option<u16> {
        let found = self.state.surfaces.iter().position(|surface| &**surface == name)?;
        u16::try_from(found).ok()
    }

    /// Decayed sums of a row as of the world's day.
    pub fn decayed(&self, row: Row) -> Decayed {
        self.stats(row).map_or_else(Decayed::default, |stats| stats.days.decayed(self.day()))
    }

    /// Decayed sums over all items as of the world's day.
    pub fn decayed_totals(&self) -> &Decayed {
        self.derived.decayed_totals.get_or_init(|| self.state.totals.days.decayed(self.day()))
    }

    /// Share of the existing items that have fewer interactions than `events`: 0 to 1.
    pub fn percentile(&self, events: u32) -> f32 {
        let fewer = self.derived.fewer.get_or_init(|| self.state.histogram.fewer());
        fewer.than(events) as f32 / self.state.existing.max(1) as f32
    }

    /// Popularity of a row: decayed positive interactions. On a surface: those there, and, so that a young
    /// surface is not empty, those of all surfaces (half-life of a week) as a fraction of the best item's.
    pub fn popularity(&self, row: Row, by: Popularity) -> f32 {
        self.popularities(by)(row)
    }

    /// [`World::popularity`] of a row by all that there is: on that surface (of all, with a half-life of a week, without one),
    /// by each half-life, ever.
    pub(crate) fn all_popularities(&self, surface: Option<u16>) -> impl Fn(Row) -> AllPopularities + '_ {
        let (day, unit) = (self.day(), if surface.is_some() { self.week_unit() } else { 1.0 });
        move |row| {
            let Some(stats) = self.stats(row) else { return AllPopularities::default() };
            let trace = TRACE_OF_EVER * f64::from(stats.positives);
            let days = stats.days.all_positives(day);
            let there = |surface: u16| {
                let there = stats.surfaces.iter().find(|(number, _)| *number == surface);
                let there = there.map_or(0.0, |(_, days)| days.positives(WEEK, day));
                (there + (days[WEEK] + trace) / unit) as f32
            };
            let by_half_life = days.map(|sum| (sum + trace) as f32);
            AllPopularities {
                on_surface: surface.map_or(by_half_life[WEEK], there),
                by_half_life,
                ever: stats.positives as f32,
            }
        }
    }

    /// As [`World::popularity`], for many rows.
    pub(crate) fn popularities(&self, by: Popularity) -> impl Fn(Row) -> f32 + '_ {
        let day = self.day();
        let unit = if matches!(by, Popularity::Surface(_)) { self.week_unit() } else { 1.0 };
        move |row| {
            let Some(stats) = self.stats(row) else { return 0.0 };
            let trace = TRACE_OF_EVER * f64::from(stats.positives);
            match by {
                Popularity::Ever => stats.positives as f32,
                Popularity::HalfLife(at) => (stats.days.positives(at, day) + trace) as f32,
                Popularity::Surface(surface) => {
                    let there = stats.surfaces.iter().find(|(number, _)| *number == surface);
                    let there = there.map_or(0.0, |(_, days)| days.positives(WEEK, day));
                    (there + (stats.days.positives(WEEK, day) + trace) / unit) as f32
                }
            }
        }
    }

    /// The most popular existing rows with their [`World::popularity`], best first, ties by row. At most 4,096.
    pub fn popular(&self, by: Popularity) -> &[(Row, f32)] {
        let list = match by {
            Popularity::Ever => 0,
            Popularity::HalfLife(at) => 1 + at,
            Popularity::Surface(surface) => 1 + HALF_LIVES_DAYS.len() + usize::from(surface),
        };
        self.derived.popular.get(list, self, by)
    }
}
