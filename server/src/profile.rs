//! Profiles in memory, over the store: bounded by count, never older than an acknowledged write.
//!
//! A write invalidates before it is acknowledged ([`Profiles::invalidate`]); a profile that was being read meanwhile is
//! handed to its reader, who asked before the acknowledgement, but not kept.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use marquee_engine::event::EventPolicy;
use marquee_engine::profile::{ProfileLimits, build};
use marquee_engine::types::{Profile, Seq};

use crate::config::Config;
use crate::error::Result;
use crate::events::{kinds_outside_profiles, profile_event};
use crate::store::{KeyHash, LogRow, Store, StoredEntry, UserKey};
use crate::telemetry::Metrics;

/// Locks are taken for a lookup only; this many keep threads out of each other's way.
const SHARDS: usize = 16;

/// The cache. Share it by `Arc`.
pub struct Profiles {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    policy: EventPolicy,
    limits: ProfileLimits,
    skip: Vec<String>,
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
    /// A merged visitor: the profile is that user's.
    MergedInto(UserKey),
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
        Profiles {
            store,
            metrics,
            policy: config.events.policy.clone(),
            limits,
            skip: kinds_outside_profiles(&config.events.policy),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        }
    }

    /// The profile with every write that was acknowledged before the call; empty for someone unknown.
    pub async fn get(&self, key: &UserKey) -> Result<Arc<Profile>> {
        let mut owner = key.clone();
        // A merged visitor costs one more step; a user is never merged on.
        for _ in 0..2 {
            let generation = {
                let mut shard = self.shard(&owner);
                match shard.kept.get(&owner).cloned() {
                    Some(Kept::Profile(profile)) => {
                        self.metrics.profile(true);
                        return Ok(profile);
                    }
                    Some(Kept::MergedInto(user)) => {
                        owner = user;
                        continue;
                    }
                    None => shard.generation,
                }
            };
            self.metrics.profile(false);
            return self.read(&owner, generation).await;
        }
        self.as_of(key, None).await.map(|(_, profile)| Arc::new(profile))
    }

    /// The profile as the log stood at `up_to`; not cached. For replays.
    pub async fn at(&self, key: &UserKey, up_to: Seq) -> Result<Profile> {
        self.as_of(key, Some(up_to)).await.map(|(_, profile)| profile)
    }

    /// Forgets these users' profiles. Call it after the write is durable and before it is acknowledged.
    pub fn invalidate<'k>(&self, keys: impl IntoIterator<Item = &'k UserKey>) {
        let keys: HashSet<&UserKey> = keys.into_iter().collect();
        for key in keys {
            let mut shard = self.shard(key);
            shard.kept.pop(key);
            shard.generation += 1;
        }
    }

    /// The same for entries that another process wrote: give it what a tail of the log brings. An entry that a cached
    /// profile holds already does nothing.
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
        self.invalidate(&stale);
    }

    fn outdated(&self, key: &UserKey, seq: Seq, stale: &mut Vec<UserKey>) {
        let holds_it = |kept: &Kept| matches!(kept, Kept::Profile(profile) if profile.version >= seq);
        if !self.shard(key).kept.peek(key).is_some_and(holds_it) {
            stale.push(key.clone());
        }
    }

    /// Erasures are rare and name nobody: every profile that is older goes.
    fn erased(&self, hashes: &[KeyHash], seq: Seq) {
        tracing::debug!(keys = hashes.len(), seq, "an erasure drops cached profiles");
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.kept.clear();
            shard.generation += 1;
        }
    }

    async fn read(&self, key: &UserKey, generation: u64) -> Result<Arc<Profile>> {
        let (owner, profile) = self.as_of(key, None).await?;
        let profile = Arc::new(profile);
        let kept = if owner == *key { Kept::Profile(Arc::clone(&profile)) } else { Kept::MergedInto(owner) };
        let mut shard = self.shard(key);
        if shard.generation == generation {
            shard.kept.put(key.clone(), kept);
        }
        Ok(profile)
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
        let hash = marquee_engine::types::id_hash(key.as_str());
        lock(&self.shards[(hash % SHARDS as u64) as usize])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use marquee_engine::event::EventKind;

    use super::*;
    use crate::store::Event;

    struct Ground {
        _folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        profiles: Profiles,
    }

    async fn ground(cache_max_users: usize) -> Ground {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
        config.limits.profile_cache_max_users = cache_max_users;
        let metrics = Arc::new(Metrics::new());
        let store = crate::store::open(&config, Arc::clone(&metrics)).await.unwrap();
        let profiles = Profiles::new(&config, Arc::clone(&store), metrics);
        Ground { _folder: folder, store, profiles }
    }

    impl Ground {
        async fn like(&self, id: &str, user: &UserKey, item: &str) {
            let event = Event::new(id, user.clone(), EventKind::Like, Some(item), 1);
            self.store.append_events(vec![event], 1).await.unwrap();
        }

        async fn items(&self, user: &UserKey) -> Vec<String> {
            self.profiles.get(user).await.unwrap().events.iter().map(|event| event.item.to_string()).collect()
        }
    }

    #[tokio::test]
    async fn a_merged_visitor_has_the_users_profile() {
        let ground = ground(100).await;
        let (visitor, ann) = (UserKey::anonymous("x"), UserKey::user("ann"));
        ground.like("1", &visitor, "i").await;
        assert_eq!(ground.items(&visitor).await, ["i"]);
        assert!(ground.items(&ann).await.is_empty());
        ground.store.merge_users(&visitor, &ann, 2).await.unwrap();
        ground.profiles.invalidate([&visitor, &ann]);
        for _ in 0..2 {
            assert_eq!(ground.items(&visitor).await, ["i"]);
            assert_eq!(ground.items(&ann).await, ["i"]);
        }
        ground.like("2", &visitor, "j").await;
        ground.profiles.invalidate([&ann]);
        assert_eq!(ground.items(&visitor).await, ["i", "j"], "through the user");
        let before = ground.profiles.at(&visitor, 1).await.unwrap();
        assert_eq!((before.version, before.user.as_deref()), (1, Some("a:x")));
    }

    #[tokio::test]
    async fn another_process_is_seen_through_the_log() {
        let ground = ground(100).await;
        let ann = UserKey::user("ann");
        assert!(ground.items(&ann).await.is_empty());
        ground.like("1", &ann, "i").await;
        ground.profiles.observe(&ground.store.log_after(0, 10).await.unwrap());
        assert_eq!(ground.items(&ann).await, ["i"]);
        ground.store.forget(&ann, 2).await.unwrap();
        ground.profiles.observe(&ground.store.log_after(1, 10).await.unwrap());
        assert!(ground.items(&ann).await.is_empty());
    }

    #[tokio::test]
    async fn the_cache_is_bounded_by_its_count() {
        let ground = ground(SHARDS).await;
        for n in 0..200 {
            ground.profiles.get(&UserKey::user(&n.to_string())).await.unwrap();
        }
        let kept: usize = ground.profiles.shards.iter().map(|shard| lock(shard).kept.len()).sum();
        assert!(kept <= SHARDS);
    }
}
