//! Medians, percentiles, and lines on standard output.

use std::io::Write;

/// What some numbers are like.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The 99th of a hundred.
    pub p99: f64,
}

impl Spread {
    /// Of some numbers; zero of none.
    pub fn of(mut numbers: Vec<f64>) -> Spread {
        numbers.sort_by(f64::total_cmp);
        let at = |share: f64| numbers.get(((numbers.len().max(1) - 1) as f64 * share).round() as usize);
        Spread { median: at(0.5).copied().unwrap_or(0.0), p99: at(0.99).copied().unwrap_or(0.0) }
    }
}

/// The middle of some numbers; zero of none.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(numbers.into_iter().collect()).median
}

/// A line on standard output; whoever closed it does not want to hear more.
pub fn print(line: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "{line}");
}
