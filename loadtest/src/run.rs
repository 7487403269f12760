//! `marquee-loadtest run`: one load.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;

use crate::command::{self, Aim, Findings, Output};
use crate::drive::Load;
use crate::exit::Problem;
use crate::schedule::Arrivals;
use crate::session::{Session, Where};
use crate::table;
use crate::traffic::Log;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    aim: Aim,
    #[command(flatten)]
    output: Output,
    /// Requests a second; of a ramp, at its end.
    #[arg(long, value_parser = command::rate)]
    rate: Option<f64>,
    /// How the instants lie.
    #[arg(long, value_enum, default_value_t = Shape::Poisson)]
    arrivals: Shape,
    /// Of a ramp: the rate at its beginning.
    #[arg(long, value_parser = command::rate, default_value = "1")]
    from_rate: f64,
    /// Replays a recorded log (events.csv of docs/data.md): its users, its items, its instants.
    #[arg(long, conflicts_with_all = ["rate", "closed", "arrivals"])]
    replay: Option<PathBuf>,
    /// Of a replay: so many times as fast as it was recorded.
    #[arg(long, default_value_t = 1.0, value_parser = speed, requires = "replay")]
    speed: f64,
    /// For comparison only: so many callers, each waiting for its answer. Its latencies hide what slow answers hold up.
    #[arg(long, conflicts_with_all = ["rate", "arrivals"], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    closed: Option<u32>,
    /// How long it is measured.
    #[arg(long, value_parser = command::time, default_value = "30s")]
    duration: Duration,
    /// Load before the measuring, so that caches and connections are warm.
    #[arg(long, value_parser = command::time, default_value = "2s")]
    warm_up: Duration,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Shape {
    /// Independent users.
    Poisson,
    /// Equal gaps.
    Constant,
    /// From --from-rate to --rate.
    Ramp,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (0.001..=1e9).contains(speed));
    speed.ok_or_else(|| format!("must be from 0.001 to 1000000000, not \"{text}\""))
}

pub(crate) async fn run(addresses: &[String], args: Args) -> Result<ExitCode, Problem> {
    if args.duration.is_zero() {
        return Err(Problem::usage(anyhow!("--duration: must be above 0")));
    }
    let log = args.replay.as_deref().map(Log::read).transpose();
    let log = log.map_err(|error| Problem::usage(error.context("--replay")))?;
    let mut load = Load {
        arrivals: match args.arrivals {
            Shape::Poisson => Arrivals::Poisson,
            Shape::Constant => Arrivals::Constant,
            Shape::Ramp => Arrivals::Ramp { from: args.from_rate },
        },
        rate: args.rate.unwrap_or(0.0),
        duration: args.duration,
        warm_up: args.warm_up,
        closed: args.closed.map(|callers| callers as usize),
        slo: args.aim.slo(),
        lag_max: args.aim.lag_max(),
        stop_early: false,
        blocks: 10,
        title: "run".to_owned(),
    };
    if let Some(log) = &log {
        let instants: Vec<Duration> = log.rows.iter().map(|row| row.at.div_f64(args.speed)).collect();
        let last = instants.last().copied().unwrap_or_default() + Duration::from_millis(1);
        (load.duration, load.warm_up) = (load.duration.min(last), Duration::ZERO);
        load.arrivals = Arrivals::Recorded(instants.into());
    } else if args.rate.is_none() && args.closed.is_none() {
        return Err(Problem::usage(anyhow!("--rate: must be given, or --replay, or --closed")));
    }
    let session = Session::open(addresses, &args.place, log).await?;
    session.introduce();
    let run = session.drive(&load).await?;
    table::run(&run);
    let findings = Findings { what: "run", slo: load.slo, runs: vec![run], figures: Vec::new(), highest_per_s: None };
    findings.conclude(&session, &args.output)
}
