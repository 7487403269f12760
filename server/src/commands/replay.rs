//! `marquee replay`: walks a period of the log through the engine and writes training rows.
//!
//! Point in time: each row holds what serving would have computed just before the moment. Rows hold only candidates
//! that the sources retrieved; adding the missed positives would teach the ranker who was added.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use marquee_engine::Engine;
use marquee_engine::bundle::Bundle;
use marquee_engine::bundle::arrays::ArraysWriter;
use marquee_engine::profile::ProfileLimits;
use marquee_engine::types::{Query, Record, Rows, TimeMs, Variant, id_hash};

use crate::config::Config;
use crate::evaluation::RELEVANT_MAX_ITEMS;
use crate::timeline::{Moment, Timeline, Walker};

/// Arguments of `marquee replay`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bundle's folder; its data must end where the period begins.
    #[arg(long)]
    bundle: PathBuf,
    /// Start of the period, in milliseconds since the epoch.
    #[arg(long)]
    from: TimeMs,
    /// End of the period (exclusive); the end of the log when it is left out.
    #[arg(long)]
    until: Option<TimeMs>,
    /// Moments of one user, at most.
    #[arg(long, default_value_t = 20)]
    moments_max: usize,
    /// Rows without a positive that are kept of one moment, drawn evenly.
    #[arg(long, default_value_t = 100)]
    negatives_max: usize,
    /// The variant whose candidates are taken.
    #[arg(long, default_value = "default")]
    variant: String,
    /// Where the rows go.
    #[arg(long)]
    out: PathBuf,
}

/// Rows of some moments, in order of time.
#[derive(Debug, Default)]
struct Written {
    features: Vec<f32>,
    labels: Vec<f32>,
    blend: Vec<f32>,
    items: Vec<u32>,
    groups: Vec<u32>,
    users: Vec<u32>,
    times_ms: Vec<TimeMs>,
    /// Moments of which no source retrieved a positive.
    without_positive: usize,
}

/// Runs the command.
///
/// # Errors
/// The log or the bundle cannot be read, or there is nothing to learn from.
pub(super) async fn run(config: &Config, args: Args) -> Result<()> {
    let timeline = super::load_timeline(config).await?;
    let bundle = Arc::new(Bundle::open(&args.bundle, &super::open_options(config))?);
    let until = args.until.unwrap_or(TimeMs::MAX);
    let variant = config.variants.get(&args.variant).cloned();
    let variant = variant.ok_or_else(|| anyhow::anyhow!("--variant: the config has no variant {:?}", args.variant))?;
    // First moments too: the ranker has to know what to make of a stranger.
    let mut moments = timeline.moments(args.from, until, args.moments_max);
    moments.extend(timeline.first_moments(args.from, until));
    moments.sort_by_key(|moment| (moment.time_ms, moment.user));
    let job = Job {
        timeline: &timeline,
        bundle,
        variant,
        until,
        negatives_max: args.negatives_max,
        limits: super::profile_limits(config),
    };
    let written = job.run(&moments);
    ensure!(!written.groups.is_empty(), "0 positive events in the training window: nothing to learn from");
    super::print(&format!(
        "{} rows of {} moments; {} more moments had no positive among their candidates\n",
        written.labels.len(),
        written.groups.len(),
        written.without_positive
    ))?;
    write(&args.out, &written)
}

struct Job<'a> {
    timeline: &'a Timeline,
    bundle: Arc<Bundle>,
    variant: Arc<Variant>,
    until: TimeMs,
    negatives_max: usize,
    limits: ProfileLimits,
}

impl Job<'_> {
    fn run(&self, moments: &[Moment]) -> Written {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let bar = super::progress(moments.len() as u64, "moments");
        let parts: Vec<Written> = std::thread::scope(|scope| {
            let stretch = moments.len().div_ceil(threads).max(1);
            let start = |moments| {
                let bar = &bar;
                scope.spawn(move || self.walk(moments, bar))
            };
            let running: Vec<_> = moments.chunks(stretch).map(start).collect();
            running.into_iter().map(|thread| thread.join().expect("replay does not panic")).collect()
        });
        bar.finish_and_clear();
        let mut all = Written::default();
        for part in parts {
            all.features.extend(part.features);
            all.labels.extend(part.labels);
            all.blend.extend(part.blend);
            all.items.extend(part.items);
            all.groups.extend(part.groups);
            all.users.extend(part.users);
            all.times_ms.extend(part.times_ms);
            all.without_positive += part.without_positive;
        }
        all
    }

    fn walk(&self, moments: &[Moment], bar: &indicatif::ProgressBar) -> Written {
        let engine = Engine::new(self.bundle.clone());
        let mut walker = Walker::new(self.timeline, self.bundle.clone());
        let mut written = Written::default();
        for &moment in moments {
            bar.inc(1);
            let relevant = self.timeline.next_liked(moment, self.until, RELEVANT_MAX_ITEMS);
            if relevant.is_empty() {
                continue;
            }
            let world = walker.world_before(moment.time_ms);
            let profile = self.timeline.profile(moment, &self.limits);
            // As serving does: an unnamed surface is "default".
            let surface = self.timeline.surface(moment);
            let surface = if surface.is_empty() { "default" } else { &*surface };
            let mut query = Query::new(moment.time_ms, surface, 1, self.variant.clone());
            query.record = Record { rows: true, hits: false };
            let slate = engine.recommend(&query, &profile, &world, &[]);
            let rows = slate.rows.unwrap_or_default();
            let row_of = |id: &str| world.row(id).unwrap_or(u32::MAX);
            self.keep(moment, &relevant, &rows, row_of, &mut written);
        }
        written
    }

    /// Adds the rows of one moment: all positives, and so many of the others, drawn by a hash of moment and item.
    fn keep(
        &self,
        moment: Moment,
        relevant: &[Arc<str>],
        rows: &Rows,
        row_of: impl Fn(&str) -> u32,
        written: &mut Written,
    ) {
        // The sooner it was liked, the higher the grade: 10 for the next one, 1 for the tenth.
        let grades: HashMap<&str, f32> =
            relevant.iter().enumerate().map(|(at, item)| (&**item, (RELEVANT_MAX_ITEMS - at) as f32)).collect();
        let grade = |at: usize| grades.get(&*rows.items[at]).copied().unwrap_or(0.0);
        let (positives, mut negatives): (Vec<usize>, Vec<usize>) =
            (0..rows.items.len()).partition(|&at| grade(at) > 0.0);
        if positives.is_empty() {
            written.without_positive += 1;
            return;
        }
        let draw = |at: &usize| id_hash(&format!("{}:{}:{}", moment.user, moment.time_ms, rows.items[*at]));
        negatives.sort_by_cached_key(draw);
        negatives.truncate(self.negatives_max);
        let mut kept: Vec<usize> = positives.into_iter().chain(negatives).collect();
        kept.sort_unstable();
        let width = rows.features.len() / rows.items.len();
        for &at in &kept {
            written.features.extend_from_slice(&rows.features[at * width..(at + 1) * width]);
            written.labels.push(grade(at));
            written.blend.push(rows.blend[at]);
            written.items.push(row_of(&rows.items[at]));
        }
        written.groups.push(kept.len() as u32);
        written.users.push(moment.user);
        written.times_ms.push(moment.time_ms);
    }
}

fn write(path: &std::path::Path, rows: &Written) -> Result<()> {
    let columns = Engine::columns();
    let len = [rows.labels.len()];
    ArraysWriter::default()
        .add("features", &[rows.labels.len(), columns.len()], &rows.features)
        .add("label", &len, &rows.labels)
        .add("blend", &len, &rows.blend)
        .add("item", &len, &rows.items)
        .add("group", &[rows.groups.len()], &rows.groups)
        .add("user", &[rows.users.len()], &rows.users)
        .add("time_ms", &[rows.times_ms.len()], &rows.times_ms)
        .text("columns", &serde_json::to_string(columns)?)
        .write(path)?;
    Ok(())
}
