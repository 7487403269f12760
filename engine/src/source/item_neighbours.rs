//! Item-item neighbours: links from the items of the profile, summed with recency weights.
//!
//! Two families of matrices: co-occurrence (EASE; Steck 2019, <https://arxiv.org/abs/1905.03375>), what goes together in
//! the histories of users, and transitions, what follows within the next few. Each view sums one matrix over the
//! profile with its own recency.

use std::sync::LazyLock;

use super::links::Links;
use super::{Answer, Evidence};
use crate::index::Hit;
use crate::moment::{Moment, Past};
use crate::types::Row;

/// How much an item of the profile counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Weighting {
    /// Every item alike.
    All,
    /// By its weight; items that are neither liked nor disliked count a little.
    Signed,
}

/// What an item of weight 0 counts in [`Weighting::Signed`].
const NEUTRAL_WEIGHT: f32 = 0.2;

/// A matrix summed over the profile in one way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Name of the matrix in the bundle.
    pub(crate) matrix: &'static str,
    /// The item at position p (0 is the newest) counts exp(-p / tau); infinite: all alike.
    pub(crate) tau: f32,
    pub(crate) weighting: Weighting,
}

const fn view(matrix: &'static str, tau: f32, weighting: Weighting) -> View {
    View { matrix, tau, weighting }
}

/// The views, in the order of [`super::SOURCES`].
pub(crate) const VIEWS: [View; 14] = [
    view("cooccurrence", 10.0, Weighting::All),
    view("cooccurrence", 3.0, Weighting::All),
    view("cooccurrence", 30.0, Weighting::All),
    view("cooccurrence", f32::INFINITY, Weighting::All),
    view("cooccurrence", 30.0, Weighting::Signed),
    view("cooccurrence_liked", 5.0, Weighting::All),
    view("cooccurrence_liked", 30.0, Weighting::All),
    view("cooccurrence_liked", f32::INFINITY, Weighting::All),
    view("transitions", 3.0, Weighting::All),
    view("transitions", 1.0, Weighting::All),
    view("transitions", 10.0, Weighting::All),
    view("transitions_wide", 5.0, Weighting::All),
    view("transitions_liked", 10.0, Weighting::All),
    view("similar", 5.0, Weighting::All),
];

/// Beyond this many times tau an item counts less than one part in three thousand: the sum stops there.
const TAUS_MAX: f32 = 8.0;

impl View {
    /// What the item at `position` counts; 0 beyond the view's depth.
    pub(crate) fn weight(&self, past: &Past, position: usize, history: usize) -> f32 {
        if position >= self.depth(history) {
            return 0.0;
        }
        let recency = if self.tau.is_finite() { recency(self.tau)[position] } else { 1.0 };
        recency
            * match self.weighting {
                Weighting::All => 1.0,
                Weighting::Signed if past.weight == 0.0 => NEUTRAL_WEIGHT,
                Weighting::Signed => past.weight,
            }
    }

    /// How many items of the profile count, from the newest.
    pub(crate) fn depth(&self, history: usize) -> usize {
        if self.tau.is_finite() { history.min(depth(self.tau)) } else { history }
    }
}

fn depth(tau: f32) -> usize {
    (tau * TAUS_MAX).ceil() as usize
}

/// exp(-p / tau) of every position that counts.
fn recency(tau: f32) -> &'static [f32] {
    static TABLES: LazyLock<Vec<(f32, Vec<f32>)>> = LazyLock::new(|| {
        let of = |tau: f32| (0..depth(tau)).map(|position| (-(position as f32) / tau).exp()).collect();
        let finite = VIEWS.iter().map(|view| view.tau).filter(|tau| tau.is_finite());
        finite.map(|tau| (tau, of(tau))).collect()
    });
    TABLES.iter().find(|(of, _)| *of == tau).map_or(&[], |(_, table)| table)
}

/// The answer of the view of that number.
pub(crate) fn ask<'m, const VIEW: usize>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    let links = moment.links();
    let evidence = OfView { links, view: VIEW };
    links.has(VIEW).then(|| Answer { ranked: links.take_ranked(VIEW), evidence: Box::new(evidence) })
}

struct OfView<'m> {
    links: &'m Links,
    view: usize,
}

impl Evidence for OfView<'_> {
    fn score(&self, row: Row) -> f32 {
        self.links.get(row, self.view)
    }

    fn scores(&self, rows: &[Row], out: &mut [f32]) {
        self.links.get_all(rows, self.view, out);
    }

    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit> {
        self.links.search(self.view, count, accept)
    }
}
