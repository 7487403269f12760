//! Explanation: why an item is where it is, and why one is missing.
//!
//! Reads what the stages have left; computes no score of its own.

use std::sync::Arc;

use crate::blend::{Candidates, plans};
use crate::filter::FILTERS;
use crate::moment::Moment;
use crate::order::Scored;
use crate::source::{self, Answer, SOURCES, VIEWS};
use crate::types::{ExplainLevel, Explanation, Missing, Reason, Row};

/// Reasons that an item gets.
const REASONS_MAX: usize = 2;
/// Items of the profile among which the strongest link is looked for.
const LINKS_MAX_ITEMS: usize = 50;

pub(crate) struct Explainer<'e, 'm> {
    pub(crate) moment: &'e Moment<'m>,
    pub(crate) answers: &'e [Option<Answer<'e>>],
    pub(crate) candidates: &'e Candidates,
    pub(crate) features: Option<&'e [f32]>,
    pub(crate) scored: &'e Scored,
}

impl Explainer<'_, '_> {
    /// The strongest sources of a candidate, each kind of reason once.
    pub(crate) fn reasons(&self, at: usize) -> Vec<Reason> {
        if self.moment.query.explain < ExplainLevel::Reasons {
            return Vec::new();
        }
        let strength = |(source, plan): (usize, crate::types::SourcePlan)| {
            let share = self.candidates.score(at, source) * plan.weight.max(1e-3);
            (share.is_finite() && share > 0.0).then_some((share, source))
        };
        let mut strongest: Vec<(f32, usize)> = plans(self.moment).filter_map(strength).collect();
        strongest.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut reasons: Vec<Reason> = Vec::new();
        for (_, source) in strongest {
            let kind = SOURCES[source].reason;
            if reasons.iter().all(|reason| reason.kind != kind) {
                let item = self.link(self.candidates.items[at].row, source);
                reasons.push(Reason { kind, item, source: SOURCES[source].name });
            }
            if reasons.len() == REASONS_MAX {
                break;
            }
        }
        reasons
    }

    /// The item of the profile that links most to `row` by that source.
    fn link(&self, row: Row, source: usize) -> Option<Arc<str>> {
        let moment = self.moment;
        let strength: Box<dyn Fn(Row) -> f32> = match SOURCES[source].reason {
            "because_you_liked" | "follows" => {
                let view = source::view_of(source)?;
                let matrix = moment.bundle.matrix(VIEWS[view].matrix)?;
                Box::new(move |from| {
                    let (rows, links) = matrix.of(from as usize);
                    rows.iter().position(|&to| to == row).map_or(0.0, |at| links[at])
                })
            }
            "similar_content" => {
                let of = source::content_vector(moment, row)?;
                Box::new(move |from| match source::content_vector(moment, from) {
                    Some(vector) => vector.iter().zip(of).map(|(a, b)| a * b).sum(),
                    None => 0.0,
                })
            }
            _ => return None,
        };
        let past = moment.history.iter().take(LINKS_MAX_ITEMS).filter(|past| past.weight >= 0.0);
        // Of links about as strong the liked item makes the better reason.
        let links = past.map(|past| (strength(past.row) * if past.is_liked() { 2.0 } else { 1.0 }, past.row));
        let (_, from) = links.filter(|(link, _)| *link > 0.0).max_by(|a, b| a.0.total_cmp(&b.0))?;
        moment.world.get(from).map(|found| found.item.id.clone())
    }

    /// All of it, when the query asks for that.
    pub(crate) fn explanation(&self, at: usize) -> Option<Explanation> {
        (self.moment.query.explain == ExplainLevel::Full).then(|| self.full(at))
    }

    fn full(&self, at: usize) -> Explanation {
        let heads = self.moment.bundle.ranker().map(crate::rank::Ranker::heads).unwrap_or_default();
        let of_heads = self.scored.heads.chunks(heads.len().max(1)).nth(at).unwrap_or_default();
        let columns = crate::feature::columns();
        let row = self.features.and_then(|features| features.chunks(columns.len()).nth(at)).unwrap_or_default();
        Explanation {
            sources: self.evidence(self.candidates.items[at].row),
            features: columns.iter().copied().zip(row.iter().copied()).collect(),
            blend: self.candidates.items[at].blend,
            heads: heads.iter().cloned().zip(of_heads.iter().copied()).collect(),
            rules: Vec::new(),
        }
    }

    /// Sources that rank the item: (name, one-based rank among open items, score).
    fn evidence(&self, row: Row) -> Vec<(&'static str, u32, f32)> {
        let of = |(source, answer): (usize, &Option<Answer<'_>>)| {
            let answer = answer.as_ref()?;
            let rank = answer.ranked.iter().position(|hit| hit.row == row)?;
            Some((SOURCES[source].name, rank as u32 + 1, answer.ranked[rank].score))
        };
        self.answers.iter().enumerate().filter_map(of).collect()
    }

    /// Why each of the query's `explain_missing` is not in the slate; `order` is what is.
    pub(crate) fn missing(&self, order: &[usize]) -> Vec<Missing> {
        self.moment.query.explain_missing.iter().map(|id| self.why_missing(id, order)).collect()
    }

    fn why_missing(&self, id: &Arc<str>, order: &[usize]) -> Missing {
        let answer = |stage, detail: String, explanation| Missing { id: id.clone(), stage, detail, explanation };
        let moment = self.moment;
        let Some(row) = moment.world.row(id) else {
            return answer("catalogue", "no item has this id".to_owned(), None);
        };
        if moment.world.get(row).is_none() {
            return answer("catalogue", "the item was deleted".to_owned(), None);
        }
        if let Some((stage, _)) = FILTERS.iter().find(|(_, keeps)| !keeps(moment, row)) {
            return answer(stage, filter_detail(stage).to_owned(), None);
        }
        let place = self.candidates.items.iter().position(|candidate| candidate.row == row);
        let bare = || Some(Explanation { sources: self.evidence(row), ..Explanation::default() });
        let Some(at) = place else {
            if self.candidates.cut.contains(&row) {
                let max = moment.query.variant.candidates_max_items;
                return answer("candidate_limit", format!("its blend score is not among the best {max}"), bare());
            }
            return answer("retrieval", self.retrieval_detail(row), bare());
        };
        let explanation = Some(self.full(at));
        if let Some(position) = order.iter().position(|&other| other == at) {
            return answer("none", format!("it is in the slate, at position {}", position + 1), explanation);
        }
        let rank = self.scored.order.iter().position(|&other| other == at).map_or(0, |rank| rank + 1);
        let (all, score) = (self.scored.order.len(), self.scored.scores[at]);
        answer(
            "rank",
            format!("ranked {rank} of {all} with score {score:.4}; the slate holds {}", order.len()),
            explanation,
        )
    }

    fn retrieval_detail(&self, row: Row) -> String {
        let evidence = self.evidence(row);
        match evidence.iter().min_by_key(|(_, rank, _)| *rank) {
            Some((source, rank, _)) => {
                format!("no source of the variant retrieved it; best is {source} at rank {rank}")
            }
            None => "no source of the variant retrieved it, and none ranks it among its best".to_owned(),
        }
    }

    /// When fewer than asked for: the stage that ran dry.
    pub(crate) fn short_reason(&self, items: usize) -> Option<String> {
        let moment = self.moment;
        if items >= moment.query.count {
            return None;
        }
        let hits: usize = self.candidates.hits.iter().map(|(_, rows)| rows.len()).sum();
        let why = if moment.world.is_empty() {
            "catalogue: there is no item".to_owned()
        } else if moment.query.candidates.is_some() {
            format!("filters: {items} of the given items may be ranked")
        } else if hits == 0 && !moment.request.is_open() {
            "filter:request: no item that any source knows passes the filter, the exclusions and earlier pages"
                .to_owned()
        } else if hits == 0 && plans(moment).all(|(source, _)| self.answers[source].is_none()) {
            "retrieval: the bundle that serves holds nothing that the variant's sources need; is there one yet?"
                .to_owned()
        } else if hits == 0 {
            "retrieval: no source of the variant found an item that is available and not seen".to_owned()
        } else {
            let found = self.candidates.found;
            format!("retrieval: the variant's sources found {found} items that pass the filters")
        };
        Some(why)
    }

    /// Ids of every source's hits.
    pub(crate) fn hits(&self) -> Vec<(&'static str, Vec<Arc<str>>)> {
        let id = |&row: &Row| self.moment.world.get(row).map(|found| found.item.id.clone());
        let named = |(source, rows): &(usize, Vec<Row>)| {
            (SOURCES[*source].name, rows.iter().filter_map(id).collect::<Vec<Arc<str>>>())
        };
        self.candidates.hits.iter().map(named).collect()
    }
}

fn filter_detail(stage: &str) -> &'static str {
    match stage {
        "filter:excluded" => "the request excludes it, or an earlier page showed it",
        "filter:request" => "the request's filter leaves it out",
        "filter:seen" => "the user has seen it",
        _ => "it is hidden, or not available at this moment",
    }
}
