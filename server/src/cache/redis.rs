//! What Redis holds: one hash for each user, with a profile and a few slates.
//!
//! `mq:NAMESPACE:EPOCH:{USER}` has the fields `p` and `s0`, `s1` ...: a question's place is its hash modulo their number, so
//! that a user's memory is bounded by construction. Everything is read in one round trip and written in one. A purge of
//! everything is another epoch, which every process notices within a second; no key is ever searched for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use redis::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::link::{Down, Link};
use super::{Entry, Memory, Question, Wanted, value};
use crate::breaker::jittered;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::UserKey;
use crate::telemetry::Metrics;

const PROFILE: &str = "p";
/// What a command that reads takes beside the key: its name and those of two fields.
const READ_BYTES: usize = 16;
/// How often each process looks at the epoch.
const EPOCH_EVERY: Duration = Duration::from_secs(1);
/// Tries of what must reach Redis, and the pause between them.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// A Redis that processes share.
pub(super) struct Redis {
    shared: Arc<Shared>,
    tending: JoinHandle<()>,
}

struct Shared {
    link: Link,
    prefix: String,
    epoch: AtomicU64,
    memory: Weak<Memory>,
    rules: [u8; 8],
    slates_per_user: u64,
    value_max_bytes: usize,
    ttl: Duration,
    writes: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// What Redis had.
#[derive(Debug, Default)]
pub struct Reading {
    /// The profile as `profile` wrote it.
    pub profile: Option<Bytes>,
    /// An answer to that question, of whatever state and age.
    pub slate: Option<Entry>,
    /// Redis could not be asked.
    pub is_down: bool,
}

impl Redis {
    pub(super) async fn open(config: &Config, memory: Arc<Memory>, metrics: Arc<Metrics>) -> Result<Redis> {
        let cache = &config.cache;
        let shared = Arc::new(Shared {
            link: Link::open(config, metrics.clone()).await?,
            prefix: format!("mq:{}:", config.namespace),
            epoch: AtomicU64::new(0),
            memory: Arc::downgrade(&memory),
            rules: rules(config),
            slates_per_user: cache.redis_slates_per_user as u64,
            value_max_bytes: cache.redis_value_max_bytes,
            ttl: Duration::from_millis(cache.redis_ttl_ms),
            writes: Arc::new(Semaphore::new(cache.redis_writes_max)),
            metrics,
        });
        shared.follow_epoch().await;
        let tended = shared.clone();
        let tending = tokio::spawn(async move { tended.link.tend(EPOCH_EVERY, || tended.follow_epoch()).await });
        Ok(Redis { shared, tending })
    }

    /// Stands for what in the config shapes answers beside the variant's name.
    pub(super) fn rules(&self) -> [u8; 8] {
        self.shared.rules
    }

    pub(super) async fn read(&self, user: &UserKey, wanted: Wanted) -> Reading {
        let shared = &*self.shared;
        let key = shared.key(user);
        let mut cmd = redis::Cmd::with_capacity(4, key.len() + READ_BYTES);
        match (wanted.profile, wanted.question.map(|question| shared.place(question))) {
            (true, Some(place)) => cmd.arg("HMGET").arg(key).arg(PROFILE).arg(place),
            // One value costs both sides less than a list of one.
            (true, None) => cmd.arg("HGET").arg(key).arg(PROFILE),
            (false, Some(place)) => cmd.arg("HGET").arg(key).arg(place),
            (false, None) => return Reading::default(),
        };
        let (first, second) = match shared.link.ask("read", &cmd, wanted.deadline).await {
            Ok(Value::Array(values)) => {
                let mut values = values.into_iter().map(bytes);
                (values.next().flatten(), values.next().flatten())
            }
            Ok(value) if wanted.profile => (bytes(value), None),
            Ok(value) => (None, bytes(value)),
            Err(Down) => return Reading { is_down: true, ..Reading::default() },
        };
        let slate = wanted.question.zip(second).and_then(|(question, bytes)| value::read(&bytes, question));
        Reading { profile: first, slate, is_down: false }
    }

    pub(super) fn write(&self, user: &UserKey, profile: Option<Bytes>, slate: Option<(Question, &Entry)>) {
        let shared = self.shared.clone();
        let fits = |bytes: &usize| *bytes <= shared.value_max_bytes;
        let profile = profile.filter(|bytes| fits(&bytes.len()));
        let slate = slate.and_then(|(question, entry)| Some((shared.place(question), value::write(question, entry)?)));
        let slate = slate.filter(|(_, bytes)| fits(&bytes.len()));
        if profile.is_none() && slate.is_none() {
            return;
        }
        let Ok(permit) = shared.writes.clone().try_acquire_owned() else {
            shared.metrics.redis_error("busy");
            return;
        };
        let key = shared.key(user);
        tokio::spawn(async move {
            let _permit = permit;
            let mut pipeline = redis::pipe();
            pipeline.atomic().cmd("HSET").arg(&key);
            if let Some(profile) = &profile {
                pipeline.arg(PROFILE).arg(&profile[..]);
            }
            if let Some((place, bytes)) = &slate {
                pipeline.arg(place).arg(&bytes[..]);
            }
            let ttl_ms = jittered(shared.ttl).as_millis() as u64;
            pipeline.ignore().cmd("PEXPIRE").arg(&key).arg(ttl_ms).ignore();
            // What is not written is ranked again.
            let _ = shared.link.tell("write", &pipeline).await;
        });
    }

    pub(super) async fn unlink(&self, user: &UserKey) -> Result<()> {
        let mut cmd = redis::cmd("UNLINK");
        cmd.arg(self.shared.key(user));
        self.insist(&cmd, "the shared cache cannot be told; ask again").await.map(|_| ())
    }

    pub(super) async fn purge(&self) -> Result<()> {
        let mut cmd = redis::cmd("INCR");
        cmd.arg(self.shared.epoch_key());
        let reason = "the shared cache cannot be told: only this process dropped its slates; ask again";
        if let Value::Int(epoch) = self.insist(&cmd, reason).await? {
            self.shared.take_epoch(epoch as u64);
        }
        Ok(())
    }

    async fn insist(&self, cmd: &redis::Cmd, reason: &'static str) -> Result<Value> {
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(jittered(TRY_AGAIN)).await;
            }
            if let Ok(value) = self.shared.link.ask("purge", cmd, None).await {
                return Ok(value);
            }
        }
        Err(Error::unavailable(reason, "redis did not answer"))
    }
}

#[cfg(test)]
impl Redis {
    /// How many more writes may be on their way.
    pub(super) fn writes_free(&self) -> usize {
        self.shared.writes.available_permits()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.tending.abort();
    }
}

impl Shared {
    fn key(&self, user: &UserKey) -> String {
        format!("{}{}:{{{}}}", self.prefix, self.epoch.load(Ordering::Relaxed), user.as_str())
    }

    fn epoch_key(&self) -> String {
        format!("{}epoch", self.prefix)
    }

    fn place(&self, question: Question) -> String {
        let hash = u64::from_le_bytes(question.0[..8].try_into().expect("eight of sixteen bytes"));
        format!("s{}", hash % self.slates_per_user)
    }

    async fn follow_epoch(&self) {
        let mut cmd = redis::cmd("GET");
        cmd.arg(self.epoch_key());
        match self.link.ask("epoch", &cmd, None).await {
            Ok(Value::BulkString(digits)) => {
                let epoch = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
                self.take_epoch(epoch.unwrap_or_default());
            }
            // Nobody purged anything yet, or Redis was flushed: then its slates are gone, too.
            Ok(_) => self.take_epoch(0),
            Err(Down) => {}
        }
    }

    fn take_epoch(&self, epoch: u64) {
        if self.epoch.swap(epoch, Ordering::Relaxed) != epoch
            && let Some(memory) = self.memory.upgrade()
        {
            tracing::debug!(epoch, "another version of the shared cache");
            memory.purge();
        }
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

/// Two processes of different configs must not take each other's slates.
fn rules(config: &Config) -> [u8; 8] {
    let Config { limits, ranking, events, variants, .. } = config;
    let shaping = serde_json::json!([limits, ranking, events.policy, variants]).to_string();
    marquee_engine::types::id_hash(&shaping).to_le_bytes()
}
