//! `marquee import`: files into the store.
//!
//! A reader for each layout turns rows into items, users and event drafts; [`sink::Sink`] checks them by the rules of
//! the RPCs, counts what it refuses and keeps it in a quarantine file, and writes the rest in order of time.
//! Importing the same files again changes nothing.

mod dat;
mod marquee;
mod movielens;
mod recbole;
mod report;
mod sink;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

use super::{open_store, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::events::quarantine::Quarantine;
use sink::Sink;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How the files are laid out; see docs/data.md.
    #[arg(long, value_enum, default_value = "marquee")]
    layout: Layout,
    /// Files or folders of that layout.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// movielens: JSON lines with cast, directors and text by movieId.
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// movielens: read tags.csv into the items' tags. Tags are written after the fact by the users whose ratings are
    /// tested: leave it off for an honest evaluation.
    #[arg(long)]
    tags: bool,
    /// movielens: ratings are multiplied by this. Event weights expect 0.5 to 5: a scale of 0 to 10 takes 0.5.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = rating_factor)]
    rating_factor: f64,
    /// Where refused rows go; made only if there are any.
    #[arg(long, value_name = "FILE")]
    quarantine: Option<PathBuf>,
    /// More events than this are refused: they are sorted in memory.
    #[arg(long, default_value_t = 20_000_000)]
    events_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// items, users, events as .jsonl or .csv.
    Marquee,
    /// A folder with movies and ratings, as .csv or .dat.
    Movielens,
    /// MovieLens 100K as in the wheel recbole-1.2.1, or the unpacked files.
    #[value(name = "recbole-ml-100k")]
    RecboleMl100k,
}

fn rating_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| factor.is_finite() && *factor > 0.0);
    factor.ok_or_else(|| "must be a number above 0".to_owned())
}

pub(super) async fn run(config: &Config, args: Args) -> Result<()> {
    if args.layout != Layout::Movielens && (args.tags || args.metadata.is_some() || args.rating_factor != 1.0) {
        bail!("--tags, --metadata and --rating-factor belong to --layout movielens");
    }
    let clock = Clock::system();
    let path = args.quarantine.clone().unwrap_or_else(|| {
        PathBuf::from(&config.events.quarantine_folder).join(format!("import-{}.jsonl", clock.now_ms()))
    });
    let mut sink = Sink::new(config, Quarantine::new(path), clock.now_ms(), args.events_max);
    match args.layout {
        Layout::Marquee => marquee::read(&args.paths, &mut sink)?,
        Layout::Movielens => {
            let (metadata, tags, rating_factor) = (args.metadata.as_deref(), args.tags, args.rating_factor);
            let options = movielens::Options { metadata, tags, rating_factor };
            movielens::read(&args.paths, &options, &mut sink)?;
        }
        Layout::RecboleMl100k => recbole::read(&args.paths, &mut sink)?,
    }
    let store = open_store(config).await?;
    let report = sink.write(&*store).await;
    store.close().await;
    print(&report?.to_string())
}

#[cfg(test)]
mod tests;
