//! `marquee-loadtest soak`: a long load. Memory that stays flat, no failures, latencies at the end as at the beginning.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;

use crate::calls::say;
use crate::command::{self, Aim, Findings, Output, figure};
use crate::drive::Load;
use crate::exit::Problem;
use crate::result::{Figure, Run};
use crate::schedule::Arrivals;
use crate::search::{self, Steps};
use crate::session::{Session, Where};
use crate::table;

/// The first and the last of so many parts are compared: of thirty minutes, five and five.
const PARTS: u32 = 6;
/// Memory is taken in means of so many seconds: single readings depend on each other.
const MEMORY_MEAN_S: f64 = 10.0;
const MIB: f64 = 1_048_576.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    aim: Aim,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    steps: Steps,
    /// Requests a second; without it, half of the highest rate at which the SLO holds, which is searched first.
    #[arg(long, value_parser = command::rate)]
    rate: Option<f64>,
    /// How long.
    #[arg(long, value_parser = command::time, default_value = "30m")]
    duration: Duration,
    /// Before the measuring: caches fill, and memory grows for good reasons.
    #[arg(long, value_parser = command::time, default_value = "60s")]
    warm_up: Duration,
    /// p99 of the last sixth over that of the first sixth, at most.
    #[arg(long, default_value_t = 1.2)]
    drift_max: f64,
}

pub(crate) async fn run(addresses: &[String], args: Args) -> Result<ExitCode, Problem> {
    let slo = args.aim.slo().ok_or_else(|| Problem::usage(anyhow!("--slo: must be given, e.g. --slo p99=25ms")))?;
    if args.place.server_pid.is_none() && args.place.metrics.is_none() {
        return Err(Problem::usage(anyhow!("--server-pid: or --metrics must be given: memory is read from there")));
    }
    let session = Session::open(addresses, &args.place, None).await?;
    session.introduce();
    let rate = match args.rate {
        Some(rate) => rate,
        None => {
            let found = search::search(&session, &args.aim, &slo, &args.steps).await?;
            let highest = found.highest.ok_or_else(|| anyhow!("no rate holds {slo}: there is no half of it"))?;
            highest / 2.0
        }
    };
    say(&format!("soak: {rate:.0}/s for {:?}", args.duration));
    let load = Load {
        arrivals: Arrivals::Poisson,
        rate,
        duration: args.duration,
        warm_up: args.warm_up,
        closed: None,
        slo: Some(slo),
        lag_max: args.aim.lag_max(),
        stop_early: false,
        blocks: PARTS,
        title: "soak".to_owned(),
    };
    let run = session.drive(&load).await?;
    table::run(&run);
    let figures = figures(&args, &run);
    table::figures(&figures);
    let findings = Findings { what: "soak", slo: Some(slo), runs: vec![run], figures, highest_per_s: None };
    findings.conclude(&session, &args.output)
}

fn figures(args: &Args, run: &Run) -> Vec<Figure> {
    let measured = &run.measured;
    let means = means(&run.server.memory, MEMORY_MEAN_S);
    let memory = match slope(&means) {
        Some(Slope { per_s, error }) => {
            let (per_min, error) = (per_s * 60.0 / MIB, error * 60.0 / MIB);
            let (first, last) = (means[0].1 / MIB, means[means.len() - 1].1 / MIB);
            let value = format!("{per_min:+.4} +- {error:.4} MiB/min");
            let bound = format!("at most two standard errors above none ({first:.1} to {last:.1} MiB)");
            figure("slope of resident memory", value, bound, per_min <= 2.0 * error)
        }
        None => figure("slope of resident memory", "unknown", "too few readings", false),
    };
    let failed = measured.counts.failed();
    let (first, last) = (&measured.blocks[0], &measured.blocks[measured.blocks.len() - 1]);
    let drift = last.p99_ms / first.p99_ms;
    let part = Duration::from_secs_f64(measured.block_s);
    let stolen = |from: f64| run.stolen_share(from, from + measured.block_s);
    let stolen = stolen(measured.duration_s - measured.block_s)
        .zip(stolen(0.0))
        .map(|(last, first)| format!("; the host took {:.1} and {:.1} % of the machine", last * 100.0, first * 100.0));
    vec![
        memory,
        figure("calls that failed", failed.to_string(), format!("none of {}", measured.counts.total()), failed == 0),
        figure(
            &format!("p99 of the last {part:?} over the first"),
            format!("{drift:.3}"),
            format!(
                "at most {} ({:.2} and {:.2} ms{})",
                args.drift_max,
                last.p99_ms,
                first.p99_ms,
                stolen.unwrap_or_default()
            ),
            drift <= args.drift_max,
        ),
    ]
}

/// Means over equal times.
fn means(samples: &[(f64, f64)], width: f64) -> Vec<(f64, f64)> {
    let mut found: Vec<(f64, f64)> = Vec::new();
    let mut rest = samples;
    while let Some((first, _)) = rest.first() {
        let end = (first / width).floor() * width + width;
        let (here, later) = rest.split_at(rest.partition_point(|(at, _)| *at < end));
        let count = here.len() as f64;
        found.push((here.iter().map(|s| s.0).sum::<f64>() / count, here.iter().map(|s| s.1).sum::<f64>() / count));
        rest = later;
    }
    found
}

/// A least-squares line's slope and its standard error.
#[derive(Debug, PartialEq)]
struct Slope {
    per_s: f64,
    error: f64,
}

/// The standard error is that of Newey and West: neighbouring readings of memory are alike, and taking them for
/// independent would call any wave a trend.
fn slope(samples: &[(f64, f64)]) -> Option<Slope> {
    let count = samples.len() as f64;
    if samples.len() < 5 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x_mean, y_mean) = (mean(|s| s.0), mean(|s| s.1));
    let x_square: f64 = samples.iter().map(|(x, _)| (x - x_mean).powi(2)).sum();
    let per_s = samples.iter().map(|(x, y)| (x - x_mean) * (y - y_mean)).sum::<f64>() / x_square;
    let scores: Vec<f64> = samples.iter().map(|(x, y)| (x - x_mean) * (y - y_mean - per_s * (x - x_mean))).collect();
    let lags = (4.0 * (count / 100.0).powf(2.0 / 9.0)).ceil() as usize;
    let together = |lag: usize| scores.iter().zip(&scores[lag..]).map(|(a, b)| a * b).sum::<f64>();
    let spread = (1..=lags.min(samples.len() - 1))
        .map(|lag| 2.0 * (1.0 - lag as f64 / (lags as f64 + 1.0)) * together(lag))
        .sum::<f64>();
    let variance = (together(0) + spread).max(0.0) * count / (count - 2.0);
    Some(Slope { per_s, error: variance.sqrt() / x_square })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::Numbers;

    fn samples(per_s: f64) -> Vec<(f64, f64)> {
        let mut draw = Numbers::new(3, 1);
        let mut noise = || (draw.below(1_000) as f64 - 500.0) / 10.0;
        (0..1_800).map(|at| (f64::from(at), 1e5 + per_s * f64::from(at) + noise())).collect()
    }

    #[test]
    fn a_leak_is_seen_and_noise_is_not() {
        let leak = slope(&means(&samples(0.5), 10.0)).unwrap();
        assert!((leak.per_s - 0.5).abs() < 0.01 && leak.per_s > 10.0 * leak.error, "{leak:?}");
        let flat = slope(&means(&samples(0.0), 10.0)).unwrap();
        assert!(flat.per_s.abs() < 3.0 * flat.error, "{flat:?}");
        assert_eq!(slope(&[(0.0, 1.0); 4]), None);
    }

    #[test]
    fn means_are_over_equal_times() {
        let means = means(&[(0.0, 1.0), (1.0, 3.0), (10.5, 5.0), (31.0, 7.0)], 10.0);
        assert_eq!(means, [(0.5, 2.0), (10.5, 5.0), (31.0, 7.0)]);
    }
}
