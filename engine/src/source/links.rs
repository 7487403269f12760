//! All sums over links of the profile's items, in one pass over each matrix.
//!
//! Views of one matrix differ in how much an item of the profile counts, not in where its links lead: so each link is
//! read once and added to all of them. A row that any link leads to has a slot, and there eight sums side by side for each
//! of two groups of matrices. The order of additions of one view is that of the profile, whatever else is summed beside it.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::LazyLock;

use super::item_neighbours::VIEWS;
use super::top::Top;
use super::{LISTS_AHEAD, RANKS_MAX, SOURCES, view_of};
use crate::bundle::{Neighbours, prefetch_list};
use crate::index::Hit;
use crate::moment::Moment;
use crate::scratch::{EIGHT, Eight, Eights, Lent, Numbers, Slots};
use crate::types::Row;

/// The number of the view, and two more for the features.
const LANES: usize = GROUPS * EIGHT;
const GROUPS: usize = 2;
/// Links of `similar`, each weighted by how the user rates the item against their own mean.
pub(crate) const RATED: usize = VIEWS.len();
/// The same, each counted once.
pub(crate) const COUNTED: usize = VIEWS.len() + 1;
const _: () = assert!(COUNTED < LANES, "every sum has a lane");

/// In place of the best link where there is none: one can divide by it.
const NO_LINK: f32 = 1e-9;

/// Items of the profile among which the strongest link is looked for.
const STRONGEST_ITEMS: usize = 20;
/// The matrices whose strongest links features read.
pub(crate) const STRONGEST: [&str; 2] = ["cooccurrence", "transitions"];

/// Sums of links, by row and view.
pub(crate) struct Links {
    slots: Lent<Slots>,
    /// By slot, for each group of lanes.
    sums: [Lent<Eights>; GROUPS],
    /// By slot, for each of [`STRONGEST`]: link and position in the profile; (0, 0) without a link. Slots beyond its end
    /// have none.
    strongest: Vec<[(f32, u32); STRONGEST.len()]>,
    /// For each of [`STRONGEST`] the best link to an open row.
    strongest_best: [f32; STRONGEST.len()],
    /// Whether the bundle has the lane's matrix and anybody asked for it.
    is_present: [bool; LANES],
    /// For each view its best open rows; each is taken once.
    ranked: RefCell<[Vec<Hit>; VIEWS.len()]>,
    /// The rows that were asked for last, and their sums: each view is asked for the same rows.
    last: RefCell<(Vec<Row>, [Lent<Eights>; GROUPS])>,
}

impl Links {
    /// Sums of all views that this moment asks for.
    pub(crate) fn new(moment: &Moment<'_>) -> Links {
        let mut links = Links {
            slots: Slots::empty(moment.world.rows()),
            sums: std::array::from_fn(|_| Lent::take()),
            strongest: Vec::new(),
            strongest_best: [NO_LINK; STRONGEST.len()],
            is_present: [false; LANES],
            ranked: RefCell::default(),
            last: RefCell::new((Vec::new(), std::array::from_fn(|_| Lent::take()))),
        };
        links.sums.iter_mut().for_each(|group| group.clear());
        let is_asked = asked(moment);
        let differences = if moment.uses_features() { crate::feature::differences(moment) } else { Vec::new() };
        for lanes in &*LANES_OF_MATRICES {
            let Some(matrix) = moment.bundle.matrix(matrix_of(lanes.start)) else { continue };
            if is_asked[lanes.clone()].contains(&true) {
                lanes.clone().for_each(|lane| links.is_present[lane] = is_asked[lane]);
                links.pass(moment, matrix, lanes, &is_asked, &differences);
            }
        }
        let slots = links.slots.rows().len();
        links.sums.iter_mut().for_each(|group| group.resize(slots, Default::default()));
        links.rank(moment);
        links
    }

    /// Adds the links of one matrix to its lanes, which are of one group.
    fn pass(
        &mut self,
        moment: &Moment<'_>,
        matrix: &Neighbours,
        lanes: &Range<usize>,
        is_asked: &[bool; LANES],
        differences: &[f32],
    ) {
        let strongest = STRONGEST.iter().position(|&name| name == matrix_of(lanes.start));
        let strongest = strongest.filter(|_| moment.uses_features());
        let group = lanes.start / EIGHT;
        let mut slots = Lent::<Numbers>::take();
        let lists = matrix.of_all(moment.history.iter().map(|past| past.row));
        for (at, (past, &(rows, links))) in moment.history.iter().zip(&lists).enumerate() {
            lists.get(at + LISTS_AHEAD).copied().map(prefetch_list);
            // Lanes of other matrices have weight 0, which adds 0 and changes no sum: none is ever -0, and links are finite.
            let mut weights = [0.0_f32; EIGHT];
            for lane in lanes.clone().filter(|&lane| is_asked[lane]) {
                weights[lane % EIGHT] = match lane {
                    RATED => differences[at],
                    COUNTED => 1.0,
                    _ => VIEWS[lane].weight(past, at, moment.history.len()),
                };
            }
            let strongest = strongest.filter(|_| at < STRONGEST_ITEMS);
            if weights == [0.0; EIGHT] && strongest.is_none() {
                continue;
            }
            self.slots.insert_all(rows, &mut slots);
            let sums = &mut self.sums[group];
            sums.resize(self.slots.rows().len(), Default::default());
            add(sums, (&slots, links), &weights);
            if let Some(which) = strongest {
                self.strengthen(moment, (rows, links, &slots), which, at as u32);
            }
        }
    }

    fn strengthen(
        &mut self,
        moment: &Moment<'_>,
        (rows, links, slots): (&[Row], &[f32], &[u32]),
        which: usize,
        position: u32,
    ) {
        self.strongest.resize(self.slots.rows().len(), Default::default());
        for ((&row, &link), &slot) in rows.iter().zip(links).zip(slots) {
            let strongest = &mut self.strongest[slot as usize][which];
            if link > strongest.0 {
                *strongest = (link, position);
            }
            if link > self.strongest_best[which] && moment.is_open(row) {
                self.strongest_best[which] = link;
            }
        }
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
        slot.map_or(0.0, |slot| self.sums[lane / EIGHT][slot].0[lane % EIGHT])
    }

    /// As [`Links::get`], of many rows.
    pub(super) fn get_all(&self, rows: &[Row], lane: usize, out: &mut [f32]) {
        let (of, groups) = &mut *self.last.borrow_mut();
        if of != rows {
            of.clear();
            of.extend_from_slice(rows);
            let slots = || rows.iter().map(|&row| self.slots.get(row));
            for (of_rows, sums) in groups.iter_mut().zip(&self.sums) {
                of_rows.clear();
                of_rows.extend(slots().map(|slot| slot.map_or_else(Default::default, |slot| sums[slot])));
            }
        }
        out.iter_mut().zip(groups[lane / EIGHT].iter()).for_each(|(sum, eight)| *sum = eight.0[lane % EIGHT]);
    }

    /// Whether the lane has sums at all.
    pub(crate) fn has(&self, lane: usize) -> bool {
        self.is_present[lane]
    }

    /// The strongest link from the newest items of the profile and the position it comes from; no link is 0.
    pub(crate) fn strongest(&self, slot: Option<usize>, which: usize) -> (f32, u32) {
        slot.and_then(|slot| self.strongest.get(slot)).map_or((0.0, 0), |links| links[which])
    }

    /// The best of these links to an open row; never 0.
    pub(crate) fn strongest_best(&self, which: usize) -> f32 {
        self.strongest_best[which]
    }

    /// The view's best open rows; empty when they were taken before.
    pub(super) fn take_ranked(&self, view: usize) -> Vec<Hit> {
        std::mem::take(&mut self.ranked.borrow_mut()[view])
    }

    /// The view's best rows that `accept` lets through.
    pub(super) fn search(&self, view: usize, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        let mut top = Top::new(count);
        for (eight, &row) in self.sums[view / EIGHT].iter().zip(self.slots.rows()) {
            let score = eight.0[view % EIGHT];
            if score >= top.threshold() && accept(row) {
                top.offer(row, score);
            }
        }
        top.finish()
    }

    /// The best open rows of all views, in one pass over each group.
    fn rank(&mut self, moment: &Moment<'_>) {
        let mut tops: Vec<Top> =
            (0..VIEWS.len()).map(|view| Top::new(if self.has(view) { RANKS_MAX } else { 0 })).collect();
        for (sums, tops) in self.sums.iter().zip(tops.chunks_mut(EIGHT)) {
            let mut thresholds = [f32::INFINITY; EIGHT];
            tops.iter().zip(&mut thresholds).for_each(|(top, threshold)| *threshold = top.threshold());
            for (eight, &row) in sums.iter().zip(self.slots.rows()) {
                // All lanes at once; few rows get past this once the lists have filled.
                let any =
                    eight.0.iter().zip(&thresholds).fold(false, |any, (score, threshold)| any | (score >= threshold));
                if !any || !moment.is_open(row) {
                    continue;
                }
                for ((top, threshold), &score) in tops.iter_mut().zip(&mut thresholds).zip(&eight.0) {
                    if score >= *threshold {
                        top.offer(row, score);
                        *threshold = top.threshold();
                    }
                }
            }
        }
        let ranked = self.ranked.get_mut();
        tops.into_iter().zip(ranked).for_each(|(top, ranked)| *ranked = top.finish());
    }
}

/// The lanes of each matrix.
static LANES_OF_MATRICES: LazyLock<Vec<Range<usize>>> = LazyLock::new(|| {
    let mut all: Vec<Range<usize>> = Vec::new();
    for lane in 0..=COUNTED {
        match all.last_mut().filter(|lanes| matrix_of(lanes.start) == matrix_of(lane)) {
            Some(lanes) => lanes.end = lane + 1,
            None => all.push(lane..lane + 1),
        }
    }
    assert!(all.iter().all(|lanes| lanes.start / EIGHT == (lanes.end - 1) / EIGHT), "a matrix lies in one group");
    all
});

/// Adds each link, weighted, to the sums at its slot.
fn add(sums: &mut [Eight], links: (&[u32], &[f32]), weights: &[f32; EIGHT]) {
    #[inline(always)]
    fn plain(sums: &mut [Eight], (slots, links): (&[u32], &[f32]), weights: &[f32; EIGHT]) {
        for (&slot, &link) in slots.iter().zip(links) {
            sums[slot as usize].0.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight * link);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        /// The same loop, and the same bits: Rust never fuses a product and a sum.
        #[target_feature(enable = "avx2")]
        fn avx2(sums: &mut [Eight], links: (&[u32], &[f32]), weights: &[f32; EIGHT]) {
            plain(sums, links, weights);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { avx2(sums, links, weights) };
        }
    }
    plain(sums, links, weights);
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
