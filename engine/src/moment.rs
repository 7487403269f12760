//! The moment of a request: query, profile and world brought together, the profile's items as rows.
//!
//! Computed once for a request; sources, filters and features read it and nothing else.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::bundle::Bundle;
use crate::filter;
use crate::types::{Profile, Query, Row, TimeMs};
use crate::world::World;

/// One item of the profile: all that the user did with it, newest first in [`Moment::history`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Past {
    pub(crate) row: Row,
    /// Weight of the newest event with one that is not 0; 0 when there is none.
    pub(crate) weight: f32,
    /// The newest rating; NaN when there is none.
    pub(crate) rating: f32,
    /// Time of the newest event.
    pub(crate) time_ms: TimeMs,
}

impl Past {
    pub(crate) fn is_liked(&self) -> bool {
        self.weight > 0.0
    }
}

/// What every stage reads.
pub(crate) struct Moment<'a> {
    pub(crate) query: &'a Query,
    pub(crate) profile: &'a Profile,
    pub(crate) world: &'a World,
    pub(crate) bundle: &'a Bundle,
    /// Distinct items that the user interacted with, newest first; deleted and unknown ones are left out.
    pub(crate) history: Vec<Past>,
    /// Rows that the user has seen.
    pub(crate) seen: FxHashSet<Row>,
    /// When availability is tested.
    pub(crate) available_at: TimeMs,
    /// The query's filter, its exclusions and earlier pages.
    pub(crate) request: filter::Request,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(query: &'a Query, profile: &'a Profile, world: &'a World, bundle: &'a Bundle) -> Moment<'a> {
        let mut history: Vec<Past> = Vec::new();
        let mut position: FxHashMap<Row, usize> = FxHashMap::default();
        let mut seen: FxHashSet<Row> = profile.seen_before.iter().filter_map(|id| world.row(id)).collect();
        for event in profile.events.iter().rev() {
            let Some(row) = world.row(&event.item) else { continue };
            let touch = event.touch;
            if touch.seen {
                seen.insert(row);
            }
            if !touch.interaction || world.get(row).is_none() {
                continue;
            }
            let past = Past { row, weight: touch.weight, rating: touch.rating, time_ms: event.time_ms };
            match position.entry(row) {
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(history.len());
                    history.push(past);
                }
                std::collections::hash_map::Entry::Occupied(place) => {
                    let newer = &mut history[*place.get()];
                    if newer.weight == 0.0 {
                        newer.weight = touch.weight;
                    }
                    if newer.rating.is_nan() {
                        newer.rating = touch.rating;
                    }
                }
            }
        }
        let available_at = query.filter.available_at_ms.unwrap_or(query.now_ms);
        let request = filter::Request::new(query, world);
        Moment { query, profile, world, bundle, history, seen, available_at, request }
    }

    /// Whether the item exists, is available, and was not seen: what ranks and normalisers are taken over,
    /// whatever the request's own filter, so that a score is the same on every page.
    pub(crate) fn is_open(&self, row: Row) -> bool {
        filter::availability(self, row) && !self.seen.contains(&row)
    }

    /// Whether the item may be in the slate.
    pub(crate) fn is_eligible(&self, row: Row) -> bool {
        filter::availability(self, row) && filter::seen(self, row) && self.request.keeps(self.world, row)
    }
}
