//! When requests are due: the intended instants of an open loop, as offsets from its start.
//!
//! The schedule never asks how the server is doing. Seeded: the same run twice.

use std::time::Duration;

use crate::numbers::Numbers;

/// How the instants lie.
#[derive(Debug, Clone)]
pub(crate) enum Arrivals {
    /// Independent users: exponential gaps.
    Poisson,
    /// Equal gaps.
    Constant,
    /// Exponential gaps, at a rate that grows evenly from the first to the second, over the duration.
    Ramp { from: f64 },
    /// The instants of a recorded log, divided by the speed.
    Recorded(std::rc::Rc<[Duration]>),
}

impl Arrivals {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Arrivals::Poisson => "poisson",
            Arrivals::Constant => "constant",
            Arrivals::Ramp { .. } => "ramp",
            Arrivals::Recorded(_) => "replay",
        }
    }
}

/// The instants, one after the other, until `duration`.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    /// Requests a second; of a ramp, at its end.
    rate: f64,
    duration_s: f64,
    draw: Numbers,
    now_s: f64,
    number: usize,
}

impl Schedule {
    /// `rate` has no meaning for recorded arrivals.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, duration: Duration, seed: u64) -> Schedule {
        let draw = Numbers::new(seed, 0x5eed);
        Schedule { arrivals, rate, duration_s: duration.as_secs_f64(), draw, now_s: 0.0, number: 0 }
    }

    /// An exponential number of mean 1.
    fn exponential(&mut self) -> f64 {
        // In (0, 1]: its logarithm is finite.
        let uniform = ((self.draw.next() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        -uniform.ln()
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let number = self.number;
        self.number += 1;
        self.now_s = match &self.arrivals {
            Arrivals::Poisson => self.now_s + self.exponential() / self.rate,
            Arrivals::Constant => number as f64 / self.rate,
            Arrivals::Ramp { from } => {
                // The expected count until t is from t + slope t^2 / 2: solved for the t of one more unit.
                let (from, slope) = (*from, (self.rate - from) / self.duration_s);
                let now = from + slope * self.now_s;
                let more = self.exponential();
                let root = now * now + 2.0 * slope * more;
                if root < 0.0 {
                    return None;
                }
                self.now_s + 2.0 * more / (now + root.sqrt())
            }
            Arrivals::Recorded(instants) => instants.get(number)?.as_secs_f64(),
        };
        (self.now_s < self.duration_s).then(|| Duration::from_secs_f64(self.now_s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[track_caller]
    fn check_count(schedule: Schedule, expected: f64) -> Vec<f64> {
        let instants: Vec<f64> = schedule.map(|at| at.as_secs_f64()).collect();
        assert!(instants.windows(2).all(|pair| pair[0] <= pair[1]));
        let off = (instants.len() as f64 - expected).abs();
        assert!(off <= 5.0 * expected.sqrt(), "{} instants, expected {expected}", instants.len());
        instants
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() {
        let instants = check_count(Schedule::new(Arrivals::Poisson, 500.0, MINUTE, 1), 30_000.0);
        let gaps: Vec<f64> = instants.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "an exponential's deviation is its mean");
    }

    #[test]
    fn constant_arrivals_have_equal_gaps() {
        let instants: Vec<Duration> = Schedule::new(Arrivals::Constant, 4.0, Duration::from_secs(1), 1).collect();
        assert_eq!(instants, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn a_ramp_grows_evenly() {
        let ramp = |from, to| Schedule::new(Arrivals::Ramp { from }, to, MINUTE, 2);
        let instants = check_count(ramp(100.0, 900.0), 30_000.0);
        let first = instants.iter().filter(|at| **at < 30.0).count() as f64;
        assert!((first / instants.len() as f64 - 0.3).abs() < 0.02, "{first} in the first half");
        check_count(ramp(900.0, 100.0), 30_000.0);
        check_count(ramp(200.0, 200.0), 12_000.0);
    }

    #[test]
    fn recorded_arrivals_are_kept() {
        let recorded: std::rc::Rc<[Duration]> = [5, 5, 90_000].map(Duration::from_millis).into();
        let schedule = Schedule::new(Arrivals::Recorded(recorded), 0.0, MINUTE, 1);
        assert_eq!(schedule.collect::<Vec<_>>(), [5, 5].map(Duration::from_millis), "the third is past the end");
    }

    #[test]
    fn the_same_seed_gives_the_same_instants() {
        let schedule = |seed| Schedule::new(Arrivals::Poisson, 50.0, MINUTE, seed).collect::<Vec<_>>();
        assert_eq!(schedule(3), schedule(3));
        assert_ne!(schedule(3), schedule(4));
    }
}
