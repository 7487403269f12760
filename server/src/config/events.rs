//! `[events]`: where acknowledged events go, how they are taken over, what they weigh.

use std::collections::BTreeMap;

use marquee_engine::event::{EventPolicy, KindPolicy};
use serde::{Deserialize, Serialize};

use super::Address;

/// Where events are acknowledged, what they mean, and where those that cannot be read are put aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// `store://`, or `kafka://HOST:PORT,HOST:PORT[/TOPIC][?librdkafka.key=value&...]`.
    pub url: Address,
    /// Kafka: how long the brokers have to answer when the log is opened.
    pub connect_timeout_ms: u64,
    /// Kafka: whether a topic that is not there is made.
    pub create_topic: bool,
    /// Kafka: partitions of a topic that is made.
    pub topic_partitions: u32,
    /// Kafka: replicas of a topic that is made; 0 is the broker's default.
    pub topic_replicas: u32,
    /// Kafka: events that may wait for the broker's acknowledgement; calls beyond that are refused.
    pub in_flight_max_events: usize,
    /// Kafka: how long the broker has to acknowledge; then the call is answered UNAVAILABLE.
    pub produce_timeout_ms: u64,
    /// Kafka: how long an event waits for others to be sent with.
    pub linger_ms: u64,
    /// Kafka: whether this process takes events over into the store.
    pub ingest: bool,
    /// Kafka: events written to the store at once.
    pub ingest_batch_max_events: usize,
    /// Kafka: how long the first event of such a batch waits for others.
    pub ingest_wait_ms: u64,
    /// Kafka: what may be fetched ahead of the store.
    pub ingest_queue_max_bytes: usize,
    /// Kafka: partitions of a process that was not heard of for so long go to others.
    pub session_timeout_ms: u64,
    /// Kafka: partitions of a process that cannot write to the store for so long go to others.
    pub ingest_failover_ms: u64,
    /// Kafka: how often the store is asked how far it is, while a request waits for a write.
    pub poll_ms: u64,
    /// Folder of the files that hold refused rows of imports. ForgetUser erases a user's rows there too.
    pub quarantine_folder: String,
    /// The weight of each kind of event. A kind that is given here replaces that kind's default as a whole;
    /// kinds that are not given keep theirs.
    pub policy: EventPolicy,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            url: "store://".into(),
            connect_timeout_ms: 5_000,
            create_topic: false,
            topic_partitions: 8,
            topic_replicas: 0,
            in_flight_max_events: 10_000,
            produce_timeout_ms: 2_000,
            linger_ms: 1,
            ingest: true,
            ingest_batch_max_events: 2_000,
            ingest_wait_ms: 2,
            ingest_queue_max_bytes: 16 * 1024 * 1024,
            session_timeout_ms: 6_000,
            ingest_failover_ms: 30_000,
            poll_ms: 3,
            quarantine_folder: ".marquee/quarantine".to_owned(),
            policy: EventPolicy::default(),
        }
    }
}

impl Events {
    /// Puts the defaults under the kinds that the file names.
    pub(super) fn with_default_kinds(mut self) -> Events {
        let mut kinds: BTreeMap<String, KindPolicy> = EventPolicy::default().kinds;
        kinds.append(&mut self.policy.kinds);
        self.policy.kinds = kinds;
        self
    }
}
