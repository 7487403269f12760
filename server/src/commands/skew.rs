//! `marquee skew`: asks every logged slate's question again and compares, bit for bit.
//!
//! The slate log says which bundle, which position of the log and which version of the profile answered. World and
//! profile are built again from the log, the engine is asked the same, and features, scores and order must be equal.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use marquee_engine::Engine;
use marquee_engine::bundle::Bundle;
use marquee_engine::types::{Record, Seq, TimeMs, id_hash};
use marquee_engine::world::{World, WorldBuilder};
use serde::Serialize;

use super::{open_store, print, progress, told};
use crate::bundles::Registry;
use crate::clock::Clock;
use crate::config::Config;
use crate::events::log_entries;
use crate::profile::Profiles;
use crate::slate_log::{LoggedKind, LoggedQuery};
use crate::store::{LogRow, SlateRecord, Store};
use crate::telemetry::Metrics;

/// Entries or slates read at once.
const PAGE: usize = 2_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Slates answered from this moment on, in milliseconds since the epoch.
    #[arg(long, default_value_t = 0)]
    from: TimeMs,
    /// Slates answered before this moment.
    #[arg(long)]
    until: Option<TimeMs>,
    /// Fails when fewer slates with feature rows than this were compared.
    #[arg(long, default_value_t = 1)]
    at_least: usize,
    /// Where the report goes, as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// What was compared.
#[derive(Debug, Default, Serialize)]
struct Report {
    slates: usize,
    slates_with_rows: usize,
    rows: usize,
    values: usize,
    /// Values that differ, by feature.
    differing_values: BTreeMap<String, usize>,
    differing_slates: Vec<String>,
}

/// Runs the command; fails when anything differs.
pub(super) async fn run(config: &Config, args: &Args) -> Result<()> {
    let store = open_store(config).await?;
    let report = compare(config, args, &store).await;
    store.close().await;
    let report = report?;
    let differing: usize = report.differing_values.values().sum();
    print(&format!(
        "{} slates asked again, {} of them with feature rows: {} rows, {} values\n{} values differ, {} slates differ",
        report.slates,
        report.slates_with_rows,
        report.rows,
        report.values,
        differing,
        report.differing_slates.len()
    ))?;
    if let Some(path) = &args.out {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| path.display().to_string())?;
    }
    for (feature, count) in report.differing_values.iter().take(10) {
        print(&format!("  {feature}: {count}"))?;
    }
    ensure!(differing == 0 && report.differing_slates.is_empty(), "serving and replay disagree");
    ensure!(report.slates_with_rows >= args.at_least, "only {} slates have feature rows", report.slates_with_rows);
    Ok(())
}

async fn compare(config: &Config, args: &Args, store: &Arc<dyn Store>) -> Result<Report> {
    let registry = Registry::new(config, super::open_artifacts(config).await?, store.clone(), Clock::system());
    let profiles = Profiles::new(config, store.clone(), Arc::new(Metrics::new()));
    let mut of_bundle: BTreeMap<String, Vec<SlateRecord>> = BTreeMap::new();
    for slate in slates(&**store, args).await? {
        of_bundle.entry(slate.bundle_version.clone()).or_default().push(slate);
    }
    let mut report = Report::default();
    let bar = progress(of_bundle.values().map(|slates| slates.len() as u64).sum(), "slates");
    for (version, mut slates) in of_bundle {
        let bundle = if version.is_empty() { Bundle::empty() } else { registry.open(&version).await.map_err(told)? };
        let mut past = Past::new(Arc::new(bundle), config, store.clone());
        slates.sort_by_key(|slate| slate.watermark);
        for slate in slates {
            let world = past.world_at(slate.watermark).await?;
            let profile = match &slate.user {
                Some(key) => profiles.at(key, slate.profile_version).await.map_err(told)?,
                None => Default::default(),
            };
            let logged: LoggedQuery = serde_json::from_value(slate.query.clone()).context("a logged query")?;
            let (kind, similar_to) = (logged.kind, logged.similar_to.clone());
            let mut query = logged.query(slate.now_ms);
            query.record = Record { rows: slate.rows.is_some(), hits: false };
            let again = match kind {
                LoggedKind::Recommend => past.engine.recommend(&query, &profile, &world, &[]),
                LoggedKind::Similar => past.engine.similar(&similar_to, &query, &profile, &world),
            };
            report.count(&slate, &again)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(report)
}

/// Slates that were ranked anew (a repeated one has no ranking of its own), oldest first.
async fn slates(store: &dyn Store, args: &Args) -> Result<Vec<SlateRecord>> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let until = args.until.unwrap_or(TimeMs::MAX);
        let page = store.slates_between(args.from, until, after.clone(), PAGE).await.map_err(told)?;
        let Some(last) = page.last() else { return Ok(all) };
        after = Some((last.now_ms, last.slate_id.clone()));
        all.extend(page.into_iter().filter(|slate| slate.ranked_id == slate.slate_id));
    }
}

/// The world of a bundle, moving along the log.
struct Past {
    engine: Engine,
    builder: WorldBuilder,
    policy: marquee_engine::event::EventPolicy,
    store: Arc<dyn Store>,
    position: Seq,
    waiting: std::collections::VecDeque<LogRow>,
    last: Option<Arc<World>>,
}

impl Past {
    fn new(bundle: Arc<Bundle>, config: &Config, store: Arc<dyn Store>) -> Past {
        Past {
            engine: Engine::new(bundle.clone()),
            builder: WorldBuilder::new(bundle),
            policy: config.events.policy.clone(),
            store,
            position: 0,
            waiting: Default::default(),
            last: None,
        }
    }

    /// The world as it was published with that watermark; watermarks must not fall from call to call.
    async fn world_at(&mut self, watermark: Seq) -> Result<Arc<World>> {
        if let Some(world) = self.last.as_ref().filter(|world| world.watermark() == watermark) {
            return Ok(world.clone());
        }
        loop {
            if self.waiting.is_empty() {
                let rows = self.store.log_after(self.position, PAGE).await.map_err(told)?;
                let Some(last) = rows.last() else { break };
                self.position = last.seq;
                self.waiting.extend(rows);
            }
            let Some(row) = self.waiting.pop_front_if(|row| row.seq <= watermark) else { break };
            log_entries(&row, &self.policy).for_each(|entry| self.builder.apply(row.seq, &entry));
            self.builder.advance_to(row.seq);
        }
        let world = Arc::new(self.builder.snapshot());
        self.last = Some(world.clone());
        Ok(world)
    }
}

impl Report {
    fn count(&mut self, logged: &SlateRecord, again: &marquee_engine::types::Slate) -> Result<()> {
        self.slates += 1;
        let same_order = logged.items.len() == again.items.len()
            && logged
                .items
                .iter()
                .zip(&again.items)
                .all(|(logged, again)| *logged.id == *again.id && logged.score.to_bits() == again.score.to_bits());
        if !same_order {
            self.differing_slates.push(logged.slate_id.clone());
        }
        let (Some(rows), Some(found)) = (&logged.rows, &again.rows) else { return Ok(()) };
        let columns = Engine::columns();
        ensure!(rows.columns_hash == id_hash(&columns.join("\n")), "slate {}: other feature columns", logged.slate_id);
        self.slates_with_rows += 1;
        let place: HashMap<&str, usize> = found.items.iter().enumerate().map(|(at, id)| (&**id, at)).collect();
        for (id, values) in rows.items.iter().zip(rows.features.chunks_exact(columns.len())) {
            self.rows += 1;
            self.values += columns.len();
            let again = place.get(id.as_str()).map(|&at| &found.features[at * columns.len()..][..columns.len()]);
            for (at, (column, value)) in columns.iter().zip(values).enumerate() {
                if again.is_none_or(|again| again[at].to_bits() != value.to_bits()) {
                    *self.differing_values.entry((*column).to_owned()).or_default() += 1;
                }
            }
        }
        Ok(())
    }
}
