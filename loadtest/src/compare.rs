//! `marquee-loadtest compare A.json B.json`: ratios, each with a sense of what is noise.
//!
//! A run is cut into equal parts. How much a figure varies from part to part says how far its mean may be off; a ratio
//! that could be chance is called so.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::calls::say;
use crate::exit::Problem;
use crate::result::{Block, Report, Run};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The report that is compared with.
    before: PathBuf,
    /// The report that is looked at.
    after: PathBuf,
}

/// One figure of both.
#[derive(Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) name: &'static str,
    pub(crate) before: f64,
    pub(crate) after: f64,
    /// The ratio may be off by this factor either way, at about 95 %; `None` when it cannot be told.
    pub(crate) noise: Option<f64>,
}

impl Ratio {
    fn ratio(&self) -> f64 {
        self.after / self.before
    }

    /// Whether it could be chance.
    pub(crate) fn is_noise(&self) -> Option<bool> {
        let factor = self.ratio().max(1.0 / self.ratio());
        self.noise.map(|noise| factor <= noise)
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Problem> {
    let read = |path: &PathBuf| Report::read(path).map_err(Problem::usage);
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    for (name, report) in [("A", &before), ("B", &after)] {
        let setting = &report.setting;
        say(&format!("{name}: {}, {}, bundle {}", report.what, setting.profile_name, setting.bundle_version));
        if report.verdict.status != "held" {
            say(&format!("{name} is \"{}\": its figures need care", report.verdict.status));
        }
    }
    differences(&before, &after).iter().for_each(|difference| say(&format!("not alike: {difference}")));
    if let (Some(a), Some(b)) = (before.highest_per_s, after.highest_per_s) {
        say(&format!(
            "highest rate that holds: {a:.0} and {b:.0} requests/s, ratio {:.3} (searched to a few percent)",
            b / a
        ));
    }
    let pairs = pairs(&before, &after);
    if pairs.is_empty() {
        say("no two runs at the same rate: nothing else can be compared");
    }
    for (a, b) in pairs {
        say(&format!("\nat {:.0} requests/s:", a.rate_per_s));
        say(&format!("{:<24} {:>12} {:>12} {:>8}   {:<10} verdict", "", "A", "B", "B / A", "noise"));
        for ratio in ratios(a, b) {
            let noise = ratio.noise.map_or("unknown".to_owned(), |noise| format!("x {noise:.3}"));
            let verdict = match ratio.is_noise() {
                Some(true) => "could be chance",
                Some(false) => "differs",
                None => "",
            };
            let (name, before, after, times) = (ratio.name, ratio.before, ratio.after, ratio.ratio());
            say(&format!("{name:<24} {before:>12.3} {after:>12.3} {times:>8.3}   {noise:<10} {verdict}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was not the same, so that the ratio is not of the server alone.
fn differences(before: &Report, after: &Report) -> Vec<&'static str> {
    let (a, b) = (&before.setting, &after.setting);
    let same = [
        ("the profiles", a.profile == b.profile),
        ("the machines", a.machine.processor == b.machine.processor && a.machine.cores == b.machine.cores),
        ("the cores that the generators may use", a.machine.cores_allowed == b.machine.cores_allowed),
        ("the SLOs", before.slo == after.slo),
        ("the versions of this tool", a.tool_version == b.tool_version),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

/// Runs at the same rate; of several, the last.
fn pairs<'a>(before: &'a Report, after: &'a Report) -> Vec<(&'a Run, &'a Run)> {
    let alike =
        |a: &Run, b: &Run| a.arrivals == b.arrivals && (a.rate_per_s - b.rate_per_s).abs() <= a.rate_per_s * 0.001;
    let mut pairs: Vec<(&Run, &Run)> = Vec::new();
    for a in before.runs.iter().rev() {
        if let Some(b) = after.runs.iter().rev().find(|b| alike(a, b))
            && !pairs.iter().any(|(known, _)| alike(known, a))
        {
            pairs.push((a, b));
        }
    }
    pairs.reverse();
    pairs
}

/// Every figure of two runs.
pub(crate) fn ratios(before: &Run, after: &Run) -> Vec<Ratio> {
    let spread = |of: fn(&Block) -> f64| Some(2.0 * (error(before, of)?.powi(2) + error(after, of)?.powi(2)).sqrt());
    let (a, b) = (&before.measured, &after.measured);
    let mut ratios = vec![
        Ratio { name: "p50, ms", before: a.latency.at(50.0), after: b.latency.at(50.0), noise: spread(|b| b.p50_ms) },
        Ratio { name: "p90, ms", before: a.latency.at(90.0), after: b.latency.at(90.0), noise: spread(|b| b.p90_ms) },
        Ratio { name: "p99, ms", before: a.latency.at(99.0), after: b.latency.at(99.0), noise: spread(|b| b.p99_ms) },
        Ratio {
            name: "answered a second",
            before: a.answered_per_s,
            after: b.answered_per_s,
            noise: spread(|b| b.answered_per_s),
        },
    ];
    if let (Some(a), Some(b)) = (before.server.cpu_us_per_request, after.server.cpu_us_per_request) {
        ratios.push(Ratio { name: "server CPU-us an answer", before: a, after: b, noise: None });
    }
    for ratio in &mut ratios {
        ratio.noise = ratio.noise.map(f64::exp);
    }
    ratios.into_iter().filter(|ratio| ratio.before > 0.0 && ratio.after > 0.0).collect()
}

/// The standard error of a figure's logarithm, from how it varies between parts.
fn error(run: &Run, of: fn(&Block) -> f64) -> Option<f64> {
    let logs: Vec<f64> = run.measured.blocks.iter().map(of).filter(|value| *value > 0.0).map(f64::ln).collect();
    let count = logs.len() as f64;
    if logs.len() < 3 {
        return None;
    }
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0);
    Some((variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::numbers::Numbers;
    use crate::outcome::{Outcome, Sample, Tally};
    use crate::traffic::Kind;

    /// A run whose calls take about `micros`, up to a third more or less.
    fn load(micros: u64, seed: u64) -> Run {
        let mut tally = Tally::new(Duration::from_secs(10), 10, None);
        let mut draw = Numbers::new(seed, 0);
        for at in 0..10_000 {
            let time = Duration::from_micros(micros * 2 / 3 + draw.below(micros as usize * 2 / 3) as u64);
            let (kind, outcome, due) = (Kind::Recommend, Outcome::Ok, Duration::from_millis(at));
            tally.add(&Sample { kind, outcome, cached: false, violation: None, due, latency: time, service: time });
        }
        Run {
            arrivals: "poisson".to_owned(),
            rate_per_s: 1_000.0,
            measured: tally.finish(Duration::from_secs(10)),
            server: Default::default(),
            incomplete: None,
            invalid: None,
            notes: Vec::new(),
            held: None,
            why: String::new(),
            generator_cpu_share: 0.0,
            stolen: Vec::new(),
        }
    }

    #[test]
    fn a_difference_is_seen_and_chance_is_called_so() {
        let before = load(3_000, 1);
        let same = ratios(&before, &load(3_000, 2));
        assert!(same.iter().all(|ratio| ratio.is_noise() == Some(true)), "{same:#?}");
        let slower = ratios(&before, &load(3_600, 3));
        let p50 = &slower[0];
        assert!((p50.ratio() - 1.2).abs() < 0.05 && p50.is_noise() == Some(false), "{p50:?}");
        assert_eq!(slower[3].is_noise(), Some(true), "as many were answered");
    }
}
