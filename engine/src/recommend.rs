//! The ranking of one request, from query to slate. Read this first: every stage is one line of [`Engine::recommend`].
//!
//! Serving, replay, evaluation and explanation all go through here. The engine has no clock and no state of its own
//! but the bundle: the same query, profile and world give the same slate.

use std::sync::Arc;

use crate::blend::Candidates;
use crate::bundle::Bundle;
use crate::explain;
use crate::feature;
use crate::index::Hit;
use crate::moment::Moment;
use crate::order::{self, Scored};
use crate::source::{Answer, SOURCES};
use crate::types::{
    Degradation, Funnel, Item, Profile, ProfileEvent, Query, Record, Rows, Slate, SlateItem, SourceHits, SourcePlan,
    Touch, Variant,
};
use crate::world::World;

/// Ranks. Holds one bundle; share it between threads.
#[derive(Debug, Clone)]
pub struct Engine {
    bundle: Arc<Bundle>,
}

/// The stages of a request; an observer hears the end of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Profile and filter as rows.
    Profile,
    /// All sources asked.
    Retrieve,
    /// One list of candidates.
    Blend,
    /// The feature matrix.
    Features,
    /// The ranker's scores.
    Rank,
    /// Final filter, cut, explanation.
    Slate,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 6] =
        [Stage::Profile, Stage::Retrieve, Stage::Blend, Stage::Features, Stage::Rank, Stage::Slate];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Profile => "profile",
            Stage::Retrieve => "retrieve",
            Stage::Blend => "blend",
            Stage::Features => "features",
            Stage::Rank => "rank",
            Stage::Slate => "slate",
        }
    }
}

impl Engine {
    /// An engine over one bundle.
    pub fn new(bundle: Arc<Bundle>) -> Engine {
        Engine { bundle }
    }

    /// Its bundle.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// The feature columns in order.
    pub fn columns() -> &'static [&'static str] {
        feature::columns()
    }

    /// The slate for this query. Same inputs, same slate. `remote` are hits of sources that live outside the process.
    ///
    /// The world must be of this engine's bundle; with another one the slate is empty and says so.
    pub fn recommend(&self, query: &Query, profile: &Profile, world: &World, remote: &[SourceHits]) -> Slate {
        self.recommend_observed(query, profile, world, remote, &mut |_| {})
    }

    /// As [`Engine::recommend`]; `observer` hears the end of each stage, so that the caller can take times.
    pub fn recommend_observed(
        &self,
        query: &Query,
        profile: &Profile,
        world: &World,
        remote: &[SourceHits],
        observer: &mut dyn FnMut(Stage),
    ) -> Slate {
        if world.bundle_version() != self.bundle.manifest().version {
            return of_another_bundle(world);
        }
        let moment = Moment::new(query, profile, world, &self.bundle);
        observer(Stage::Profile);
        let answers = retrieve(&moment);
        observer(Stage::Retrieve);
        let candidates = Candidates::new(&moment, &answers, remote);
        observer(Stage::Blend);
        let features = moment.uses_features().then(|| feature::matrix(&moment, &candidates));
        observer(Stage::Features);
        let features = features.as_ref().map(|matrix| &matrix[..]);
        let scored = order::order(&moment, &candidates, features);
        observer(Stage::Rank);
        let slate = slate(&moment, &answers, &candidates, features, scored);
        observer(Stage::Slate);
        slate
    }

    /// Asks some sources, and nothing else: for benchmarks and tests. `observer` hears an empty name when the moment is
    /// there, and then each source's name with its hits: as many as the variant plans, or all that it ranks. What several
    /// sources share is computed by the first one that needs it.
    pub fn probe(
        &self,
        (query, profile, world): (&Query, &Profile, &World),
        sources: &[&str],
        observer: &mut dyn FnMut(&'static str, &[Hit]),
    ) {
        let moment = Moment::new(query, profile, world, &self.bundle);
        observer("", &[]);
        for source in SOURCES.iter().filter(|source| sources.contains(&source.name)) {
            let hits = (source.ask)(&moment).map(|mut answer| match query.variant.sources.get(source.name) {
                Some(&plan) => answer.hits(&moment, plan),
                None => std::mem::take(&mut answer.ranked),
            });
            observer(source.name, &hits.unwrap_or_default());
        }
    }

    /// Items like these: what the sources say of a profile that likes exactly them. `profile` is the user's own; its
    /// seen items and `items` themselves are left out.
    pub fn similar(&self, items: &[Arc<str>], query: &Query, profile: &Profile, world: &World) -> Slate {
        let touch = Touch { weight: 1.0, rating: f32::NAN, seen: true, interaction: true };
        let event = |item: &Arc<str>| ProfileEvent { item: item.clone(), time_ms: query.now_ms, touch };
        let seen = profile.events.iter().filter(|event| event.touch.seen).map(|event| event.item.clone());
        let liked = Profile {
            user: None,
            version: profile.version,
            events: items.iter().map(event).collect(),
            seen_before: profile.seen_before.iter().cloned().chain(seen).collect(),
        };
        let query = Query { variant: Arc::new(similar_variant()), record: Record::default(), ..query.clone() };
        self.recommend(&query, &liked, world, &[])
    }
}

/// The recipe of [`Engine::similar`]: what goes together, and what has the same words.
fn similar_variant() -> Variant {
    let plan = |weight| SourcePlan { weight, budget_items: 200 };
    let sources = [("cooccurrence_whole", 1.0), ("similar", 0.5), ("content", 0.6), ("embedding", 0.3)];
    Variant {
        name: "similar".to_owned(),
        sources: sources.into_iter().map(|(name, weight)| (name.to_owned(), plan(weight))).collect(),
        ranker: false,
        head_weights: Default::default(),
        candidates_max_items: 500,
    }
}

/// Asks the sources: those of the variant, or all where features read them.
fn retrieve<'m>(moment: &'m Moment<'m>) -> Vec<Option<Answer<'m>>> {
    let all = moment.uses_features();
    let planned = &moment.query.variant.sources;
    let ask = |source: &crate::source::Source| {
        if all || planned.contains_key(source.name) { (source.ask)(moment) } else { None }
    };
    SOURCES.iter().map(ask).collect()
}

/// The final filter, the cut, and what the answer tells of itself.
fn slate(
    moment: &Moment<'_>,
    answers: &[Option<Answer<'_>>],
    candidates: &Candidates,
    features: Option<&[f32]>,
    scored: Scored,
) -> Slate {
    let query = moment.query;
    let explainer = explain::Explainer { moment, answers, candidates, features, scored: &scored };
    // Filters ran inside retrieval already; they run again here and win, whatever came in between.
    let last = |&&at: &&usize| moment.is_eligible(candidates.items[at].row);
    let order: Vec<usize> = scored.order.iter().filter(last).take(query.count).copied().collect();
    let item = |&at: &usize| {
        let row = candidates.items[at].row;
        let item: &Arc<Item> = &moment.world.get(row)?.item;
        Some(SlateItem {
            id: item.id.clone(),
            score: scored.scores[at],
            blend: candidates.items[at].blend,
            propensity: 1.0,
            reasons: explainer.reasons(at),
            explanation: explainer.explanation(at),
        })
    };
    let items: Vec<SlateItem> = order.iter().filter_map(item).collect();
    Slate {
        short_reason: explainer.short_reason(items.len()),
        missing: explainer.missing(&order),
        funnel: funnel(candidates, &order, scored.ranked),
        rows: query.record.rows.then(|| rows(moment, candidates, features, &scored)),
        hits: if query.record.hits { explainer.hits() } else { Vec::new() },
        ranked: scored.ranked,
        degraded: scored.degraded,
        items,
    }
}

fn funnel(candidates: &Candidates, order: &[usize], ranked: bool) -> Funnel {
    let in_slate: rustc_hash::FxHashSet<u32> = order.iter().map(|&at| candidates.items[at].row).collect();
    let survivors = |rows: &[u32]| rows.iter().filter(|row| in_slate.contains(row)).count() as u32;
    let source = |(source, rows): &(usize, Vec<u32>)| (SOURCES[*source].name, rows.len() as u32, survivors(rows));
    Funnel {
        sources: candidates.hits.iter().map(source).collect(),
        candidates: candidates.found as u32,
        eligible: candidates.items.len() as u32,
        ranked: if ranked { candidates.items.len() as u32 } else { 0 },
    }
}

fn rows(moment: &Moment<'_>, candidates: &Candidates, features: Option<&[f32]>, scored: &Scored) -> Rows {
    let id = |row: u32| moment.world.get(row).map_or_else(|| "".into(), |found| found.item.id.clone());
    Rows {
        items: candidates.items.iter().map(|candidate| id(candidate.row)).collect(),
        features: features.unwrap_or_default().to_vec(),
        blend: candidates.items.iter().map(|candidate| candidate.blend).collect(),
        scores: scored.scores.clone(),
    }
}

fn of_another_bundle(world: &World) -> Slate {
    let why = format!("the world is of bundle {:?}", world.bundle_version());
    Slate {
        degraded: vec![Degradation { what: "bundle".to_owned(), why: why.clone() }],
        short_reason: Some(why),
        ..Slate::default()
    }
}

/// Names of sources that a variant may name; for checking a config.
pub fn source_names() -> impl Iterator<Item = &'static str> {
    crate::source::names()
}
