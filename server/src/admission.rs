//! Admission: may this work wait for a thread, or is it refused now?
//!
//! Work that cannot be done in time is refused when it arrives, not after its time was wasted: by what such work took
//! lately, by what waits before it, and by the number of threads. Under lasting overload the room to wait shrinks, so
//! that what is answered is answered soon. That it lasts is told by work, not by the clock (CoDel, RFC 8289, waits for an
//! interval of time): a machine that stood still for a moment has a long queue and is not overloaded.
//!
//! Pure: the clock is an argument. It must not know what the work is.

use std::time::{Duration, Instant};

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
/// So many measurements make a moving mean. Until then they weigh alike: the very first ranking reads cold memory and takes
/// ten times as long.
const KNOWN: u32 = 16;
/// Weight of the newest measurement in the moving mean after that, and in the moving deviation.
const NEWEST: f64 = 1.0 / KNOWN as f64;
const NEWEST_DEVIATION: f64 = 1.0 / 8.0;
/// A measurement above twice the mean and so many deviations counts for that (winsorized), and those of threads that stood
/// still with it, and so end with it, not at all. But only one in so many: others count in full, for when there are more,
/// such work does take that long.
const DEVIATIONS: f64 = 4.0;
const SELDOM: u32 = 64;

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

/// A moving mean and deviation, in seconds (as TCP estimates round trips; Jacobson 1988).
#[derive(Debug, Clone, Copy, Default)]
struct Moving {
    mean: f64,
    deviation: f64,
    /// The newest measurement as it was.
    newest: f64,
    /// Measurements, up to [`KNOWN`].
    count: u32,
    /// When work ended that took so long, the last that counted, and how many were measured since one was winsorized.
    stall: Option<(Instant, u32)>,
}

impl Moving {
    fn add(&mut self, seconds: f64, ended: Instant) {
        self.newest = seconds;
        if self.count == 0 {
            (self.mean, self.deviation, self.count) = (seconds, seconds / 2.0, 1);
            return;
        }
        let Some(counted) = self.winsorized(seconds, ended) else { return };
        self.count = KNOWN.min(self.count + 1);
        let (error, alike) = (counted - self.mean, 1.0 / f64::from(self.count));
        self.mean += alike.max(NEWEST) * error;
        self.deviation += alike.max(NEWEST_DEVIATION) * (error.abs() - self.deviation);
    }

    /// What a measurement counts for; `None` when it is of a stall that was counted.
    fn winsorized(&mut self, seconds: f64, ended: Instant) -> Option<f64> {
        if let Some((_, since)) = &mut self.stall {
            *since = since.saturating_add(1);
        }
        let most = 2.0 * self.mean + DEVIATIONS * self.deviation;
        if self.count < KNOWN || seconds <= most {
            return Some(seconds);
        }
        match self.stall {
            Some((at, since)) if since < SELDOM => {
                if ended.saturating_duration_since(at).as_secs_f64() < 2.0 * self.mean {
                    return None;
                }
                self.stall = Some((ended, since));
                Some(seconds)
            }
            _ => {
                self.stall = Some((ended, 0));
                Some(most)
            }
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
            admission.finish(ticket, Some(10 * MS), now);
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

    /// So many more as may wait.
    fn fill(admission: &mut Admission, now: Instant) -> usize {
        let fits = (0..50).map_while(|_| admission.arrive(Kind::Recommend, None, now).ok()).count();
        assert_eq!(admission.arrive(Kind::Recommend, None, now).unwrap_err(), Refusal::Wait);
        fits
    }

    /// The one that runs ends after 10 ms and the next one begins.
    fn work(admission: &mut Admission, ticket: Ticket, now: &mut Instant) {
        *now += 10 * MS;
        admission.finish(ticket, Some(10 * MS), *now);
        admission.start(ticket, *now).unwrap();
    }

    #[test]
    fn a_burst_may_wait_and_lasting_overload_may_not() {
        let (mut admission, mut now) = ground();
        let ticket = admission.arrive(Kind::Recommend, None, now).unwrap();
        admission.start(ticket, now).unwrap();
        let burst = fill(&mut admission, now);
        assert!((18..=22).contains(&burst), "{burst} of 10 ms wait at most 200 ms");
        // The machine stood still: nothing was worked on, so that nothing is known of what it can do.
        now += 10 * OVERLOAD_AFTER;
        for _ in 0..24 {
            work(&mut admission, ticket, &mut now);
            assert_eq!(fill(&mut admission, now), 1, "what began has made room for another");
        }
        // 250 ms of work, and the queue is as long as before.
        for _ in 0..2 {
            work(&mut admission, ticket, &mut now);
        }
        while admission.waiting > 2 {
            assert_eq!(fill(&mut admission, now), 0, "{} wait, more than 30 ms", admission.waiting);
            work(&mut admission, ticket, &mut now);
        }
        // It lasts for as long as the wait is above the bound now and then.
        for _ in 0..50 {
            assert_eq!(fill(&mut admission, now), 1, "two wait, 25 ms");
            work(&mut admission, ticket, &mut now);
        }
        while admission.waiting > 0 {
            work(&mut admission, ticket, &mut now);
        }
        admission.finish(ticket, None, now);
        assert_eq!(fill(&mut admission, now), 4, "a free thread alone does not end it");
        now += OVERLOAD_AFTER;
        while admission.waiting > 0 {
            admission.leave(ticket);
        }
        assert!(fill(&mut admission, now) > 15, "that is a burst again");
    }

    #[test]
    fn a_few_patient_callers_are_no_overload_however_slow_the_work_is() {
        let (mut admission, mut now) = ground();
        let mut tickets: Vec<Ticket> = (0..3).map(|_| admission.arrive(Kind::Recommend, None, now).unwrap()).collect();
        admission.start(tickets[0], now).unwrap();
        // Three callers, 30 ms of work: 45 ms, more than the bound and less than three of 30.
        for round in 0..300 {
            now += 30 * MS;
            admission.finish(tickets.remove(0), Some(30 * MS), now);
            admission.start(tickets[0], now).unwrap();
            let ticket = admission.arrive(Kind::Recommend, None, now);
            tickets.push(ticket.unwrap_or_else(|why| panic!("{why:?} in round {round}")));
        }
        assert!(!admission.is_overloaded && admission.above.is_none());
    }

    /// Numbers from 0 to 1, evenly (Knuth's MMIX generator).
    fn draw(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Independent callers, two threads, 1 to 9 ms of work each; 200,000 calls, at a share of the 400 a second that the
    /// threads can do. How many were refused, how many a second were answered within 50 ms.
    fn simulate(load: f64) -> (usize, f64) {
        const CALLS: usize = 200_000;
        let limits = Limits { threads: 2, queue_max: 1_000, wait_max: 200 * MS, wait_overload: 10 * MS };
        let (mut admission, began, mut seed) = (Admission::new(limits), Instant::now(), 7);
        let mut waiting = std::collections::VecDeque::new();
        let mut running: Vec<(Instant, Ticket, Duration, Instant)> = Vec::new();
        let (mut now, mut refused, mut latencies) = (began, 0, Vec::new());
        for _ in 0..CALLS {
            let gap = -draw(&mut seed).max(1e-12).ln() * 0.005 / (2.0 * load);
            now += Duration::from_secs_f64(gap);
            let mut begin = |admission: &mut Admission, running: &mut Vec<_>, (ticket, arrived), at: Instant| {
                let took = Duration::from_secs_f64(0.001 + 0.008 * draw(&mut seed));
                admission.start(ticket, at).unwrap();
                running.push((at + took, ticket, took, arrived));
            };
            while let Some(first) = (0..running.len()).min_by_key(|at| running[*at].0)
                && running[first].0 <= now
            {
                let (ended, ticket, took, arrived) = running.swap_remove(first);
                admission.finish(ticket, Some(took), ended);
                latencies.push(ended - arrived);
                if let Some(next) = waiting.pop_front() {
                    begin(&mut admission, &mut running, next, ended);
                }
            }
            match admission.arrive(Kind::Recommend, None, now) {
                Ok(ticket) if running.len() < limits.threads => begin(&mut admission, &mut running, (ticket, now), now),
                Ok(ticket) => waiting.push_back((ticket, now)),
                Err(_) => refused += 1,
            }
        }
        latencies.sort_unstable();
        let in_time = latencies.partition_point(|took| *took <= 50 * MS) as f64 / (now - began).as_secs_f64();
        let (share, p99) = (refused as f64 / CALLS as f64 * 100.0, latencies[latencies.len() * 99 / 100]);
        println!(
            "load {load}: {share:.3} % refused, {in_time:.0} a second in time, p99 {:.0} ms",
            p99.as_secs_f64() * 1e3
        );
        (refused, in_time)
    }

    #[test]
    fn chance_at_half_load_is_no_overload_and_overload_costs_no_answers() {
        assert_eq!(simulate(0.5).0, 0, "of 200,000 calls at half load");
        for load in [0.6, 0.7, 0.9] {
            let (refused, in_time) = simulate(load);
            assert!((refused as f64) < 200_000.0 * 0.05 && in_time > 400.0 * load * 0.95, "load {load}");
        }
        for load in [1.5, 3.0, 10.0] {
            let (refused, in_time) = simulate(load);
            assert!(refused > 50_000 && in_time > 380.0, "load {load}: {refused} refused, {in_time} a second in time");
        }
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
        assert_eq!(ask(&mut admission, now, Duration::ZERO).unwrap_err(), Refusal::Expired, "not for the queue's sake");
    }

    /// One after the other with such pauses, by callers who wait 50 ms: how many of `asked` were refused, and from the first
    /// call on, for how long.
    fn refused(
        admission: &mut Admission,
        now: &mut Instant,
        (asked, pause): (usize, Duration),
        took: Duration,
    ) -> (usize, Duration) {
        let (mut refused, began, mut last) = (0, *now, *now);
        for _ in 0..asked {
            *now += pause;
            match ask(admission, *now, 50 * MS) {
                Ok(ticket) => {
                    admission.start(ticket, *now).unwrap();
                    *now += took;
                    admission.finish(ticket, Some(took), *now);
                }
                Err(why) => {
                    assert_eq!(why, Refusal::Deadline);
                    (refused, last) = (refused + 1, *now);
                }
            }
        }
        (refused, last - began)
    }

    #[test]
    fn first_work_that_is_slow_refuses_for_seconds_at_most() {
        for (first, most) in
            [(60 * MS, 600 * MS), (500 * MS, 1_500 * MS), (2_000 * MS, 1_500 * MS), (60_000 * MS, 2_500 * MS)]
        {
            let limits = Limits { threads: 1, queue_max: 50, wait_max: 200 * MS, wait_overload: 20 * MS };
            let (mut admission, mut now) = (Admission::new(limits), Instant::now());
            assert_eq!(refused(&mut admission, &mut now, (1, MS), first).0, 0);
            let (refused_then, lasted) = refused(&mut admission, &mut now, (1_000, 5 * MS), 4 * MS);
            println!("first {first:?}: then {refused_then} refused, the last one after {lasted:?}");
            assert!(refused_then > 0 && lasted <= most, "{first:?}: {refused_then}, {lasted:?}");
            assert_eq!(refused(&mut admission, &mut now, (1_000, 5 * MS), 4 * MS).0, 0, "{first:?}");
        }
    }

    #[test]
    fn threads_that_stood_still_together_say_nothing_and_work_that_has_become_slow_does() {
        for threads in [1, 2, 16] {
            let (mut admission, mut now) = ground();
            admission.limits.threads = threads;
            let stand_still = |admission: &mut Admission, now: &mut Instant, time: Duration| {
                let tickets = (0..threads).map(|_| ask(admission, *now, 50 * MS).unwrap());
                let tickets: Vec<Ticket> = tickets.collect();
                tickets.iter().for_each(|ticket| admission.start(*ticket, *now).unwrap());
                *now += time;
                for ticket in tickets {
                    admission.finish(ticket, Some(time), *now);
                    *now += MS;
                }
            };
            stand_still(&mut admission, &mut now, 2_000 * MS);
            assert_eq!(refused(&mut admission, &mut now, (30, 10 * MS), 10 * MS).0, 0, "{threads} threads");
            // So soon again it counts, and once.
            stand_still(&mut admission, &mut now, 300 * MS);
            let mean = admission.took[Kind::Recommend as usize].mean;
            assert!((0.02..0.04).contains(&mean), "{threads} threads: {mean}");
            let of_thirty = refused(&mut admission, &mut now, (30, 10 * MS), 100 * MS).0;
            assert!(of_thirty > 15, "{of_thirty} of 30 that take 100 ms, {threads} threads");
        }
    }

    #[test]
    fn what_often_takes_long_is_counted() {
        for threads in [1, 2, 4, 16] {
            let (mut took, began, mut seed, mut sum) = (Moving::default(), Instant::now(), 7, 0.0);
            let mut running = vec![(began, 0); threads];
            for _ in 0..100_000 {
                let first = (0..threads).min_by_key(|at| running[*at].0).unwrap();
                let (ended, milliseconds) = running[first];
                took.add(f64::from(milliseconds) / 1e3, ended);
                sum += took.mean;
                let milliseconds = if draw(&mut seed) < 0.05 { 300 } else { 3 };
                running[first] = (ended + milliseconds * MS, milliseconds);
            }
            // A twentieth takes 300 ms and the rest 3: 17.85 ms.
            let mean_ms = sum / 100_000.0 * 1e3;
            println!("{threads} threads: {mean_ms:.1} of 17.85 ms");
            assert!((8.5..18.5).contains(&mean_ms), "{threads} threads: {mean_ms}");
        }
    }

    #[test]
    fn a_wrong_estimate_mends_beside_other_work() {
        let (mut admission, mut now) = ground();
        refused(&mut admission, &mut now, (100, PROBE_AFTER), Duration::from_secs(60));
        assert!(admission.took[Kind::Recommend as usize].mean > 10.0);
        // The thread works on another kind all the while, so that only the second counts.
        let other = admission.arrive(Kind::Rank, None, now).unwrap();
        admission.start(other, now).unwrap();
        let probe = ask(&mut admission, now, 50 * MS).unwrap();
        admission.start(probe, now).unwrap();
        admission.finish(probe, Some(10 * MS), now);
        let mut seconds = 0;
        while let Err(why) = ask(&mut admission, now, 50 * MS) {
            assert_eq!(why, Refusal::Deadline);
            seconds += 1;
            now += PROBE_AFTER - MS;
            assert!(ask(&mut admission, now, 50 * MS).is_err(), "second {seconds}");
            now += MS;
            assert_eq!(ask(&mut admission, now, Duration::ZERO).unwrap_err(), Refusal::Expired, "no use as a probe");
            let probe = ask(&mut admission, now, 50 * MS).unwrap();
            admission.start(probe, now).unwrap();
            admission.finish(probe, Some(10 * MS), now);
        }
        assert!((100..150).contains(&seconds), "{seconds}");
    }

    #[test]
    fn what_is_asked_in_vain_costs_a_fifth_of_an_idle_thread_at_most() {
        let (mut admission, mut now) = ground();
        // Work of 100 ms for callers who wait 50; asked 1,000 times a second, for a minute.
        refused(&mut admission, &mut now, (100, PROBE_AFTER), 100 * MS);
        let (began, mut worked) = (now, Duration::ZERO);
        while now < began + Duration::from_secs(60) {
            now += MS;
            if let Ok(ticket) = ask(&mut admission, now, 50 * MS) {
                admission.start(ticket, now).unwrap();
                now += 100 * MS;
                worked += 100 * MS;
                admission.finish(ticket, Some(100 * MS), now);
            }
        }
        let share = worked.as_secs_f64() / (now - began).as_secs_f64();
        assert!((0.15..0.201).contains(&share), "{share}");
    }

    #[test]
    fn a_busy_thread_beside_an_idle_one_does_not_keep_an_estimate_from_mending() {
        let (mut admission, mut now) = ground();
        refused(&mut admission, &mut now, (30, PROBE_AFTER), 100 * MS);
        admission.limits.threads = 2;
        let other = admission.arrive(Kind::Rank, None, now).unwrap();
        admission.start(other, now).unwrap();
        let (refused_then, lasted) = refused(&mut admission, &mut now, (1_000, 5 * MS), 5 * MS);
        assert!(refused_then > 0 && lasted < 2_000 * MS, "{refused_then}, {lasted:?}");
    }

    #[test]
    fn idle_threads_make_nobody_wait() {
        let (admission, _) = ground();
        assert_eq!(admission.expected_wait(), Duration::ZERO);
    }
}
