//! The cache: encoded slates in this process, and behind it a Redis that processes share, for slates and profiles.
//!
//! The process's own memory answers first and never waits. What it lacks is read from Redis in one round trip and written
//! back in one, beside the answer. A key does not hold the profile's version; the entry does, and another version is a
//! miss. It must not know how an answer is encoded, nor whether a profile is up to date (`profile` does).

mod link;
mod memory;
mod redis;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use bytes::Bytes;
use marquee_engine::types::{Seq, TimeMs};
use sha2::{Digest, Sha256};

pub use memory::{Found, Memory};
pub use redis::Reading;

use crate::answer::Told;
use crate::config::Config;
use crate::error::Result;
use crate::store::UserKey;
use crate::telemetry::Metrics;

/// Who asked and everything in the question that can change its answer, bundle and variant included; byte for byte, so
/// that no two questions share an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    bytes: Box<[u8]>,
    /// How many of them are the user's key.
    user: usize,
}

impl Key {
    /// From the user's key (empty for an unknown visitor) and the parts of the question.
    pub fn new(user: &str, parts: &[&[u8]]) -> Key {
        let length = user.len() + parts.iter().map(|part| size_of::<u64>() + part.len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(user.as_bytes());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        Key { bytes: bytes.into(), user: user.len() }
    }

    fn user(&self) -> &[u8] {
        &self.bytes[..self.user]
    }
}

/// The state that an answer was ranked for. Any difference is a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// Version of the user's profile.
    pub profile: Seq,
    /// Changes of items since the bundle.
    pub item_changes: u64,
}

/// A cached answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What it was ranked for.
    pub state: State,
    /// The log position that was reached before its profile was read: an erasure after it may have changed that.
    pub as_of: Seq,
    /// Ranked again when it is asked for from this moment on.
    pub old_from_ms: TimeMs,
    /// Not given out from this moment on.
    pub expires_ms: TimeMs,
    /// The encoded answer.
    pub body: Bytes,
    /// The slate's own id: what a repeated answer points to in the log.
    pub ranked_id: Arc<str>,
    /// What was told beside the body.
    pub told: Told,
}

impl Entry {
    /// Whether it is the answer for that state at that moment.
    pub fn answers(&self, state: State, now_ms: TimeMs) -> bool {
        self.state == state && now_ms < self.expires_ms
    }
}

/// The hash of a question as Redis holds it, and of the config that shapes its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question(pub [u8; 16]);

/// Both layers.
pub struct Cache {
    memory: Arc<Memory>,
    shared: Option<redis::Redis>,
}

impl Cache {
    /// The process's own memory alone.
    pub fn in_process(config: &Config) -> Cache {
        Cache { memory: Arc::new(Memory::new(config.cache.max_bytes)), shared: None }
    }

    /// What the config's URL says. A Redis must answer now; later it may come and go.
    ///
    /// # Errors
    /// InvalidArgument of `cache.url`: it cannot be reached, does not let us in, is not who it says.
    pub async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Cache> {
        let mut cache = Cache::in_process(config);
        if config.cache.is_shared() {
            cache.shared = Some(redis::Redis::open(config, cache.memory.clone(), metrics).await?);
        }
        Ok(cache)
    }

    /// Whether there is a Redis.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Whether it keeps slates at all.
    pub fn keeps_slates(&self) -> bool {
        self.memory.is_on() || self.is_shared()
    }

    /// The answer to that question in this process, if it is still the answer.
    pub fn near(&self, key: &Key, state: State, now_ms: TimeMs) -> Option<Found> {
        self.memory.get(key, state, now_ms)
    }

    /// Keeps an answer in this process.
    pub fn put_near(&self, key: Key, entry: &Entry) {
        if self.memory.is_on() {
            self.memory.put(key, entry.clone());
        }
    }

    /// Under what Redis knows a question of a known user; `None` without a Redis.
    pub fn question(&self, key: &Key) -> Option<Question> {
        let shared = self.shared.as_ref().filter(|_| !key.user().is_empty())?;
        let digest = Sha256::new().chain_update(shared.rules()).chain_update(&key.bytes).finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Some(Question(hash))
    }

    /// Reads what is wanted of a user from Redis, in one round trip or none.
    pub async fn read(&self, user: &UserKey, wanted: Wanted) -> Reading {
        match &self.shared {
            Some(shared) => shared.read(user, wanted).await,
            None => Reading::default(),
        }
    }

    /// Writes to Redis beside the answer: nobody waits for it, and too much of it is dropped.
    pub fn write(&self, user: &UserKey, profile: Option<Bytes>, slate: Option<(Question, &Entry)>) {
        if let Some(shared) = &self.shared {
            shared.write(user, profile, slate);
        }
    }

    /// Drops what is kept of one user: here and in Redis. Another process's own memory goes by its age.
    ///
    /// # Errors
    /// Unavailable: Redis could not be told.
    pub async fn purge_user(&self, user: &UserKey) -> Result<()> {
        self.memory.purge_user(user.as_str());
        match &self.shared {
            Some(shared) => shared.unlink(user).await,
            None => Ok(()),
        }
    }

    /// Drops all slates of this process.
    pub fn purge_near(&self) {
        self.memory.purge();
    }

    /// Drops everything, in every process: by another version of all keys.
    ///
    /// # Errors
    /// Unavailable: Redis could not be told; only this process dropped its slates.
    pub async fn purge(&self) -> Result<()> {
        self.memory.purge();
        match &self.shared {
            Some(shared) => shared.purge().await,
            None => Ok(()),
        }
    }
}

/// What a request lacks, and for how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The answer to this question.
    pub question: Option<Question>,
    /// The profile.
    pub profile: bool,
    /// When the caller stops waiting.
    pub deadline: Option<std::time::Instant>,
}
