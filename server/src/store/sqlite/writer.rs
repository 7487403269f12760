//! The one task that writes. It takes whatever waits, runs it in one transaction, syncs once, then answers all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use marquee_engine::types::Seq;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{failed, log};
use crate::config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// An open transaction and the next free position of the log.
pub(super) struct Tx<'c> {
    pub(super) connection: &'c mut SqliteConnection,
    end: Seq,
}

impl Tx<'_> {
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
/// is changed: they fail this write alone. Any other error fails the whole batch.
#[async_trait]
pub(super) trait Write: Send {
    type Output: Send;

    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<Self::Output>;

    /// Whether the write-ahead log is to be folded into the file afterwards, so that erased bytes do not linger there.
    fn wants_checkpoint(&self) -> bool {
        false
    }
}

/// The queue's sending end and the task behind it.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::UnboundedSender<Queued>>>,
    /// Bounds the queue: a permit for each entry that waits or is being written.
    room: Arc<Semaphore>,
    room_entries: usize,
    wait: Duration,
    commits: watch::Receiver<Seq>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Queued {
    job: Box<dyn Job>,
    entries: usize,
    _room: OwnedSemaphorePermit,
}

impl Writer {
    pub(super) fn start(
        connection: SqliteConnection,
        end: Seq,
        config: &config::Store,
        metrics: Arc<Metrics>,
    ) -> Writer {
        let room_entries = config.write_queue_max_entries.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, waiting) = mpsc::unbounded_channel();
        let (announce, commits) = watch::channel(end);
        let batch_max_entries = config.write_batch_max_entries;
        let task = tokio::spawn(async move {
            Task { connection, waiting, announce, batch_max_entries, metrics }.run().await;
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
    pub(super) async fn run<W: Write + 'static>(&self, entries: usize, write: W) -> Result<W::Output> {
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
trait Job: Send {
    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<()>;
    fn answer(self: Box<Self>, committed: Result<()>);
    fn wants_checkpoint(&self) -> bool;
}

struct Pending<W: Write> {
    write: W,
    output: Option<Result<W::Output>>,
    reply: oneshot::Sender<Result<W::Output>>,
}

#[async_trait]
impl<W: Write> Job for Pending<W> {
    async fn apply(&mut self, tx: &mut Tx<'_>) -> Result<()> {
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

struct Task {
    connection: SqliteConnection,
    waiting: mpsc::UnboundedReceiver<Queued>,
    announce: watch::Sender<Seq>,
    batch_max_entries: usize,
    metrics: Arc<Metrics>,
}

impl Task {
    async fn run(mut self) {
        while let Some(first) = self.waiting.recv().await {
            let mut entries = first.entries;
            let mut batch = vec![first];
            while entries < self.batch_max_entries {
                let Ok(next) = self.waiting.try_recv() else { break };
                entries += next.entries;
                batch.push(next);
            }
            let started = Instant::now();
            let committed = self.commit(&mut batch).await;
            self.metrics.commit(started.elapsed().as_secs_f64(), entries);
            match &committed {
                Ok(end) => {
                    self.metrics.log_end.set(*end as i64);
                    self.announce.send_replace(*end);
                }
                Err(error) => tracing::error!(error = error.detail(), writes = batch.len(), "a batch was not written"),
            }
            if committed.is_ok() && batch.iter().any(|queued| queued.job.wants_checkpoint()) {
                self.checkpoint().await;
            }
            for queued in batch {
                queued.job.answer(committed.as_ref().map(|_| ()).map_err(Clone::clone));
            }
        }
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the store");
        }
    }

    /// Best effort: a long read of another connection can hold the log; the next checkpoint gets it then.
    async fn checkpoint(&mut self) {
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.connection).await {
            tracing::warn!(%error, "the write-ahead log was not truncated");
        }
    }

    /// Runs the batch in one transaction; gives the log's end.
    async fn commit(&mut self, batch: &mut [Queued]) -> Result<Seq> {
        let mut transaction =
            self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed("beginning a write"))?;
        let end = log::end(&mut transaction).await?;
        let mut tx = Tx { connection: &mut transaction, end };
        for queued in batch.iter_mut() {
            queued.job.apply(&mut tx).await?;
        }
        let end = tx.end();
        transaction.commit().await.map_err(failed("committing"))?;
        Ok(end)
    }
}
