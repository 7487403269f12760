//! One load: sends every call at its instant, whatever the server does, and measures from that instant.
//!
//! A call that is sent late, because this process or its machine was slow, is measured from when it was due; how late
//! it was is measured, too, and makes the run invalid if it is too much.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;

use crate::machine::{self, Seen, Watch};
use crate::outcome::{Outcome, Sample, Tally};
use crate::pacer::Pacer;
use crate::result::{Measured, Run};
use crate::schedule::{Arrivals, Schedule};
use crate::session::{Session, Shared};
use crate::slo::{Slo, Verdict};
use crate::traffic::{Kind, Shot};
use crate::wire::{Picked, Reply, call, frame};

/// Calls that are sent without giving the turn to those that read answers.
const BURST: u32 = 8;
/// A server that cannot be connected to for so long is gone.
const LOST_MAX: Duration = Duration::from_secs(2);
/// After the last deadline, for answers that are under way.
const GRACE: Duration = Duration::from_secs(1);
/// A host that took a larger share of this machine than this is told of.
const STOLEN_TOLD: f64 = 0.01;

/// What to load with.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) arrivals: Arrivals,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Measured; the warm-up goes before it.
    pub(crate) duration: Duration,
    pub(crate) warm_up: Duration,
    /// Callers that each wait for their answer before they ask again, instead of a schedule.
    pub(crate) closed: Option<usize>,
    pub(crate) slo: Option<Slo>,
    /// The generator's lag at the SLO's percentile, at most.
    pub(crate) lag_max: Duration,
    /// Ends as soon as the SLO cannot hold any more.
    pub(crate) stop_early: bool,
    /// Parts of equal length, to see how much the figures vary.
    pub(crate) blocks: u32,
    /// What the progress line begins with.
    pub(crate) title: String,
}

/// A load under way.
struct Drive<'a> {
    session: &'a Session,
    load: &'a Load,
    tally: Rc<RefCell<Tally>>,
    started: Instant,
    /// Calls that are due from here on are measured.
    measured_from: Instant,
    told: Instant,
}

impl Session {
    /// Loads the server.
    ///
    /// # Errors
    /// The system gives no timer; what was acknowledged cannot be written down.
    pub(crate) async fn drive(&self, load: &Load) -> anyhow::Result<Run> {
        let tally = Rc::new(RefCell::new(Tally::new(load.duration, load.blocks, load.slo.as_ref())));
        let mut pacer = Pacer::new()?;
        let watched = self.watched.clone();
        let warm_up = load.warm_up;
        let watch = tokio::task::spawn_local(async move {
            tokio::time::sleep(warm_up).await;
            tokio::task::spawn_blocking(move || Watch::start(&watched)).await
        });
        // The first instant lies a little ahead, so that it is not late already.
        let started = Instant::now() + Duration::from_millis(5);
        let measured_from = started + load.warm_up;
        let mut drive = Drive { session: self, load, tally, started, measured_from, told: started };
        let cpu_before = machine::usage("self").map_or(0.0, |usage| usage.0);
        let stopped = match load.closed {
            Some(callers) => drive.closed(callers).await,
            None => drive.open(&mut pacer).await,
        };
        let generator_cpu_share = machine::usage("self")
            .map_or(0.0, |usage| (usage.0 - cpu_before) / drive.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
        drive.wait_for_answers().await;
        if let Some(ledger) = &mut *self.shared.ledger.borrow_mut() {
            ledger.flush()?;
        }
        let stopped = stopped.or_else(|| self.lost());
        let measured_for = match &stopped {
            None => load.duration,
            Some(_) => measured_from.elapsed().min(load.duration).max(Duration::from_millis(1)),
        };
        drive.clear_progress();
        let watch = if measured_from.elapsed().is_zero() { None } else { watch.await.ok().and_then(Result::ok) };
        let tally = std::mem::replace(&mut *drive.tally.borrow_mut(), Tally::new(Duration::ZERO, 1, None));
        let measured = tally.finish(measured_for);
        let answered = measured.counts.ok + measured.counts.degraded;
        let seen = match watch {
            Some(watch) => tokio::task::spawn_blocking(move || watch.finish(answered)).await.unwrap_or_default(),
            None => Seen::default(),
        };
        Ok(conclude(load, measured, seen, stopped, generator_cpu_share))
    }

    fn lost(&self) -> Option<Stop> {
        self.shared.connections.lost_for().map(|_| Stop::Incomplete("the server closed all connections".to_owned()))
    }
}

/// Why a load ended before its time.
#[derive(Debug)]
enum Stop {
    /// What was measured is only a part.
    Incomplete(String),
    /// Enough was seen: the SLO is missed.
    Decided,
}

impl Drive<'_> {
    async fn open(&mut self, pacer: &mut Pacer) -> Option<Stop> {
        let shared = self.session.shared.clone();
        let whole = self.load.warm_up + self.load.duration;
        let schedule = Schedule::new(self.load.arrivals.clone(), self.load.rate, whole, self.session.seed);
        let mut burst = 0;
        for (number, at) in schedule.enumerate() {
            let due = self.started + at;
            if Instant::now() < due {
                burst = 0;
                self.wait(pacer, due).await;
            } else {
                burst += 1;
                if burst % BURST == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let now = Instant::now();
            if let Some(stop) = self.look(now) {
                return Some(stop);
            }
            self.send(&shared, number, due, now);
        }
        self.wait(pacer, self.started + whole).await;
        self.look(Instant::now())
    }

    /// Waits for an instant, and shows that it does.
    async fn wait(&mut self, pacer: &mut Pacer, due: Instant) {
        const LOOK_EVERY: Duration = Duration::from_millis(500);
        while Instant::now() + LOOK_EVERY < due {
            pacer.until(Instant::now() + LOOK_EVERY).await;
            if self.look(Instant::now()).is_some() {
                return;
            }
        }
        pacer.until(due).await;
    }

    fn send(&self, shared: &Rc<Shared>, number: usize, due: Instant, now: Instant) {
        let is_measured = due >= self.measured_from;
        if shared.in_flight.get() >= shared.in_flight_max {
            if is_measured {
                self.tally.borrow_mut().drop_one(due - self.measured_from);
            }
            return;
        }
        let row = match &self.load.arrivals {
            Arrivals::Recorded(_) => self.session.log.as_ref().and_then(|log| log.rows.get(number)),
            _ => None,
        };
        let shot = shared.traffic.borrow_mut().next(&shared.memory.borrow(), row);
        if is_measured {
            self.tally.borrow_mut().sent(now - due);
        }
        let flight = Flight {
            shared: shared.clone(),
            tally: self.tally.clone(),
            since: is_measured.then(|| due - self.measured_from),
            due,
            sent: now,
        };
        match shared.connections.pick() {
            Some(picked) => {
                shared.in_flight.set(shared.in_flight.get() + 1);
                tokio::task::spawn_local(flight.fly(picked, shot));
            }
            None => flight.end(&shot, &Reply::unsent(), now),
        }
    }

    /// Each caller asks again when its last call is answered: what a slow server does not get to hear, nobody measures.
    async fn closed(&mut self, callers: usize) -> Option<Stop> {
        let shared = self.session.shared.clone();
        let until = self.measured_from + self.load.duration;
        for _ in 0..callers {
            let (shared, tally, measured_from) = (shared.clone(), self.tally.clone(), self.measured_from);
            tokio::task::spawn_local(async move {
                while Instant::now() < until && !shared.interrupted.get() {
                    let shot = shared.traffic.borrow_mut().next(&shared.memory.borrow(), None);
                    let Some(picked) = shared.connections.pick() else {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    let sent = Instant::now();
                    let since = (sent >= measured_from).then(|| sent - measured_from);
                    shared.in_flight.set(shared.in_flight.get() + 1);
                    let (shared, tally) = (shared.clone(), tally.clone());
                    Flight { shared, tally, since, due: sent, sent }.fly(picked, shot).await;
                }
            });
        }
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(stop) = self.look(Instant::now()) {
                return Some(stop);
            }
        }
        None
    }

    /// Whether to go on; once a second, how it goes.
    fn look(&mut self, now: Instant) -> Option<Stop> {
        let after = now.saturating_duration_since(self.started).as_secs_f64();
        if self.session.shared.interrupted.get() {
            return Some(Stop::Incomplete(format!("interrupted after {after:.1} s")));
        }
        if let Some(lost) = self.session.shared.connections.lost_for().filter(|lost| *lost > LOST_MAX) {
            let from = after - lost.as_secs_f64();
            return Some(Stop::Incomplete(format!(
                "the server was lost after {from:.1} s and took no connection for {:.0} s",
                lost.as_secs_f64()
            )));
        }
        if self.load.stop_early && self.is_decided() {
            return Some(Stop::Decided);
        }
        if now.saturating_duration_since(self.told) >= Duration::from_secs(1) {
            self.told = now;
            self.show_progress(after);
        }
        None
    }

    /// More calls are late or failed than the whole run may have.
    fn is_decided(&self) -> bool {
        let Some(slo) = &self.load.slo else { return false };
        let planned = self.load.rate * self.load.duration.as_secs_f64();
        let tally = self.tally.borrow();
        // One call more than the share, and never on a handful: a percentile of a short step is coarse.
        tally.late() as f64 > slo.late_max(planned) + 2.0
            || tally.counts().failed() as f64 > slo.error_share_max * planned + 2.0
    }

    fn show_progress(&self, after: f64) {
        let mut stderr = std::io::stderr();
        let whole = (self.load.warm_up + self.load.duration).as_secs_f64();
        let is_live = stderr.is_terminal();
        if !is_live && !(after as u64).is_multiple_of(10) {
            return;
        }
        let tally = self.tally.borrow();
        let (counts, waiting) = (tally.counts(), self.session.shared.in_flight.get());
        let line = format!(
            "{} {after:3.0}/{whole:.0} s  answered {} shed {} deadline {} error {} dropped {}  waiting {waiting}  p50 {:.2} p99 {:.2} ms{}",
            self.load.title,
            counts.ok + counts.degraded,
            counts.shed,
            counts.deadline,
            counts.error,
            counts.dropped,
            tally.latency_ms(50.0),
            tally.latency_ms(99.0),
            if tally.violations() > 0 { "  WRONG ANSWERS" } else { "" },
        );
        let _closed = if is_live { write!(stderr, "\r\x1b[K{line}") } else { writeln!(stderr, "{line}") };
        let _closed = stderr.flush();
    }

    fn clear_progress(&self) {
        let mut stderr = std::io::stderr();
        if stderr.is_terminal() {
            let _closed = write!(stderr, "\r\x1b[K");
        }
    }

    async fn wait_for_answers(&self) {
        let until = Instant::now() + self.session.shared.deadline + GRACE;
        while self.session.shared.in_flight.get() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Reply {
    fn unsent() -> Reply {
        Reply { code: Code::Unavailable, message: "no connection".to_owned(), body: Bytes::new() }
    }

    fn late() -> Reply {
        Reply { code: Code::DeadlineExceeded, message: "no answer before the deadline".to_owned(), body: Bytes::new() }
    }
}

/// One call on its way.
struct Flight {
    shared: Rc<Shared>,
    tally: Rc<RefCell<Tally>>,
    /// When it was due, since the measuring began; `None` while warming up.
    since: Option<Duration>,
    due: Instant,
    sent: Instant,
}

impl Flight {
    async fn fly(self, Picked { sender, server }: Picked, shot: Shot) {
        let head = self.shared.heads[server][shot.kind as usize].clone();
        let answer = call(sender, head, shot.body.clone());
        let deadline = self.sent + self.shared.deadline;
        let reply = tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| Reply::late());
        self.shared.in_flight.set(self.shared.in_flight.get() - 1);
        self.end(&shot, &reply, Instant::now());
    }

    fn end(&self, shot: &Shot, reply: &Reply, now: Instant) {
        let kind: Kind = shot.kind;
        let verdict = match reply.code {
            Code::Ok => {
                let messages = frame::messages(&reply.body);
                let mut memory = self.shared.memory.borrow_mut();
                let verdict = self.shared.checker.borrow_mut().check(kind, &shot.expect, messages, &mut memory);
                self.shared.note(shot, &verdict);
                verdict
            }
            _ => Default::default(),
        };
        let Some(due) = self.since else { return };
        let outcome = Outcome::of(reply.code, verdict.degraded);
        let mut tally = self.tally.borrow_mut();
        if outcome == Outcome::Error {
            tally.note(kind, reply);
        }
        let (latency, service) = (now - self.due, now - self.sent);
        tally.add(&Sample {
            kind,
            outcome,
            cached: verdict.cached,
            violation: verdict.violation,
            due,
            latency,
            service,
        });
    }
}

fn conclude(load: &Load, measured: Measured, seen: Seen, stopped: Option<Stop>, generator_cpu_share: f64) -> Run {
    let mut notes = Vec::new();
    let judged = load.slo.as_ref().map(|slo| slo.judge(&measured));
    if let Some(slo) = &load.slo {
        notes.extend(slo.too_few(&measured).filter(|_| !matches!(stopped, Some(Stop::Decided))));
    }
    if matches!(stopped, Some(Stop::Decided)) {
        notes.push("ended early: the SLO could not hold any more".to_owned());
    }
    let (held, why) = match judged {
        Some(Verdict::Held) if matches!(stopped, Some(Stop::Decided)) => {
            (Some(false), "more calls were late or failed than the whole step may have".to_owned())
        }
        Some(Verdict::Held) => (Some(true), String::new()),
        Some(Verdict::Missed(why)) => (Some(false), why),
        None => (None, String::new()),
    };
    let invalid = lagged(load, &measured).filter(|_| load.closed.is_none());
    let mut run = Run {
        arrivals: if load.closed.is_some() { "closed" } else { load.arrivals.name() }.to_owned(),
        rate_per_s: if load.closed.is_some() { 0.0 } else { load.rate },
        measured,
        server: seen.server,
        incomplete: match stopped {
            Some(Stop::Incomplete(why)) => Some(why),
            _ => None,
        },
        invalid,
        notes,
        held,
        why,
        generator_cpu_share,
        stolen: seen.stolen,
    };
    if let Some(share) = run.stolen_share(0.0, run.measured.duration_s).filter(|share| *share > STOLEN_TOLD) {
        run.notes.push(format!(
            "the host of this machine took {:.1} % of its processor time: these latencies are partly its doing",
            share * 100.0
        ));
    }
    run
}

/// The generator's own lateness, if it is too much. A run that misses the SLO by service times and failures alone, which
/// hold no lag, has missed it whatever the lag was.
fn lagged(load: &Load, measured: &Measured) -> Option<String> {
    let percentile = load.slo.map_or(99.0, |slo| slo.percentile);
    let (lag_ms, max_ms) = (measured.lag.at(percentile), load.lag_max.as_secs_f64() * 1_000.0);
    if measured.lag.count == 0 || lag_ms <= max_ms {
        return None;
    }
    let is_missed_anyway = load.slo.as_ref().is_some_and(|slo| {
        let without_lag = Measured { latency: measured.service.clone(), ..measured.clone() };
        matches!(slo.judge(&without_lag), Verdict::Missed(_))
    });
    (!is_missed_anyway).then(|| {
        format!("the generator lagged: p{percentile} of sending was {lag_ms:.2} ms late, above {max_ms:.2} ms")
    })
}
