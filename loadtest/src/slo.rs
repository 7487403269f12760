//! A service level objective: `p99=25ms` and a share of calls that may fail.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::result::Measured;

/// Samples beyond the percentile, at least: with fewer, a single slow call decides.
pub(crate) const TAIL_SAMPLES: f64 = 30.0;

/// Latency at a percentile, counted from the intended instant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Slo {
    /// 99 for p99.
    pub(crate) percentile: f64,
    pub(crate) limit: Duration,
    /// Of all calls that were due: those shed, late beyond their deadline, failed or dropped.
    pub(crate) error_share_max: f64,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        let rule = || format!("must be like p99=25ms or p99.9=1s, not \"{text}\"");
        let (percentile, limit) = text.strip_prefix('p').and_then(|rest| rest.split_once('=')).ok_or_else(rule)?;
        let percentile: f64 = percentile.parse().map_err(|_| rule())?;
        if !(1.0..100.0).contains(&percentile) {
            return Err("the percentile must be from 1 to below 100".to_owned());
        }
        let limit = time(limit).ok_or_else(rule)?;
        Ok(Slo { percentile, limit, error_share_max: 0.001 })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percentile, limit, errors) = (self.percentile, self.limit, self.error_share_max * 100.0);
        write!(f, "p{percentile} <= {limit:?}, errors <= {errors} %")
    }
}

/// "250us", "25ms", "30s", "2m".
pub(crate) fn time(text: &str) -> Option<Duration> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (number, unit) = units.iter().find_map(|(name, unit)| {
        let number: f64 = text.strip_suffix(name)?.parse().ok()?;
        Some((number, unit))
    })?;
    (number > 0.0 && number * unit < 1e6).then(|| Duration::from_secs_f64(number * unit))
}

/// "0.1%" or "0.001".
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    share
        .ok()
        .filter(|share| (0.0..1.0).contains(share))
        .ok_or_else(|| format!("must be a share like 0.1% or 0.001, below 1, not \"{text}\""))
}

/// What a run says of an SLO.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Held,
    /// Why not.
    Missed(String),
}

impl Slo {
    /// Calls that the percentile needs.
    pub(crate) fn samples_min(&self) -> f64 {
        TAIL_SAMPLES / (1.0 - self.percentile / 100.0)
    }

    /// Of so many calls, as many as this may be late without missing it.
    pub(crate) fn late_max(&self, calls: f64) -> f64 {
        calls * (1.0 - self.percentile / 100.0)
    }

    /// The limit in milliseconds.
    pub(crate) fn limit_ms(&self) -> f64 {
        self.limit.as_secs_f64() * 1_000.0
    }

    /// Whether it held.
    pub(crate) fn judge(&self, measured: &Measured) -> Verdict {
        let failed = measured.counts.failed() as f64 / (measured.counts.total() as f64).max(1.0);
        let found_ms = measured.latency.at(self.percentile);
        let mut missed = Vec::new();
        if measured.latency.count == 0 {
            missed.push("no call was answered".to_owned());
        } else if found_ms > self.limit_ms() {
            missed.push(format!("p{} is {found_ms:.2} ms, above {:.2} ms", self.percentile, self.limit_ms()));
        }
        if failed > self.error_share_max {
            missed.push(format!("{:.3} % failed, above {} %", failed * 100.0, self.error_share_max * 100.0));
        }
        if missed.is_empty() { Verdict::Held } else { Verdict::Missed(missed.join("; ")) }
    }

    /// A warning when the percentile rests on too few calls.
    pub(crate) fn too_few(&self, measured: &Measured) -> Option<String> {
        let (found, wanted) = (measured.latency.count, self.samples_min());
        ((found as f64) < wanted)
            .then(|| format!("{found} calls are too few for p{}: {wanted:.0} are needed", self.percentile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_as_people_write_them() {
        let slo: Slo = "p99=25ms".parse().unwrap();
        assert_eq!((slo.percentile, slo.limit), (99.0, Duration::from_millis(25)));
        assert_eq!("p99.9=1.5s".parse::<Slo>().unwrap().limit, Duration::from_millis(1_500));
        assert!((slo.samples_min() - 3_000.0).abs() < 0.01);
        for bad in ["", "99=25ms", "p99", "p99=25", "p99=-1ms", "p100=1ms", "px=1ms", "p99=0ms"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_percent_or_plain() {
        assert_eq!(share("0.1%"), Ok(0.001));
        assert_eq!(share("0.25"), Ok(0.25));
        assert!(share("100%").is_err() && share("-1").is_err() && share("x").is_err());
    }
}
