//! Slates in this process's memory: bounded by bytes and by age, in shards by user, so that one user's slates can be
//! dropped at once.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use marquee_engine::types::TimeMs;

use super::{Entry, Key, State};

const SHARDS: usize = 16;
/// What an entry costs beside its body and key: header, ids, list nodes. An estimate.
const OVERHEAD_BYTES: usize = 512;
/// An old slate is to be ranked again once in this time, however often it is asked for.
const AGAIN_AFTER_MS: TimeMs = 1_000;

/// A slate that is given.
#[derive(Debug)]
pub struct Found {
    /// It.
    pub entry: Entry,
    /// Whether the one who found it should see to a newer one.
    pub is_old: bool,
}

/// Slates in this process's memory.
pub struct Memory {
    shards: Vec<Mutex<Shard>>,
    shard_max_bytes: usize,
}

struct Shard {
    entries: LruCache<Key, Entry>,
    bytes: usize,
}

impl Memory {
    /// At most `max_bytes` of slates; 0 keeps none.
    pub fn new(max_bytes: u64) -> Memory {
        let shard_max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX) / SHARDS;
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), bytes: 0 });
        Memory { shards: (0..SHARDS).map(|_| shard()).collect(), shard_max_bytes }
    }

    /// Whether it keeps anything at all.
    pub fn is_on(&self) -> bool {
        self.shard_max_bytes > 0
    }

    /// The answer to that question, if it is still the answer.
    pub fn get(&self, key: &Key, state: State, now_ms: TimeMs) -> Option<Found> {
        let mut shard = self.shard(key.user());
        let entry = shard.entries.get_mut(key)?;
        if entry.answers(state, now_ms) {
            let is_old = now_ms >= entry.old_from_ms;
            if is_old {
                entry.old_from_ms = now_ms.saturating_add(AGAIN_AFTER_MS);
            }
            return Some(Found { entry: entry.clone(), is_old });
        }
        // A newer state never comes back to an old one: the entry is of no use to anybody.
        shard.remove(key);
        None
    }

    /// Keeps an answer, at the cost of those that were not asked for longest.
    pub fn put(&self, key: Key, entry: Entry) {
        let bytes = cost(&key, &entry);
        if bytes > self.shard_max_bytes {
            // Whatever was there is older.
            self.shard(key.user()).remove(&key);
            return;
        }
        let mut shard = self.shard(key.user());
        shard.remove(&key);
        shard.bytes += bytes;
        shard.entries.put(key, entry);
        while shard.bytes > self.shard_max_bytes {
            let Some((key, entry)) = shard.entries.pop_lru() else { break };
            shard.bytes -= cost(&key, &entry);
        }
    }

    /// Drops all slates of one user.
    pub fn purge_user(&self, user: &str) {
        let mut shard = self.shard(user.as_bytes());
        let keys: Vec<Key> =
            shard.entries.iter().map(|(key, _)| key).filter(|key| key.user() == user.as_bytes()).cloned().collect();
        for key in keys {
            shard.remove(&key);
        }
    }

    /// Drops everything.
    pub fn purge(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.clear();
            shard.bytes = 0;
        }
    }

    fn shard(&self, user: &[u8]) -> MutexGuard<'_, Shard> {
        // Any spread will do, and the ends of ids differ most.
        let hash = user.iter().rev().take(8).fold(0_u64, |hash, byte| hash.rotate_left(5) ^ u64::from(*byte));
        let shard = &self.shards[(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= cost(key, &entry);
        }
    }
}

fn cost(key: &Key, entry: &Entry) -> usize {
    OVERHEAD_BYTES + key.bytes.len() + entry.body.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::answer::Told;

    const NOW: State = State { profile: 3, item_changes: 1 };

    fn key(user: &str, question: u8) -> Key {
        Key::new(user, &[&[question], b"rest"])
    }

    fn entry(bytes: usize) -> Entry {
        let told = Told { variant: Bytes::new(), bundle_version: Bytes::new() };
        let body = vec![7; bytes].into();
        Entry { state: NOW, as_of: 0, old_from_ms: 50, expires_ms: 100, body, ranked_id: "r".into(), told }
    }

    #[test]
    fn another_profile_version_is_a_miss() {
        let cache = Memory::new(1 << 20);
        cache.put(key("u:a", 1), entry(10));
        assert!(cache.get(&key("u:a", 1), NOW, 5).is_some());
        assert!(cache.get(&key("u:a", 2), NOW, 5).is_none());
        assert!(cache.get(&key("u:a", 1), State { profile: 4, ..NOW }, 5).is_none());
        assert!(cache.get(&key("u:a", 1), NOW, 5).is_none(), "and the entry is gone");
    }

    #[test]
    fn an_entry_ends_at_its_time() {
        let cache = Memory::new(1 << 20);
        cache.put(key("u:a", 1), entry(10));
        assert!(cache.get(&key("u:a", 1), NOW, 99).is_some());
        assert!(cache.get(&key("u:a", 1), NOW, 100).is_none());
    }

    #[test]
    fn an_old_entry_is_given_and_one_of_many_sees_to_a_newer_one() {
        let cache = Memory::new(1 << 20);
        cache.put(key("u:a", 1), entry(10));
        let is_old = |now_ms| cache.get(&key("u:a", 1), NOW, now_ms).unwrap().is_old;
        assert_eq!([is_old(49), is_old(50), is_old(51), is_old(99)], [false, true, false, false]);
    }

    #[test]
    fn bytes_are_bounded_and_the_oldest_go_first() {
        let cache = Memory::new((SHARDS * 5_000) as u64);
        for question in 0..100 {
            cache.put(key("u:a", question), entry(1_000));
        }
        let shard = cache.shard(b"u:a");
        // Three entries of 1,536 bytes each, what they cost beside their body included.
        assert!(shard.bytes <= 5_000 && shard.entries.len() == 3);
        drop(shard);
        assert!(cache.get(&key("u:a", 99), NOW, 5).is_some());
        assert!(cache.get(&key("u:a", 0), NOW, 5).is_none());
        cache.put(key("u:a", 100), entry(9_000));
        assert!(cache.get(&key("u:a", 100), NOW, 5).is_none(), "larger than its shard");
    }

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        assert_ne!(Key::new("u:a", &[b"bc", b"d"]), Key::new("u:a", &[b"b", b"cd"]));
        assert_ne!(Key::new("u:a", &[]), Key::new("u:", &[b"a"]));
    }

    #[test]
    fn one_user_is_purged_alone() {
        let cache = Memory::new(1 << 20);
        cache.put(key("u:a", 1), entry(10));
        cache.put(key("u:b", 1), entry(10));
        cache.purge_user("u:a");
        assert!(cache.get(&key("u:a", 1), NOW, 5).is_none());
        assert!(cache.get(&key("u:b", 1), NOW, 5).is_some());
        cache.purge();
        assert!(cache.get(&key("u:b", 1), NOW, 5).is_none());
        assert!(cache.shards.iter().all(|shard| shard.lock().unwrap().bytes == 0));
    }
}
