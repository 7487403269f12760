//! Benchmarks of the engine: what each stage of a request costs, alone and within, on the same inputs.
//!
//! Every measured call's result is checked: a benchmark of something that is wrong fails. The same code runs on a few
//! hundred items inside the tests. Costs are CPU time of the thread, so that neighbours on the machine matter less;
//! ratios are taken within one run. It must not know of a server, but for `server`, which starts one to measure it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use marquee_engine::bundle::{Bundle, OpenOptions};
use marquee_engine::event::EventPolicy;
use marquee_engine::index::{Hit, Scratch};
use marquee_engine::types::{Profile, Query, Record, Rows, Slate, id_hash};
use marquee_engine::world::{World, WorldBuilder};
use marquee_engine::{Engine, Stage, source_names};

use crate::generate::{END_MS, Member, read_members, variant, variant_of};

mod check;
pub mod events;
pub mod growth;
mod meter;
pub mod server;
pub mod stages;
mod table;
pub mod whole;

pub use meter::{Meter, count_instructions, read_counts, thread_cpu_ns};
pub use table::{Spread, median, print};

/// Items of a measured slate.
pub const COUNT: usize = 10;

/// An engine with users to ask it for.
#[derive(Debug)]
pub struct Bench {
    /// Ranks.
    pub engine: Engine,
    /// As of the bundle.
    pub world: World,
    /// Users with 20 events or more.
    pub people: Vec<Profile>,
    /// The question, but for the user.
    pub query: Query,
    scratch: Scratch,
}

impl Bench {
    /// Of a folder that `make synthetic` made, with so many of its members.
    ///
    /// # Errors
    /// The folder is not there, or its bundle does not open.
    pub fn open(state: &Path, people: usize) -> Result<Bench> {
        let folder = state.join("bundles/synthetic");
        let bundle = Bundle::open(&folder, &OpenOptions::default())
            .with_context(|| format!("{}: make synthetic first", folder.display()))?;
        let members = read_members(&state.join("members.jsonl"))?;
        let mut bench = Bench::new(Arc::new(bundle), &members, people)?;
        let config = state.join("marquee.toml");
        let config = std::fs::read_to_string(&config).with_context(|| config.display().to_string())?;
        bench.query.variant = variant_of("default", &config)?;
        Ok(bench)
    }

    /// Of an opened bundle and its users.
    ///
    /// # Errors
    /// There are no users, or the sample configuration has no variant `default`.
    pub fn new(bundle: Arc<Bundle>, members: &[Member], people: usize) -> Result<Bench> {
        ensure!(!members.is_empty(), "no user has 20 events or more: generate more users");
        let world = WorldBuilder::new(bundle.clone()).snapshot();
        let policy = EventPolicy::default();
        let kept = people.min(members.len());
        let people = (0..kept).map(|at| members[at * members.len() / kept].profile(&policy)).collect();
        let query = Query::new(END_MS, "home", COUNT, variant("default")?);
        Ok(Bench { engine: Engine::new(bundle), world, people, query, scratch: Scratch::new() })
    }

    /// Items of the catalogue.
    pub fn items(&self) -> usize {
        self.engine.bundle().manifest().counts.items
    }

    /// The slate of a person.
    pub fn recommend(&self, person: usize) -> Slate {
        self.engine.recommend(&self.query, &self.people[person], &self.world, &[])
    }

    /// As [`Bench::recommend`]; one lap for each stage, `stage:NAME`.
    pub fn stages(&self, person: usize, meter: &mut Meter) -> Slate {
        meter.skip();
        let mut observer = |stage: Stage| meter.lap(&format!("stage:{}", stage.name()));
        self.engine.recommend_observed(&self.query, &self.people[person], &self.world, &[], &mut observer)
    }

    /// Every source by itself, with all that it needs; a lap for each, `source:NAME`, and its hits.
    pub fn sources(&self, person: usize, meter: &mut Meter) -> Vec<(&'static str, Vec<Hit>)> {
        source_names().flat_map(|name| self.probe(person, &[name], meter)).collect()
    }

    /// All sources in turn, what they share computed once: the least that retrieval can cost. A lap for each.
    pub fn retrieval(&self, person: usize, meter: &mut Meter) -> Vec<(&'static str, Vec<Hit>)> {
        self.probe(person, &source_names().collect::<Vec<_>>(), meter)
    }

    fn probe(&self, person: usize, names: &[&str], meter: &mut Meter) -> Vec<(&'static str, Vec<Hit>)> {
        let mut answers = Vec::new();
        let observer = &mut |name: &'static str, hits: &[Hit]| {
            if !name.is_empty() {
                meter.lap(&format!("source:{name}"));
                answers.push((name, hits.to_vec()));
            }
            meter.skip();
        };
        self.engine.probe((&self.query, &self.people[person], &self.world), names, observer);
        answers
    }

    /// The ranked candidates of a person with their features and scores, and the hits of the planned sources.
    pub fn recorded(&self, person: usize) -> Slate {
        let query = Query { record: Record { rows: true, hits: true }, ..self.query.clone() };
        self.engine.recommend(&query, &self.people[person], &self.world, &[])
    }

    /// The ranker alone on these rows; a lap `ranker`. `None` without a ranker.
    ///
    /// # Errors
    /// The model fails.
    pub fn rank(&self, rows: &Rows, meter: &mut Meter) -> Result<Option<Vec<f32>>> {
        let Some(ranker) = self.engine.bundle().ranker() else { return Ok(None) };
        let mut scores = Vec::new();
        meter.skip();
        let done = ranker.score(&rows.features, rows.items.len(), &mut scores);
        meter.lap("ranker");
        done.context("the ranker")?;
        Ok(Some(scores))
    }

    /// The person's own vector of the bundle; `None` for one that it does not know.
    fn vector(&self, person: usize) -> Option<Vec<f32>> {
        let users = self.engine.bundle().users()?;
        let row = users.by_hash.get(&id_hash(self.people[person].user.as_ref()?))?;
        Some(users.index.vector(*row).to_vec())
    }
}
