//! The moment of a request: query, profile and world brought together, the profile's items as rows.
//!
//! Computed once for a request; sources, filters and features read it and nothing else.

use std::cell::{OnceCell, RefCell};

use rustc_hash::FxHashMap;

use crate::bundle::Bundle;
use crate::filter;
use crate::scratch::{Bits, Lent};
use crate::source::{self, Asked, Links};
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
    seen: Lent<Bits>,
    /// When availability is tested.
    pub(crate) available_at: TimeMs,
    /// The query's filter, its exclusions and earlier pages.
    pub(crate) request: filter::Request,
    /// What several sources or features need, computed when the first one asks.
    links: OnceCell<Links>,
    pub(crate) popularities: RefCell<Asked>,
    user_vectors: [OnceCell<Option<Vec<f32>>>; 2],
    eligible: OnceCell<Vec<Row>>,
    accepted_hint: OnceCell<usize>,
}

impl<'a> Moment<'a> {
    pub(crate) fn new(query: &'a Query, profile: &'a Profile, world: &'a World, bundle: &'a Bundle) -> Moment<'a> {
        let mut history: Vec<Past> = Vec::new();
        let mut position: FxHashMap<Row, usize> = FxHashMap::default();
        let mut seen = Bits::empty(world.rows());
        profile.seen_before.iter().filter_map(|id| world.row(id)).for_each(|row| seen.insert(row));
        for event in profile.events.iter().rev() {
            let Some(row) = world.row(&event.item) else { continue };
            let touch = event.touch;
            if touch.seen {
                seen.insert(row);
            }
            if !touch.interaction || !world.exists(row) {
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
        Moment {
            query,
            profile,
            world,
            bundle,
            history,
            seen,
            available_at,
            request,
            links: OnceCell::new(),
            popularities: RefCell::default(),
            user_vectors: [const { OnceCell::new() }; 2],
            eligible: OnceCell::new(),
            accepted_hint: OnceCell::new(),
        }
    }

    /// Whether this request needs the feature matrix, and with it the evidence of every source.
    pub(crate) fn uses_features(&self) -> bool {
        self.query.record.rows || (self.query.variant.ranker && self.bundle.ranker().is_some())
    }

    /// Sums over the links of the profile's items.
    pub(crate) fn links(&self) -> &Links {
        self.links.get_or_init(|| Links::new(self))
    }

    /// The user's vector in the factor model: of the whole profile, or with the newest items counting most.
    pub(crate) fn user_vector(&self, is_recent: bool) -> Option<&[f32]> {
        self.user_vectors[usize::from(is_recent)].get_or_init(|| source::fold_in(self, is_recent)).as_deref()
    }

    /// Whether the user has seen it.
    #[inline]
    pub(crate) fn has_seen(&self, row: Row) -> bool {
        self.seen.contains(row)
    }

    /// Every row that [`Moment::is_eligible`] lets through, ascending: for filters so narrow that a list runs dry.
    pub(crate) fn eligible(&self) -> &[Row] {
        self.eligible.get_or_init(|| (0..self.world.rows() as Row).filter(|&row| self.is_eligible(row)).collect())
    }

    /// About how many rows [`Moment::is_eligible`] lets through, from a sample: a search chooses its way by it, and a
    /// wrong number costs time, never a result.
    pub(crate) fn accepted_hint(&self) -> usize {
        const SAMPLES: usize = 512;
        *self.accepted_hint.get_or_init(|| {
            let rows = self.world.rows();
            if self.request.is_open() || rows <= SAMPLES {
                return rows;
            }
            // Spread by a step that shares no factor with most catalogues' patterns.
            let sample = (0..SAMPLES).map(|at| (at * (rows / SAMPLES) + (at * 7_919) % (rows / SAMPLES)) as Row);
            let accepted = sample.filter(|&row| self.is_eligible(row)).count();
            (accepted.max(1) * rows).div_ceil(SAMPLES)
        })
    }

    /// Whether the item exists, is available, and was not seen: what ranks and normalisers are taken over,
    /// whatever the request's own filter, so that a score is the same on every page.
    #[inline]
    pub(crate) fn is_open(&self, row: Row) -> bool {
        filter::availability(self, row) && !self.has_seen(row)
    }

    /// Whether the item may be in the slate.
    #[inline]
    pub(crate) fn is_eligible(&self, row: Row) -> bool {
        filter::availability(self, row) && filter::seen(self, row) && self.request.keeps(self.world, row)
    }
}
