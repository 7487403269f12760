//! How far the store has taken the log over, whoever does it: one reader for all that wait, silent while nobody does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use marquee_engine::types::Seq;
use tokio::sync::{Notify, watch};

use crate::error::Result;
use crate::store::Store;

/// While the store does not answer, it is asked so much more seldom.
const FAILING_FACTOR: u32 = 30;

/// Share it by `Arc`.
pub(super) struct Landed {
    store: Arc<dyn Store>,
    topic: String,
    known: watch::Sender<Known>,
    waiting: AtomicUsize,
    wake: Notify,
}

/// What the store said last.
#[derive(Debug, Default)]
struct Known {
    next: BTreeMap<i32, i64>,
    /// A position of the store's log that holds everything before `next`.
    seq: Seq,
}

impl Known {
    /// A position of the store's log that holds everything before these offsets, if it is known to be there.
    fn position(&self, wanted: &[(i32, i64)]) -> Option<Seq> {
        let is_there = |(partition, next): &(i32, i64)| self.next.get(partition).is_some_and(|reached| reached >= next);
        wanted.iter().all(is_there).then_some(self.seq)
    }
}

impl Landed {
    pub(super) fn new(store: Arc<dyn Store>, topic: String) -> Landed {
        let known = watch::Sender::new(Known::default());
        Landed { store, topic, known, waiting: AtomicUsize::new(0), wake: Notify::new() }
    }

    /// Waits until the store holds everything before these offsets; gives a position of its log that has it.
    pub(super) async fn wait(&self, wanted: &[(i32, i64)]) -> Seq {
        let mut known = self.known.subscribe();
        if let Some(seq) = known.borrow_and_update().position(wanted) {
            return seq;
        }
        let _counted = Waiter::new(self);
        loop {
            // The sender lives as long as self.
            let _ = known.changed().await;
            if let Some(seq) = known.borrow_and_update().position(wanted) {
                return seq;
            }
        }
    }

    /// Nothing is known any more: the store was set back.
    pub(super) fn doubt(&self) {
        self.known.send_replace(Known::default());
        self.nudge();
    }

    /// Something was written just now: look at once.
    pub(super) fn nudge(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake.notify_one();
        }
    }

    /// Asks the store while someone waits, until the future is dropped.
    pub(super) async fn follow(&self, poll: Duration) {
        let mut is_failing = false;
        loop {
            if self.waiting.load(Ordering::SeqCst) == 0 {
                self.wake.notified().await;
            }
            let pause = match self.read().await {
                Ok(known) => {
                    is_failing = false;
                    self.known.send_replace(known);
                    poll
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(error = error.detail(), "how far the event log was taken over cannot be read");
                    }
                    poll * FAILING_FACTOR
                }
            };
            // Woken earlier when this process wrote.
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }

    async fn read(&self) -> Result<Known> {
        let next = self.store.ingested(&self.topic).await?;
        // After the offsets: it holds at least what they say.
        let seq = self.store.log_end().await?;
        Ok(Known { next: next.into_iter().map(|at| (at.partition, at.next)).collect(), seq })
    }
}

/// Counted while it lives, so that one that gives up is not read for.
struct Waiter<'a>(&'a Landed);

impl Waiter<'_> {
    fn new(landed: &Landed) -> Waiter<'_> {
        landed.waiting.fetch_add(1, Ordering::SeqCst);
        landed.wake.notify_one();
        Waiter(landed)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
