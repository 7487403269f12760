//! `[store]`: where items, users and the log live.

use serde::{Deserialize, Serialize};

use super::Address;

/// Where items, users, events and the slate log live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `sqlite://PATH`, whose folder is made if it is missing, or `postgres://USER@HOST:PORT/DATABASE`.
    pub url: Address,
    /// Entries that may wait for the writer; a write that finds no room waits `write_wait_ms`, then is refused.
    pub write_queue_max_entries: usize,
    /// Entries in one transaction, at most (a single larger call still is one transaction).
    pub write_batch_max_entries: usize,
    /// How long a write waits for room in the queue.
    pub write_wait_ms: u64,
    /// Connections that read.
    pub read_connections_max: u32,
    /// How long a read waits for one of them that works.
    pub connection_wait_ms: u64,
    /// How long to wait for another process that holds the database.
    pub busy_timeout_ms: u64,
    /// PostgreSQL: how long opening a connection may take.
    pub connect_timeout_ms: u64,
    /// PostgreSQL: longest time of one statement; a writing transaction may take some of it.
    pub statement_timeout_ms: u64,
    /// PostgreSQL: how long a batch is written again and again while the server is not there.
    pub write_retry_ms: u64,
    /// How long event ids are remembered; a resend after that counts as new.
    pub dedup_retention_days: u32,
    /// How long an answer waits for a profile from the store, and at most half of the time that its caller left.
    pub read_wait_ms: u64,
    /// So many reads of profiles in a row that failed, and none is tried for `breaker_open_ms`.
    pub breaker_failures: u32,
    /// After that time, and a random share of it, one read is tried.
    pub breaker_open_ms: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            url: "sqlite://.marquee/marquee.db".into(),
            write_queue_max_entries: 50_000,
            write_batch_max_entries: 10_000,
            write_wait_ms: 1_000,
            read_connections_max: 4,
            connection_wait_ms: 2_000,
            busy_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 10_000,
            write_retry_ms: 5_000,
            dedup_retention_days: 90,
            read_wait_ms: 500,
            breaker_failures: 5,
            breaker_open_ms: 1_000,
        }
    }
}
