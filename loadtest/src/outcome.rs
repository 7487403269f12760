//! How a call can end, and what was measured of many calls.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tonic::Code;

use crate::check::Violation;
use crate::result::{Block, Column, Counts, Measured, Method, Spread, Windows};
use crate::slo::Slo;
use crate::traffic::Kind;
use crate::wire::{Reply, code_name};

/// Columns of the heatmap and of the outcomes over time, at most.
const WINDOWS_MAX: f64 = 240.0;
/// Different messages of errors that are kept.
const MESSAGES_MAX: usize = 16;
/// The lowest latency bin begins here; four bins to each doubling.
pub(crate) const BIN_FIRST_US: f64 = 50.0;
pub(crate) const BINS_PER_DOUBLING: f64 = 4.0;
const BINS: usize = 84;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    /// Answered, less something that the answer names.
    Degraded,
    /// Refused at once: RESOURCE_EXHAUSTED.
    Shed,
    /// No answer within the caller's deadline.
    Deadline,
    Error,
    /// Due, but never sent: too many calls were waiting.
    Dropped,
}

impl Outcome {
    /// All, in the order of reports.
    pub(crate) const ALL: [Outcome; 6] =
        [Outcome::Ok, Outcome::Degraded, Outcome::Shed, Outcome::Deadline, Outcome::Error, Outcome::Dropped];

    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Degraded => "degraded",
            Outcome::Shed => "shed",
            Outcome::Deadline => "deadline",
            Outcome::Error => "error",
            Outcome::Dropped => "dropped",
        }
    }

    /// Of an answer with that code.
    pub(crate) fn of(code: Code, degraded: bool) -> Outcome {
        match code {
            Code::Ok if degraded => Outcome::Degraded,
            Code::Ok => Outcome::Ok,
            Code::ResourceExhausted => Outcome::Shed,
            Code::DeadlineExceeded => Outcome::Deadline,
            _ => Outcome::Error,
        }
    }

    /// Whether the caller got what was asked for, or waited for it until the end: what latencies are taken of. A
    /// refusal is quick and would make an overloaded server look fast; it counts as a failure instead.
    fn is_waited_for(self) -> bool {
        matches!(self, Outcome::Ok | Outcome::Degraded | Outcome::Deadline)
    }
}

/// One call that ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
    pub(crate) cached: bool,
    pub(crate) violation: Option<Violation>,
    /// When it was due, since the measuring began.
    pub(crate) due: Duration,
    /// From the intended instant.
    pub(crate) latency: Duration,
    /// From the moment of sending.
    pub(crate) service: Duration,
}

/// What is measured, while it is measured.
pub(crate) struct Tally {
    limit: Option<Duration>,
    lanes: Vec<Lane>,
    whole: Lane,
    lag: Histogram<u64>,
    width: Duration,
    windows: Vec<Window>,
    block: Duration,
    blocks: Vec<(Counts, Histogram<u64>)>,
    violations: [u64; Violation::ALL.len()],
    codes: BTreeMap<String, u64>,
    messages: BTreeMap<String, u64>,
    cached: u64,
    /// Answers within the SLO.
    good: u64,
    /// Calls that were waited for longer than the SLO allows.
    late: u64,
    /// When the last call was due that failed or was late.
    last_bad: Option<Duration>,
}

#[derive(Clone)]
struct Lane {
    counts: Counts,
    latency: Histogram<u64>,
    service: Histogram<u64>,
}

#[derive(Clone)]
struct Window {
    counts: Counts,
    max: Duration,
    bins: [u32; BINS],
}

fn histogram(digits: u8) -> Histogram<u64> {
    let mut histogram = Histogram::new(digits).expect("one to five digits are allowed");
    histogram.auto(true);
    histogram
}

fn micros(time: Duration) -> u64 {
    (time.as_micros() as u64).max(1)
}

impl Lane {
    fn new() -> Lane {
        Lane { counts: Counts::default(), latency: histogram(3), service: histogram(3) }
    }

    fn add(&mut self, sample: &Sample) {
        self.counts.add(sample.outcome);
        if sample.outcome.is_waited_for() {
            self.latency += micros(sample.latency);
            self.service += micros(sample.service);
        }
    }
}

impl Tally {
    /// For a run of about that duration, cut into so many blocks to see how much its figures vary.
    pub(crate) fn new(duration: Duration, blocks: u32, slo: Option<&Slo>) -> Tally {
        Tally {
            limit: slo.map(|slo| slo.limit),
            lanes: vec![Lane::new(); Kind::ALL.len()],
            whole: Lane::new(),
            lag: histogram(3),
            width: Duration::from_secs((duration.as_secs_f64() / WINDOWS_MAX).ceil().max(1.0) as u64),
            windows: Vec::new(),
            block: duration / blocks.max(1),
            blocks: vec![(Counts::default(), histogram(2)); blocks.max(1) as usize],
            violations: [0; Violation::ALL.len()],
            codes: BTreeMap::new(),
            messages: BTreeMap::new(),
            cached: 0,
            good: 0,
            late: 0,
            last_bad: None,
        }
    }

    /// A call was sent so long after it was due.
    pub(crate) fn sent(&mut self, lag: Duration) {
        self.lag += micros(lag);
    }

    /// A call ended.
    pub(crate) fn add(&mut self, sample: &Sample) {
        self.lanes[sample.kind as usize].add(sample);
        self.whole.add(sample);
        self.cached += u64::from(sample.cached);
        if let Some(violation) = sample.violation {
            self.violations[violation as usize] += 1;
        }
        let is_late = self.limit.is_some_and(|limit| sample.latency > limit);
        self.late += u64::from(is_late && sample.outcome.is_waited_for());
        self.good += u64::from(!is_late && matches!(sample.outcome, Outcome::Ok | Outcome::Degraded));
        if is_late || !matches!(sample.outcome, Outcome::Ok | Outcome::Degraded) {
            self.last_bad = self.last_bad.max(Some(sample.due));
        }
        let at = (sample.due.as_nanos() / self.block.as_nanos().max(1)) as usize;
        let at = at.min(self.blocks.len() - 1);
        self.blocks[at].0.add(sample.outcome);
        let window = self.window(sample.due);
        window.counts.add(sample.outcome);
        if sample.outcome.is_waited_for() {
            window.max = window.max.max(sample.latency);
            window.bins[bin(sample.latency)] += 1;
            self.blocks[at].1 += micros(sample.latency);
        }
    }

    /// A call that was due was not sent.
    pub(crate) fn drop_one(&mut self, due: Duration) {
        self.whole.counts.add(Outcome::Dropped);
        self.window(due).counts.add(Outcome::Dropped);
        self.last_bad = self.last_bad.max(Some(due));
    }

    /// What an error said.
    pub(crate) fn note(&mut self, kind: Kind, reply: &Reply) {
        *self.codes.entry(code_name(reply.code).to_owned()).or_default() += 1;
        let message = format!("{} {}", kind.key(), reply.told());
        if self.messages.len() < MESSAGES_MAX || self.messages.contains_key(&message) {
            *self.messages.entry(message).or_default() += 1;
        }
    }

    /// Calls so far, dropped ones too.
    pub(crate) fn counts(&self) -> &Counts {
        &self.whole.counts
    }

    /// Answers that break a rule, so far.
    pub(crate) fn violations(&self) -> u64 {
        self.violations.iter().sum()
    }

    /// Calls that were waited for longer than the SLO allows, so far.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Latency of that percentile in milliseconds, so far.
    pub(crate) fn latency_ms(&self, percentile: f64) -> f64 {
        self.whole.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }

    fn window(&mut self, due: Duration) -> &mut Window {
        let at = (due.as_nanos() / self.width.as_nanos()) as usize;
        if self.windows.len() <= at {
            let empty = Window { counts: Counts::default(), max: Duration::ZERO, bins: [0; BINS] };
            self.windows.resize(at + 1, empty);
        }
        &mut self.windows[at]
    }

    /// All of it, after `measured` of measuring.
    pub(crate) fn finish(self, measured: Duration) -> Measured {
        let seconds = measured.as_secs_f64().max(f64::MIN_POSITIVE);
        let methods = Kind::ALL.into_iter().zip(&self.lanes).filter(|(_, lane)| lane.counts.total() > 0);
        let methods = methods.map(|(kind, lane)| Method {
            name: kind.key().to_owned(),
            counts: lane.counts.clone(),
            latency: Spread::of(&lane.latency),
            service: Spread::of(&lane.service),
        });
        let block_s = self.block.as_secs_f64();
        let blocks = self.blocks.iter().map(|(counts, latency)| Block {
            answered_per_s: (counts.ok + counts.degraded) as f64 / block_s,
            p50_ms: latency.value_at_quantile(0.5) as f64 / 1_000.0,
            p90_ms: latency.value_at_quantile(0.9) as f64 / 1_000.0,
            p99_ms: latency.value_at_quantile(0.99) as f64 / 1_000.0,
        });
        let violations = Violation::ALL.into_iter().zip(self.violations).filter(|(_, count)| *count > 0);
        let counts = self.whole.counts;
        Measured {
            duration_s: seconds,
            offered_per_s: counts.total() as f64 / seconds,
            answered_per_s: (counts.ok + counts.degraded) as f64 / seconds,
            goodput_per_s: self.good as f64 / seconds,
            counts,
            cached: self.cached,
            last_bad_s: self.last_bad.map(|due| due.as_secs_f64()),
            violations: violations.map(|(violation, count)| (violation.name().to_owned(), count)).collect(),
            codes: self.codes,
            messages: self.messages,
            methods: methods.collect(),
            latency: Spread::of(&self.whole.latency),
            service: Spread::of(&self.whole.service),
            lag: Spread::of(&self.lag),
            windows: Windows {
                width_s: self.width.as_secs_f64(),
                bin_first_us: BIN_FIRST_US,
                bins_per_doubling: BINS_PER_DOUBLING,
                columns: self.windows.iter().map(column).collect(),
            },
            block_s,
            blocks: blocks.collect(),
        }
    }
}

/// Which bin of the heatmap.
fn bin(latency: Duration) -> usize {
    let doublings = (latency.as_secs_f64() * 1e6 / BIN_FIRST_US).max(1.0).log2();
    ((doublings * BINS_PER_DOUBLING) as usize).min(BINS - 1)
}

fn column(window: &Window) -> Column {
    let bins = window.bins.iter().enumerate().filter(|(_, count)| **count > 0);
    Column {
        counts: window.counts.clone(),
        max_ms: window.max.as_secs_f64() * 1_000.0,
        bins: bins.map(|(bin, count)| (bin as u32, *count)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outcome: Outcome, due_ms: u64, latency_ms: u64) -> Sample {
        let time = Duration::from_millis;
        Sample {
            kind: Kind::Recommend,
            outcome,
            cached: false,
            violation: None,
            due: time(due_ms),
            latency: time(latency_ms),
            service: time(latency_ms.min(5)),
        }
    }

    #[test]
    fn refusals_do_not_make_latencies_look_good() {
        let mut tally = Tally::new(Duration::from_secs(10), 10, Some(&"p99=25ms".parse().unwrap()));
        (0..90).for_each(|at| tally.add(&sample(Outcome::Ok, at * 100, 20)));
        (0..10).for_each(|at| tally.add(&sample(Outcome::Deadline, at * 100, 300)));
        (0..900).for_each(|at| tally.add(&sample(Outcome::Shed, at * 10, 1)));
        tally.drop_one(Duration::from_secs(9));
        assert_eq!((tally.late(), tally.counts().total()), (10, 1_001));
        let measured = tally.finish(Duration::from_secs(10));
        assert_eq!((measured.latency.count, measured.goodput_per_s), (100, 9.0));
        assert!((measured.latency.at(50.0) - 20.0).abs() < 0.1 && (measured.latency.at(99.0) - 300.0).abs() < 1.0);
        assert_eq!(measured.windows.columns.len(), 10);
        assert_eq!(measured.windows.columns[9].counts.dropped, 1);
    }

    #[test]
    fn service_time_stands_beside_latency() {
        let mut tally = Tally::new(Duration::from_secs(1), 1, None);
        tally.add(&sample(Outcome::Ok, 0, 1_000));
        let measured = tally.finish(Duration::from_secs(1));
        assert!(measured.latency.max_ms >= 1_000.0 && measured.service.max_ms < 6.0);
    }
}
