//! `make bench`: one row for each index, source and stage, the ranker and the whole, at one size of catalogue.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use marquee_engine::index::{Hit, Index};
use marquee_engine::types::Slate;
use serde_json::{Value, json};

use super::check::{self, RECALL_MIN};
use super::{Bench, Meter, Spread, count_instructions, median, print, read_counts};

/// Hits that an index is asked for: as many as sources rank.
const HITS: usize = 300;
/// Users whose requests callgrind follows.
const COUNTED_PEOPLE: usize = 5;

/// Costs by row, in the order in which they are printed.
#[derive(Debug, Default)]
pub struct Table {
    /// Items of the catalogue.
    pub items: usize,
    /// Microseconds of CPU by row: over users, the median of the rounds of each.
    pub cpu_us: Vec<(String, Spread)>,
    /// Instructions by row, where they were counted.
    pub instructions: BTreeMap<String, f64>,
    /// What was verified, by the beginning of a row's name.
    pub verified: Vec<(&'static str, String)>,
    /// Of the ids of all slates: equal on two builds that rank alike.
    pub checksum: u64,
}

impl Bench {
    /// Measures everything and checks every result; `rounds` is how often each user is asked.
    ///
    /// # Errors
    /// A result is wrong.
    pub fn table(&mut self, rounds: usize) -> Result<Table> {
        let mut table = Table { items: self.items(), checksum: 0xcbf2_9ce4_8422_2325, ..Table::default() };
        let mut verified = Verified::default();
        let mut costs: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        for person in 0..self.people.len() {
            self.check(person, &mut verified).with_context(|| format!("user {person}"))?;
            let mut laps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for _ in 0..rounds.max(1) {
                let mut meter = Meter::cpu();
                let slate = self.round(person, &mut meter)?;
                for (name, ns) in meter.take() {
                    if !order.contains(&name) {
                        order.push(name.clone());
                    }
                    laps.entry(name).or_default().push(ns as f64 / 1000.0);
                }
                ensure!(ids(&slate) == verified.slate, "user {person}: another slate when asked again");
            }
            laps.into_iter().for_each(|(name, us)| costs.entry(name).or_default().push(median(us)));
            for byte in verified.slate.bytes() {
                table.checksum = (table.checksum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        table.cpu_us = order.into_iter().map(|name| (name.clone(), Spread::of(costs[&name].clone()))).collect();
        table.verified = verified.finish(self.people.len())?;
        Ok(table)
    }

    /// Everything once for one user.
    fn round(&mut self, person: usize, meter: &mut Meter) -> Result<Slate> {
        self.search(person, meter);
        self.sources(person, meter);
        self.stages(person, meter);
        let recorded = self.recorded(person);
        if let Some(rows) = &recorded.rows {
            self.rank(rows, meter)?;
        }
        meter.skip();
        let slate = self.recommend(person);
        meter.lap("recommend");
        Ok(slate)
    }

    /// Each index asked as its source asks; a lap for each, `index:NAME`.
    fn search(&mut self, person: usize, meter: &mut Meter) -> Vec<(&'static str, Vec<f32>, Vec<Hit>)> {
        let questions = self.questions(person);
        let ask = |(name, query): (&'static str, Vec<f32>)| {
            let index = index(self.engine.bundle(), name)?;
            let (mut hits, ef) = (Vec::with_capacity(HITS), self.engine.bundle().ef_search());
            meter.skip();
            index.search(&query, HITS, ef, index.len(), |_| true, &mut self.scratch, &mut hits);
            meter.lap(&format!("index:{name}"));
            Some((name, query, hits))
        };
        questions.into_iter().filter_map(ask).collect()
    }

    /// The user's vector for items and users, the newest item's words for content.
    fn questions(&self, person: usize) -> Vec<(&'static str, Vec<f32>)> {
        let mut questions = Vec::new();
        if let Some(vector) = self.vector(person) {
            questions.extend([("embedding", vector.clone()), ("users", vector)]);
        }
        let newest = self.people[person].events.last().and_then(|event| self.world.row(&event.item));
        if let (Some(content), Some(row)) = (self.engine.bundle().content(), newest) {
            questions.push(("content", content.index.vector(row).to_vec()));
        }
        questions
    }

    /// Checks every result of one user.
    fn check(&mut self, person: usize, verified: &mut Verified) -> Result<()> {
        let mut meter = Meter::cpu();
        for (name, query, hits) in self.search(person, &mut meter) {
            let index = index(self.engine.bundle(), name).context("it was just asked")?;
            check::hits_of_index(index, &query, &hits).with_context(|| format!("index:{name}"))?;
            verified.recall.entry(name).or_default().push(check::recall(index, &query, &hits));
        }
        let recorded = self.recorded(person);
        for (name, hits) in self.sources(person, &mut meter) {
            verified.hits += hits.len();
            self.check_source(person, name, &hits, &recorded).with_context(|| format!("source:{name}"))?;
        }
        let rows = recorded.rows.as_ref().context("no rows were recorded")?;
        verified.candidates.push(rows.items.len() as f64);
        self.check_features(person, rows).context("stage:features")?;
        if let Some(scores) = self.rank(rows, &mut meter)? {
            self.check_scores(rows, &scores).context("ranker")?;
        }
        let slate = self.stages(person, &mut meter);
        self.check_slate(&slate, &recorded).context("stage:slate")?;
        verified.slate = ids(&slate);
        ensure!(ids(&self.recommend(person)) == verified.slate, "recommend: another slate than with an observer");
        Ok(())
    }

    /// One run of everything for a few users while callgrind counts; the costs are in its files.
    ///
    /// # Errors
    /// The model fails.
    pub fn counted(&mut self) -> Result<()> {
        // Once uncounted: lists that a world makes when they are first asked for are made.
        self.round(0, &mut Meter::cpu())?;
        count_instructions(true);
        let mut meter = Meter::instructions();
        for person in 0..self.people.len().min(COUNTED_PEOPLE) {
            self.round(person, &mut meter)?;
        }
        count_instructions(false);
        Ok(())
    }
}

fn index<'b>(bundle: &'b marquee_engine::bundle::Bundle, name: &str) -> Option<&'b Index> {
    match name {
        "embedding" => bundle.embedding().map(|embedding| &embedding.index),
        "users" => bundle.users().map(|users| &users.index),
        _ => bundle.content().map(|content| &content.index),
    }
}

fn ids(slate: &Slate) -> String {
    slate.items.iter().map(|item| format!("{} ", item.id)).collect()
}

/// What the checks saw.
#[derive(Debug, Default)]
struct Verified {
    recall: BTreeMap<&'static str, Vec<f64>>,
    candidates: Vec<f64>,
    hits: usize,
    slate: String,
}

impl Verified {
    fn finish(self, people: usize) -> Result<Vec<(&'static str, String)>> {
        let mut told = Vec::new();
        for (name, recall) in self.recall {
            let mean = recall.iter().sum::<f64>() / recall.len() as f64;
            ensure!(mean >= RECALL_MIN, "index:{name}: recall@100 is {mean:.4}, at least {RECALL_MIN}");
            told.push((name, format!("recall@100 {mean:.4}, scores are inner products")));
        }
        let candidates = median(self.candidates);
        told.push(("source", format!("{} hits in order, unseen, those of the whole", self.hits / people.max(1))));
        told.push(("stage:features", format!("{candidates} candidates; equal in other company, bit for bit")));
        told.push(("ranker", "alone as together, bit for bit; those of the slate".to_owned()));
        told.push(("stage:slate", "the best of the recorded rows".to_owned()));
        told.push(("recommend", "the observed slate".to_owned()));
        Ok(told)
    }
}

/// Counts instructions by running this program again under callgrind with `arguments`, in `folder`.
///
/// # Errors
/// Valgrind is not there, or the run fails.
pub fn count(arguments: &[String], folder: &Path) -> Result<BTreeMap<String, f64>> {
    let _absent = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)?;
    let program = std::env::current_exe()?;
    let out = format!("--callgrind-out-file={}", folder.join("callgrind.out").display());
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--instr-atstart=no", "--quiet", &out])
        .arg(program)
        .args(arguments)
        .status()
        .context("valgrind is needed to count instructions")?;
    ensure!(status.success(), "callgrind: {status}");
    let counts = read_counts(folder)?;
    ensure!(!counts.is_empty(), "callgrind counted nothing");
    Ok(counts.into_iter().map(|(name, counts)| (name, median(counts.into_iter().map(|count| count as f64)))).collect())
}

impl Table {
    /// Prints it.
    pub fn print(&self) {
        print(&format!("\n{} items: microseconds of CPU over users, median and 99th percentile", self.items));
        let counted = !self.instructions.is_empty();
        let head = if counted { "instructions" } else { "" };
        print(&format!("  {:<30} {:>10} {:>10} {:>13}  verified", "", "median us", "p99 us", head));
        for (name, cost) in &self.cpu_us {
            let count = self.instructions.get(name).map_or_else(String::new, |count| format!("{count:.0}"));
            let is_of = |key: &str| name.ends_with(key) || (key == "source" && name.starts_with("source:"));
            let told = self.verified.iter().find(|(key, _)| is_of(key));
            let told = told.filter(|(key, _)| name.starts_with("index:") != (key.contains(':') || *key == "source"));
            let told = told.map_or("", |(_, told)| told.as_str());
            print(&format!("  {name:<30} {:>10.1} {:>10.1} {count:>13}  {told}", cost.median, cost.p99));
        }
        print(&format!("  checksum of all slates {:016x}", self.checksum));
    }

    /// For a file, to compare two commits.
    pub fn json(&self) -> Value {
        let rows: BTreeMap<&String, Value> = self
            .cpu_us
            .iter()
            .map(|(name, cost)| (name, json!({"cpu_us": cost, "instructions": self.instructions.get(name)})))
            .collect();
        json!({"items": self.items, "checksum": format!("{:016x}", self.checksum), "rows": rows})
    }
}
