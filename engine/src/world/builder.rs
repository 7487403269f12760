//! How the world advances with the log: one entry after the other, and a snapshot now and then.

use std::sync::{Arc, OnceLock};

use super::{Derived, Flags, HALF_LIVES_DAYS, ItemStats, SURFACES_MAX, State, Terms, World, popular};
use crate::bundle::Bundle;
use crate::types::{Item, LogEntry, Row, Seq, TimeMs};

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
    /// Rows whose sums are to be taken anew before the next snapshot, each once.
    late: Vec<Row>,
    /// The lists of the last snapshot.
    pub(super) popular: Arc<popular::Lists>,
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
        WorldBuilder {
            terms: base.terms.clone(),
            bundle,
            state,
            changed: None,
            late: Vec::new(),
            popular: Arc::default(),
        }
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
                let was_late = stats.is_late();
                stats.add(touch, *time_ms, surface);
                if !was_late && stats.is_late() {
                    self.late.push(row);
                }
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
        for row in self.late.drain(..) {
            self.state.stats.get_mut(row as usize).expect("every row has statistics").settle();
        }
        self.state.totals.days.settle();
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
