//! `marquee evaluate`: how good are the slates of a bundle on a later period of the log, beside baselines?
//!
//! Every moment goes through the same engine as serving does, with the world and the profile as they were.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use marquee_engine::bundle::Bundle;
use marquee_engine::bundle::arrays::{Arrays, ArraysWriter};
use marquee_engine::profile::ProfileLimits;
use marquee_engine::types::{Item, Query, Record, SourcePlan, TimeMs, Variant};
use marquee_engine::{Engine, source_names};
use serde::Serialize;

use crate::config::Config;
use crate::evaluation::{
    ListReport, NDCG_DEPTH, Popularity, RECALL_DEPTH, RELEVANT_MAX_ITEMS, SOURCE_DEPTH, Tally, recall,
};
use crate::timeline::{Moment, Timeline, Walker};

/// Arguments of `marquee evaluate`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The bundle's folder; without it only the lists of `--lists` are measured.
    #[arg(long)]
    bundle: Option<PathBuf>,
    /// The export that the bundle and the baselines were fitted on: item numbers in lists are its rows.
    #[arg(long)]
    data: PathBuf,
    /// Start of the period, in milliseconds since the epoch.
    #[arg(long)]
    from: TimeMs,
    /// End of the period (exclusive); the end of the log when it is left out.
    #[arg(long)]
    until: Option<TimeMs>,
    /// Moments of one user, at most.
    #[arg(long, default_value_t = 20)]
    moments_max: usize,
    /// Measures strangers instead: the first moment of every user whose first event lies in the period.
    #[arg(long)]
    cold: bool,
    /// Folder of baselines' lists: NAME.safetensors with `items` u32 [moments, 20].
    #[arg(long)]
    lists: Option<PathBuf>,
    /// Writes the moments and their profiles here, for baselines.
    #[arg(long)]
    moments_out: Option<PathBuf>,
    /// Only writes the moments.
    #[arg(long)]
    moments_only: bool,
    /// Variants to measure.
    #[arg(long, value_delimiter = ',', default_value = "default,blend,popular")]
    variants: Vec<String>,
    /// Where the report goes, as JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The report.
#[derive(Debug, Serialize)]
struct Report {
    bundle: Option<String>,
    from_ms: TimeMs,
    until_ms: TimeMs,
    moments: usize,
    users: usize,
    lists: BTreeMap<String, ListReport>,
    recall_at_500: BTreeMap<String, f64>,
}

/// A moment with what follows it.
struct Question {
    moment: Moment,
    relevant: Vec<Arc<str>>,
}

/// Runs the command.
///
/// # Errors
/// The log, the bundle or a list cannot be read.
pub(super) async fn run(config: &Config, args: Args) -> Result<()> {
    let timeline = super::load_timeline(config).await?;
    let until = args.until.unwrap_or(TimeMs::MAX);
    let catalogue = read_items(&args.data)?;
    let moments = if args.cold {
        timeline.first_moments(args.from, until)
    } else {
        timeline.moments(args.from, until, args.moments_max)
    };
    let known: std::collections::HashSet<&str> = catalogue.iter().map(|item| &*item.id).collect();
    let question = |moment: Moment| {
        let mut relevant = timeline.next_liked(moment, until, RELEVANT_MAX_ITEMS);
        relevant.retain(|item| known.contains(&**item));
        Question { moment, relevant }
    };
    let questions: Vec<Question> =
        moments.into_iter().map(question).filter(|question| !question.relevant.is_empty()).collect();
    ensure!(!questions.is_empty(), "the period has no moment that a positive event follows");
    if let Some(path) = &args.moments_out {
        write_moments(path, &timeline, &questions, &catalogue)?;
    }
    if args.moments_only {
        return Ok(());
    }
    let before = timeline.events.iter().filter(|event| event.time_ms < args.from && event.touch.interaction);
    let popularity = Popularity::new(before.map(|event| event.item.clone()), catalogue.len());
    let mut report = Report {
        bundle: None,
        from_ms: args.from,
        until_ms: until,
        moments: questions.len(),
        users: questions.iter().map(|question| question.moment.user).collect::<std::collections::HashSet<_>>().len(),
        lists: BTreeMap::new(),
        recall_at_500: BTreeMap::new(),
    };
    if let Some(folder) = &args.lists {
        measure_lists(folder, &questions, &catalogue, &popularity, &mut report)?;
    }
    if let Some(folder) = &args.bundle {
        let bundle = Arc::new(Bundle::open(folder, &super::open_options(config))?);
        report.bundle = Some(bundle.manifest().version.clone());
        let variants = variants(config, &args.variants)?;
        let job = Job { timeline: &timeline, limits: super::profile_limits(config), popularity: &popularity, variants };
        job.run(&bundle, &questions, catalogue.len(), &mut report);
    }
    super::print(&table(&report))?;
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

pub(super) fn read_items(export: &Path) -> Result<Vec<Arc<Item>>> {
    let path = export.join("items.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let parse = |(line, text): (usize, &str)| {
        serde_json::from_str::<Item>(text)
            .map(Arc::new)
            .with_context(|| format!("{}: line {}", path.display(), line + 1))
    };
    text.lines().enumerate().map(parse).collect()
}

/// The variants by name: ours are named "ranked" for the default one, else by their own name.
fn variants(config: &Config, names: &[String]) -> Result<Vec<(String, Arc<Variant>)>> {
    let find = |name: &String| match config.variants.get(name) {
        Some(variant) => Ok((if name == "default" { "ranked".to_owned() } else { name.clone() }, variant.clone())),
        None => bail!("--variants: there is no variant {name:?} in the config"),
    };
    names.iter().map(find).collect()
}

struct Job<'a> {
    timeline: &'a Timeline,
    limits: ProfileLimits,
    popularity: &'a Popularity,
    variants: Vec<(String, Arc<Variant>)>,
}

/// What one thread counted.
#[derive(Default)]
struct Counted {
    lists: BTreeMap<String, Tally>,
    recall_at_500: BTreeMap<String, (f64, f64)>,
}

impl Job<'_> {
    fn run(&self, bundle: &Arc<Bundle>, questions: &[Question], catalogue: usize, report: &mut Report) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let bar = super::progress(questions.len() as u64, "moments");
        // Each thread walks its own stretch of time.
        let counted: Vec<Counted> = std::thread::scope(|scope| {
            let stretch = questions.len().div_ceil(threads).max(1);
            let start = |questions| {
                let bar = &bar;
                scope.spawn(move || self.walk(bundle, questions, bar))
            };
            let running: Vec<_> = questions.chunks(stretch).map(start).collect();
            running.into_iter().map(|thread| thread.join().expect("evaluation does not panic")).collect()
        });
        bar.finish_and_clear();
        let mut all = Counted::default();
        for part in counted {
            part.lists.into_iter().for_each(|(name, tally)| all.lists.entry(name).or_default().merge(tally));
            for (name, (sum, count)) in part.recall_at_500 {
                let all = all.recall_at_500.entry(name).or_default();
                *all = (all.0 + sum, all.1 + count);
            }
        }
        report.lists.extend(all.lists.into_iter().map(|(name, tally)| (name, tally.report(catalogue))));
        report.recall_at_500 = all.recall_at_500.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect();
    }

    fn walk(&self, bundle: &Arc<Bundle>, questions: &[Question], bar: &indicatif::ProgressBar) -> Counted {
        let engine = Engine::new(bundle.clone());
        let mut walker = Walker::new(self.timeline, bundle.clone());
        let (mut counted, sources) = (Counted::default(), Arc::new(all_sources()));
        for question in questions {
            let Question { moment, relevant } = question;
            let world = walker.world_before(moment.time_ms);
            let profile = self.timeline.profile(*moment, &self.limits);
            let ask = |variant: &Arc<Variant>, hits: bool| {
                let surface = self.timeline.surface(*moment);
                let surface = if surface.is_empty() { "default" } else { &*surface };
                let mut query = Query::new(moment.time_ms, surface, RECALL_DEPTH, variant.clone());
                query.record = Record { hits, rows: false };
                engine.recommend(&query, &profile, &world, &[])
            };
            for (name, variant) in &self.variants {
                let slate = ask(variant, false);
                let list: Vec<Arc<str>> = slate.items.into_iter().map(|item| item.id).collect();
                counted.lists.entry(name.clone()).or_default().add(moment.user, &list, relevant, self.popularity);
            }
            let mut count = |name: &str, list: &[Arc<str>], depth: usize| {
                let sum = counted.recall_at_500.entry(name.to_owned()).or_default();
                *sum = (sum.0 + recall(list, relevant, depth), sum.1 + 1.0);
            };
            let hits = ask(&sources, true).hits;
            hits.iter().for_each(|(name, list)| count(name, list, SOURCE_DEPTH));
            let mut union: Vec<Arc<str>> = hits.into_iter().flat_map(|(_, list)| list).collect();
            union.sort_unstable();
            union.dedup();
            count("union", &union, usize::MAX);
            bar.inc(1);
        }
        counted
    }
}

/// Every source with the depth at which they are compared.
fn all_sources() -> Variant {
    let plan = SourcePlan { weight: 1.0, budget_items: SOURCE_DEPTH };
    Variant {
        name: "all_sources".to_owned(),
        sources: source_names().map(|name| (name.to_owned(), plan)).collect(),
        ranker: false,
        head_weights: BTreeMap::new(),
        candidates_max_items: usize::MAX,
    }
}

fn measure_lists(
    folder: &Path,
    questions: &[Question],
    catalogue: &[Arc<Item>],
    popularity: &Popularity,
    report: &mut Report,
) -> Result<()> {
    let files = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths = files.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == "safetensors")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut arrays = Arrays::open(path)?.with_context(|| format!("{}: removed while this ran", path.display()))?;
        let (rows, width) = arrays.matrix::<u32>("items", questions.len())?;
        let mut tally = Tally::default();
        for (question, list) in questions.iter().zip(rows.chunks_exact(width.max(1))) {
            let list = list.iter().filter_map(|&row| catalogue.get(row as usize)).map(|item| item.id.clone());
            tally.add(question.moment.user, &list.collect::<Vec<_>>(), &question.relevant, popularity);
        }
        report.lists.insert(name, tally.report(catalogue.len()));
    }
    Ok(())
}

fn write_moments(path: &Path, timeline: &Timeline, questions: &[Question], catalogue: &[Arc<Item>]) -> Result<()> {
    let rows: std::collections::HashMap<&str, u32> = catalogue.iter().map(|item| &*item.id).zip(0..).collect();
    let (mut offsets, mut items, mut weights) = (vec![0_i64], Vec::new(), Vec::new());
    for question in questions {
        let events = timeline.by_user[question.moment.user as usize].iter().map(|&at| &timeline.events[at as usize]);
        let before = events.take_while(|event| event.time_ms < question.moment.time_ms);
        for event in before.filter(|event| event.touch.interaction) {
            if let Some(&row) = rows.get(&*event.item) {
                items.push(row);
                weights.push(event.touch.weight);
            }
        }
        offsets.push(items.len() as i64);
    }
    let users: Vec<u32> = questions.iter().map(|question| question.moment.user).collect();
    let times: Vec<i64> = questions.iter().map(|question| question.moment.time_ms).collect();
    ArraysWriter::default()
        .add("user", &[users.len()], &users)
        .add("time_ms", &[times.len()], &times)
        .add("offsets", &[offsets.len()], &offsets)
        .add("item", &[items.len()], &items)
        .add("weight", &[weights.len()], &weights)
        .write(path)?;
    Ok(())
}

/// The report as people read it, best NDCG first.
fn table(report: &Report) -> String {
    let mut text = format!("{} moments of {} users\n\n", report.moments, report.users);
    text += &format!(
        "{:<24} {:>8} {:>9} {:>9} {:>8}\n",
        "",
        format!("NDCG@{NDCG_DEPTH}"),
        "recall@20",
        "coverage",
        "novelty"
    );
    let mut lists: Vec<_> = report.lists.iter().collect();
    lists.sort_by(|a, b| b.1.ndcg_at_10.total_cmp(&a.1.ndcg_at_10));
    for (name, list) in lists {
        let ListReport { ndcg_at_10, recall_at_20, coverage, novelty, .. } = list;
        text += &format!("{name:<24} {ndcg_at_10:>8.4} {recall_at_20:>9.4} {coverage:>9.3} {novelty:>8.2}\n");
    }
    if !report.recall_at_500.is_empty() {
        text += &format!("\n{:<24} {:>10}\n", "source", "recall@500");
        let mut sources: Vec<_> = report.recall_at_500.iter().collect();
        sources.sort_by(|a, b| b.1.total_cmp(a.1));
        sources.into_iter().for_each(|(name, recall)| text += &format!("{name:<24} {recall:>10.4}\n"));
    }
    text
}
