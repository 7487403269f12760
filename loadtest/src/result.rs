//! What a report holds: the JSON file, versioned.
//!
//! Latencies are milliseconds; histograms are in microseconds, serialised as HdrHistogram V2, compressed, in base64.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;
use crate::slo::Slo;

/// The format that this build writes; it reads no other.
pub(crate) const FORMAT: &str = "marquee-loadtest/1";

/// A whole report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: String,
    /// run, search, overload or soak.
    pub(crate) what: String,
    /// The command line, file names without their folders.
    pub(crate) command: String,
    pub(crate) started_unix_s: u64,
    pub(crate) verdict: Verdict,
    pub(crate) setting: Setting,
    pub(crate) slo: Option<Slo>,
    /// The null RPC, before the load.
    pub(crate) baseline: Baseline,
    /// One of a run; of a search, its steps in the order in which they were made.
    pub(crate) runs: Vec<Run>,
    /// Figures of a search, an overload or a soak, each with its bound.
    pub(crate) figures: Vec<Figure>,
    /// Of a search: the highest rate that held.
    pub(crate) highest_per_s: Option<f64>,
}

/// How it ended.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(crate) struct Verdict {
    /// held, slo missed, invalid, incomplete, wrong answers.
    pub(crate) status: String,
    /// Why, a sentence each.
    pub(crate) reasons: Vec<String>,
}

/// What stood where.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) tool_version: String,
    /// Named by `--label`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) address: String,
    /// From the first answer.
    pub(crate) bundle_version: String,
    pub(crate) profile_name: String,
    pub(crate) profile: String,
    pub(crate) users: usize,
    pub(crate) items: usize,
    /// Of users that were drawn and asked for: how many the server knows.
    pub(crate) users_known: String,
    pub(crate) machine: Machine,
}

/// The generator's machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    /// On which this process may run.
    pub(crate) cores_allowed: String,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
}

/// Health checks, one after the other, on an idle connection.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Baseline {
    pub(crate) method: String,
    pub(crate) latency: Spread,
}

/// A figure and its bound.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) bound: String,
    pub(crate) held: bool,
}

/// One load, from its first to its last call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// poisson, constant, ramp, replay or closed.
    pub(crate) arrivals: String,
    /// Intended; 0 for a closed loop and a replay.
    pub(crate) rate_per_s: f64,
    pub(crate) measured: Measured,
    pub(crate) server: Server,
    /// Why it ended early.
    pub(crate) incomplete: Option<String>,
    /// Why its figures are not those of the server.
    pub(crate) invalid: Option<String>,
    /// What else a reader should know.
    pub(crate) notes: Vec<String>,
    /// Of a search: whether the SLO held; else why not.
    pub(crate) held: Option<bool>,
    pub(crate) why: String,
    /// Of the core that it ran on.
    pub(crate) generator_cpu_share: f64,
    /// Seconds since the measuring began, and for how many seconds of them each core of this machine, on average,
    /// wanted to run while its host ran others (steal). Empty where the system does not say.
    #[serde(default)]
    pub(crate) stolen: Vec<(f64, f64)>,
}

impl Run {
    /// The share of this machine that its host took from one second to another. `None` without two readings.
    pub(crate) fn stolen_share(&self, from_s: f64, to_s: f64) -> Option<f64> {
        rise(&self.stolen, from_s, to_s)
    }
}

/// How steeply readings rise from the last one before a moment to the first one after another.
fn rise(readings: &[(f64, f64)], from: f64, to: f64) -> Option<f64> {
    let first = readings.iter().rfind(|(at, _)| *at <= from).or(readings.first())?;
    let last = readings.iter().find(|(at, _)| *at >= to).or(readings.last())?;
    (last.0 > first.0).then(|| (last.1 - first.1) / (last.0 - first.0))
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) duration_s: f64,
    pub(crate) offered_per_s: f64,
    /// ok and degraded.
    pub(crate) answered_per_s: f64,
    /// Of those, within the SLO's limit.
    pub(crate) goodput_per_s: f64,
    pub(crate) counts: Counts,
    pub(crate) cached: u64,
    /// When the last call was due that failed or was later than the SLO's limit.
    pub(crate) last_bad_s: Option<f64>,
    pub(crate) violations: BTreeMap<String, u64>,
    /// Errors by gRPC code.
    pub(crate) codes: BTreeMap<String, u64>,
    pub(crate) messages: BTreeMap<String, u64>,
    pub(crate) methods: Vec<Method>,
    /// From the intended instant: ok, degraded and deadline.
    pub(crate) latency: Spread,
    /// From the moment of sending.
    pub(crate) service: Spread,
    /// From the intended instant to the moment of sending.
    pub(crate) lag: Spread,
    pub(crate) windows: Windows,
    pub(crate) block_s: f64,
    pub(crate) blocks: Vec<Block>,
}

/// Calls by outcome.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) degraded: u64,
    pub(crate) shed: u64,
    pub(crate) deadline: u64,
    pub(crate) error: u64,
    pub(crate) dropped: u64,
}

impl Counts {
    /// One more.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Ok => &mut self.ok,
            Outcome::Degraded => &mut self.degraded,
            Outcome::Shed => &mut self.shed,
            Outcome::Deadline => &mut self.deadline,
            Outcome::Error => &mut self.error,
            Outcome::Dropped => &mut self.dropped,
        };
        *count += 1;
    }

    /// In the order of [`Outcome::ALL`].
    pub(crate) fn all(&self) -> [u64; 6] {
        [self.ok, self.degraded, self.shed, self.deadline, self.error, self.dropped]
    }

    /// Every call that was due.
    pub(crate) fn total(&self) -> u64 {
        self.all().iter().sum()
    }

    /// Those that brought nothing.
    pub(crate) fn failed(&self) -> u64 {
        self.shed + self.deadline + self.error + self.dropped
    }
}

/// One kind of call.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) counts: Counts,
    pub(crate) latency: Spread,
    pub(crate) service: Spread,
}

/// A histogram and what is mostly asked of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) count: u64,
    pub(crate) mean_ms: f64,
    pub(crate) max_ms: f64,
    /// Percentile and milliseconds.
    pub(crate) percentiles: Vec<(f64, f64)>,
    /// Microseconds, HdrHistogram V2, compressed, base64.
    pub(crate) hdr: String,
}

/// The percentiles of tables.
pub(crate) const PERCENTILES: [f64; 9] = [1.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];

impl Spread {
    /// Of a histogram of microseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Spread {
        let at = |percentile: f64| (percentile, histogram.value_at_percentile(percentile) as f64 / 1_000.0);
        let mut bytes = Vec::new();
        let written = V2DeflateSerializer::new().serialize(histogram, &mut bytes);
        Spread {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1_000.0,
            max_ms: histogram.max() as f64 / 1_000.0,
            percentiles: PERCENTILES.map(at).to_vec(),
            hdr: written.map(|_| STANDARD.encode(&bytes)).unwrap_or_default(),
        }
    }

    /// The histogram again.
    ///
    /// # Errors
    /// The text is no histogram.
    pub(crate) fn histogram(&self) -> anyhow::Result<Histogram<u64>> {
        let bytes = STANDARD.decode(&self.hdr).context("a histogram is not base64")?;
        Deserializer::new().deserialize(&mut bytes.as_slice()).ok().context("a histogram cannot be read")
    }

    /// Milliseconds at a percentile, exactly where it is one of [`PERCENTILES`].
    pub(crate) fn at(&self, percentile: f64) -> f64 {
        let listed = self.percentiles.iter().find(|(listed, _)| *listed == percentile).map(|(_, found)| *found);
        listed.unwrap_or_else(|| {
            self.histogram().map_or(f64::NAN, |all| all.value_at_percentile(percentile) as f64 / 1_000.0)
        })
    }
}

/// The run as a film: outcomes and latencies by time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Windows {
    pub(crate) width_s: f64,
    /// Bin b begins at `bin_first_us` times 2 to the power of b / `bins_per_doubling`.
    pub(crate) bin_first_us: f64,
    pub(crate) bins_per_doubling: f64,
    pub(crate) columns: Vec<Column>,
}

/// One window.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) counts: Counts,
    pub(crate) max_ms: f64,
    /// Bin and calls.
    pub(crate) bins: Vec<(u32, u32)>,
}

/// A part of the run, to see how much its figures vary.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Block {
    pub(crate) answered_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
}

/// What the server says of itself, or the operating system of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Server {
    /// Where processor time and memory come from; empty: nowhere.
    pub(crate) source: String,
    pub(crate) cpu_us_per_request: Option<f64>,
    pub(crate) cores_used: Option<f64>,
    /// Seconds since the start and resident bytes.
    pub(crate) memory: Vec<(f64, f64)>,
    /// By stage, from `/metrics` before and after.
    pub(crate) stages: Vec<Stage>,
    /// Refusals, timed by the server.
    pub(crate) shed: Option<Stage>,
}

/// One histogram of the server, over the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) count: f64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Upper bounds in seconds and how many were at most so long.
    pub(crate) buckets: Vec<(f64, f64)>,
}

impl Stage {
    /// Share that took at most so long; exact where a bucket ends there.
    pub(crate) fn share_within(&self, seconds: f64) -> Option<f64> {
        let bucket = self.buckets.iter().find(|(bound, _)| (bound - seconds).abs() < 1e-12)?;
        (self.count > 0.0).then(|| bucket.1 / self.count)
    }
}

impl Report {
    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_string(&self.rounded()?)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("--json: writing {}", path.display()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is of another format.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(|| format!("{shown} is no report"))?;
        let format = value["format"].as_str().unwrap_or("none");
        ensure!(format == FORMAT, "{shown}: format {format}; this build reads {FORMAT}");
        serde_json::from_value(value).with_context(|| format!("{shown} is no report"))
    }

    /// Numbers with at most seven digits: the file is for keeping.
    fn rounded(&self) -> anyhow::Result<serde_json::Value> {
        fn round(value: &mut serde_json::Value) {
            match value {
                serde_json::Value::Number(number) if number.is_f64() => {
                    let short = number.as_f64().and_then(|number| format!("{number:.6e}").parse::<f64>().ok());
                    *value = short.and_then(serde_json::Number::from_f64).map_or(serde_json::Value::Null, Into::into);
                }
                serde_json::Value::Array(list) => list.iter_mut().for_each(round),
                serde_json::Value::Object(map) => map.values_mut().for_each(round),
                _ => {}
            }
        }
        let mut value = serde_json::to_value(self)?;
        round(&mut value);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_comes_back_as_it_was() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.auto(true);
        [1, 250, 251, 9_000, 1_000_000].into_iter().for_each(|value| histogram += value);
        let spread = Spread::of(&histogram);
        assert_eq!(spread.histogram().unwrap(), histogram);
        assert_eq!((spread.count, spread.at(50.0)), (5, 0.251));
        assert!((spread.at(80.0) - 9.0).abs() < 0.01, "a percentile that is not listed is read from the histogram");
    }

    #[test]
    fn what_the_host_took_is_told_of_the_part_that_is_asked_for() {
        let readings = [(0.0, 0.0), (1.0, 0.0), (2.0, 0.5), (3.0, 0.5)];
        assert_eq!(rise(&readings, 0.0, 1.0), Some(0.0));
        assert_eq!(rise(&readings, 1.0, 2.0), Some(0.5));
        assert_eq!(rise(&readings, 1.5, 1.9), Some(0.5), "between readings, what they say together");
        assert_eq!(rise(&readings, -1.0, 9.0), Some(0.5 / 3.0), "no further than was read");
        assert_eq!((rise(&readings[..1], 0.0, 1.0), rise(&[], 0.0, 1.0)), (None, None));
    }

    #[test]
    fn failures_are_all_calls_that_brought_nothing() {
        let mut counts = Counts::default();
        Outcome::ALL.into_iter().for_each(|outcome| counts.add(outcome));
        assert_eq!((counts.total(), counts.failed(), counts.all()), (6, 4, [1; 6]));
    }
}
