//! Profiles in memory, over Redis, over the store: bounded by count, never older than an acknowledged write.
//!
//! A write invalidates before it is acknowledged ([`Profiles::invalidate`]); a profile that was being read meanwhile is
//! handed to its reader, who asked before the acknowledgement, but not kept. What Redis holds is used only if this
//! process can prove from the log that it is up to date ([`recent`]). Without the store a reader gets what there is, and
//! is told how good that is ([`Standing`]).
//! `seek` is the way through all three.

mod held;
mod recent;
mod seek;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use marquee_engine::event::EventPolicy;
use marquee_engine::profile::{ProfileLimits, build, extended};
use marquee_engine::types::{Profile, Seq, id_hash};

use crate::breaker::Breaker;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Result;
use crate::events::{kinds_outside_profiles, profile_event};
use crate::store::{KeyHash, LogRow, Store, StoredEntry, UserKey};
use crate::telemetry::Metrics;
pub use held::Held;
use recent::Recent;
pub use seek::Sought;

/// With more entries since a profile was read, it is read anew.
const LATER_MAX_ENTRIES: usize = 256;
/// Locks are taken for a lookup only; this many keep threads out of each other's way.
const SHARDS: usize = 16;

/// The cache. Share it by `Arc`.
pub struct Profiles {
    store: Arc<dyn Store>,
    cache: Option<Arc<Cache>>,
    metrics: Arc<Metrics>,
    policy: EventPolicy,
    limits: ProfileLimits,
    skip: Vec<String>,
    /// Stands for policy and limits: a profile that others built by other ones is of no use here.
    rules: u64,
    recent: Recent,
    breaker: Breaker,
    read_wait: Duration,
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    kept: LruCache<UserKey, Kept>,
    /// Rises with every invalidation: what was read before it is not kept.
    generation: u64,
}

#[derive(Clone)]
enum Kept {
    Profile(Arc<Held>),
    /// Something was written since: better than nothing when the store is down.
    Outdated(Arc<Held>),
    /// A merged visitor: the profile is that user's.
    MergedInto(UserKey),
}

/// How good a profile is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It holds every write that was acknowledged before the call.
    Fresh,
    /// Nothing proves that; the store, which could, does not answer.
    Stale,
    /// The store does not answer, and there is nothing else: the profile is empty.
    Missing,
}

/// What the store gave.
struct Read {
    /// The user, or the one that the visitor was merged into.
    owner: UserKey,
    profile: Arc<Profile>,
    /// See [`Held::entries`].
    entries: Option<usize>,
}

/// What this process has of someone.
struct Near {
    /// The user, or the one that the visitor was merged into, as far as it is known here.
    owner: UserKey,
    generation: u64,
    profile: Option<Arc<Held>>,
    outdated: Option<Arc<Held>>,
}

impl Profiles {
    /// An empty cache with the config's bounds and policy.
    pub fn new(config: &Config, store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Profiles {
        let limits = ProfileLimits {
            profile_events_max: config.limits.profile_events_max,
            profile_seen_max: config.limits.profile_seen_max,
        };
        let each =
            NonZeroUsize::new(config.limits.profile_cache_max_users.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        let shard = || Mutex::new(Shard { kept: LruCache::new(each), generation: 0 });
        let policy = config.events.policy.clone();
        let rules = serde_json::json!([policy, limits.profile_events_max, limits.profile_seen_max]).to_string();
        let pause = Duration::from_millis(config.store.breaker_open_ms);
        Profiles {
            store,
            cache: None,
            metrics,
            limits,
            skip: kinds_outside_profiles(&policy),
            policy,
            rules: id_hash(&rules),
            recent: Recent::new(if config.cache.is_shared() { config.cache.recent_slots } else { 1 }),
            breaker: Breaker::new(config.store.breaker_failures, pause),
            read_wait: Duration::from_millis(config.store.read_wait_ms),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    /// The same over that cache; an erasure drops the slates of its memory, too.
    #[must_use]
    pub fn over(mut self, cache: Arc<Cache>) -> Profiles {
        self.cache = Some(cache);
        self
    }

    /// The profile with every write that was acknowledged before the call; empty for someone unknown.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn get(&self, key: &UserKey) -> Result<Arc<Profile>> {
        let near = self.look(key);
        self.metrics.profile(near.profile.is_some());
        if let Some(profile) = near.profile.as_ref().and_then(|held| held.profile()) {
            return Ok(profile);
        }
        let read = self.read(&near).await?;
        self.hold(&near, &read);
        Ok(read.profile)
    }

    /// The same, if this process has it. Never waits.
    pub fn near(&self, key: &UserKey) -> Option<Arc<Held>> {
        self.look(key).profile
    }

    /// The profile as the log stood at `up_to`; not cached. For replays.
    pub async fn at(&self, key: &UserKey, up_to: Seq) -> Result<Profile> {
        self.as_of(key, Some(up_to)).await.map(|read| Arc::unwrap_or_clone(read.profile))
    }

    /// From this log position on, [`Profiles::observe`] will be told of every entry.
    pub fn begin(&self, position: Seq) {
        self.recent.begin(position);
    }

    /// The log is not the one that was told of so far: what was made from it is dropped here, and what Redis holds of it is
    /// not believed until [`Profiles::trust`].
    pub fn doubt(&self) {
        self.recent.doubt();
        self.drop_all();
    }

    /// Makes every process drop what Redis holds; then what comes there is believed again. `position` was reached since
    /// the doubt. False when Redis could not be told.
    pub async fn trust(&self, position: Seq) -> bool {
        if let Some(cache) = &self.cache
            && let Err(error) = cache.purge().await
        {
            tracing::warn!(
                error = error.detail(),
                "Redis holds what a store had that was set back; it is not used yet"
            );
            return false;
        }
        self.recent.begin(position);
        true
    }

    /// The log position that was reached. Taken before a profile is, that profile holds everything up to there.
    pub fn reached(&self) -> Seq {
        self.recent.tail()
    }

    /// Whether what was made from a profile of that position may be shown: nothing was erased since.
    pub fn may_be_shown(&self, as_of: Seq) -> bool {
        self.recent.may_be_shown(as_of)
    }

    /// These users' profiles are out of date: of each, this log position or an earlier one holds the newest entry. Call it
    /// after the write is durable and before it is acknowledged.
    pub fn invalidate<'k>(&self, keys: impl IntoIterator<Item = &'k UserKey>, seq: Seq) {
        let keys: HashSet<&UserKey> = keys.into_iter().collect();
        for key in keys {
            self.recent.mark(key, seq);
            let mut shard = self.shard(key);
            // Better than nothing when the store is down; whose a visitor is must be asked again.
            if let Some(Kept::Profile(held) | Kept::Outdated(held)) = shard.kept.pop(key) {
                shard.kept.put(key.clone(), Kept::Outdated(held));
            }
            shard.generation += 1;
        }
    }

    /// These users were erased at this log position. Call it as [`Profiles::invalidate`].
    pub fn erase<'k>(&self, keys: impl IntoIterator<Item = &'k UserKey>, seq: Seq) {
        self.recent.erased(seq);
        for key in keys {
            let mut shard = self.shard(key);
            shard.kept.pop(key);
            shard.generation += 1;
        }
    }

    /// The same for entries that another process wrote: give it what a tail of the log brings, in order. An entry that a
    /// cached profile holds already does nothing.
    pub fn observe(&self, rows: &[LogRow]) {
        let mut stale = Vec::new();
        for row in rows {
            match &row.entry {
                StoredEntry::Event(event) => self.outdated(&event.user, row.seq, &mut stale),
                StoredEntry::Merge { anonymous, user } => {
                    self.outdated(user, row.seq, &mut stale);
                    self.outdated(anonymous, row.seq, &mut stale);
                }
                StoredEntry::Erasure(hashes) => self.erased(hashes, row.seq),
                StoredEntry::Upsert(_) | StoredEntry::Delete(_) => {}
            }
        }
        if let Some(last) = rows.last() {
            self.invalidate(&stale, 0);
            self.recent.reached(last.seq);
        }
    }

    fn outdated(&self, key: &UserKey, seq: Seq, stale: &mut Vec<UserKey>) {
        self.recent.mark(key, seq);
        let holds_it = |kept: &Kept| matches!(kept, Kept::Profile(held) if held.version() >= seq);
        if !self.shard(key).kept.peek(key).is_some_and(holds_it) {
            stale.push(key.clone());
        }
    }

    /// Erasures are rare, and what a visitor brought to another user goes without a name: every profile that is older
    /// goes, and every slate.
    fn erased(&self, hashes: &[KeyHash], seq: Seq) {
        tracing::debug!(keys = hashes.len(), seq, "an erasure drops cached profiles");
        self.recent.erased(seq);
        self.drop_all();
    }

    fn drop_all(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.kept.clear();
            shard.generation += 1;
        }
        if let Some(cache) = &self.cache {
            cache.purge_near();
        }
    }

    /// What this process has, through a merge that it knows of.
    fn look(&self, key: &UserKey) -> Near {
        let mut owner = key.clone();
        for _ in 0..2 {
            let mut shard = self.shard(&owner);
            let generation = shard.generation;
            let (profile, outdated) = match shard.kept.get(&owner) {
                Some(Kept::MergedInto(user)) => {
                    let user = user.clone();
                    drop(shard);
                    owner = user;
                    continue;
                }
                Some(Kept::Profile(held)) if !held.is_broken() => (Some(held.clone()), None),
                Some(Kept::Outdated(held)) => (None, Some(held.clone())),
                Some(Kept::Profile(_)) | None => (None, None),
            };
            drop(shard);
            return Near { owner, generation, profile, outdated };
        }
        // Two merges in a row are none that a store makes: ask it.
        let generation = self.shard(key).generation;
        Near { owner: key.clone(), generation, profile: None, outdated: None }
    }

    fn keep(&self, key: &UserKey, kept: Kept, generation: u64) {
        let mut shard = self.shard(key);
        if shard.generation == generation {
            shard.kept.put(key.clone(), kept);
        }
    }

    /// Keeps what the store gave for `near`, if nothing was written meanwhile.
    fn hold(&self, near: &Near, read: &Read) -> Arc<Held> {
        let held = Arc::new(Held::of_entries(read.profile.clone(), read.entries));
        let is_own = read.owner == near.owner;
        let kept = if is_own { Kept::Profile(held.clone()) } else { Kept::MergedInto(read.owner.clone()) };
        self.keep(&near.owner, kept, near.generation);
        held
    }

    /// From the store: what came since the outdated profile, where there is one and that is enough, so that an event does not
    /// have the whole history read again.
    async fn read(&self, near: &Near) -> Result<Read> {
        let key = &near.owner;
        // Meanwhile the log may have been found set back, and everything that was made from it dropped.
        let older = near.outdated.as_ref().filter(|_| self.shard(key).generation == near.generation);
        if let Some(older) = older
            && let Some(read) = self.extended(key, older).await?
        {
            return Ok(read);
        }
        self.as_of(key, None).await
    }

    /// `older` with what came since; `None` when that cannot be told from it.
    async fn extended(&self, key: &UserKey, older: &Held) -> Result<Option<Read>> {
        let Some(before) = older.entries() else { return Ok(None) };
        let Some(profile) = older.profile() else { return Ok(None) };
        if profile.user.as_deref() != Some(key.as_str()) {
            return Ok(None);
        }
        let later = self.store.history_after(key, profile.version, &self.skip, LATER_MAX_ENTRIES).await?;
        let Some(history) = later.filter(|later| before + later.events.len() < self.read_max()) else {
            return Ok(None);
        };
        let entries = before + history.events.len();
        let events = history.events.iter().map(|past| profile_event(past, &self.policy));
        let extended = extended(&profile, history.version, events, &self.limits);
        let read = |profile| Read { owner: key.clone(), profile: Arc::new(profile), entries: Some(entries) };
        Ok(extended.map(read))
    }

    async fn as_of(&self, key: &UserKey, up_to: Option<Seq>) -> Result<Read> {
        let history = self.store.history(key, up_to, &self.skip, self.read_max()).await?;
        let owner = history.user.unwrap_or_else(|| key.clone());
        let entries = Some(history.events.len()).filter(|entries| *entries < self.read_max());
        let events = history.events.iter().map(|past| profile_event(past, &self.policy));
        let profile = Arc::new(build(Some(owner.as_arc()), history.version, events, &self.limits));
        Ok(Read { owner, profile, entries })
    }

    /// Entries that a profile is made of, at most.
    fn read_max(&self) -> usize {
        self.limits.profile_events_max + self.limits.profile_seen_max
    }

    fn shard(&self, key: &UserKey) -> MutexGuard<'_, Shard> {
        let hash = id_hash(key.as_str());
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
