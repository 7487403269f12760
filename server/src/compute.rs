//! The threads that compute slates: a fixed number of their own, behind a bounded queue.
//!
//! Ranking never runs on the I/O threads, and where the system lets us it gives way to them: an answer that takes
//! milliseconds must not hold up one that takes microseconds. What cannot be done in time is refused (`admission`); a
//! job that panics costs one request and nothing else. Must not know what it computes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::admission::{Admission, Kind, Limits, Refusal, Ticket};
use crate::config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// How much threads that compute give way to those that do I/O: about a third of their share, as Linux weighs it.
const NICENESS: i32 = 5;

/// Told whether it may run; gives what answers the caller, `None` when nobody waited for it any more.
type Job = Box<dyn FnOnce(Result<(), Refusal>) -> Option<Reply> + Send>;
type Reply = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it ends the threads when the queue is empty.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Room among what waits for a thread; dropping it gives it back.
pub struct Room {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
    turn: Instant,
}

impl Room {
    /// How long its job will still wait, as far as could be told when it got room.
    pub fn expected_wait(&self) -> Duration {
        self.turn.saturating_duration_since(Instant::now())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.shared.state().admission.leave(ticket);
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// One for each thread, so that we choose who wakes.
    wakes: Vec<Condvar>,
    metrics: Arc<Metrics>,
    queue_max_requests: usize,
}

struct State {
    jobs: VecDeque<(Ticket, Job)>,
    /// Threads without work, the last to finish last: it is woken first, for what a ranking reads and writes is still
    /// in its processor's cache.
    idle: Vec<usize>,
    admission: Admission,
    closed: bool,
}

/// What a job gave, and how long it waited for its thread.
#[derive(Debug)]
pub struct Done<T> {
    /// What it gave.
    pub value: T,
    /// From its arrival to its start.
    pub waited: Duration,
}

impl Pool {
    /// As many threads as the config says (0 is one for each core), with its bounds on what waits.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(server: &config::Server, metrics: Arc<Metrics>) -> std::io::Result<Pool> {
        let threads = match server.compute_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let admission = Admission::new(Limits {
            threads,
            queue_max: server.queue_max_requests,
            wait_max: Duration::from_millis(server.queue_wait_max_ms),
            wait_overload: Duration::from_millis(server.queue_wait_overload_ms),
        });
        let state = State { jobs: VecDeque::new(), idle: Vec::with_capacity(threads), admission, closed: false };
        let wakes = (0..threads).map(|_| Condvar::new()).collect();
        let queue_max_requests = server.queue_max_requests;
        let shared = Arc::new(Shared { state: Mutex::new(state), wakes, metrics, queue_max_requests });
        let threads = (0..threads)
            .map(|number| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || {
                    give_way();
                    stay(number, threads);
                    work(&shared, number);
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Pool { shared, threads })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How long a job that arrives now would wait.
    pub fn expected_wait(&self) -> Duration {
        self.shared.state().admission.expected_wait()
    }

    /// Room for a job that arrives now: for who has to fetch something before there is a job, and would wait for it in vain.
    ///
    /// # Errors
    /// As those that [`Pool::run`] gives at once.
    pub fn room(&self, kind: Kind, deadline: Option<Instant>) -> Result<Room> {
        let now = Instant::now();
        let admitted = {
            let admission = &mut self.shared.state().admission;
            let wait = admission.expected_wait();
            admission.arrive(kind, deadline, now).map(|ticket| (ticket, now + wait))
        };
        let (ticket, turn) = admitted.map_err(|refusal| self.refused(refusal))?;
        Ok(Room { shared: self.shared.clone(), ticket: Some(ticket), turn })
    }

    /// Runs `job` on one of the threads. If the caller gives up while it waits in the queue, it is not run.
    ///
    /// # Errors
    /// `ResourceExhausted`, at once, when it cannot be done before `deadline` or in the time that anything may wait, or
    /// when the queue is full; `DeadlineExceeded` when it was let in and its turn came too late; `Internal` when the job
    /// panics.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        deadline: Option<Instant>,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Done<T>> {
        self.run_in(self.room(kind, deadline)?, job).await
    }

    /// As [`Pool::run`], of a job that has room.
    ///
    /// # Errors
    /// As there, but for those at once.
    pub async fn run_in<T: Send + 'static>(
        &self,
        mut room: Room,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Done<T>> {
        let (reply, answer) = oneshot::channel();
        let arrived = Instant::now();
        let ticket = room.ticket.take().expect("only this takes it");
        let idle = {
            let mut state = self.shared.state();
            let job = move |may_run: Result<(), Refusal>| -> Option<Reply> {
                if reply.is_closed() {
                    return None;
                }
                let waited = arrived.elapsed();
                let done = may_run.map(|()| catch_unwind(AssertUnwindSafe(job)).map(|value| Done { value, waited }));
                Some(Box::new(move || {
                    let _left_meanwhile = reply.send(done);
                }))
            };
            state.jobs.push_back((ticket, Box::new(job)));
            state.idle.pop()
        };
        // Without an idle one, the first that finishes takes it.
        if let Some(thread) = idle {
            self.shared.wakes[thread].notify_one();
        }
        match answer.await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(panic))) => Err(Error::internal("computing a slate", message(panic.as_ref()))),
            Ok(Err(refusal)) => Err(self.refused(refusal)),
            Err(_) => Err(Error::internal("computing a slate", "the pool is closed")),
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        self.shared.metrics.shed(refusal.name());
        let most = self.shared.queue_max_requests;
        let why = match refusal {
            Refusal::Expired => return Error::DeadlineExceeded,
            Refusal::QueueFull => format!("server.queue_max_requests ({most}) requests are waiting; try again later"),
            Refusal::Deadline => "too busy to answer before the deadline; try again later".to_owned(),
            Refusal::Wait => "too many requests are waiting; try again later".to_owned(),
        };
        Error::ResourceExhausted(why)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.wakes.iter().for_each(Condvar::notify_one);
        for thread in self.threads.drain(..) {
            // The last owner may be one of the threads themselves; a thread cannot wait for its own end.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// A system that does not let us is no reason not to serve.
fn give_way() {
    #[cfg(target_os = "linux")]
    {
        // On Linux a priority is a thread's own, and 0 is the thread that asks.
        // SAFETY: a system call with numbers only.
        let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
        if done != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "threads that compute keep the priority of those that do I/O");
        }
    }
}

/// Keeps this thread, one of so many, on a core of its own, where there is one for each: what it needs for a request is still
/// in that core's caches from the one before (docs/decisions/0029-threads-stay-on-their-core.md). Where the process may use
/// part of the cores' time only, or there are more cores than threads, the system chooses: several such processes would meet
/// on the same cores.
fn stay(number: usize, threads: usize) {
    #[cfg(target_os = "linux")]
    {
        let cores = cores();
        let own = cores.get(number).filter(|_| cores.len() == threads);
        let Some(&own) = own else { return };
        // SAFETY: a set of bits that are all 0 is an empty set; `own` came from such a set, so it is a bit of it.
        let mut only: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        unsafe { libc::CPU_SET(own, &mut only) };
        // SAFETY: the set is as long as we say; 0 is the thread that asks.
        let done = unsafe { libc::sched_setaffinity(0, size_of_val(&only), &raw const only) };
        if done != 0 {
            let error = std::io::Error::last_os_error();
            tracing::debug!(%error, "threads that compute stay where the system puts them");
        }
    }
}

/// The cores on which this thread may run; none when the system does not say.
#[cfg(target_os = "linux")]
fn cores() -> Vec<usize> {
    // SAFETY: a set of bits that are all 0 is an empty set, as long as we say; 0 is the thread that asks.
    let (set, done) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let done = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        (set, done)
    };
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: bits of the set.
    if done == 0 { all.filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect() } else { Vec::new() }
}

fn work(shared: &Shared, number: usize) {
    let mut state = shared.state();
    loop {
        if let Some((ticket, job)) = state.jobs.pop_front() {
            let started = Instant::now();
            let may_run = state.admission.start(ticket, started);
            drop(state);
            let reply = job(may_run);
            state = shared.state();
            if may_run.is_ok() {
                // What nobody waited for was not run: it says nothing of how long such work takes.
                let ended = Instant::now();
                let took = reply.is_some().then(|| ended.saturating_duration_since(started));
                state.admission.finish(ticket, took, ended);
            }
            // Only now: who asks again at once must not find this still running.
            if let Some(reply) = reply {
                drop(state);
                reply();
                state = shared.state();
            }
        } else if state.closed {
            return;
        } else {
            state.idle.push(number);
            state = shared.wakes[number].wait(state).unwrap_or_else(PoisonError::into_inner);
            // Who was not called but woke all the same is still among them.
            state.idle.retain(|&other| other != number);
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize, queue_max_requests: usize) -> Pool {
        let server = config::Server { compute_threads: threads, queue_max_requests, ..Default::default() };
        Pool::new(&server, Arc::new(Metrics::new())).unwrap()
    }

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let pool = pool(1, 4);
        let failed: Result<Done<()>> =
            pool.run(Kind::Recommend, None, || assert!(std::hint::black_box(false), "boom")).await;
        assert!(matches!(failed, Err(Error::Internal { ref detail, .. }) if detail.contains("boom")));
        assert_eq!(pool.run(Kind::Recommend, None, || 7).await.unwrap().value, 7);
    }

    #[tokio::test]
    async fn one_request_after_the_other_stays_with_one_thread() {
        let pool = pool(4, 4);
        while pool.shared.state().idle.len() < 4 {
            tokio::task::yield_now().await;
        }
        let mut threads = std::collections::HashSet::new();
        for _ in 0..50 {
            threads.insert(pool.run(Kind::Recommend, None, || std::thread::current().id()).await.unwrap().value);
            // It answers a moment before it is idle again.
            while pool.shared.state().idle.len() < 4 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(threads.len(), 1);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_stay_on_a_core_of_their_own_if_there_is_one_for_each() {
        let all = cores();
        for threads in [all.len(), all.len() + 1] {
            let pool = Arc::new(pool(threads, threads));
            let barrier = Arc::new(std::sync::Barrier::new(threads));
            let ask = |_| {
                let (pool, barrier) = (pool.clone(), barrier.clone());
                tokio::spawn(async move {
                    let job = move || {
                        barrier.wait();
                        cores()
                    };
                    pool.run(Kind::Recommend, None, job).await.map(|done| done.value)
                })
            };
            let mut found = Vec::new();
            for asked in (0..threads).map(ask).collect::<Vec<_>>() {
                found.push(asked.await.unwrap().unwrap());
            }
            found.sort();
            let own = all.iter().map(|&core| vec![core]).collect::<Vec<_>>();
            assert_eq!(found, if threads == all.len() { own } else { vec![all.clone(); threads] });
        }
    }

    #[tokio::test]
    async fn every_thread_takes_part_when_all_are_needed() {
        let pool = Arc::new(pool(3, 8));
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let meet = |_| {
            let (pool, barrier) = (pool.clone(), barrier.clone());
            tokio::spawn(async move { pool.run(Kind::Recommend, None, move || barrier.wait()).await.map(|_| ()) })
        };
        for met in (0..3).map(meet).collect::<Vec<_>>() {
            met.await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn room_is_kept_for_its_job_and_given_back_without_one() {
        let pool = pool(1, 1);
        let room = pool.room(Kind::Recommend, None).unwrap();
        assert!(matches!(pool.run(Kind::Recommend, None, || ()).await, Err(Error::ResourceExhausted(_))));
        assert_eq!(pool.run_in(room, || 7).await.unwrap().value, 7);
        drop(pool.room(Kind::Recommend, None).unwrap());
        assert_eq!(pool.run(Kind::Recommend, None, || 8).await.unwrap().value, 8);
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let pool = Arc::new(pool(1, 1));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, running) = oneshot::channel();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move {
                let job = move || {
                    let _ = started.send(());
                    wait.recv()
                };
                pool.run(Kind::Recommend, None, job).await
            }
        });
        running.await.unwrap();
        let queued = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(Kind::Recommend, None, || ()).await }
        });
        while pool.shared.state().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(pool.room(Kind::Recommend, None), Err(Error::ResourceExhausted(_))));
        assert!(matches!(pool.run(Kind::Recommend, None, || ()).await, Err(Error::ResourceExhausted(_))));
        go.send(()).unwrap();
        busy.await.unwrap().unwrap().value.unwrap();
        // Whether it still had its turn depends on how slow this machine is; that it ends does not.
        let _ = queued.await.unwrap();
        assert!(pool.shared.metrics.render().contains("marquee_shed_total{name=\"queue_full\"} 2"));
    }
}
