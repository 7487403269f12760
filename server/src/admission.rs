//! Admission: may this work wait for a thread, or is it refused now?
//!
//! Work that cannot be done in time is refused when it arrives, not after its time was wasted: by what such work took
//! lately, by what waits before it, and by the number of threads. Under lasting overload the room to wait shrinks, so
//! that what is answered is answered soon. Pure: the clock is an argument. It must not know what the work is.

use std::time::{Duration, Instant};

/// A queue that was empty within this time is a burst; one that was not is overload.
const OVERLOAD_AFTER: Duration = Duration::from_millis(100);
/// When nothing was admitted for so long the next one is, whatever it is expected to take: an estimate that is wrong
/// must be able to mend.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// A few callers who wait for their answers keep a short queue that is never empty: no overload, however slow the work is.
const ROUNDS: f64 = 2.0;
/// Weight of the newest measurement in the moving mean, and in the moving deviation.
const NEWEST: f64 = 1.0 / 16.0;
const NEWEST_DEVIATION: f64 = 1.0 / 8.0;

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
    /// Its deadline had passed when its turn came: no refusal of ours, its time was over.
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
    /// The same while the queue has not been empty for [`OVERLOAD_AFTER`]; at least as long as [`ROUNDS`] such works take.
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
    empty_at: Option<Instant>,
    admitted_at: Option<Instant>,
}

/// A moving mean and deviation, in seconds (as TCP estimates round trips; Jacobson 1988).
#[derive(Debug, Clone, Copy, Default)]
struct Moving {
    mean: f64,
    deviation: f64,
    is_known: bool,
}

impl Moving {
    fn add(&mut self, seconds: f64) {
        if self.is_known {
            let error = seconds - self.mean;
            self.mean += NEWEST * error;
            self.deviation += NEWEST_DEVIATION * (error.abs() - self.deviation);
        } else {
            *self = Moving { mean: seconds, deviation: seconds / 2.0, is_known: true };
        }
    }
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
            empty_at: None,
            admitted_at: None,
        }
    }

    /// How long work that arrives now would wait.
    pub fn expected_wait(&self) -> Duration {
        if self.running + self.waiting < self.limits.threads {
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
        if self.waiting >= self.limits.queue_max {
            return Err(Refusal::QueueFull);
        }
        if self.waiting == 0 {
            self.empty_at = Some(now);
        }
        let (took, wait) = (self.took[kind as usize], self.expected_wait());
        let is_probe = self.admitted_at.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_AFTER);
        if !is_probe {
            if wait > self.wait_limit(took.mean, now) {
                return Err(Refusal::Wait);
            }
            let needed = wait + Duration::from_secs_f64(took.mean + took.deviation);
            if deadline.is_some_and(|deadline| now + needed > deadline) {
                return Err(Refusal::Deadline);
            }
        }
        self.admitted_at = Some(now);
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
        if self.waiting == 0 {
            self.empty_at = Some(now);
        }
        if ticket.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::Expired);
        }
        self.running += 1;
        self.running_seconds += ticket.counted;
        Ok(())
    }

    /// Nobody waits for it any more, and it did not start.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting -= 1;
        self.waiting_seconds = if self.waiting == 0 { 0.0 } else { (self.waiting_seconds - ticket.counted).max(0.0) };
    }

    /// It is done, and took so long; `None` when it was not run after all.
    pub fn finish(&mut self, ticket: Ticket, took: Option<Duration>) {
        self.running -= 1;
        self.running_seconds = if self.running == 0 { 0.0 } else { (self.running_seconds - ticket.counted).max(0.0) };
        if let Some(took) = took {
            self.took[ticket.kind as usize].add(took.as_secs_f64());
        }
    }

    /// For work that takes so many seconds.
    fn wait_limit(&self, seconds: f64, now: Instant) -> Duration {
        let is_burst = self.empty_at.is_none_or(|at| now.saturating_duration_since(at) < OVERLOAD_AFTER);
        let Limits { wait_max, wait_overload, .. } = self.limits;
        let rounds = Duration::from_secs_f64(ROUNDS * seconds);
        if is_burst { wait_max } else { wait_overload.max(rounds).min(wait_max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One thread on which everything took 10 ms so far.
    fn ground() -> (Admission, Instant) {
        let limits = Limits { threads: 1, queue_max: 50, wait_max: 200 * MS, wait_overload: 20 * MS };
        let (mut admission, now) = (Admission::new(limits), Instant::now());
        for _ in 0..200 {
            let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
            admission.start(ticket, now).unwrap();
            admission.finish(ticket, Some(10 * MS));
        }
        (admission, now)
    }

    fn ask(admission: &mut Admission, now: Instant, within: Duration) -> Result<Ticket, Refusal> {
        admission.arrive(Kind::Recommend, Some(now + within), now)
    }

    #[test]
    fn what_cannot_be_done_in_time_is_refused_when_it_arrives() {
        let (mut admission, now) = ground();
        assert_eq!(ask(&mut admission, now, 5 * MS).unwrap_err(), Refusal::Deadline);
        let first = ask(&mut admission, now, 12 * MS).unwrap();
        admission.start(first, now).unwrap();
        // Behind one that is half done.
        assert_eq!(ask(&mut admission, now, 12 * MS).unwrap_err(), Refusal::Deadline);
        assert!(ask(&mut admission, now, 18 * MS).is_ok());
        assert_eq!(ask(&mut admission, now, 20 * MS).unwrap_err(), Refusal::Deadline);
        assert!(ask(&mut admission, now, 30 * MS).is_ok());
    }

    #[test]
    fn a_burst_may_wait_and_lasting_overload_may_not() {
        let (mut admission, now) = ground();
        let running = admission.arrive(Kind::Recommend, None, now).unwrap();
        admission.start(running, now).unwrap();
        let burst = (0..50).map_while(|_| admission.arrive(Kind::Recommend, None, now).ok()).count();
        assert!((18..=22).contains(&burst), "{burst} of 10 ms wait at most 200 ms");
        assert_eq!(admission.arrive(Kind::Recommend, None, now).unwrap_err(), Refusal::Wait);
        let later = now + OVERLOAD_AFTER;
        assert_eq!(admission.arrive(Kind::Recommend, None, later).unwrap_err(), Refusal::Wait);
        for _ in 0..burst - 1 {
            admission.leave(running);
        }
        assert!(admission.arrive(Kind::Recommend, None, later).is_ok(), "one waits: about 15 ms");
        assert_eq!(admission.arrive(Kind::Recommend, None, later).unwrap_err(), Refusal::Wait, "two: more than 20 ms");
    }

    #[test]
    fn a_few_patient_callers_are_no_overload_however_slow_the_work_is() {
        let (mut admission, now) = ground();
        for _ in 0..200 {
            let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
            admission.start(ticket, now).unwrap();
            admission.finish(ticket, Some(30 * MS));
        }
        let running = admission.arrive(Kind::Recommend, None, now).unwrap();
        admission.start(running, now).unwrap();
        assert!(admission.arrive(Kind::Recommend, None, now).is_ok(), "15 ms");
        let later = now + OVERLOAD_AFTER;
        assert!(
            admission.arrive(Kind::Recommend, None, later).is_ok(),
            "45 ms: more than the bound, less than two of 30"
        );
        assert_eq!(admission.arrive(Kind::Recommend, None, later).unwrap_err(), Refusal::Wait, "more than two rounds");
    }

    #[test]
    fn what_was_let_in_is_done_unless_its_deadline_has_passed() {
        let (mut admission, now) = ground();
        let ticket = ask(&mut admission, now, 50 * MS).unwrap();
        assert_eq!(admission.start(ticket, now + 50 * MS).unwrap_err(), Refusal::Expired);
        let ticket = ask(&mut admission, now, 50 * MS).unwrap();
        assert!(admission.start(ticket, now + 49 * MS).is_ok());
        let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
        let _behind = admission.arrive(Kind::Recommend, None, now).unwrap();
        assert!(admission.start(ticket, now + 900 * MS).is_ok(), "a wrong estimate is not the caller's fault");
    }

    #[test]
    fn the_queue_has_an_end() {
        let limits = Limits { threads: 1, queue_max: 2, wait_max: 200 * MS, wait_overload: 20 * MS };
        let (mut admission, now) = (Admission::new(limits), Instant::now());
        assert!(ask(&mut admission, now, MS).is_ok() && ask(&mut admission, now, MS).is_ok());
        assert_eq!(ask(&mut admission, now, MS).unwrap_err(), Refusal::QueueFull);
    }

    #[test]
    fn a_wrong_estimate_mends() {
        let (mut admission, mut now) = ground();
        let slow = admission.arrive(Kind::Recommend, None, now).unwrap();
        admission.start(slow, now).unwrap();
        admission.finish(slow, Some(Duration::from_secs(60)));
        assert_eq!(ask(&mut admission, now, 50 * MS).unwrap_err(), Refusal::Deadline);
        for _ in 0..200 {
            now += PROBE_AFTER;
            let probe = ask(&mut admission, now, 50 * MS).unwrap();
            admission.start(probe, now).unwrap();
            admission.finish(probe, Some(10 * MS));
        }
        assert!(ask(&mut admission, now, 50 * MS).is_ok());
    }

    #[test]
    fn idle_threads_make_nobody_wait() {
        let (admission, _) = ground();
        assert_eq!(admission.expected_wait(), Duration::ZERO);
    }
}
