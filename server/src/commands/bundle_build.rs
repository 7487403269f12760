//! `marquee bundle build`: from an export and trained arrays to a sealed bundle.
//!
//! Items and rows are those of the export; statistics are counted from the log up to the export's watermark and cut.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use marquee_engine::bundle::{self, ArrayFiles, Parts};
use marquee_engine::index::BuildParams;
use marquee_engine::types::{Seq, TimeMs};
use marquee_engine::world::{ItemStats, SURFACES_MAX};
use serde::Deserialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::timeline::Timeline;

/// Arguments of `marquee bundle build`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The export folder that the models were fitted on.
    #[arg(long)]
    data: PathBuf,
    /// The folder of trained arrays and the model.
    #[arg(long)]
    models: PathBuf,
    /// Folder in which the bundle's own folder is made.
    #[arg(long)]
    out: PathBuf,
    /// The bundle's name; from the time and the data when it is left out.
    #[arg(long)]
    version: Option<String>,
    /// The bundle that it replaces.
    #[arg(long)]
    parent: Option<String>,
    /// JSON object of metrics that go into the manifest.
    #[arg(long)]
    metrics: Option<PathBuf>,
    /// Why there is no ranker, in plain words, when the models folder has none; slates and status repeat it.
    #[arg(long, default_value = "it was built without one")]
    no_ranker_because: String,
    /// Threads that build graphs; on one thread the same vectors always give the same graph.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// `export.json`, as far as a bundle needs it.
#[derive(Debug, Deserialize)]
struct Export {
    watermark: Seq,
    until_ms: Option<TimeMs>,
}

#[derive(Debug, Deserialize)]
struct UserLine {
    id: String,
}

/// Runs the command; the last line it prints is the bundle's version.
///
/// # Errors
/// Something is missing or does not fit; no bundle is left behind then.
pub(super) async fn run(config: &Config, args: Args) -> Result<()> {
    let timeline = super::load_timeline(config).await?;
    let export: Export = read_json(&args.data.join("export.json"))?;
    ensure!(export.watermark <= timeline.watermark, "the export is of a longer log than this store holds");
    let items = super::evaluate::read_items(&args.data)?;
    let users = read_users(&args.data.join("users.jsonl"))?;
    let metrics: BTreeMap<String, f64> = args.metrics.as_deref().map(read_json).transpose()?.unwrap_or_default();
    let rows: HashMap<&str, usize> = items.iter().enumerate().map(|(row, item)| (&*item.id, row)).collect();
    let (stats, surfaces) = statistics(&timeline, &export, &rows, items.len());
    let created_ms = Clock::system().now_ms();
    let parts = Parts {
        version: args.version.unwrap_or_else(|| version(created_ms, &export)),
        created_ms,
        watermark: export.watermark,
        until_ms: export.until_ms,
        parent: args.parent,
        items: &items,
        stats: &stats,
        surfaces: &surfaces,
        users: &users,
        files: ArrayFiles { models: args.models, vocabulary: args.data.join("vocabulary.jsonl") },
        metrics,
        no_ranker_because: Some(args.no_ranker_because),
        graph: BuildParams { threads: args.threads, ..BuildParams::default() },
    };
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    let manifest = bundle::write(&args.out, &parts, |doing| tracing::info!("{doing}"))?;
    super::print(&manifest.version)
}

/// Statistics by row, and the surfaces by number.
fn statistics(
    timeline: &Timeline,
    export: &Export,
    rows: &HashMap<&str, usize>,
    items: usize,
) -> (Vec<ItemStats>, Vec<Arc<str>>) {
    let mut stats = vec![ItemStats::default(); items];
    let mut surfaces: Vec<Arc<str>> = Vec::new();
    let mut events: Vec<_> = timeline.events.iter().collect();
    // Surfaces are numbered in the order of the log, as the world does.
    events.sort_by_key(|event| event.seq);
    for event in events {
        let is_in = event.seq <= export.watermark && export.until_ms.is_none_or(|until| event.time_ms < until);
        let Some(&row) = rows.get(&*event.item).filter(|_| is_in) else { continue };
        let known = surfaces.iter().position(|surface| *surface == event.surface);
        let surface = if event.surface.is_empty() {
            None
        } else {
            known.or_else(|| {
                (surfaces.len() < SURFACES_MAX).then(|| {
                    surfaces.push(event.surface.clone());
                    surfaces.len() - 1
                })
            })
        };
        stats[row].add(&event.touch, event.time_ms, surface.map(|surface| surface as u16));
    }
    (stats, surfaces)
}

/// Sorts by creation; a backtest says so in its name.
fn version(created_ms: TimeMs, export: &Export) -> String {
    let kind = if export.until_ms.is_some() { "backtest" } else { "live" };
    format!("{created_ms:013}-{kind}-{}", export.watermark)
}

fn read_users(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let parse = |line: &str| Ok(serde_json::from_str::<UserLine>(line)?.id);
    text.lines().map(parse).collect::<Result<_>>().with_context(|| path.display().to_string())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
