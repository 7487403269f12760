//! The sending side: idempotent, acknowledged by all in-sync replicas, bounded in events and bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use tokio::sync::Semaphore;

use super::client::{self, Plain, Voice};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// All records that wait, together.
const QUEUE_MAX_KIB: u64 = 64 * 1024;
/// Room for dead letters beside the events.
const QUEUE_SPARE_RECORDS: usize = 10_000;

type Client = FutureProducer<Voice>;

/// One record.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Sends records. Share it by `Arc`.
pub(super) struct Producer {
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    /// `None` once it is closed.
    client: Mutex<Option<Client>>,
    room: Arc<Semaphore>,
}

impl Producer {
    /// Connects in the background.
    pub(super) fn new(settings: Arc<Settings>, metrics: Arc<Metrics>) -> KafkaResult<Producer> {
        let client = Mutex::new(Some(make(&settings)?));
        let room = Arc::new(Semaphore::new(settings.events.in_flight_max_events));
        Ok(Producer { settings, metrics, client, room })
    }

    /// The client itself; `None` once it is closed.
    pub(super) fn client(&self) -> Option<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends to the log and waits for the acknowledgement of every record; gives the offset after the last one by
    /// partition. When the caller leaves, what was sent still takes its room until it is answered.
    pub(super) async fn send(&self, records: Vec<Outgoing>) -> Result<BTreeMap<i32, i64>> {
        let count = records.len();
        let room = u32::try_from(count).ok().and_then(|count| self.room.clone().try_acquire_many_owned(count).ok());
        let Some(room) = room else {
            self.metrics.shed("events.in_flight_max_events");
            let most = self.settings.events.in_flight_max_events;
            return Err(Error::ResourceExhausted(format!(
                "events.in_flight_max_events ({most}) events wait for the event log; try again later"
            )));
        };
        let client = self.client().ok_or_else(closed)?;
        let mut sent = Vec::with_capacity(count);
        let mut refused = None;
        for record in &records {
            let record = FutureRecord::to(&self.settings.topic).key(&record.key).payload(&record.value);
            match client.send_result(record) {
                Ok(delivery) => sent.push(delivery),
                Err((error, _)) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        drop(records);
        let (started, waiting) = (Instant::now(), self.metrics.event_log_waiting.clone());
        waiting.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
        let answers = tokio::spawn(async move {
            let outcome = outcomes(sent).await;
            waiting.dec_by(i64::try_from(count).unwrap_or(i64::MAX));
            drop(room);
            outcome
        });
        let outcome = answers.await.map_err(|error| Error::internal("sending events", error))?;
        self.metrics.event_log_seconds.observe(started.elapsed().as_secs_f64());
        match (outcome, refused) {
            (Ok(next), None) => Ok(next),
            (Err(error), _) | (Ok(_), Some(error)) => Err(self.failed(&client, &error)),
        }
    }

    /// Sends one record to any topic and waits until it is acknowledged.
    pub(super) async fn send_one(&self, topic: &str, record: &Outgoing, headers: OwnedHeaders) -> Result<()> {
        let client = self.client().ok_or_else(closed)?;
        let record = FutureRecord::to(topic).key(&record.key).payload(&record.value).headers(headers);
        let outcome = match client.send_result(record) {
            Ok(delivery) => outcomes(vec![delivery]).await.map(|_| ()),
            Err((error, _)) => Err(error),
        };
        outcome.map_err(|error| self.failed(&client, &error))
    }

    /// Sends what waits and takes nothing more.
    pub(super) async fn close(&self, within: Duration) {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(client) = client else { return };
        let flushed = tokio::task::spawn_blocking(move || client.flush(within)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("the event log did not acknowledge everything in time; its callers were told so");
        }
    }

    /// What the caller is told. A client that met a fatal error is replaced: it would refuse everything from now on.
    fn failed(&self, client: &Client, error: &KafkaError) -> Error {
        if let Some((code, reason)) = client.client().fatal_error() {
            tracing::error!(?code, reason, "the producer of the event log cannot go on and is made anew");
            let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            let is_this = |held: &Client| std::ptr::eq(held.client(), client.client());
            if current.as_ref().is_some_and(is_this) {
                match make(&self.settings) {
                    Ok(next) => *current = Some(next),
                    Err(error) => tracing::error!(error = client::not_made(&error), "no new producer"),
                }
            }
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => {
                self.metrics.shed("event_log_queue_full");
                Error::ResourceExhausted("too much waits for the event log; try again later".to_owned())
            }
            _ => Error::unavailable(
                "the event log did not acknowledge in time; send the events again, ids count once",
                Plain(error),
            ),
        }
    }
}

fn closed() -> Error {
    Error::unavailable("the server is stopping; send the events to another one", "the producer is closed")
}

fn make(settings: &Settings) -> KafkaResult<Client> {
    let events = &settings.events;
    let records = events.in_flight_max_events.saturating_add(QUEUE_SPARE_RECORDS);
    client::base(settings)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", events.linger_ms.to_string())
        .set("message.timeout.ms", events.produce_timeout_ms.to_string())
        .set("queue.buffering.max.messages", records.to_string())
        .set("queue.buffering.max.kbytes", QUEUE_MAX_KIB.to_string())
        // The same partition for a key as the Java clients of other producers.
        .set("partitioner", "murmur2_random")
        .create_with_context(Voice::default())
}

/// The last offsets when every record was acknowledged, else the first error. Waits for all of them either way.
async fn outcomes(sent: Vec<DeliveryFuture>) -> KafkaResult<BTreeMap<i32, i64>> {
    let mut next = BTreeMap::new();
    let mut failed = None;
    for delivery in sent {
        match delivery.await {
            Ok(Ok(delivery)) => {
                let after = next.entry(delivery.partition).or_insert(0);
                *after = (delivery.offset + 1).max(*after);
            }
            Ok(Err((error, _))) => failed = failed.or(Some(error)),
            Err(_) => failed = failed.or(Some(KafkaError::Canceled)),
        }
    }
    failed.map_or(Ok(next), Err)
}
