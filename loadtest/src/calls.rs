//! Outcomes and latencies, as a small table.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

/// What a run saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    calls: BTreeMap<&'static str, Vec<Duration>>,
    errors: BTreeMap<String, usize>,
}

impl Report {
    /// One call ended; `error` is its code and message.
    pub(crate) fn add(&mut self, method: &'static str, time: Duration, error: Option<String>) {
        self.calls.entry(method).or_default().push(time);
        if let Some(error) = error {
            *self.errors.entry(format!("{method}: {error}")).or_default() += 1;
        }
    }

    /// Both together.
    pub(crate) fn merge(&mut self, other: Report) {
        for (method, times) in other.calls {
            self.calls.entry(method).or_default().extend(times);
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    /// How many calls failed.
    pub(crate) fn errors(&self) -> usize {
        self.errors.values().sum()
    }

    /// Prints it.
    pub(crate) fn print(mut self, wall: Duration) {
        say("closed loop: latencies as these workers saw them, not as users would at a given rate");
        say(&format!(
            "{:<14} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "method", "calls", "p50 ms", "p95 ms", "p99 ms", "max ms"
        ));
        for (method, times) in &mut self.calls {
            times.sort_unstable();
            let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1_000.0;
            let (count, p50, p95, p99, max) = (times.len(), at(0.5), at(0.95), at(0.99), at(1.0));
            say(&format!("{method:<14} {count:>8} {p50:>9.2} {p95:>9.2} {p99:>9.2} {max:>9.2}"));
        }
        for (error, count) in &self.errors {
            say(&format!("{count} x {error}"));
        }
        say(&format!("{} errors in {:.1} s", self.errors(), wall.as_secs_f64()));
    }
}

/// A line on standard output; a closed pipe is no error.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}
