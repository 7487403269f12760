//! What the commands share: flags, their rules, and what is written at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::calls::say;
use crate::exit::Problem;
use crate::report;
use crate::result::{FORMAT, Figure, Report, Run, Verdict};
use crate::session::Session;
use crate::slo::{self, Slo};

/// Requests a second that may be asked for.
pub(crate) const RATE_MIN: f64 = 0.1;
pub(crate) const RATE_MAX: f64 = 1_000_000.0;
/// Without an SLO, the generator may be so late at its p99.
const LAG_WITHOUT_SLO: Duration = Duration::from_millis(5);

/// What must hold.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Aim {
    /// Latency from the intended instant at a percentile, e.g. p99=25ms.
    #[arg(long)]
    pub(crate) slo: Option<Slo>,
    /// Share of calls that may fail (shed, deadline, error, dropped), e.g. 0.1%.
    #[arg(long, default_value = "0.1%", value_parser = slo::share)]
    pub(crate) error_rate: f64,
    /// Share of the SLO's limit that the generator may be late by, at the SLO's percentile; more is invalid.
    #[arg(long, default_value = "10%", value_parser = slo::share)]
    pub(crate) lag_share: f64,
}

impl Aim {
    /// The SLO, if one is given.
    pub(crate) fn slo(&self) -> Option<Slo> {
        self.slo.map(|slo| Slo { error_share_max: self.error_rate, ..slo })
    }

    /// How late the generator may be.
    pub(crate) fn lag_max(&self) -> Duration {
        self.slo.map_or(LAG_WITHOUT_SLO, |slo| slo.limit.mul_f64(self.lag_share))
    }
}

/// Files that are written.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Output {
    /// Everything, for compare and report.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// One HTML page that needs no network.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// The curve of throughput and latency alone.
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
}

/// "30s", "5m".
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => slo::time(text).ok_or_else(|| format!("must be like 500ms, 30s or 5m, not \"{text}\"")),
    }
}

/// A rate in its bounds.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("must be from {RATE_MIN} to {RATE_MAX} requests a second, not \"{text}\""))
}

/// What was found, before it has a verdict.
pub(crate) struct Findings {
    pub(crate) what: &'static str,
    pub(crate) slo: Option<Slo>,
    pub(crate) runs: Vec<Run>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) highest_per_s: Option<f64>,
}

impl Findings {
    /// Judges, says and writes it.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn conclude(self, session: &Session, output: &Output) -> Result<ExitCode, Problem> {
        let report = self.report(session);
        let verdict = Verdict::of(&report);
        finish(Report { verdict, ..report }, output)
    }

    /// As a report that is not judged yet.
    pub(crate) fn report(self, session: &Session) -> Report {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Report {
            format: FORMAT.to_owned(),
            what: self.what.to_owned(),
            command: command_line(),
            started_unix_s: started,
            verdict: Verdict { status: String::new(), reasons: Vec::new() },
            setting: session.setting.clone(),
            slo: self.slo,
            baseline: session.baseline.clone(),
            runs: self.runs,
            figures: self.figures,
            highest_per_s: self.highest_per_s,
        }
    }
}

/// Says and writes a report that is judged.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn finish(report: Report, output: &Output) -> Result<ExitCode, Problem> {
    report.verdict.tell();
    if let Some(path) = &output.json {
        report.write(path)?;
        say(&format!("wrote {}", path.display()));
    }
    let reports = [report];
    if let Some(path) = &output.out {
        write(path, &report::page(&reports)?)?;
    }
    if let Some(path) = &output.svg {
        write(path, &report::curve(&reports).context("--svg: there is no run to draw")?)?;
    }
    Ok(ExitCode::from(reports[0].verdict.code()))
}

/// Writes a text and says so.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

/// The command line; folders are nobody's business.
fn command_line() -> String {
    let words = std::env::args().map(|word| {
        let (flag, value) = word.split_once('=').map_or(("", word.as_str()), |(flag, value)| (flag, value));
        let is_path = value.contains('/') && !value.contains("://");
        let short = Path::new(value).file_name().filter(|_| is_path).and_then(|name| name.to_str()).unwrap_or(value);
        if flag.is_empty() { short.to_owned() } else { format!("{flag}={short}") }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A figure with its bound.
pub(crate) fn figure(name: &str, value: impl Into<String>, bound: impl Into<String>, held: bool) -> Figure {
    Figure { name: name.to_owned(), value: value.into(), bound: bound.into(), held }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_bounds_and_times_have_units() {
        for bad in ["0", "-1", "10000000", "nan", "inf", "x", ""] {
            let rule = rate(bad).unwrap_err();
            assert!(rule.starts_with("must be from 0.1 to 1000000 requests a second"), "{rule}");
        }
        assert_eq!((rate("0.1"), rate("1e6")), (Ok(0.1), Ok(1e6)));
        assert_eq!((time("1.5s"), time("0s")), (Ok(Duration::from_millis(1_500)), Ok(Duration::ZERO)));
        assert!(time("5").is_err() && time("-5s").is_err());
    }
}
