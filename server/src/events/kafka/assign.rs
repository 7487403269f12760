//! Which partitions are ours, and from where they are read: the store's own position if it has one, else the group's,
//! else the beginning.
//!
//! The store is asked first, because it noted its position in the transaction that took the events: after a crash, or a
//! restored backup, it is exactly as far as it says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use rdkafka::types::RDKafkaRespErr;

use super::client::{Plain, Voice};
use super::retry::Retry;
use crate::store::{Ingested, Store};

const READING: &str = "reading how far the event log was taken over";

/// Next offset of each partition that is ours; `None` until the first record of one that the store does not know.
pub(super) type Positions = BTreeMap<i32, Option<i64>>;

/// By partition of ours, up to where the store holds everything, as far as this process knows; 0 for nothing.
pub(super) type Taken = BTreeMap<i32, i64>;

/// The consumer's context. Its calls run on the thread that polls.
pub(super) struct Assigned {
    pub(super) store: Arc<dyn Store>,
    pub(super) topic: String,
    pub(super) retry: Retry,
    pub(super) voice: Voice,
    pub(super) positions: Arc<Mutex<Positions>>,
    pub(super) taken: Mutex<Taken>,
}

impl Assigned {
    pub(super) fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store lacks what this process took over: it was set back since. It is asked once: the next look is soon.
    /// `None` when the process stops.
    pub(super) fn is_set_back(&self) -> Option<bool> {
        let read = || async { self.store.ingested(&self.topic).await };
        let Ok(known) = self.retry.until(READING, read, |_| false)? else { return Some(false) };
        let next = |partition| known.iter().find(|at| at.partition == partition).map_or(0, |at| at.next);
        Some(self.taken().iter().any(|(&partition, &taken)| next(partition) < taken))
    }

    /// Reads partitions that are ours already again, from where the store is.
    pub(super) fn take_again(&self, consumer: &BaseConsumer<Assigned>) {
        match consumer.assignment() {
            Ok(mut partitions) => self.take(consumer, &mut partitions),
            Err(error) => tracing::error!(error = %Plain(&error), "partitions of the event log are not read again"),
        }
    }

    fn take(&self, consumer: &BaseConsumer<Assigned>, partitions: &mut TopicPartitionList) {
        let read = || async { self.store.ingested(&self.topic).await };
        // `None`: the process stops; nothing is ours.
        let Some(known) = self.retry.until_done(READING, read) else {
            self.drop_all(consumer);
            return;
        };
        let ours: Vec<i32> =
            partitions.elements_for_topic(&self.topic).iter().map(TopicPartitionListElem::partition).collect();
        let next = |partition| known.iter().find(|at: &&Ingested| at.partition == partition).map(|at| at.next);
        for &partition in &ours {
            // Of what the store does not know it may lack everything, whatever the group says: ids count once.
            let from = next(partition).map_or(Offset::Beginning, Offset::Offset);
            if let Err(error) = partitions.set_partition_offset(&self.topic, partition, from) {
                tracing::error!(error = %Plain(&error), partition, "a position of the event log is not taken");
            }
        }
        *self.taken() = ours.iter().map(|&partition| (partition, next(partition).unwrap_or(0))).collect();
        *self.positions() = ours.iter().map(|&partition| (partition, next(partition))).collect();
        match consumer.assign(partitions) {
            Ok(()) => tracing::info!(partitions = ?ours, "taking over these partitions of the event log"),
            Err(error) => tracing::error!(error = %Plain(&error), "partitions of the event log are not taken"),
        }
    }

    fn drop_all(&self, consumer: &BaseConsumer<Assigned>) {
        self.positions().clear();
        self.taken().clear();
        if let Err(error) = consumer.unassign() {
            tracing::debug!(error = %Plain(&error), "partitions of the event log are not given back");
        }
    }
}

impl ClientContext for Assigned {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.voice.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.voice.error(error, reason);
    }
}

impl ConsumerContext for Assigned {
    fn rebalance(&self, consumer: &BaseConsumer<Assigned>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.take(consumer, partitions),
            _ => self.drop_all(consumer),
        }
    }
}
