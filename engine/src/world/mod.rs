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

mod chunked;
mod stats;

pub use chunked::Chunked;
pub use stats::{Day, DayCounts, Decayed, HALF_LIVES_DAYS, ItemStats, Totals, day_of};

/// Surfaces whose popularity is kept apart; events of further ones count for the whole only.
pub const SURFACES_MAX: usize = 32;

/// Length of the list of popular items that a snapshot keeps sorted.
const POPULAR_MAX_ITEMS: usize = 4_096;

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
        let (hash, created_ms) = (id_hash(&item.id), item.created_ms);
        ItemRow { item, hash, genres: genres.into(), people: people.into(), content, created_ms }
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
    popular: Vec<OnceLock<Vec<(Row, f32)>>>,
    /// Interactions of every existing item, ascending.
    counts: OnceLock<Vec<u32>>,
    decayed_totals: OnceLock<Decayed>,
}

/// Advances with the log and gives snapshots.
#[derive(Debug)]
pub struct WorldBuilder {
    bundle: Arc<Bundle>,
    terms: Terms,
    state: State,
}

#[derive(Debug, Clone)]
struct State {
    bundle_version: Arc<str>,
    bundle_rows: usize,
    watermark: Seq,
    /// Time of the newest event; decay is taken as of its day.
    newest_ms: TimeMs,
    items: Chunked<Option<Arc<ItemRow>>>,
    stats: Chunked<ItemStats>,
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
            stats: base.stats.clone(),
            bundle_ids: base.ids.clone(),
            new_ids: Arc::default(),
            changed: Arc::default(),
            surfaces: base.surfaces.clone(),
            totals: base.totals.clone(),
            events_max: base.events_max,
            item_changes: 0,
            forgotten: Arc::default(),
        };
        WorldBuilder { terms: base.terms.clone(), bundle, state }
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
                let stats = state.stats.get_mut(row as usize).expect("every row has statistics");
                stats.add(touch, *time_ms, surface);
                state.events_max = state.events_max.max(stats.events);
                state.totals.add(touch, *time_ms);
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
    pub fn snapshot(&self) -> World {
        let lists = 1 + HALF_LIVES_DAYS.len() + self.state.surfaces.len();
        let popular = std::iter::repeat_with(OnceLock::new).take(lists).collect();
        let derived = Derived { popular, counts: OnceLock::new(), decayed_totals: OnceLock::new() };
        World { state: self.state.clone(), derived }
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
            state.stats.push(ItemStats::default());
            Arc::make_mut(&mut state.new_ids).insert(item.id.clone(), row);
            row
        });
        let slot = state.items.get_mut(row as usize).expect("the row was found or just made");
        let before = slot.as_ref().and_then(|old| old.created_ms);
        fresh.created_ms = fresh.created_ms.or(before).or_else(|| known.is_none().then_some(time_ms));
        *slot = Some(Arc::new(fresh));
        Arc::make_mut(&mut state.changed).insert(row);
    }

    fn delete(&mut self, id: &str) {
        let state = &mut self.state;
        if let Some(row) = state.row(id) {
            *state.items.get_mut(row as usize).expect("known rows exist") = None;
            Arc::make_mut(&mut state.changed).remove(&row);
            state.item_changes += 1;
        }
    }
}

impl State {
    fn row(&self, id: &str) -> Option<Row> {
        self.bundle_ids.get(id).or_else(|| self.new_ids.get(id)).copied()
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
        self.state.items.iter().filter(|item| item.is_some()).count()
    }

    /// Whether no item exists.
    pub fn is_empty(&self) -> bool {
        self.state.items.iter().all(Option::is_none)
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
        self.state.changed.contains(&row)
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
        let counts = self.derived.counts.get_or_init(|| {
            let existing = self.state.items.iter().zip(self.state.stats.iter()).filter(|(item, _)| item.is_some());
            let mut counts: Vec<u32> = existing.map(|(_, stats)| stats.events).collect();
            counts.sort_unstable();
            counts
        });
        counts.partition_point(|&count| count < events) as f32 / counts.len().max(1) as f32
    }

    /// Popularity of a row: decayed positive interactions. On a surface: those there, and, so that a young
    /// surface is not empty, those of all surfaces (half-life of a week) as a fraction of the best item's.
    pub fn popularity(&self, row: Row, by: Popularity) -> f32 {
        let Some(stats) = self.stats(row) else { return 0.0 };
        let week = |days: &DayCounts| days.decayed(self.day()).positives[WEEK];
        let trace = TRACE_OF_EVER * f64::from(stats.positives);
        match by {
            Popularity::Ever => stats.positives as f32,
            Popularity::HalfLife(at) => (stats.days.decayed(self.day()).positives[at] + trace) as f32,
            Popularity::Surface(surface) => {
                let there = stats.surfaces.iter().find(|(number, _)| *number == surface);
                let best = self.popular(Popularity::HalfLife(WEEK)).first().map_or(1.0, |&(_, score)| f64::from(score));
                (there.map_or(0.0, |(_, days)| week(days)) + (week(&stats.days) + trace) / best.max(1e-9)) as f32
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
        let Some(list) = self.derived.popular.get(list) else { return &[] };
        list.get_or_init(|| self.most_popular(by))
    }

    fn most_popular(&self, by: Popularity) -> Vec<(Row, f32)> {
        let rows = (0..).zip(self.state.items.iter()).filter(|(_, item)| item.is_some()).map(|(row, _)| row);
        let mut scored: Vec<(Row, f32)> =
            rows.map(|row| (row, self.popularity(row, by))).filter(|&(_, score)| score > 0.0).collect();
        let by_score = |a: &(Row, f32), b: &(Row, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if scored.len() > POPULAR_MAX_ITEMS {
            scored.select_nth_unstable_by(POPULAR_MAX_ITEMS, by_score);
            scored.truncate(POPULAR_MAX_ITEMS);
        }
        scored.sort_unstable_by(by_score);
        scored
    }
}
