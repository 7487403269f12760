//! The threads that compute slates: a fixed number of their own, behind a bounded queue.
//!
//! Ranking never runs on the I/O threads. When the queue is full, a request is refused at once; a job that panics
//! costs one request and nothing else. Must not know what it computes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

type Job = Box<dyn FnOnce() + Send>;

/// The pool. Dropping it ends the threads when the queue is empty.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    queue_max_requests: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// `threads` threads (0 is one for each core); `queue_max_requests` jobs may wait for one.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(threads: usize, queue_max_requests: usize) -> std::io::Result<Pool> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Condvar::new(), queue_max_requests });
        let threads = (0..threads)
            .map(|number| {
                let shared = shared.clone();
                std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || work(&shared))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Pool { shared, threads })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Runs `job` on one of the threads. If the caller gives up while it waits in the queue, it is not run.
    ///
    /// # Errors
    /// `ResourceExhausted` when the queue is full, `Internal` when the job panics.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.jobs.len() >= self.shared.queue_max_requests {
                let most = self.shared.queue_max_requests;
                return Err(Error::ResourceExhausted(format!(
                    "server.queue_max_requests ({most}) requests are waiting"
                )));
            }
            state.jobs.push_back(Box::new(move || {
                if reply.is_closed() {
                    return;
                }
                let result = catch_unwind(AssertUnwindSafe(job));
                let _ = reply.send(result);
            }));
        }
        self.shared.wake.notify_one();
        match answer.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => Err(Error::internal("computing a slate", message(panic.as_ref()))),
            Err(_) => Err(Error::internal("computing a slate", "the pool is closed")),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // The last owner may be one of the threads themselves; a thread cannot wait for its own end.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn work(shared: &Shared) {
    let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            job();
            state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        } else if state.closed {
            return;
        } else {
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
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

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let pool = Pool::new(1, 4).unwrap();
        let failed: Result<()> = pool.run(|| assert!(std::hint::black_box(false), "boom")).await;
        assert!(matches!(failed, Err(Error::Internal { ref detail, .. }) if detail.contains("boom")));
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let pool = Arc::new(Pool::new(1, 1).unwrap());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (started, running) = oneshot::channel();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let _ = started.send(());
                    wait.recv()
                })
                .await
            }
        });
        running.await.unwrap();
        let queued = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| ()).await }
        });
        while pool.shared.state.lock().unwrap().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(pool.run(|| ()).await, Err(Error::ResourceExhausted(_))));
        go.send(()).unwrap();
        busy.await.unwrap().unwrap().unwrap();
        queued.await.unwrap().unwrap();
    }
}
