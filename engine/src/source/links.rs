//! All sums over links of the profile's items, in one pass over each matrix.
//!
//! Views of one matrix differ in how much an item of the profile counts, not in where its links lead: so each link is
//! read once and added to all of them. A row that any link leads to has a slot, and there one cache line with the sums
//! of all views. The order of additions of one view is that of the profile, whatever else is summed beside it.

use std::cell::RefCell;

use super::item_neighbours::VIEWS;
use super::top::Top;
use super::{RANKS_MAX, SOURCES, view_of};
use crate::bundle::Neighbours;
use crate::index::Hit;
use crate::moment::Moment;
use crate::scratch::{Lent, Line, Lines, Slots};
use crate::types::Row;

/// The number of the view, and two more for the features.
const LANES: usize = 16;
/// Links of `similar`, each weighted by how the user rates the item against their own mean.
pub(crate) const RATED: usize = VIEWS.len();
/// The same, each counted once.
pub(crate) const COUNTED: usize = VIEWS.len() + 1;
const _: () = assert!(COUNTED < LANES, "every sum has a lane");

/// Items of the profile among which the strongest link is looked for.
const STRONGEST_ITEMS: usize = 20;
/// The matrices whose strongest links features read.
pub(crate) const STRONGEST: [&str; 2] = ["cooccurrence", "transitions"];

/// Sums of links, by row and view.
pub(crate) struct Links {
    slots: Lent<Slots>,
    sums: Lent<Lines>,
    /// By slot, for each of [`STRONGEST`]: link and position in the profile; (0, 0) without a link.
    strongest: Vec<[(f32, u32); STRONGEST.len()]>,
    /// Whether the bundle has the lane's matrix and anybody asked for it.
    is_present: [bool; LANES],
    /// For each view its best open rows; each is taken once.
    ranked: RefCell<[Vec<Hit>; VIEWS.len()]>,
    /// The rows that were asked for last, and their sums: each view is asked for the same rows.
    last: RefCell<(Vec<Row>, Lent<Lines>)>,
}

/// What the pass over one matrix adds to.
struct Pass<'l> {
    slots: &'l mut Slots,
    sums: &'l mut Lines,
    strongest: &'l mut Vec<[(f32, u32); STRONGEST.len()]>,
}

impl Links {
    /// Sums of all views that this moment asks for.
    pub(crate) fn new(moment: &Moment<'_>) -> Links {
        let mut links = Links {
            slots: Slots::empty(moment.world.rows()),
            sums: Lent::take(),
            strongest: Vec::new(),
            is_present: [false; LANES],
            ranked: RefCell::default(),
            last: RefCell::new((Vec::new(), Lent::take())),
        };
        links.sums.clear();
        let is_asked = asked(moment);
        let differences = if moment.uses_features() { crate::feature::differences(moment) } else { Vec::new() };
        let weights = |lane: usize, at: usize| -> f32 {
            let past = &moment.history[at];
            match lane {
                RATED => differences[at],
                COUNTED => 1.0,
                _ if at < VIEWS[lane].depth(moment.history.len()) => VIEWS[lane].weight(past, at),
                _ => 0.0,
            }
        };
        let mut first = 0;
        while first < LANES {
            let matrix = matrix_of(first);
            let last = (first..LANES).take_while(|&lane| matrix_of(lane) == matrix).last().unwrap_or(first);
            let lanes = first..last + 1;
            first = last + 1;
            let Some(matrix) = moment.bundle.matrix(matrix).filter(|_| is_asked[lanes.clone()].contains(&true)) else {
                continue;
            };
            let strongest = STRONGEST.iter().position(|&name| name == matrix_of(lanes.start));
            let strongest = strongest.filter(|_| moment.uses_features());
            lanes.clone().for_each(|lane| links.is_present[lane] = is_asked[lane]);
            let Links { slots, sums, strongest: found, .. } = &mut links;
            let mut pass = Pass { slots, sums, strongest: found };
            for (at, past) in moment.history.iter().enumerate() {
                let mut row = [0.0; LANES];
                lanes.clone().filter(|&lane| is_asked[lane]).for_each(|lane| row[lane] = weights(lane, at));
                pass.add(matrix, past.row, &row, lanes.clone());
                if let Some(which) = strongest.filter(|_| at < STRONGEST_ITEMS) {
                    pass.strengthen(matrix, past.row, which, at as u32);
                }
            }
        }
        links.strongest.resize(links.slots.rows().len(), Default::default());
        links.rank(moment);
        links
    }

    /// The sum of a lane for a row; 0 where no link leads.
    #[inline]
    pub(crate) fn get(&self, row: Row, lane: usize) -> f32 {
        self.at(self.slot(row), lane)
    }

    /// Where the sums of a row are; `None` where no link leads.
    #[inline]
    pub(crate) fn slot(&self, row: Row) -> Option<usize> {
        self.slots.get(row)
    }

    /// The sum of a lane.
    #[inline]
    pub(crate) fn at(&self, slot: Option<usize>, lane: usize) -> f32 {
        slot.map_or(0.0, |slot| self.sums[slot].0[lane])
    }

    /// As [`Links::get`], of many rows.
    pub(super) fn get_all(&self, rows: &[Row], lane: usize, out: &mut [f32]) {
        let (of, lines) = &mut *self.last.borrow_mut();
        if of != rows {
            of.clear();
            of.extend_from_slice(rows);
            lines.clear();
            lines
                .extend(rows.iter().map(|&row| self.slots.get(row).map_or_else(Line::default, |slot| self.sums[slot])));
        }
        out.iter_mut().zip(lines.iter()).for_each(|(sum, line)| *sum = line.0[lane]);
    }

    /// Whether the lane has sums at all.
    pub(crate) fn has(&self, lane: usize) -> bool {
        self.is_present[lane]
    }

    /// The strongest link from the newest items of the profile and the position it comes from; no link is 0.
    pub(crate) fn strongest(&self, slot: Option<usize>, which: usize) -> (f32, u32) {
        slot.map_or((0.0, 0), |slot| self.strongest[slot][which])
    }

    /// The best of these links to an open row; never 0.
    pub(crate) fn strongest_best(&self, moment: &Moment<'_>, which: usize) -> f32 {
        let mut best = 1e-9_f32;
        for (links, &row) in self.strongest.iter().zip(self.slots.rows()) {
            if links[which].0 > best && moment.is_open(row) {
                best = links[which].0;
            }
        }
        best
    }

    /// The view's best open rows; empty when they were taken before.
    pub(super) fn take_ranked(&self, view: usize) -> Vec<Hit> {
        std::mem::take(&mut self.ranked.borrow_mut()[view])
    }

    /// The view's best rows that `accept` lets through.
    pub(super) fn search(&self, view: usize, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        let mut top = Top::new(count);
        for (line, &row) in self.sums.iter().zip(self.slots.rows()) {
            let score = line.0[view];
            if score >= top.threshold() && accept(row) {
                top.offer(row, score);
            }
        }
        top.finish()
    }

    /// The best open rows of all views, in one pass.
    fn rank(&mut self, moment: &Moment<'_>) {
        let mut tops: Vec<Top> =
            (0..VIEWS.len()).map(|view| Top::new(if self.has(view) { RANKS_MAX } else { 0 })).collect();
        let mut thresholds = [f32::INFINITY; LANES];
        tops.iter().zip(&mut thresholds).for_each(|(top, threshold)| *threshold = top.threshold());
        for (line, &row) in self.sums.iter().zip(self.slots.rows()) {
            // All lanes at once; few rows get past this once the lists have filled.
            let any = line.0.iter().zip(&thresholds).fold(false, |any, (score, threshold)| any | (score >= threshold));
            if !any || !moment.is_open(row) {
                continue;
            }
            for (view, top) in tops.iter_mut().enumerate() {
                if line.0[view] >= thresholds[view] {
                    top.offer(row, line.0[view]);
                    thresholds[view] = top.threshold();
                }
            }
        }
        let ranked = self.ranked.get_mut();
        tops.into_iter().zip(ranked).for_each(|(top, ranked)| *ranked = top.finish());
    }
}

impl Pass<'_> {
    fn add(&mut self, matrix: &Neighbours, from: Row, weights: &[f32; LANES], lanes: std::ops::Range<usize>) {
        // One loop for each number of lanes, so that it is unrolled.
        match lanes.len() {
            1 => self.add_lanes::<1>(matrix, from, weights, lanes.start),
            3 => self.add_lanes::<3>(matrix, from, weights, lanes.start),
            5 => self.add_lanes::<5>(matrix, from, weights, lanes.start),
            _ => lanes.for_each(|lane| self.add_lanes::<1>(matrix, from, weights, lane)),
        }
    }

    fn add_lanes<const COUNT: usize>(&mut self, matrix: &Neighbours, from: Row, weights: &[f32; LANES], first: usize) {
        let weights: [f32; COUNT] = std::array::from_fn(|lane| weights[first + lane]);
        if weights == [0.0; COUNT] {
            return;
        }
        for (row, link) in matrix.of(from as usize) {
            let (slot, is_new) = self.slots.insert(row);
            if is_new {
                self.sums.push(Line::default());
            }
            // A weight of 0 adds 0, which changes no sum: none is ever -0, and links are finite.
            let sums = &mut self.sums[slot].0[first..first + COUNT];
            for lane in 0..COUNT {
                sums[lane] += weights[lane] * link;
            }
        }
    }

    fn strengthen(&mut self, matrix: &Neighbours, from: Row, which: usize, position: u32) {
        for (row, link) in matrix.of(from as usize).filter(|(_, link)| *link > 0.0) {
            let (slot, is_new) = self.slots.insert(row);
            if is_new {
                self.sums.push(Line::default());
            }
            if self.strongest.len() <= slot {
                self.strongest.resize(slot + 1, Default::default());
            }
            let strongest = &mut self.strongest[slot][which];
            if link > strongest.0 {
                *strongest = (link, position);
            }
        }
    }
}

fn matrix_of(lane: usize) -> &'static str {
    VIEWS.get(lane).map_or("similar", |view| view.matrix)
}

/// Which lanes this moment needs: all where features read them, else those of the variant's sources.
fn asked(moment: &Moment<'_>) -> [bool; LANES] {
    if moment.uses_features() {
        return [true; LANES];
    }
    let mut asked = [false; LANES];
    let planned =
        SOURCES.iter().enumerate().filter(|(_, source)| moment.query.variant.sources.contains_key(source.name));
    planned.filter_map(|(at, _)| view_of(at)).for_each(|view| asked[view] = true);
    asked
}
