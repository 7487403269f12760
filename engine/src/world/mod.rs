//! The world: an immutable snapshot of items and their statistics up to a watermark of the event log.
//!
//! A pure function of the bundle and of the log entries after it: integer sums, so that the order of events
//! within the watermark cannot matter, and no clock (decay is taken as of the newest event). It must not know
//! where the log is kept or how often snapshots are taken.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use crate::bundle::Bundle;
use crate::types::{Item, LogEntry, Row, Seq, TimeMs, id_hash};

mod arrivals;
mod chunked;
mod histogram;
mod popular;
mod stats;

pub(crate) use arrivals::Arrivals;
pub use chunked::Chunked;
pub(crate) use histogram::Histogram;
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

/// An item with what ranking reads of it on every request.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRow {
    /// The item itself.
    pub item: Arc<Item>,
    /// Its year.
    pub year: Option<u16>,
    /// [`id_hash`] of its id.
    pub hash: u64,
    /// Genres as numbers of [`Terms`], sorted.
    pub genres: Box<[u32]>,
    /// Cast (first [`PEOPLE_MAX`]) and directors as numbers of [`Terms`], sorted.
    pub people: Box<[u32]>,
    /// Its content vector where the bundle's no longer holds or it has none; `None` for an unchanged item.
    pub content: Option<Arc<[f32]>>,
    /// When the catalogue got it, as far as is known.
    pub created_ms: Option<TimeMs>,
}

/// Cast members whose affinity counts, in billing order.
const PEOPLE_MAX: usize = 8;

/// Genres and people as numbers. Which number a term gets means nothing.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    numbers: FxHashMap<String, u32>,
}

impl Terms {
    fn number(&mut self, field: &str, value: &str) -> u32 {
        let next = u32::try_from(self.numbers.len()).expect("fewer than four billion terms");
        *self.numbers.entry(format!("{field}:{}", value.trim().to_lowercase())).or_insert(next)
    }

    /// The row of an item; `content` as in [`ItemRow`].
    pub fn row(&mut self, item: Arc<Item>, content: Option<Arc<[f32]>>) -> ItemRow {
        let mut genres: Vec<u32> = item.genres.iter().map(|genre| self.number("genre", genre)).collect();
        let cast = item.cast.iter().take(PEOPLE_MAX).map(|name| ("cast", name));
        let directors = item.directors.iter().map(|name| ("director", name));
        let mut people: Vec<u32> = cast.chain(directors).map(|(field, name)| self.number(field, name)).collect();
        for list in [&mut genres, &mut people] {
            list.sort_unstable();
            list.dedup();
        }
        let (hash, year, created_ms) = (id_hash(&item.id), item.year, item.created_ms);
        ItemRow { item, year, hash, genres: genres.into(), people: people.into(), content, created_ms }
    }
}

/// What is asked of a row most often, in one byte, so that most answers touch nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    const EXISTS: u8 = 1;
    /// May be recommended at any moment.
    const ALWAYS: u8 = 2;
    /// May be recommended at some moments: the item says when.
    const WINDOWED: u8 = 4;
    /// Its content is no longer the bundle's.
    const CHANGED: u8 = 8;

    /// Those of an item.
    pub(crate) fn of(item: &Item, is_changed: bool) -> Flags {
        let window = match (item.hidden, item.available_from_ms, item.available_until_ms) {
            (true, _, _) => 0,
            (false, None, None) => Flags::ALWAYS,
            (false, _, _) => Flags::WINDOWED,
        };
        Flags(Flags::EXISTS | window | if is_changed { Flags::CHANGED } else { 0 })
    }
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

/// So many changes between two snapshots are noted; after more the next snapshot looks at every row.
const CHANGED_MAX_ROWS: usize = 65_536;

/// Advances with the log and gives snapshots.
#[derive(Debug)]
pub struct WorldBuilder {
    bundle: Arc<Bundle>,
    terms: Terms,
    state: State,
    /// Rows that changed since the last snapshot; `None` when they are too many to tell.
    changed: Option<Vec<Row>>,
    /// The lists of the last snapshot.
    popular: Arc<popular::Lists>,
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

impl WorldBuilder {
    /// Starts from the bundle's own items and statistics, at its watermark.
    pub fn new(bundle: Arc<Bundle>) -> WorldBuilder {
        let base = bundle.base();
        let state = State {
            bundle_version: bundle.manifest().version.as_str().into(),
            bundle_rows: base.items.len(),
            watermark: bundle.manifest().watermark,
            newest_ms: base.newest_ms,
            items: base.items.clone(),
            flags: base.flags.clone(),
            stats: base.stats.clone(),
            existing: base.items.len(),
            histogram: base.histogram.clone(),
            arrivals: base.arrivals.clone(),
            bundle_ids: base.ids.clone(),
            new_ids: Arc::default(),
            changed: Arc::default(),
            surfaces: base.surfaces.clone(),
            totals: base.totals.clone(),
            events_max: base.events_max,
            item_changes: 0,
            forgotten: Arc::default(),
        };
        WorldBuilder { terms: base.terms.clone(), bundle, state, changed: None, popular: Arc::default() }
    }

    /// The bundle that it started from.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Log position of the last entry applied.
    pub fn watermark(&self) -> Seq {
        self.state.watermark
    }

    /// Applies the next entry of the log; `seq` never falls. Entries that the bundle already holds
    /// ([`crate::bundle::Manifest::holds`]) only move the watermark. Events of unknown items count from the next bundle on.
    pub fn apply(&mut self, seq: Seq, entry: &LogEntry) {
        self.state.watermark = self.state.watermark.max(seq);
        match entry {
            LogEntry::Event { item, touch, time_ms, surface } => {
                if self.bundle.manifest().holds(seq, *time_ms) {
                    return;
                }
                let Some(row) = self.state.row(item) else { return };
                let surface = self.surface(surface);
                let state = &mut self.state;
                if touch.interaction {
                    state.newest_ms = state.newest_ms.max(*time_ms);
                }
                let before = state.counted(row);
                let stats = state.stats.get_mut(row as usize).expect("every row has statistics");
                stats.add(touch, *time_ms, surface);
                state.events_max = state.events_max.max(stats.events);
                state.totals.add(touch, *time_ms);
                state.recount(row, before);
                self.note(row);
            }
            LogEntry::Upsert { item, time_ms } => {
                if !self.bundle.manifest().holds_change(seq) {
                    self.upsert(item, *time_ms);
                }
            }
            LogEntry::Forget { user_hash } => {
                Arc::make_mut(&mut self.state.forgotten).insert(*user_hash);
            }
            LogEntry::Delete { item } => {
                if !self.bundle.manifest().holds_change(seq) {
                    self.delete(item);
                }
            }
        }
    }

    /// The log was read up to `seq`, also where its last entries are none of ours.
    pub fn advance_to(&mut self, seq: Seq) {
        self.state.watermark = self.state.watermark.max(seq);
    }

    /// A snapshot of what was applied so far.
    pub fn snapshot(&mut self) -> World {
        let lists = 1 + HALF_LIVES_DAYS.len() + self.state.surfaces.len();
        let changed = self.changed.replace(Vec::new()).map(|mut rows| {
            rows.sort_unstable();
            rows.dedup();
            Arc::new(rows)
        });
        self.popular = Arc::new(popular::Lists::after(&self.popular, lists, changed.as_ref()));
        let derived =
            Derived { popular: self.popular.clone(), fewer: OnceLock::new(), decayed_totals: OnceLock::new() };
        World { state: self.state.clone(), derived }
    }

    /// The row is another one than in the last snapshot.
    fn note(&mut self, row: Row) {
        if let Some(changed) = &mut self.changed {
            changed.push(row);
            if changed.len() > CHANGED_MAX_ROWS {
                self.changed = None;
            }
        }
    }

    fn surface(&mut self, name: &Arc<str>) -> Option<u16> {
        if name.is_empty() {
            return None;
        }
        let known = self.state.surfaces.iter().position(|surface| surface == name);
        let number = known.or_else(|| {
            (self.state.surfaces.len() < SURFACES_MAX).then(|| {
                Arc::make_mut(&mut self.state.surfaces).push(name.clone());
                self.state.surfaces.len() - 1
            })
        });
        number.and_then(|number| u16::try_from(number).ok())
    }

    fn upsert(&mut self, item: &Arc<Item>, time_ms: TimeMs) {
        let content = self.bundle.content().map(|content| content.model.vector(item).into());
        let known = self.state.row(&item.id);
        let mut fresh = self.terms.row(item.clone(), content);
        let state = &mut self.state;
        state.item_changes += 1;
        let row = known.unwrap_or_else(|| {
            let row = u32::try_from(state.items.len()).expect("fewer than four billion items");
            state.items.push(None);
            state.flags.push(Flags::default());
            state.stats.push(ItemStats::default());
            Arc::make_mut(&mut state.new_ids).insert(item.id.clone(), row);
            row
        });
        let counted = state.counted(row);
        *state.flags.get_mut(row as usize).expect("a row has flags") = Flags::of(item, true);
        let slot = state.items.get_mut(row as usize).expect("the row was found or just made");
        let before = slot.as_ref().and_then(|old| old.created_ms);
        fresh.created_ms = fresh.created_ms.or(before).or_else(|| known.is_none().then_some(time_ms));
        *slot = Some(Arc::new(fresh));
        Arc::make_mut(&mut state.changed).insert(row);
        state.recount(row, counted);
        self.note(row);
    }

    fn delete(&mut self, id: &str) {
        let state = &mut self.state;
        if let Some(row) = state.row(id) {
            let counted = state.counted(row);
            *state.items.get_mut(row as usize).expect("known rows exist") = None;
            *state.flags.get_mut(row as usize).expect("a row has flags") = Flags::default();
            Arc::make_mut(&mut state.changed).remove(&row);
            state.item_changes += 1;
            state.recount(row, counted);
            self.note(row);
        }
    }
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
        self.state.arrivals.until(until_ms).filter(|&(time_ms, row)| self.arrived(row) == Some(time_ms))
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
        let Some(stats) = self.stats(row) else { return 0.0 };
        let day = self.day();
        let trace = TRACE_OF_EVER * f64::from(stats.positives);
        match by {
            Popularity::Ever => stats.positives as f32,
            Popularity::HalfLife(at) => (stats.days.positives(at, day) + trace) as f32,
            Popularity::Surface(surface) => {
                let there = stats.surfaces.iter().find(|(number, _)| *number == surface);
                let there = there.map_or(0.0, |(_, days)| days.positives(WEEK, day));
                (there + (stats.days.positives(WEEK, day) + trace) / self.week_unit()) as f32
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
