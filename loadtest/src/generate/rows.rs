//! Feature rows to train a ranker on: what the engine computes for some users, labelled by what they really like.
//!
//! The label is the user's latent taste for the item and some luck; rows, columns and layout are those of
//! `marquee replay`. The bundle that computes the rows is thrown away: its graphs are poor, and nothing walks them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use marquee_engine::Engine;
use marquee_engine::bundle::arrays::ArraysWriter;
use marquee_engine::bundle::{self, ArrayFiles, Bundle, OpenOptions, Parts};
use marquee_engine::event::{EventKind, EventPolicy};
use marquee_engine::index::BuildParams;
use marquee_engine::types::{Item, Query, Record, Variant};
use marquee_engine::world::{ItemStats, World, WorldBuilder};

use super::random::Random;
use super::{END_MS, Synthetic, parallel};

/// Users whose rows are written.
pub(super) const USERS: usize = 300;
const LUCK: u64 = 7 << 60;
/// Rows kept of each user.
const ROWS_MAX: usize = 100;
/// Share of the rows that is labelled as liked.
const LIKED_SHARE: f64 = 0.08;
/// Deviation of luck beside a taste whose deviation is about 1.
const LUCK_DEVIATION: f64 = 0.6;

impl Synthetic {
    /// Builds a bundle of all of it, without a store, in `folder`; `models` is what [`Synthetic::write_models`] wrote.
    ///
    /// # Errors
    /// A trained file does not fit, or a file cannot be written.
    pub fn write_bundle(&self, models: &Path, folder: &Path, version: &str, graph: BuildParams) -> Result<()> {
        let items: Vec<Arc<Item>> = (0..self.catalogue.len()).map(|row| Arc::new(self.catalogue.item(row))).collect();
        let users: Vec<String> = (0..self.people.len()).map(|user| format!("u:{}", self.people.id(user))).collect();
        let (stats, surfaces) = (self.stats(), [Arc::from("home")]);
        let files = ArrayFiles { models: models.to_owned(), vocabulary: models.join("vocabulary.jsonl") };
        let parts = Parts {
            version: version.to_owned(),
            created_ms: END_MS,
            watermark: self.people.events.len() as u64,
            until_ms: None,
            parent: None,
            items: &items,
            stats: &stats,
            surfaces: &surfaces,
            users: &users,
            files,
            metrics: Default::default(),
            no_ranker_because: Some("it is a synthetic one without a ranker".to_owned()),
            graph,
        };
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        bundle::write(folder, &parts, |_| {})?;
        Ok(())
    }

    fn stats(&self) -> Vec<ItemStats> {
        let policy = EventPolicy::default();
        let mut stats = vec![ItemStats::default(); self.catalogue.len()];
        // In order of time, as days are then only ever added at the end.
        let mut order: Vec<u32> = (0..self.people.events.len() as u32).collect();
        order.sort_unstable_by_key(|&at| (self.people.events[at as usize].time_ms, at));
        for event in order.into_iter().map(|at| &self.people.events[at as usize]) {
            let touch = policy.touch(&EventKind::Rating, Some(event.stars()));
            stats[event.item as usize].add(&touch, event.time_ms, event.at_home.then_some(0));
        }
        stats
    }
}

/// One user's rows.
#[derive(Debug, Default)]
struct Group {
    features: Vec<f32>,
    labels: Vec<f32>,
    blend: Vec<f32>,
    items: Vec<u32>,
}

/// Writes `rows.safetensors` of so many members.
pub(super) fn write(made: &Synthetic, out: &Path, users: usize) -> Result<()> {
    let draft = out.join("rows-bundle");
    let graph = BuildParams { m: 4, ef_construction: 8, threads: 2, ..BuildParams::default() };
    let _absent = std::fs::remove_dir_all(&draft);
    made.write_bundle(&out.join("models"), &draft, "rows", graph)?;
    // The graphs are of no use: everything is scanned.
    let options = OpenOptions { exact_below_items: usize::MAX, ..OpenOptions::default() };
    let bundle = Arc::new(Bundle::open(&draft.join("rows"), &options)?);
    std::fs::remove_dir_all(&draft)?;
    let (engine, world) = (Engine::new(bundle.clone()), WorldBuilder::new(bundle).snapshot());
    let variant = variant("blend")?;
    let is_member = |user: &usize| made.people.history(*user).len() >= 20;
    let members: Vec<usize> = (0..made.people.len()).filter(is_member).collect();
    let kept = members.len().min(users);
    let picked: Vec<usize> = (0..kept).map(|at| members[at * members.len() / kept]).collect();
    let groups = parallel(kept, |at| group(made, &engine, &world, &variant, picked[at]));
    let width = Engine::columns().len();
    let all = |pick: fn(&Group) -> &Vec<f32>| groups.iter().flat_map(pick).copied().collect::<Vec<f32>>();
    let (features, label, blend) =
        (all(|group| &group.features), all(|group| &group.labels), all(|group| &group.blend));
    let item: Vec<u32> = groups.iter().flat_map(|group| group.items.iter().copied()).collect();
    let counts: Vec<u32> = groups.iter().map(|group| group.labels.len() as u32).collect();
    let user: Vec<u32> = picked.iter().map(|user| *user as u32).collect();
    ArraysWriter::default()
        .add("features", &[label.len(), width], &features)
        .add("label", &[label.len()], &label)
        .add("blend", &[label.len()], &blend)
        .add("item", &[label.len()], &item)
        .add("group", &[counts.len()], &counts)
        .add("user", &[user.len()], &user)
        .add("time_ms", &[user.len()], &vec![END_MS; user.len()])
        .text("columns", &serde_json::to_string(Engine::columns())?)
        .write(&out.join("rows.safetensors"))?;
    Ok(())
}

fn group(made: &Synthetic, engine: &Engine, world: &World, variant: &Arc<Variant>, user: usize) -> Group {
    let mut query = Query::new(END_MS, "home", 1, variant.clone());
    query.record = Record { rows: true, hits: false };
    let profile = made.member(user).profile(&EventPolicy::default());
    let rows = engine.recommend(&query, &profile, world, &[]).rows.unwrap_or_default();
    let taste = made.people.taste(&made.catalogue, made.seed, user);
    let mut random = Random::new(made.seed, LUCK ^ user as u64);
    let width = Engine::columns().len();
    let row_of = |at: usize| world.row(&rows.items[at]).expect("a candidate is in the world") as usize;
    let kept: Vec<usize> = {
        let every = rows.items.len().div_ceil(ROWS_MAX).max(1);
        (0..rows.items.len()).step_by(every).collect()
    };
    let liking: Vec<f64> = kept
        .iter()
        .map(|&at| {
            let row = row_of(at);
            let popular = 0.3 * made.catalogue.weight[row].ln();
            let quality = 0.5 * f64::from(made.catalogue.quality[row]);
            taste.fit(&made.catalogue, row) + quality + popular + LUCK_DEVIATION * random.normal()
        })
        .collect();
    let mut sorted = liking.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let least = sorted.get((kept.len() as f64 * LIKED_SHARE) as usize).copied().unwrap_or(f64::INFINITY);
    let mut group = Group::default();
    for (&at, liking) in kept.iter().zip(liking) {
        group.features.extend_from_slice(&rows.features[at * width..(at + 1) * width]);
        group.labels.push(if liking > least { 1.0 } else { 0.0 });
        group.blend.push(rows.blend[at]);
        group.items.push(row_of(at) as u32);
    }
    group
}

/// A built-in recipe, as the sample configuration gives it (which a test of the server keeps true).
///
/// # Errors
/// There is none of that name.
pub fn variant(name: &str) -> Result<Arc<Variant>> {
    #[derive(serde::Deserialize)]
    struct Sample {
        variants: std::collections::BTreeMap<String, toml::Table>,
    }
    let sample: Sample = toml::from_str(include_str!("../../../server/marquee.sample.toml"))?;
    let mut recipe = sample.variants.get(name).cloned().with_context(|| format!("no variant {name:?}"))?;
    recipe.insert("name".to_owned(), name.into());
    Ok(Arc::new(recipe.try_into()?))
}
