//! The log of events: where an event is acknowledged, and when the store has it.
//!
//! A port: one trait, one conformance suite (`conformance.rs`) that every implementation passes. Must not know gRPC, nor
//! what an event is worth. What it promises: what was answered with Ok is as durable as the log is made (SQLite
//! waits for its disk, Kafka for all in-sync replicas), comes into the store exactly once whatever was sent twice, and the
//! answer's mark tells when it is there.

#[cfg(test)]
pub(crate) mod conformance;
mod store;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::types::{Seq, TimeMs, id_hash};

pub use store::StoreLog;

use super::kafka::KafkaLog;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::{Event, Store, UserKey};
use crate::telemetry::Metrics;

/// Partitions of a shared log, at most: a mark holds a number for each, and travels with every request.
pub const PARTITIONS_MAX: usize = 256;

/// What has to be in the store before a write is seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// Everything up to this position of the store's log; 0 for nothing.
    pub seq: Seq,
    /// And everything before these offsets of a shared log.
    pub shared: Option<Shared>,
}

impl From<Seq> for Mark {
    fn from(seq: Seq) -> Mark {
        Mark { seq, shared: None }
    }
}

/// Offsets of a shared log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// [`log_id`] of the log's name.
    pub log: u32,
    /// Partition, and the offset after the last one that counts; by partition, each once.
    pub next: Vec<(i32, i64)>,
}

/// What marks say of a log's name.
pub fn log_id(name: &str) -> u32 {
    id_hash(name) as u32
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Logged {
    /// It is in the log. The user whose profile changed with it, where that is known already.
    Accepted(Option<UserKey>),
    /// Its id is known; nothing changed. A log that does not know ids says `Accepted`, and drops it later.
    Duplicate,
}

/// What became of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Appended {
    /// One for each event, in order.
    pub outcomes: Vec<Logged>,
    /// Holds all of them, duplicates too.
    pub mark: Mark,
}

/// Where events are acknowledged.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends events; Ok means that every one of them is durable. After an error some may be: send all again, ids count
    /// once. The order of one user's events in one call stays. ResourceExhausted when too many wait already.
    async fn append(&self, events: Vec<Event>, now_ms: TimeMs) -> Result<Appended>;

    /// Waits until the store holds everything that the mark says; gives a position of the store's log that has it. `None`
    /// for a mark of another log. As long as it takes: the caller bounds it.
    async fn landed(&self, mark: &Mark) -> Option<Seq>;

    /// The store was set back: what it was known to hold does not count any more.
    fn doubt(&self) {}

    /// Sends what still waits and takes nothing over any more, within that time. Later appends fail.
    async fn close(&self, within: Duration);
}

/// Whether the log of the config's URL is there and may be used; starts nothing.
///
/// # Errors
/// As [`open`].
pub async fn check(config: &Config) -> Result<()> {
    match config.events.url.scheme() {
        "kafka" => KafkaLog::check(config).await,
        _ => Ok(()),
    }
}

/// Opens the log of the config's URL.
///
/// # Errors
/// InvalidArgument of `events.url`: what is wrong with it, in plain words.
pub async fn open(
    config: &Config,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Clock,
) -> Result<Arc<dyn EventLog>> {
    match config.events.url.scheme() {
        "store" => Ok(Arc::new(StoreLog::new(store))),
        "kafka" => Ok(Arc::new(KafkaLog::open(config, store, metrics, clock).await?)),
        _ => Err(Error::invalid("events.url", "must start with store:// or kafka://")),
    }
}
