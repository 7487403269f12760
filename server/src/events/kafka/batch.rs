//! Records on their way into the store: what they say, where they came from, which cannot be taken.

use std::collections::BTreeMap;

use marquee_engine::types::TimeMs;
use rdkafka::message::{Header, Message, OwnedHeaders};

use super::assign::Taken;
use super::producer::Outgoing;
use crate::config::Limits;
use crate::rpc::logged::{self, Arrived};
use crate::store::{Ingested, Received, Step};

/// All values of a batch, together; the last one may go over.
const BATCH_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Of a value that cannot be taken, this much is kept: less than brokers take for one record unless told otherwise.
const DEAD_VALUE_MAX_BYTES: usize = 512 * 1024;

/// Where a record lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// A record that cannot be taken.
#[derive(Debug)]
pub(super) struct Dead {
    pub(super) place: Place,
    pub(super) reason: String,
    pub(super) record: Outgoing,
    value_bytes: usize,
}

impl Dead {
    pub(super) fn new(place: Place, reason: String, key: &[u8], value: &[u8]) -> Dead {
        let kept = &value[..value.len().min(DEAD_VALUE_MAX_BYTES)];
        let record = Outgoing { key: key.to_vec(), value: kept.to_vec() };
        Dead { place, reason, record, value_bytes: value.len() }
    }

    /// Why, and from where.
    pub(super) fn headers(&self, topic: &str) -> OwnedHeaders {
        let numbers = [
            ("marquee-partition", i64::from(self.place.partition)),
            ("marquee-offset", self.place.offset),
            ("marquee-value-bytes", i64::try_from(self.value_bytes).unwrap_or(i64::MAX)),
        ];
        let headers = OwnedHeaders::new()
            .insert(Header { key: "marquee-reason", value: Some(&self.reason) })
            .insert(Header { key: "marquee-topic", value: Some(topic) });
        numbers
            .iter()
            .fold(headers, |headers, (key, number)| headers.insert(Header { key, value: Some(&number.to_string()) }))
    }
}

/// What is written at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Vec<Received>,
    /// Of each event.
    pub(super) places: Vec<Place>,
    pub(super) dead: Vec<Dead>,
    /// The offset after the last record, by partition.
    pub(super) next: BTreeMap<i32, i64>,
    /// What was taken over when its first record was asked for.
    began: Taken,
    bytes: usize,
}

impl Batch {
    /// An empty one.
    pub(super) fn new(taken: Taken) -> Batch {
        Batch { began: taken, ..Batch::default() }
    }

    pub(super) fn add(&mut self, message: &impl Message, now_ms: TimeMs, limits: &Limits) {
        let place = Place { partition: message.partition(), offset: message.offset() };
        let value = message.payload().unwrap_or_default();
        let after = self.next.entry(place.partition).or_insert(0);
        *after = (place.offset + 1).max(*after);
        let arrived = Arrived { logged_ms: message.timestamp().to_millis(), now_ms };
        match logged::decode(value, arrived, limits) {
            Ok(received) => {
                self.bytes += value.len();
                self.events.push(received);
                self.places.push(place);
            }
            Err(reason) => {
                let dead = Dead::new(place, reason, message.key().unwrap_or_default(), value);
                self.bytes += dead.record.value.len();
                self.dead.push(dead);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }

    pub(super) fn is_full(&self, events_max: usize) -> bool {
        self.events.len() + self.dead.len() >= events_max || self.bytes >= BATCH_MAX_BYTES
    }

    /// When the oldest event was received.
    pub(super) fn oldest_ms(&self) -> Option<TimeMs> {
        self.events.iter().map(|received| received.received_ms).min()
    }

    /// How far the log is taken over with it, from where it was before. A partition that went to another process, or was taken
    /// again from an earlier place meanwhile, leads on only from where its records began: between the two may be a hole.
    pub(super) fn steps(&self, topic: &str, taken: &Taken) -> Vec<Step> {
        let step = |(&partition, &next): (&i32, &i64)| {
            let from = self.began.get(&partition).max(taken.get(&partition)).copied()?;
            Some(Step { from, to: Ingested { log: topic.to_owned(), partition, next } })
        };
        self.next.iter().filter_map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::message::{OwnedMessage, Timestamp};

    fn record(partition: i32, offset: i64, value: &str) -> OwnedMessage {
        let value = Some(value.as_bytes().to_vec());
        OwnedMessage::new(value, None, "t".to_owned(), Timestamp::CreateTime(5), partition, offset, None)
    }

    #[test]
    fn a_record_that_cannot_be_taken_moves_the_position_and_tells_where_it_was() {
        let mut batch = Batch::default();
        batch.add(&record(1, 7, r#"{"user_id":"a","item_id":"i","type":"like"}"#), 9, &Limits::default());
        batch.add(&record(1, 8, "nonsense"), 9, &Limits::default());
        batch.add(&record(3, 0, &"x".repeat(600_000)), 9, &Limits::default());
        assert_eq!(batch.next, BTreeMap::from([(1, 9), (3, 1)]));
        assert_eq!(
            (batch.events.len(), batch.places[0], batch.oldest_ms()),
            (1, Place { partition: 1, offset: 7 }, Some(5))
        );
        assert_eq!(batch.dead.iter().map(|dead| dead.place.offset).collect::<Vec<_>>(), [8, 0]);
        assert_eq!(batch.dead[1].record.value.len(), DEAD_VALUE_MAX_BYTES);
        assert!(!batch.is_full(4) && batch.is_full(3));
    }

    #[test]
    fn a_batch_never_claims_what_lies_before_its_first_record() {
        let mut batch = Batch::new(Taken::from([(1, 100), (2, 100), (3, 50)]));
        for (partition, offset) in [(1, 100), (2, 100), (3, 50), (4, 20), (5, 9)] {
            batch.add(
                &record(partition, offset, r#"{"user_id":"a","item_id":"i","type":"like"}"#),
                9,
                &Limits::default(),
            );
        }
        // Meanwhile the first went to another process, the second was taken again from an earlier place, the fourth came,
        // and the fifth came and went.
        let taken = Taken::from([(2, 60), (3, 50), (4, 20)]);
        let steps: Vec<_> =
            batch.steps("t", &taken).into_iter().map(|step| (step.to.partition, step.from, step.to.next)).collect();
        assert_eq!(steps, [(1, 100, 101), (2, 100, 101), (3, 50, 51), (4, 20, 21)]);
    }
}
