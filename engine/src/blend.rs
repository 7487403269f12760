//! Blend: the union of all sources' hits, with every source's evidence for every candidate, and one weighted score.
//!
//! The blend score of an item is the sum over the variant's sources of weight x (score / best score of that source
//! for this moment), so it does not depend on the other candidates. Which item survives the candidate limit does.

use rustc_hash::FxHashMap;

use crate::moment::Moment;
use crate::source::{Answer, RANKS_MAX, SOURCES};
use crate::types::{Row, SourceHits, SourcePlan};

/// A candidate: an item that may be in the slate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) row: Row,
    pub(crate) blend: f32,
}

/// Candidates with the evidence of all sources.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) items: Vec<Candidate>,
    /// For each candidate and each of [`SOURCES`]: score / best; NaN when unknown.
    pub(crate) scores: Vec<f32>,
    /// For each candidate and each of [`SOURCES`]: zero-based rank among open items; `u32::MAX` when below the ranks.
    pub(crate) ranks: Vec<u32>,
    /// The hits of each source of the variant: (index in [`SOURCES`], rows best first).
    pub(crate) hits: Vec<(usize, Vec<Row>)>,
    /// Candidates before the limit.
    pub(crate) found: usize,
    /// Rows that the limit cut off.
    pub(crate) cut: Vec<Row>,
}

/// No rank: the item is not among the source's best.
pub(crate) const NO_RANK: u32 = u32::MAX;

impl Candidates {
    /// Candidates, from what the sources answered, or those that the query brings.
    pub(crate) fn new(moment: &Moment<'_>, answers: &[Option<Answer<'_>>], remote: &[SourceHits]) -> Candidates {
        let plans: Vec<(usize, SourcePlan)> = plans(moment).collect();
        let mut hits: Vec<(usize, Vec<Row>)> = Vec::new();
        let mut rows: Vec<Row> = match &moment.query.candidates {
            Some(ids) => ids.iter().filter_map(|id| moment.world.row(id)).collect(),
            None => {
                for &(source, plan) in &plans {
                    let found = answers[source].as_ref().map(|answer| answer.hits(moment, plan)).unwrap_or_default();
                    hits.push((source, found.into_iter().map(|hit| hit.row).collect()));
                }
                let local = hits.iter().flat_map(|(_, rows)| rows.iter().copied());
                let remote = remote.iter().flat_map(|source| &source.hits).filter_map(|(id, _)| moment.world.row(id));
                local.chain(remote).collect()
            }
        };
        rows.sort_unstable();
        rows.dedup();
        rows.retain(|&row| moment.is_eligible(row));
        if moment.query.candidates.is_none() {
            top_up(moment, answers, &mut rows, &mut hits);
        }
        let found = rows.len();
        let mut candidates = Candidates { hits, found, ..Candidates::default() };
        candidates.items = rows.iter().map(|&row| Candidate { row, blend: blend(row, answers, &plans) }).collect();
        // Candidates that the caller brings are bounded by the caller; none of them is dropped unranked.
        if moment.query.candidates.is_none() {
            candidates.limit(moment.query.variant.candidates_max_items);
        }
        candidates.gather(answers);
        candidates
    }

    /// Keeps the best by blend score.
    fn limit(&mut self, max: usize) {
        let max = max.max(1);
        if self.items.len() > max {
            let order = |a: &Candidate, b: &Candidate| b.blend.total_cmp(&a.blend).then(a.row.cmp(&b.row));
            self.items.select_nth_unstable_by(max - 1, order);
            self.cut = self.items.split_off(max).into_iter().map(|candidate| candidate.row).collect();
            self.items.sort_unstable_by_key(|candidate| candidate.row);
        }
    }

    /// Fills scores and ranks.
    fn gather(&mut self, answers: &[Option<Answer<'_>>]) {
        let width = SOURCES.len();
        let place: FxHashMap<Row, usize> = self.items.iter().enumerate().map(|(at, item)| (item.row, at)).collect();
        self.scores = vec![f32::NAN; self.items.len() * width];
        self.ranks = vec![NO_RANK; self.items.len() * width];
        for (source, answer) in answers.iter().enumerate() {
            let Some(answer) = answer else { continue };
            let best = answer.best();
            for (at, item) in self.items.iter().enumerate() {
                self.scores[at * width + source] = (answer.score)(item.row) / best;
            }
            for (rank, hit) in (0..).zip(answer.ranked.iter().take(RANKS_MAX)) {
                if let Some(&at) = place.get(&hit.row) {
                    self.ranks[at * width + source] = rank;
                }
            }
        }
    }

    /// Score / best of a candidate by a source.
    pub(crate) fn score(&self, candidate: usize, source: usize) -> f32 {
        self.scores[candidate * SOURCES.len() + source]
    }

    /// Zero-based rank of a candidate by a source, or [`NO_RANK`].
    pub(crate) fn rank(&self, candidate: usize, source: usize) -> u32 {
        self.ranks[candidate * SOURCES.len() + source]
    }
}

/// When the budgets give fewer candidates than the slate is long: the next most popular items, if the variant asks
/// for popular ones at all.
fn top_up(moment: &Moment<'_>, answers: &[Option<Answer<'_>>], rows: &mut Vec<Row>, hits: &mut [(usize, Vec<Row>)]) {
    let lacking = moment.query.count.saturating_sub(rows.len());
    let popular = hits.iter_mut().find(|(source, _)| SOURCES[*source].name == "popular");
    let Some((source, popular)) = popular.filter(|_| lacking > 0) else { return };
    let Some(answer) = answers[*source].as_ref() else { return };
    let more = (answer.search)(lacking, &|row| moment.is_eligible(row) && rows.binary_search(&row).is_err());
    popular.extend(more.iter().map(|hit| hit.row));
    rows.extend(more.into_iter().map(|hit| hit.row));
    rows.sort_unstable();
}

/// The variant's sources: (index in [`SOURCES`], plan).
pub(crate) fn plans(moment: &Moment<'_>) -> impl Iterator<Item = (usize, SourcePlan)> {
    let planned = &moment.query.variant.sources;
    SOURCES.iter().enumerate().filter_map(move |(at, source)| planned.get(source.name).map(|&plan| (at, plan)))
}

fn blend(row: Row, answers: &[Option<Answer<'_>>], plans: &[(usize, SourcePlan)]) -> f32 {
    let part = |&(source, plan): &(usize, SourcePlan)| {
        let answer = answers[source].as_ref()?;
        let share = (answer.score)(row) / answer.best();
        share.is_finite().then_some(plan.weight * share)
    };
    plans.iter().filter_map(part).sum()
}
