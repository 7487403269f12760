//! The command line: one file a command. `anyhow` is for here and nowhere deeper.

mod artifacts;
pub mod bundle;
mod bundle_build;
mod config;
mod evaluate;
mod export;
mod import;
mod replay;
mod serve;
mod skew;
mod status;
mod store_copy;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};
use marquee_engine::bundle::OpenOptions;
use marquee_engine::profile::ProfileLimits;

use crate::artifacts::{self as kept, Artifacts};
use crate::config::{Config, EXIT_BAD_CONFIG, Limits, Problems};
use crate::store::{self, Store};
use crate::telemetry::{self, Metrics};
use crate::timeline::Timeline;

/// A two-stage recommendation service: candidates from several sources, a learned ranker, fresh on every request.
#[derive(Debug, Parser)]
#[command(name = "marquee", version)]
pub struct Cli {
    /// The configuration file; without it, ./marquee.toml if it exists, else defaults. Environment variables
    /// MARQUEE_SECTION__KEY go over it.
    #[arg(long, global = true, env = "MARQUEE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or SIGINT, then finishes what runs.
    Serve,
    /// Lists, checks, activates and rolls back bundles; a running server follows within a second.
    Bundle(bundle::Args),
    /// Keeps training rows and quarantine files where bundles are kept.
    Artifacts(artifacts::Args),
    /// Brings items, users and events into the store.
    Import(import::Args),
    /// Writes the arrays that training reads.
    Export(export::Args),
    /// Walks a period of the log through the engine and writes training rows.
    Replay(replay::Args),
    /// Measures the slates of a bundle on a later period, beside baselines.
    Evaluate(evaluate::Args),
    /// Asks every logged slate's question again and compares features and order, bit for bit.
    Skew(skew::Args),
    /// Writes everything that the store holds to a file, or fills an empty store from one.
    Store(store_copy::Args),
    /// Says what the store holds and which bundle serves.
    Status(status::Args),
    /// Checks or shows the configuration.
    Config(config::Args),
}

/// Runs one command; its failure is printed with its causes and gives status 1, a bad configuration status 64.
pub fn run(cli: Cli) -> ExitCode {
    let file = cli.config.or_else(|| Some(PathBuf::from("marquee.toml")).filter(|file| file.exists()));
    let environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let config = match Config::load(file.as_deref(), environment) {
        Ok(config) => config,
        Err(problems) => {
            let _stderr_closed = write!(std::io::stderr(), "{problems}");
            return ExitCode::from(EXIT_BAD_CONFIG);
        }
    };
    telemetry::init(&config.log);
    crate::tls::install_provider();
    match execute(cli.command, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Problems>() {
            Some(problems) => {
                let _stderr_closed = write!(std::io::stderr(), "{problems}");
                ExitCode::from(EXIT_BAD_CONFIG)
            }
            None => {
                let _stderr_closed = writeln!(std::io::stderr(), "error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn execute(command: Command, config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        match command {
            Command::Serve => serve::run(config).await,
            Command::Bundle(args) => bundle::run(&config, args).await,
            Command::Artifacts(args) => artifacts::run(&config, args).await,
            Command::Import(args) => import::run(&config, args).await,
            Command::Export(args) => export::run(&config, &args).await,
            Command::Replay(args) => replay::run(&config, args).await,
            Command::Evaluate(args) => evaluate::run(&config, args).await,
            Command::Skew(args) => skew::run(&config, &args).await,
            Command::Store(args) => store_copy::run(&config, args).await,
            Command::Status(args) => status::run(&config, &args).await,
            Command::Config(args) => config::run(&config, &args),
        }
    })
}

/// The config's store, for a command that runs beside a server or without one.
async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    store::open(config, Arc::new(Metrics::new()))
        .await
        .map_err(|error| anyhow::anyhow!(error.detail()))
        .with_context(|| format!("opening the store {}", config.store.url))
}

/// Where the config's bundles are kept.
async fn open_artifacts(config: &Config) -> anyhow::Result<Arc<dyn Artifacts>> {
    kept::open(config, Arc::new(Metrics::new())).await.map_err(told)
}

/// The whole log in order, for commands that walk the past.
async fn load_timeline(config: &Config) -> anyhow::Result<Timeline> {
    let store = open_store(config).await?;
    let timeline = Timeline::load(&*store, &config.events.policy).await;
    store.close().await;
    timeline.map_err(told).context("reading the log")
}

/// How bundles are opened.
fn open_options(config: &Config) -> OpenOptions {
    OpenOptions { exact_below_items: config.ranking.exact_below_items, ef_search: config.ranking.ef_search }
}

/// Bounds of profiles.
fn profile_limits(config: &Config) -> ProfileLimits {
    let Limits { profile_events_max, profile_seen_max, .. } = config.limits;
    ProfileLimits { profile_events_max, profile_seen_max }
}

/// What a command has to say goes to standard output; logs go to standard error.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// The store's errors with their details: a command's user is the operator.
#[allow(clippy::needless_pass_by_value)] // for map_err
fn told(error: crate::error::Error) -> anyhow::Error {
    anyhow::anyhow!(error.detail())
}

/// A progress bar on a terminal; nothing elsewhere.
fn progress(total: u64, doing: &'static str) -> indicatif::ProgressBar {
    let style =
        indicatif::ProgressStyle::with_template("{msg:>16} [{bar:40}] {human_pos}/{human_len} {per_sec} eta {eta}");
    let bar = indicatif::ProgressBar::new(total).with_message(doing);
    match style {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
