//! Attempts from a thread that may block, until one works or the process stops: with backoff and jitter.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Between a failure and the next attempt: doubled from the first to the second, less up to half by chance.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Runs a future on the runtime until it works or the process stops.
#[derive(Clone)]
pub(super) struct Retry {
    runtime: Handle,
    stopping: watch::Receiver<bool>,
}

impl Retry {
    /// On that runtime, until the sender says true or is gone.
    pub(super) fn new(runtime: Handle, stopping: watch::Receiver<bool>) -> Retry {
        Retry { runtime, stopping }
    }

    pub(super) fn is_stopping(&self) -> bool {
        // The sender is gone when the log was dropped.
        *self.stopping.borrow() || self.stopping.has_changed().is_err()
    }

    /// `None` when it stops. Not for tasks of the runtime: it blocks.
    pub(super) fn until_done<T, F: Future<Output = Result<T>>>(
        &self,
        doing: &str,
        attempt: impl Fn() -> F,
    ) -> Option<T> {
        self.until(doing, attempt, |_| true).map(|done| done.expect("only what may be tried again is an error here"))
    }

    /// The same, but for errors that another attempt does not cure.
    pub(super) fn until<T, F: Future<Output = Result<T>>>(
        &self,
        doing: &str,
        attempt: impl Fn() -> F,
        may_pass: impl Fn(&Error) -> bool,
    ) -> Option<Result<T>> {
        let (mut wait, mut stopping) = (RETRY_FIRST, self.stopping.clone());
        loop {
            let tried = async {
                tokio::select! {
                    outcome = attempt() => Some(outcome),
                    _ = stopping.wait_for(|stopping| *stopping) => None,
                }
            };
            let error = match self.runtime.block_on(tried)? {
                Err(error) if may_pass(&error) => error,
                outcome => return Some(outcome),
            };
            if wait == RETRY_FIRST {
                tracing::warn!(error = error.detail(), "{doing} failed and is tried until it works");
            } else {
                tracing::debug!(error = error.detail(), "{doing} failed again");
            }
            let less = RandomState::new().hash_one(0) as u32 % 50;
            let pause =
                async { tokio::time::timeout(wait * (100 - less) / 100, stopping.wait_for(|stop| *stop)).await };
            if self.runtime.block_on(pause).is_ok() {
                return None;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}
