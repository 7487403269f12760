//! Blend: the union of all sources' hits, with every source's evidence for every candidate, and one weighted score.
//!
//! The blend score of an item is the sum over the variant's sources of weight x (score / best score of that source
//! for this moment), so it does not depend on the other candidates. Which item survives the candidate limit does.

use crate::moment::Moment;
use crate::scratch::{Floats, Lent, Slots};
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
    /// For each of [`SOURCES`] and each candidate: score / best; NaN when unknown.
    scores: Vec<f32>,
    /// For each of [`SOURCES`] and each candidate: zero-based rank among open items; `u32::MAX` when below the ranks.
    ranks: Vec<u32>,
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
        let mut candidates = Candidates { hits, found: rows.len(), ..Candidates::default() };
        let shares = candidates.blend(&rows, answers, &plans);
        // Candidates that the caller brings are bounded by the caller; none of them is dropped unranked.
        let max =
            if moment.query.candidates.is_none() { moment.query.variant.candidates_max_items } else { usize::MAX };
        let kept = candidates.limit(max);
        candidates.gather(moment, answers, &plans, |plan, at| shares[plan * rows.len() + kept[at]]);
        candidates
    }

    /// Rows become candidates with their blend scores. Gives the shares of the variant's sources, source by source.
    fn blend(&mut self, rows: &[Row], answers: &[Option<Answer<'_>>], plans: &[(usize, SourcePlan)]) -> Lent<Floats> {
        let mut shares = Lent::<Floats>::take();
        shares.resize(plans.len() * rows.len(), f32::NAN);
        // As `sum` of nothing: the bits of a score are those of a sum over the known parts.
        let mut blend = vec![[0.0_f32; 0].iter().sum::<f32>(); rows.len()];
        for (at, &(source, plan)) in plans.iter().enumerate() {
            let column = &mut shares[at * rows.len()..][..rows.len()];
            let Some(answer) = &answers[source] else {
                column.fill(f32::NAN);
                continue;
            };
            answer.shares(rows, column);
            for (sum, share) in blend.iter_mut().zip(column).filter(|(_, share)| share.is_finite()) {
                *sum += plan.weight * *share;
            }
        }
        self.items = rows.iter().zip(blend).map(|(&row, blend)| Candidate { row, blend }).collect();
        shares
    }

    /// Keeps the best by blend score. Gives where they were, in order.
    fn limit(&mut self, max: usize) -> Vec<usize> {
        let (max, all) = (max.max(1), self.items.len());
        let mut order: Vec<usize> = (0..all).collect();
        if all <= max {
            return order;
        }
        let items = &self.items;
        let better = |a: &usize, b: &usize| items[*b].blend.total_cmp(&items[*a].blend).then(a.cmp(b));
        order.select_nth_unstable_by(max - 1, better);
        self.cut = order.split_off(max).into_iter().map(|at| items[at].row).collect();
        order.sort_unstable();
        self.items = order.iter().map(|&at| items[at]).collect();
        order
    }

    /// Fills the scores of all sources, and all ranks. `share` is known of each plan and candidate.
    fn gather(
        &mut self,
        moment: &Moment<'_>,
        answers: &[Option<Answer<'_>>],
        plans: &[(usize, SourcePlan)],
        share: impl Fn(usize, usize) -> f32,
    ) {
        let (rows, len): (Vec<Row>, usize) = (self.items.iter().map(|item| item.row).collect(), self.items.len());
        let mut place = Slots::empty(moment.world.rows());
        for &row in &rows {
            place.insert(row);
        }
        self.scores = vec![f32::NAN; len * SOURCES.len()];
        self.ranks = vec![NO_RANK; len * SOURCES.len()];
        for (source, answer) in answers.iter().enumerate() {
            let Some(answer) = answer else { continue };
            let scores = &mut self.scores[source * len..][..len];
            match plans.iter().position(|(planned, _)| *planned == source) {
                Some(plan) => scores.iter_mut().enumerate().for_each(|(at, score)| *score = share(plan, at)),
                None => answer.shares(&rows, scores),
            }
            let ranks = &mut self.ranks[source * len..][..len];
            for (rank, hit) in (0..).zip(answer.ranked.iter().take(RANKS_MAX)) {
                if let Some(at) = place.get(hit.row) {
                    ranks[at] = rank;
                }
            }
        }
    }

    /// Score / best of a candidate by a source.
    pub(crate) fn score(&self, candidate: usize, source: usize) -> f32 {
        self.scores_of(source)[candidate]
    }

    /// Score / best of every candidate by a source.
    pub(crate) fn scores_of(&self, source: usize) -> &[f32] {
        &self.scores[source * self.items.len()..][..self.items.len()]
    }

    /// Zero-based rank of every candidate by a source, or [`NO_RANK`].
    pub(crate) fn ranks_of(&self, source: usize) -> &[u32] {
        &self.ranks[source * self.items.len()..][..self.items.len()]
    }
}

/// When the budgets give fewer candidates than the slate is long: the next most popular items, if the variant asks
/// for popular ones at all.
fn top_up(moment: &Moment<'_>, answers: &[Option<Answer<'_>>], rows: &mut Vec<Row>, hits: &mut [(usize, Vec<Row>)]) {
    let lacking = moment.query.count.saturating_sub(rows.len());
    let popular = hits.iter_mut().find(|(source, _)| SOURCES[*source].name == "popular");
    let Some((source, popular)) = popular.filter(|_| lacking > 0) else { return };
    let Some(answer) = answers[*source].as_ref() else { return };
    let more = answer.evidence.search(lacking, &|row| moment.is_eligible(row) && rows.binary_search(&row).is_err());
    popular.extend(more.iter().map(|hit| hit.row));
    rows.extend(more.into_iter().map(|hit| hit.row));
    rows.sort_unstable();
}

/// The variant's sources: (index in [`SOURCES`], plan).
pub(crate) fn plans(moment: &Moment<'_>) -> impl Iterator<Item = (usize, SourcePlan)> {
    let planned = &moment.query.variant.sources;
    SOURCES.iter().enumerate().filter_map(move |(at, source)| planned.get(source.name).map(|&plan| (at, plan)))
}
