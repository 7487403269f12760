//! Leaves a dependency alone after it failed several times in a row, and finds out when it is back.
//!
//! While it is open, one caller after each pause may try; the others do without at once. The moment is an argument, so
//! that tests wait for nothing. Must not know what it guards.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The share of a pause by which it may be longer, so that processes do not come back all at once.
const JITTER: f64 = 0.25;

/// Counts failures in a row.
pub struct Breaker {
    failures_max: u32,
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    /// `None` is closed: everybody may try.
    open_until: Option<Instant>,
}

impl Breaker {
    /// Opens for `pause` and a little more after `failures_max` failures in a row.
    pub fn new(failures_max: u32, pause: Duration) -> Breaker {
        Breaker { failures_max, pause, state: Mutex::default() }
    }

    /// Whether the caller may try. While it is open, one caller a pause may; what becomes of that must be told.
    pub fn allows(&self, now: Instant) -> bool {
        let mut state = self.state();
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                // Should the one that tries be given up, another one tries after the next pause.
                state.open_until = Some(now + jittered(self.pause));
                true
            }
        }
    }

    /// It answered.
    pub fn succeeded(&self) {
        *self.state() = State::default();
    }

    /// It did not. Tells whether it opened by this.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures < self.failures_max {
            return false;
        }
        let opens = state.open_until.is_none();
        state.open_until = Some(now + jittered(self.pause));
        opens
    }

    /// Whether it lets nobody through but those that try.
    pub fn is_open(&self) -> bool {
        self.state().open_until.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That time and a random share of it more.
pub fn jittered(time: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) >> 11;
    time.mul_f64(1.0 + JITTER * (random as f64 / (1_u64 << 53) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_open_it_and_one_caller_tries_after_the_pause() {
        let breaker = Breaker::new(3, PAUSE);
        let start = Instant::now();
        assert!(!breaker.failed(start) && !breaker.failed(start));
        breaker.succeeded();
        assert!(!breaker.failed(start) && !breaker.failed(start) && breaker.allows(start));
        assert!(breaker.failed(start), "the third in a row opens it");
        assert!(!breaker.allows(start) && !breaker.allows(start + PAUSE / 2) && breaker.is_open());
        let later = start + PAUSE * 2;
        assert!(breaker.allows(later) && !breaker.allows(later), "one tries");
        assert!(!breaker.failed(later), "it was open already");
        assert!(!breaker.allows(later + PAUSE / 2));
        assert!(breaker.allows(later + PAUSE * 2));
        breaker.succeeded();
        assert!(breaker.allows(later) && breaker.allows(later) && !breaker.is_open());
    }

    #[test]
    fn a_pause_is_never_shorter_and_not_much_longer() {
        assert!((0..100).all(|_| (PAUSE..=PAUSE.mul_f64(1.0 + JITTER)).contains(&jittered(PAUSE))));
    }
}
