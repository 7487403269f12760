//! Takes the log over into the store: one thread, batch by batch, in the order of each partition.
//!
//! An offset moves only after the store has the events and the dead-letter topic the rest. While the store is down
//! nothing is read: what waits here is one batch and librdkafka's bounded queue, the rest stays in Kafka. A process that
//! cannot write for `events.ingest_failover_ms` loses its partitions to others.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::assign::Assigned;
use super::batch::{Batch, Dead};
use super::client::{self, Plain, Voice};
use super::lag;
use super::landed::Landed;
use super::producer::Producer;
use super::retry::Retry;
use super::settings::{Settings, bad};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::rpc::logged;
use crate::store::{Outcome, Received, Store};
use crate::telemetry::Metrics;

/// The stop signal is looked at this often while nothing comes.
const IDLE_POLL: Duration = Duration::from_millis(100);
/// Between two looks at whether the store still has what was taken over.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Offsets of the group, for those who look at the group from outside, and for a store that is empty.
const COMMIT_EVERY_MS: u64 = 1_000;
/// Heartbeats in one session timeout.
const HEARTBEATS: u64 = 12;
/// One answer to a fetch.
const FETCH_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Of one partition in such an answer. Small records take several times their bytes in librdkafka's queue: what one answer
/// brings beyond `events.ingest_batch_max_events` should be little.
const FETCH_PARTITION_MAX_BYTES: usize = 256 * 1024;
/// When a partition of which a batch waits is looked at again; a second unless told otherwise, in which many batches pass.
const FETCH_AGAIN_MS: u64 = 10;
/// A broker holds an empty fetch for so long; data that comes is sent at once.
const FETCH_WAIT_MS: u64 = 100;

/// What the thread works with.
pub(super) struct Parts {
    pub(super) settings: Arc<Settings>,
    pub(super) store: Arc<dyn Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    pub(super) producer: Arc<Producer>,
    pub(super) landed: Arc<Landed>,
}

/// The running thread. Dropping it tells it to stop.
pub(super) struct Ingest {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
    lag: AbortHandle,
}

impl Ingest {
    /// Joins the group and starts. Needs a Tokio runtime around it.
    pub(super) fn start(parts: Parts) -> Result<Ingest> {
        let (stop, stopping) = watch::channel(false);
        let retry = Retry::new(Handle::current(), stopping);
        let positions = Arc::new(Mutex::default());
        let watched = lag::Watched {
            topic: parts.settings.topic.clone(),
            producer: parts.producer.clone(),
            positions: positions.clone(),
            metrics: parts.metrics.clone(),
        };
        let context = Assigned {
            store: parts.store.clone(),
            topic: parts.settings.topic.clone(),
            retry: retry.clone(),
            voice: Voice::default(),
            positions,
            taken: Mutex::default(),
        };
        let consumer = consumer(&parts.settings, context)?;
        let work = Work { parts, retry, consumer };
        let thread = std::thread::Builder::new()
            .name("events-ingest".to_owned())
            .spawn(move || work.run())
            .map_err(|error| Error::internal("starting the thread that takes events over", error))?;
        let lag = tokio::spawn(lag::watch(watched)).abort_handle();
        Ok(Ingest { stop, thread, lag })
    }

    /// Ends after what it is writing, leaves the group, and is waited for at most so long.
    pub(super) async fn stop(self, within: Duration) {
        self.stop.send_replace(true);
        self.lag.abort();
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        match tokio::time::timeout(within, joined).await {
            Ok(Ok(Ok(()))) => {}
            Ok(_) => tracing::error!("the thread that takes events over has panicked"),
            Err(_) => tracing::warn!("the thread that takes events over did not end in time"),
        }
    }
}

fn consumer(settings: &Settings, context: Assigned) -> Result<BaseConsumer<Assigned>> {
    let events = &settings.events;
    let queue_kib = (events.ingest_queue_max_bytes / 1024).max(1);
    let consumer: BaseConsumer<Assigned> = client::base(settings)
        .set("group.id", &settings.group)
        .set("allow.auto.create.topics", "false")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.offset.store", "false")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", COMMIT_EVERY_MS.to_string())
        .set("isolation.level", "read_committed")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", events.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (events.session_timeout_ms / HEARTBEATS).to_string())
        .set("max.poll.interval.ms", events.ingest_failover_ms.to_string())
        .set("fetch.wait.max.ms", FETCH_WAIT_MS.to_string())
        .set("queued.max.messages.kbytes", queue_kib.to_string())
        // A partition of which a batch waits is not asked for more.
        .set("queued.min.messages", events.ingest_batch_max_events.to_string())
        .set("fetch.queue.backoff.ms", FETCH_AGAIN_MS.to_string())
        .set("fetch.message.max.bytes", FETCH_PARTITION_MAX_BYTES.to_string())
        .set("fetch.max.bytes", events.ingest_queue_max_bytes.min(FETCH_MAX_BYTES).to_string())
        .create_with_context(context)
        .map_err(|error| bad(client::not_made(&error)))?;
    let topic = settings.topic.as_str();
    consumer.subscribe(&[topic]).map_err(|error| bad(format!("topic {topic} cannot be read: {}", Plain(&error))))?;
    Ok(consumer)
}

/// The thread's own.
struct Work {
    parts: Parts,
    retry: Retry,
    consumer: BaseConsumer<Assigned>,
}

impl Work {
    fn run(self) {
        let (mut is_failing, mut looked) = (false, Instant::now());
        while !self.retry.is_stopping() {
            let batch = self.collect(&mut is_failing);
            if !batch.is_empty() && self.take_over(batch).is_none() {
                break;
            }
            if looked.elapsed() >= STORE_EVERY {
                if self.follow_store().is_none() {
                    break;
                }
                looked = Instant::now();
            }
        }
        // Leaves the group; offsets that were stored are committed.
        drop(self.consumer);
    }

    /// A store that was set back (a replica that lacked the last commits took over) gets again what it lost: ids count
    /// once, so that nothing is there twice. `None` when the process stops.
    fn follow_store(&self) -> Option<()> {
        let context = self.consumer.context();
        if context.is_set_back()? {
            tracing::error!("the store was set back: what it lost is taken over again from the event log");
            context.take_again(&self.consumer);
        }
        Some(())
    }

    /// What there is, at most one batch; waits for the first record, and a little for others.
    fn collect(&self, is_failing: &mut bool) -> Batch {
        let events = &self.parts.settings.events;
        let mut batch = Batch::new(self.consumer.context().taken().clone());
        let mut wait = IDLE_POLL;
        let mut until = None;
        while !batch.is_full(events.ingest_batch_max_events) {
            match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    self.notice_gap(message.partition(), message.offset());
                    batch.add(&message, self.parts.clock.now_ms(), &self.parts.settings.limits);
                    *is_failing = false;
                }
                Some(Err(error)) => {
                    if !std::mem::replace(is_failing, true) {
                        tracing::warn!(error = %Plain(&error), "the event log cannot be read; it is tried again");
                    }
                }
            }
            let until = *until.get_or_insert_with(|| Instant::now() + Duration::from_millis(events.ingest_wait_ms));
            wait = until.saturating_duration_since(Instant::now());
        }
        batch
    }

    /// Records that are gone before they were taken over are an operator's business: retention was too short.
    fn notice_gap(&self, partition: i32, offset: i64) {
        let mut positions = self.consumer.context().positions();
        if let Some(next) = positions.get_mut(&partition) {
            match *next {
                Some(expected) if offset > expected + 1 => tracing::error!(
                    partition,
                    expected,
                    offset,
                    "records of the event log are gone before they were taken over: is its retention too short?"
                ),
                Some(expected) if offset < expected => tracing::error!(
                    partition,
                    expected,
                    offset,
                    "the event log is shorter than what was taken over: was its topic made anew? Give it another name"
                ),
                _ => {}
            }
            *next = Some(offset + 1);
        }
    }

    /// Dead letters first, then the store, then the group's offsets. `None` when the process stops.
    fn take_over(&self, mut batch: Batch) -> Option<()> {
        let Parts { settings, metrics, clock, landed, .. } = &self.parts;
        let started = Instant::now();
        batch.dead.iter().try_for_each(|dead| self.bury(dead))?;
        let outcomes = self.write(&mut batch)?;
        let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
        metrics.ingest("ingested", count(|outcome| matches!(outcome, Outcome::Accepted { .. })));
        metrics.ingest("duplicate", count(|outcome| matches!(outcome, Outcome::Duplicate)));
        metrics.ingest("erased", count(|outcome| matches!(outcome, Outcome::Erased)));
        metrics.ingest_batch_seconds.observe(started.elapsed().as_secs_f64());
        if let Some(oldest_ms) = batch.oldest_ms() {
            metrics.ingest_delay_seconds.observe((clock.now_ms() - oldest_ms).max(0) as f64 / 1_000.0);
        }
        landed.nudge();
        for (&partition, &next) in &batch.next {
            if let Some(taken) = self.consumer.context().taken().get_mut(&partition) {
                *taken = next.max(*taken);
            }
            // Fails for a partition that went to another process meanwhile: that one has its own position.
            if let Err(error) = self.consumer.store_offset(&settings.topic, partition, next - 1) {
                tracing::debug!(error = %Plain(&error), partition, "an offset is not stored");
            }
        }
        Some(())
    }

    fn write(&self, batch: &mut Batch) -> Option<Vec<Outcome>> {
        let (store, topic) = (&self.parts.store, &self.parts.settings.topic);
        let steps = batch.steps(topic, &self.consumer.context().taken());
        let now_ms = || self.parts.clock.now_ms();
        let all = || store.append_ingested(batch.events.clone(), steps.clone(), now_ms());
        match self.retry.until(WRITING, all, may_pass)? {
            Ok(outcomes) => Some(outcomes),
            Err(error) => {
                tracing::warn!(error = error.detail(), "the store refuses a batch; its events are written one by one");
                let events = std::mem::take(&mut batch.events);
                let places = std::mem::take(&mut batch.places);
                let mut outcomes = Vec::with_capacity(events.len());
                for (received, place) in events.into_iter().zip(places) {
                    match self.write_one(&received)? {
                        Ok(outcome) => outcomes.extend(outcome),
                        Err(error) => {
                            let key = received.event.user.as_str().as_bytes().to_vec();
                            let reason = format!("the store refuses it: {error}");
                            self.bury(&Dead::new(place, reason, &key, &logged::encode(received)))?;
                        }
                    }
                }
                let last = || store.append_ingested(Vec::new(), steps.clone(), now_ms());
                self.retry.until_done(WRITING, last)?;
                Some(outcomes)
            }
        }
    }

    fn write_one(&self, received: &Received) -> Option<Result<Vec<Outcome>>> {
        let Parts { store, clock, .. } = &self.parts;
        let one = || store.append_ingested(vec![received.clone()], Vec::new(), clock.now_ms());
        self.retry.until(WRITING, one, may_pass)
    }

    /// Into the dead-letter topic, acknowledged.
    fn bury(&self, dead: &Dead) -> Option<()> {
        let Parts { settings, producer, metrics, .. } = &self.parts;
        let send = || producer.send_one(&settings.dead_topic, &dead.record, dead.headers(&settings.topic));
        self.retry.until_done("writing to the dead-letter topic", send)?;
        metrics.ingest("dead", 1);
        tracing::warn!(
            partition = dead.place.partition,
            offset = dead.place.offset,
            topic = settings.dead_topic,
            "a record of the event log cannot be taken; it is in the dead-letter topic with the reason"
        );
        Some(())
    }
}

const WRITING: &str = "writing events of the event log to the store";

/// A store that is down comes back; an event that it refuses stays refused.
fn may_pass(error: &Error) -> bool {
    !matches!(error, Error::InvalidArgument { .. } | Error::FailedPrecondition(_) | Error::NotFound(_))
}
