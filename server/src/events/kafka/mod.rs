//! Kafka as the log of events.
//!
//! `RecordEvents` sends ([`producer`]) and answers after the brokers' acknowledgement. A thread of some of the processes
//! ([`ingest`]) takes the records over into the store in batches, with the offsets in the same transaction: that is what
//! makes each count once. [`landed`] tells requests with a write token when the store is there. Must not know gRPC: what
//! a record's value is, `rpc::logged` says.

mod assign;
mod batch;
mod client;
mod ingest;
mod lag;
mod landed;
mod producer;
mod retry;
mod settings;
#[cfg(test)]
mod tests;
mod topics;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use marquee_engine::types::{Seq, TimeMs};
use tokio::task::AbortHandle;

use self::ingest::{Ingest, Parts};
use self::landed::Landed;
use self::producer::{Outgoing, Producer};
use self::settings::{Settings, bad};
use super::log::{Appended, EventLog, Logged, Mark, Shared, log_id};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::rpc::logged;
use crate::store::{Event, Received, Store};
use crate::telemetry::Metrics;

/// `kafka://`
pub struct KafkaLog {
    log: u32,
    producer: Arc<Producer>,
    landed: Arc<Landed>,
    follower: AbortHandle,
    ingest: Mutex<Option<Ingest>>,
}

impl KafkaLog {
    /// Whether brokers, login and topics are good.
    ///
    /// # Errors
    /// As [`KafkaLog::open`].
    pub async fn check(config: &Config) -> Result<()> {
        topics::check(&Arc::new(Settings::new(config)?)).await
    }

    /// Checks brokers, login and topics, and begins to take the log over unless the config says that others do.
    ///
    /// # Errors
    /// InvalidArgument of `events.url`: what is wrong, in plain words.
    pub async fn open(config: &Config, store: Arc<dyn Store>, metrics: Arc<Metrics>, clock: Clock) -> Result<KafkaLog> {
        let settings = Arc::new(Settings::new(config)?);
        topics::check(&settings).await?;
        let producer =
            Producer::new(settings.clone(), metrics.clone()).map_err(|error| bad(client::not_made(&error)))?;
        let producer = Arc::new(producer);
        let landed = Arc::new(Landed::new(store.clone(), settings.topic.clone()));
        let log = log_id(&settings.topic);
        let (follow, poll) = (landed.clone(), Duration::from_millis(settings.events.poll_ms));
        let follower = tokio::spawn(async move { follow.follow(poll).await }).abort_handle();
        let ingest = if settings.events.ingest {
            let parts = Parts { settings, store, metrics, clock, producer: producer.clone(), landed: landed.clone() };
            Some(Ingest::start(parts)?)
        } else {
            None
        };
        Ok(KafkaLog { log, producer, landed, follower, ingest: Mutex::new(ingest) })
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn append(&self, events: Vec<Event>, now_ms: TimeMs) -> Result<Appended> {
        if events.is_empty() {
            return Ok(Appended::default());
        }
        let outcomes = vec![Logged::Accepted(None); events.len()];
        let record = |event: Event| Outgoing {
            key: event.user.as_str().as_bytes().to_vec(),
            value: logged::encode(Received { event, received_ms: now_ms }),
        };
        let next = self.producer.send(events.into_iter().map(record).collect()).await?;
        let shared = Shared { log: self.log, next: next.into_iter().collect() };
        Ok(Appended { outcomes, mark: Mark { seq: 0, shared: Some(shared) } })
    }

    async fn landed(&self, mark: &Mark) -> Option<Seq> {
        match &mark.shared {
            None => Some(mark.seq),
            Some(shared) if shared.log == self.log => Some(self.landed.wait(&shared.next).await.max(mark.seq)),
            Some(_) => None,
        }
    }

    fn doubt(&self) {
        self.landed.doubt();
    }

    async fn close(&self, within: Duration) {
        // What is sent meanwhile is taken over by others, or at the next start.
        let until = Instant::now() + within;
        self.producer.close(within).await;
        let ingest = self.ingest.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ingest) = ingest {
            ingest.stop(until.saturating_duration_since(Instant::now())).await;
        }
        self.follower.abort();
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

/// The failure of a background task that should have ended otherwise.
fn broken(error: impl std::fmt::Display) -> Error {
    Error::internal("asking the event log", error)
}
