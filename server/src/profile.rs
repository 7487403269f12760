//! Profiles in memory, over Redis, over the store: bounded by count, never older than an acknowledged write.
//!
//! A write invalidates before it is acknowledged ([`Profiles::invalidate`]); a profile that was being read meanwhile is
//! handed to its reader, who asked before the acknowledgement, but not kept. What Redis holds is used only if this
//! process can prove from the log that it is up to date ([`recent`]). Without the store a reader gets what there is, and
//! is told how good that is ([`Standing`]).

mod recent;
#[cfg(test)]
mod tests;
mod value;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use marquee_engine::event::EventPolicy;
use marquee_engine::profile::{ProfileLimits, build};
use marquee_engine::types::{Profile, Seq, id_hash};

use crate::breaker::Breaker;
use crate::cache::{self, Cache, Question, Wanted};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::{kinds_outside_profiles, profile_event};
use crate::store::{KeyHash, LogRow, Store, StoredEntry, UserKey};
use crate::telemetry::Metrics;
use recent::Recent;

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
    Profile(Arc<Profile>),
    /// Something was written since: better than nothing when the store is down.
    Outdated(Arc<Profile>),
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

/// A profile and what came with it.
#[derive(Debug)]
pub struct Sought {
    /// The profile.
    pub profile: Arc<Profile>,
    /// How good it is.
    pub standing: Standing,
    /// What Redis lacks, by key, for [`Cache::write`].
    pub unsaved: Vec<(UserKey, Bytes)>,
    /// Redis's answer to the question that was asked along, of whatever state and age.
    pub slate: Option<cache::Entry>,
    /// Redis could not be asked.
    pub is_cache_down: bool,
}

/// What this process has of someone.
struct Near {
    /// The user, or the one that the visitor was merged into, as far as it is known here.
    owner: UserKey,
    generation: u64,
    profile: Option<Arc<Profile>>,
    outdated: Option<Arc<Profile>>,
}

/// What a copy from Redis is good for.
enum Judged {
    Fresh(Profile),
    Merged(UserKey),
    Unproven(Profile),
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
        match near.profile {
            Some(profile) => Ok(profile),
            None => Ok(self.read(&near.owner, near.generation).await?.1),
        }
    }

    /// The same, if this process has it. Never waits.
    pub fn near(&self, key: &UserKey) -> Option<Arc<Profile>> {
        self.look(key).profile
    }

    /// The best profile there is until `deadline`, from this process, Redis or the store, and Redis's answer to
    /// `question` with it.
    pub async fn seek(&self, key: &UserKey, question: Option<Question>, deadline: Option<Instant>) -> Sought {
        let mut sought = Sought {
            profile: Arc::default(),
            standing: Standing::Fresh,
            unsaved: Vec::new(),
            slate: None,
            is_cache_down: false,
        };
        let mut near = self.look(key);
        self.metrics.profile(near.profile.is_some());
        let mut outdated = near.outdated.take();
        // A visitor's slates are under the visitor's key, the profile may be under the user's.
        let wanted = Wanted { question, profile: near.profile.is_none() && near.owner == *key, deadline };
        let mut copy = self.fetch(key, wanted, &mut sought).await;
        let mut is_fetched = wanted.profile;
        // A visitor, then the user: a user is never merged on.
        for _ in 0..2 {
            if let Some(profile) = near.profile {
                return Sought { profile, ..sought };
            }
            if !is_fetched {
                let wanted = Wanted { question: None, profile: true, deadline };
                copy = self.fetch(&near.owner, wanted, &mut sought).await;
            }
            match copy.take().and_then(|bytes| self.judge(&near.owner, &bytes)) {
                Some(Judged::Fresh(profile)) => {
                    let profile = Arc::new(profile);
                    self.keep(&near.owner, Kept::Profile(profile.clone()), near.generation);
                    return Sought { profile, ..sought };
                }
                Some(Judged::Merged(user)) => {
                    self.keep(&near.owner, Kept::MergedInto(user.clone()), near.generation);
                    near = self.look(&user);
                    outdated = near.outdated.take().or(outdated);
                    is_fetched = false;
                    continue;
                }
                Some(Judged::Unproven(profile)) if outdated.as_ref().is_none_or(|o| o.version < profile.version) => {
                    outdated = Some(Arc::new(profile));
                }
                Some(Judged::Unproven(_)) | None => {}
            }
            break;
        }
        if let Some((profile, unsaved)) = self.read_in_time(&near, deadline).await {
            return Sought { profile, unsaved, ..sought };
        }
        let standing = if outdated.is_some() { Standing::Stale } else { Standing::Missing };
        let empty = || Arc::new(Profile { user: Some(near.owner.as_arc()), ..Profile::default() });
        Sought { profile: outdated.unwrap_or_else(empty), standing, ..sought }
    }

    /// The profile as the log stood at `up_to`; not cached. For replays.
    pub async fn at(&self, key: &UserKey, up_to: Seq) -> Result<Profile> {
        self.as_of(key, Some(up_to)).await.map(|(_, profile)| profile)
    }

    /// From this log position on, [`Profiles::observe`] will be told of every entry.
    pub fn begin(&self, position: Seq) {
        self.recent.begin(position);
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
            if let Some(kept) = shard.kept.pop(key) {
                // Merged or not, it is what is known of them without the store.
                if let Kept::Profile(profile) | Kept::Outdated(profile) = kept {
                    shard.kept.put(key.clone(), Kept::Outdated(profile));
                }
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
        let holds_it = |kept: &Kept| matches!(kept, Kept::Profile(profile) if profile.version >= seq);
        if !self.shard(key).kept.peek(key).is_some_and(holds_it) {
            stale.push(key.clone());
        }
    }

    /// Erasures are rare, and what a visitor brought to another user goes without a name: every profile that is older
    /// goes, and every slate.
    fn erased(&self, hashes: &[KeyHash], seq: Seq) {
        tracing::debug!(keys = hashes.len(), seq, "an erasure drops cached profiles");
        self.recent.erased(seq);
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
                Some(Kept::Profile(profile)) => (Some(profile.clone()), None),
                Some(Kept::Outdated(profile)) => (None, Some(profile.clone())),
                None => (None, None),
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

    /// Gives Redis's copy of the profile; what else it has goes where it belongs.
    async fn fetch(&self, key: &UserKey, wanted: Wanted, sought: &mut Sought) -> Option<Bytes> {
        let reading = self.cache.as_ref()?.read(key, wanted).await;
        sought.is_cache_down |= reading.is_down;
        sought.slate = reading.slate.or(sought.slate.take());
        if !reading.is_down {
            if wanted.profile {
                self.metrics.redis_lookup(if reading.profile.is_some() { "profile_hit" } else { "profile_miss" });
            }
            if wanted.question.is_some() {
                self.metrics.redis_lookup(if sought.slate.is_some() { "slate_hit" } else { "slate_miss" });
            }
        }
        reading.profile
    }

    fn judge(&self, key: &UserKey, bytes: &[u8]) -> Option<Judged> {
        let (kept, age) = value::read(bytes, key, self.rules, &self.limits)?;
        let is_fresh = self.recent.proves(key, age);
        match kept {
            value::Kept::MergedInto(user) => is_fresh.then_some(Judged::Merged(user)),
            value::Kept::Profile(profile) if is_fresh => Some(Judged::Fresh(profile)),
            // It may hold what was erased meanwhile: better none.
            value::Kept::Profile(profile) => self.recent.may_be_shown(age.as_of).then_some(Judged::Unproven(profile)),
        }
    }

    /// From the store; `None` when it fails or takes too long, and at once while it is left alone.
    async fn read_in_time(
        &self,
        near: &Near,
        deadline: Option<Instant>,
    ) -> Option<(Arc<Profile>, Vec<(UserKey, Bytes)>)> {
        let now = Instant::now();
        if !self.breaker.allows(now) {
            return None;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now) / 2);
        let patience = left.map_or(self.read_wait, |left| left.min(self.read_wait));
        let as_of = self.recent.tail();
        let read = tokio::time::timeout(patience, self.read(&near.owner, near.generation)).await;
        let error = match read {
            Ok(Ok((owner, profile))) => {
                self.breaker.succeeded();
                self.metrics.store_reads_up.set(1);
                return Some((profile.clone(), self.unsaved(near, owner, &profile, as_of)));
            }
            Ok(Err(error)) => error,
            // A caller in a hurry says nothing about the store.
            Err(_) if patience < self.read_wait => return None,
            Err(_) => Error::unavailable("the store is slow", "no answer within store.read_wait_ms"),
        };
        if self.breaker.failed(Instant::now()) {
            self.metrics.store_reads_up.set(0);
            tracing::warn!(error = error.detail(), "the store cannot be read; answers go on with older profiles");
        } else {
            tracing::debug!(error = error.detail(), "a profile cannot be read");
        }
        None
    }

    /// What belongs into Redis after the store was read.
    fn unsaved(&self, near: &Near, owner: UserKey, profile: &Arc<Profile>, as_of: Seq) -> Vec<(UserKey, Bytes)> {
        if !self.cache.as_ref().is_some_and(|cache| cache.is_shared()) {
            return Vec::new();
        }
        let bytes = |kept| Bytes::from(value::write(&kept, as_of, self.rules));
        let mut unsaved = Vec::with_capacity(1);
        if owner != near.owner {
            unsaved.push((near.owner.clone(), bytes(value::Kept::MergedInto(owner.clone()))));
        }
        unsaved.push((owner, bytes(value::Kept::Profile((**profile).clone()))));
        unsaved
    }

    /// From the store, kept if nothing was written meanwhile. Gives whose it is, too.
    async fn read(&self, key: &UserKey, generation: u64) -> Result<(UserKey, Arc<Profile>)> {
        let (owner, profile) = self.as_of(key, None).await?;
        let profile = Arc::new(profile);
        let kept = if owner == *key { Kept::Profile(profile.clone()) } else { Kept::MergedInto(owner.clone()) };
        self.keep(key, kept, generation);
        Ok((owner, profile))
    }

    async fn as_of(&self, key: &UserKey, up_to: Option<Seq>) -> Result<(UserKey, Profile)> {
        let read_max = self.limits.profile_events_max + self.limits.profile_seen_max;
        let history = self.store.history(key, up_to, &self.skip, read_max).await?;
        let owner = history.user.unwrap_or_else(|| key.clone());
        let events = history.events.iter().filter_map(|stored| profile_event(stored, &self.policy));
        let profile = build(Some(owner.as_arc()), history.version, events, &self.limits);
        Ok((owner, profile))
    }

    fn shard(&self, key: &UserKey) -> MutexGuard<'_, Shard> {
        let hash = id_hash(key.as_str());
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
