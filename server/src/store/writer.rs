//! The one task of a process that writes. It takes whatever waits, runs it in one transaction, syncs once, then answers
//! all. What a transaction is, a [`Session`] says: this must not know SQL.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use marquee_engine::types::Seq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// A database as the writer sees it.
#[async_trait]
pub(super) trait Session: Send + 'static {
    /// What a write works on.
    type Connection: Send + 'static;

    /// Runs the batch in one transaction, durable when it returns; gives the log's end.
    async fn commit(&mut self, batch: &mut Batch<Self::Connection>) -> Result<Seq>;

    async fn close(self);
}

/// An open transaction and the next free position of the log.
pub(super) struct Tx<'c, C> {
    pub(super) connection: &'c mut C,
    end: Seq,
}

impl<'c, C> Tx<'c, C> {
    /// `end` is the newest position that is taken.
    pub(super) fn new(connection: &'c mut C, end: Seq) -> Tx<'c, C> {
        Tx { connection, end }
    }

    /// Takes the next position of the log.
    pub(super) fn next_seq(&mut self) -> Seq {
        self.end += 1;
        self.end
    }

    /// The newest position that is taken.
    pub(super) fn end(&self) -> Seq {
        self.end
    }
}

/// One caller's write.
///
/// Errors that are the caller's own (`InvalidArgument`, `NotFound`, `FailedPrecondition`) must be found before anything
/// is changed: they fail this write alone. Any other error fails the whole batch. It may be applied again after the
/// transaction was rolled back.
#[async_trait]
pub(super) trait Write<C>: Send {
    type Output: Send;

    async fn apply(&mut self, tx: &mut Tx<'_, C>) -> Result<Self::Output>;

    /// Whether the write-ahead log is to be folded into the file afterwards, so that erased bytes do not linger there.
    fn wants_checkpoint(&self) -> bool {
        false
    }
}

/// The queue's sending end and the task behind it.
pub(super) struct Writer<C> {
    queue: Mutex<Option<mpsc::UnboundedSender<Queued<C>>>>,
    /// Bounds the queue: a permit for each entry that waits or is being written.
    room: Arc<Semaphore>,
    room_entries: usize,
    wait: Duration,
    commits: watch::Receiver<Seq>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Queued<C> {
    job: Box<dyn Job<C>>,
    entries: usize,
    _room: OwnedSemaphorePermit,
}

impl<C: Send + 'static> Writer<C> {
    pub(super) fn start<S>(session: S, end: Seq, config: &config::Store, metrics: Arc<Metrics>) -> Writer<C>
    where
        S: Session<Connection = C>,
    {
        let room_entries = config.write_queue_max_entries.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, waiting) = mpsc::unbounded_channel();
        let (announce, commits) = watch::channel(end);
        let batch_max_entries = config.write_batch_max_entries;
        let task = tokio::spawn(async move {
            Task { session, waiting, announce, batch_max_entries, metrics }.run().await;
        });
        Writer {
            queue: Mutex::new(Some(queue)),
            room: Arc::new(Semaphore::new(room_entries)),
            room_entries,
            wait: Duration::from_millis(config.write_wait_ms),
            commits,
            task: Mutex::new(Some(task)),
        }
    }

    pub(super) fn commits(&self) -> watch::Receiver<Seq> {
        self.commits.clone()
    }

    /// Queues a write and waits until it is durable. A caller who leaves does not undo it.
    pub(super) async fn run<W>(&self, entries: usize, write: W) -> Result<W::Output>
    where
        W: Write<C> + 'static,
    {
        let permits = entries.clamp(1, self.room_entries) as u32;
        let room = tokio::time::timeout(self.wait, Arc::clone(&self.room).acquire_many_owned(permits))
            .await
            .map_err(|_| Error::ResourceExhausted("store.write_queue_max_entries writes are waiting".to_owned()))?
            .map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { write, output: None, reply });
        {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let queued = Queued { job, entries: entries.max(1), _room: room };
            queue.as_ref().ok_or_else(closed)?.send(queued).map_err(|_| closed())?;
        }
        answer.await.map_err(|_| closed())?
    }

    /// Writes what waits, then ends.
    pub(super) async fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ended = task.await;
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the server is stopping", "the store's writer has ended")
}

/// A write with its caller, its type erased.
#[async_trait]
trait Job<C>: Send {
    async fn apply(&mut self, tx: &mut Tx<'_, C>) -> Result<()>;
    fn answer(self: Box<Self>, committed: Result<()>);
    fn wants_checkpoint(&self) -> bool;
}

struct Pending<W, O> {
    write: W,
    output: Option<Result<O>>,
    reply: oneshot::Sender<Result<O>>,
}

#[async_trait]
impl<C: Send, W: Write<C>> Job<C> for Pending<W, W::Output> {
    async fn apply(&mut self, tx: &mut Tx<'_, C>) -> Result<()> {
        match self.write.apply(tx).await {
            Err(error @ (Error::Internal { .. } | Error::Unavailable { .. })) => Err(error),
            own => {
                self.output = Some(own);
                Ok(())
            }
        }
    }

    fn wants_checkpoint(&self) -> bool {
        self.write.wants_checkpoint()
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let answer = match (committed, self.output) {
            (Ok(()), Some(output)) => output,
            (Ok(()), None) => Err(closed()),
            // What was the caller's own fault stays so.
            (Err(_), Some(Err(own))) => Err(own),
            (Err(error), _) => Err(error),
        };
        let _caller_left = self.reply.send(answer);
    }
}

/// What one transaction writes.
pub(super) struct Batch<C> {
    queued: Vec<Queued<C>>,
    entries: usize,
}

impl<C: Send> Batch<C> {
    /// Applies every write in order.
    pub(super) async fn apply(&mut self, tx: &mut Tx<'_, C>) -> Result<()> {
        for queued in &mut self.queued {
            queued.job.apply(tx).await?;
        }
        Ok(())
    }

    /// See [`Write::wants_checkpoint`].
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.queued.iter().any(|queued| queued.job.wants_checkpoint())
    }

    fn add(&mut self, queued: Queued<C>) {
        self.entries += queued.entries;
        self.queued.push(queued);
    }

    fn answer(self, committed: &Result<Seq>) {
        for queued in self.queued {
            queued.job.answer(committed.as_ref().map(|_| ()).map_err(Clone::clone));
        }
    }
}

struct Task<S: Session> {
    session: S,
    waiting: mpsc::UnboundedReceiver<Queued<S::Connection>>,
    announce: watch::Sender<Seq>,
    batch_max_entries: usize,
    metrics: Arc<Metrics>,
}

impl<S: Session> Task<S> {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            let mut batch = Batch { queued: Vec::new(), entries: 0 };
            batch.add(first);
            while batch.entries < self.batch_max_entries {
                let Ok(next) = self.waiting.try_recv() else { break };
                batch.add(next);
            }
            let started = Instant::now();
            let committed = self.session.commit(&mut batch).await;
            self.metrics.commit(started.elapsed().as_secs_f64(), batch.entries);
            match &committed {
                Ok(end) => {
                    self.metrics.log_end.set(*end as i64);
                    self.announce.send_replace(*end);
                }
                Err(error) => {
                    tracing::error!(error = error.detail(), writes = batch.queued.len(), "a batch was not written");
                }
            }
            batch.answer(&committed);
        }
        self.session.close().await;
    }
}
