//! `[cache]`: slates and profiles in the process, and the Redis behind it.

use serde::{Deserialize, Serialize};

use super::Address;

/// Where encoded slates, and what Redis is there for, profiles, are kept for a short while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// `memory://`, or a Redis behind it: `redis://`, `redis+sentinel://`, `redis+cluster://`.
    pub url: Address,
    /// All slates in this process; 0 keeps none here.
    pub max_bytes: u64,
    /// A slate that is older is given, and ranked again beside that.
    pub ttl_ms: u64,
    /// A slate that is older is not given.
    pub hard_ttl_ms: u64,
    /// Slates that may be ranked again at once because they are older than `ttl_ms`.
    pub refresh_max_requests: usize,
    /// PEM certificates of who may sign the server's; empty: those that the system trusts.
    pub tls_ca_path: String,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout_ms: u64,
    /// How long an answer waits for Redis.
    pub response_timeout_ms: u64,
    /// So many failures in a row, and Redis is left alone for `breaker_open_ms`.
    pub breaker_failures: u32,
    /// How long it is left alone; then it is tried beside the answers, and longer each time in vain.
    pub breaker_open_ms: u64,
    /// A user's key in Redis goes so long after it was last written.
    pub redis_ttl_ms: u64,
    /// Slates of one user in Redis: another question may take an older one's place.
    pub redis_slates_per_user: usize,
    /// A larger slate or profile is not kept in Redis.
    pub redis_value_max_bytes: usize,
    /// Writes to Redis that may be on their way; more are dropped and counted.
    pub redis_writes_max: usize,
    /// Marks of who wrote lately, 8 bytes each: fewer make a profile in Redis seem old when it is not.
    pub recent_slots: usize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            url: "memory://".into(),
            max_bytes: 64 * 1024 * 1024,
            ttl_ms: 60_000,
            hard_ttl_ms: 120_000,
            refresh_max_requests: 8,
            tls_ca_path: String::new(),
            connect_timeout_ms: 1_000,
            response_timeout_ms: 25,
            breaker_failures: 5,
            breaker_open_ms: 1_000,
            redis_ttl_ms: 3_600_000,
            redis_slates_per_user: 4,
            redis_value_max_bytes: 256 * 1024,
            redis_writes_max: 256,
            recent_slots: 1 << 20,
        }
    }
}

impl Cache {
    /// Whether there is a Redis behind the process's own memory.
    pub fn is_shared(&self) -> bool {
        self.url.scheme() != "memory"
    }
}
