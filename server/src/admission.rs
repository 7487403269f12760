//! Admission: may this work wait for a thread, or is it refused now?
//!
//! Work that cannot be done in time is refused when it arrives, not after its time was wasted: by what such work took
//! lately, by what waits before it, and by the number of threads. Under lasting overload the room to wait shrinks, so
//! that what is answered is answered soon. That it lasts is told by work, not by the clock (CoDel, RFC 8289, waits for an
//! interval of time): a machine that stood still for a moment has a long queue and is not overloaded.
//!
//! Pure: the clock is an argument. It must not know what the work is.

mod estimate;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use estimate::Moving;

/// Overload: every thread has begun this much work, by what such work took lately, and the wait was above its bound all
/// the while. Less is a burst. It has passed when the wait was within its bound for as long.
const OVERLOAD_AFTER: Duration = Duration::from_millis(250);
/// When none of its kind was admitted for so long the next one is, whatever it is expected to take: an estimate that is
/// wrong must be able to mend.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// Where a thread is idle it is sooner, after so many times of what the newest one took: what is probably in vain costs at
/// most a fifth of that thread's time for each kind, if it takes less than a fifth of a second.
const PROBE_AFTER_WORKS: f64 = 5.0;
/// A few callers who wait for their answers keep a short queue that is never empty: no overload, however slow the work is.
/// And with less room a single thread runs out of work between two arrivals.
const ROUNDS: f64 = 3.0;
/// Kinds of work that take differently long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A ranked answer.
    Recommend,
    /// Candidates of the caller, ranked.
    Rank,
    /// Items like some items.
    Similar,
}

const KINDS: usize = 3;

/// Why work is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// As many wait as may.
    QueueFull,
    /// It would not be done before its deadline.
    Deadline,
    /// It would wait longer than anything may.
    Wait,
    /// Its deadline had passed when it arrived or when its turn came: no refusal of ours, its time was over.
    Expired,
}

impl Refusal {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::QueueFull => "queue_full",
            Refusal::Deadline => "deadline",
            Refusal::Wait => "wait",
            Refusal::Expired => "expired",
        }
    }
}

/// The bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Threads that work.
    pub threads: usize,
    /// Work that may wait for one.
    pub queue_max: usize,
    /// How long anything may wait.
    pub wait_max: Duration,
    /// The same under overload; at least as long as [`ROUNDS`] such works take.
    pub wait_overload: Duration,
}

/// What was admitted, until it ends.
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    kind: Kind,
    deadline: Option<Instant>,
    /// Seconds it was counted with while it waited.
    counted: f64,
}

/// The state of the queue as far as admission cares.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    took: [Moving; KINDS],
    waiting: usize,
    /// Seconds that what waits will take.
    waiting_seconds: f64,
    running: usize,
    running_seconds: f64,
    /// Seconds of work begun since the expected wait went above its bound under overload; `None` while it is below.
    above: Option<f64>,
    /// When it was above it last.
    above_at: Option<Instant>,
    is_overloaded: bool,
    admitted_at: [Option<Instant>; KINDS],
}

impl Admission {
    /// Nothing waits, nothing is known.
    pub fn new(limits: Limits) -> Admission {
        Admission {
            limits,
            took: [Moving::default(); KINDS],
            waiting: 0,
            waiting_seconds: 0.0,
            running: 0,
            running_seconds: 0.0,
            above: None,
            above_at: None,
            is_overloaded: false,
            admitted_at: [None; KINDS],
        }
    }

    fn is_idle(&self) -> bool {
        self.running + self.waiting < self.limits.threads
    }

    /// How long work that arrives now would wait.
    pub fn expected_wait(&self) -> Duration {
        if self.is_idle() {
            return Duration::ZERO;
        }
        // What runs is half done on average.
        let seconds = (self.waiting_seconds + self.running_seconds / 2.0) / self.limits.threads as f64;
        Duration::from_secs_f64(seconds)
    }

    /// Work arrives; it waits, or is refused.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn arrive(&mut self, kind: Kind, deadline: Option<Instant>, now: Instant) -> Result<Ticket, Refusal> {
        let (took, wait) = (self.took[kind as usize], self.expected_wait());
        let wait_max = self.wait_limit(took.mean, wait, now);
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::Expired);
        }
        if self.waiting >= self.limits.queue_max {
            return Err(Refusal::QueueFull);
        }
        if !self.is_probe(kind, now) {
            if wait > wait_max {
                return Err(Refusal::Wait);
            }
            let needed = wait + Duration::from_secs_f64(took.mean + took.deviation);
            if deadline.is_some_and(|deadline| now + needed > deadline) {
                return Err(Refusal::Deadline);
            }
        }
        self.admitted_at[kind as usize] = Some(now);
        self.waiting += 1;
        self.waiting_seconds += took.mean;
        Ok(Ticket { kind, deadline, counted: took.mean })
    }

    /// Its turn has come. What was let in is done: who is refused after waiting has waited in vain.
    ///
    /// # Errors
    /// `Expired` when its deadline has passed.
    pub fn start(&mut self, ticket: Ticket, now: Instant) -> Result<(), Refusal> {
        self.leave(ticket);
        if ticket.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::Expired);
        }
        self.running += 1;
        self.running_seconds += ticket.counted;
        if let Some(above) = &mut self.above {
            *above += ticket.counted;
            self.is_overloaded |= *above >= OVERLOAD_AFTER.as_secs_f64() * self.limits.threads as f64;
        }
        Ok(())
    }

    /// Nobody waits for it any more, and it did not start.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting -= 1;
        self.waiting_seconds = if self.waiting == 0 { 0.0 } else { (self.waiting_seconds - ticket.counted).max(0.0) };
    }

    /// It is done now, and took so long; `None` when it was not run after all.
    pub fn finish(&mut self, ticket: Ticket, took: Option<Duration>, now: Instant) {
        self.running -= 1;
        self.running_seconds = if self.running == 0 { 0.0 } else { (self.running_seconds - ticket.counted).max(0.0) };
        if let Some(took) = took {
            self.took[ticket.kind as usize].add(took.as_secs_f64(), now);
        }
    }

    /// Is it time to measure such work again, whatever is known of it?
    fn is_probe(&self, kind: Kind, now: Instant) -> bool {
        let works = if self.is_idle() { PROBE_AFTER_WORKS * self.took[kind as usize].newest } else { f64::INFINITY };
        let after = works.min(PROBE_AFTER.as_secs_f64());
        let last = self.admitted_at[kind as usize];
        last.is_none_or(|at| now.saturating_duration_since(at).as_secs_f64() >= after)
    }

    /// How long work that takes so many seconds may wait, when it is expected to wait so long.
    fn wait_limit(&mut self, seconds: f64, wait: Duration, now: Instant) -> Duration {
        let Limits { wait_max, wait_overload, .. } = self.limits;
        let bound = wait_overload.max(Duration::from_secs_f64(ROUNDS * seconds)).min(wait_max);
        let is_over = self.above_at.is_none_or(|at| now.saturating_duration_since(at) >= OVERLOAD_AFTER);
        if wait > bound {
            self.above.get_or_insert(0.0);
            self.above_at = Some(now);
        } else if is_over || !self.is_overloaded {
            (self.above, self.is_overloaded) = (None, false);
        }
        if self.is_overloaded { bound } else { wait_max }
    }
}
