//! A profile from wherever it is to be had: this process's memory, Redis, the store.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use marquee_engine::types::{Profile, Seq};

use super::held::Packed;
use super::{Held, Kept, Near, Profiles, Read, Standing, value};
use crate::cache::{self, Question, Wanted};
use crate::error::Error;
use crate::store::UserKey;

/// A profile and what came with it.
#[derive(Debug)]
pub struct Sought {
    /// The profile.
    pub profile: Arc<Held>,
    /// How good it is.
    pub standing: Standing,
    /// What Redis lacks, by key, for [`Cache::write`].
    pub unsaved: Vec<(UserKey, Bytes)>,
    /// Redis's answer to the question that was asked along, of whatever state and age.
    pub slate: Option<cache::Entry>,
    /// Redis could not be asked.
    pub is_cache_down: bool,
}

/// What Redis told beside profiles.
#[derive(Default)]
struct Brought {
    slate: Option<cache::Entry>,
    is_cache_down: bool,
    /// [`super::recent::Recent::begun`] before it was asked.
    begun: u64,
}

impl Brought {
    fn with(self, profile: Arc<Held>, standing: Standing) -> Sought {
        let Brought { slate, is_cache_down, .. } = self;
        Sought { profile, standing, unsaved: Vec::new(), slate, is_cache_down }
    }
}

/// What a copy from Redis is good for.
enum Judged {
    Fresh(Held),
    Merged(UserKey),
    Unproven(Held),
}

impl Profiles {
    /// The best profile there is until `deadline`, from this process, Redis or the store, and Redis's answer to
    /// `question` with it.
    pub async fn seek(&self, key: &UserKey, question: Option<Question>, deadline: Option<Instant>) -> Sought {
        let near = self.look(key);
        self.metrics.profile(near.profile.is_some());
        // A visitor's slates are under the visitor's key, the profile may be under the user's.
        let wanted = Wanted { question, profile: near.profile.is_none() && near.owner == *key, deadline };
        let mut brought = Brought::default();
        let copy = self.fetch(key, wanted, &mut brought).await;
        if let Some(profile) = near.profile {
            return brought.with(profile, Standing::Fresh);
        }
        // What a repeated slate does not need is behind a pointer.
        Box::pin(self.seek_on(near, copy, wanted, brought)).await
    }

    /// Without a profile in this process; `copy` is what Redis had if it was asked.
    async fn seek_on(&self, mut near: Near, mut copy: Option<Bytes>, wanted: Wanted, mut brought: Brought) -> Sought {
        let deadline = wanted.deadline;
        // Redis may have a newer one, which does not say what it was made of: what goes on is `near`'s.
        let mut outdated = near.outdated.clone();
        let mut is_fetched = wanted.profile;
        // A visitor, then the user: a user is never merged on.
        for _ in 0..2 {
            if let Some(profile) = near.profile {
                return brought.with(profile, Standing::Fresh);
            }
            if !is_fetched {
                let wanted = Wanted { question: None, profile: true, deadline };
                copy = self.fetch(&near.owner, wanted, &mut brought).await;
            }
            match copy.take().and_then(|bytes| self.judge(&near.owner, bytes, &brought)) {
                Some(Judged::Fresh(held)) => {
                    let held = Arc::new(held);
                    self.keep(&near.owner, Kept::Profile(held.clone()), near.generation);
                    return brought.with(held, Standing::Fresh);
                }
                Some(Judged::Merged(user)) => {
                    self.keep(&near.owner, Kept::MergedInto(user.clone()), near.generation);
                    near = self.look(&user);
                    outdated = near.outdated.clone().or(outdated);
                    is_fetched = false;
                    continue;
                }
                Some(Judged::Unproven(held))
                    if outdated.as_ref().is_none_or(|other| other.version() < held.version()) =>
                {
                    outdated = Some(Arc::new(held));
                }
                Some(Judged::Unproven(_)) | None => {}
            }
            break;
        }
        if let Some((profile, unsaved)) = self.read_in_time(&near, deadline).await {
            return Sought { unsaved, ..brought.with(profile, Standing::Fresh) };
        }
        let standing = if outdated.is_some() { Standing::Stale } else { Standing::Missing };
        let empty = || {
            let profile = Profile { user: Some(near.owner.as_arc()), ..Profile::default() };
            Arc::new(Held::from(Arc::new(profile)))
        };
        brought.with(outdated.unwrap_or_else(empty), standing)
    }

    /// Gives Redis's copy of the profile; what else it has goes where it belongs.
    async fn fetch(&self, key: &UserKey, wanted: Wanted, brought: &mut Brought) -> Option<Bytes> {
        brought.begun = self.recent.begun();
        let reading = self.cache.as_ref()?.read(key, wanted).await;
        brought.is_cache_down |= reading.is_down;
        brought.slate = reading.slate.or(brought.slate.take());
        if !reading.is_down {
            if wanted.profile {
                self.metrics.redis_lookup(if reading.profile.is_some() { "profile_hit" } else { "profile_miss" });
            }
            if wanted.question.is_some() {
                self.metrics.redis_lookup(if brought.slate.is_some() { "slate_hit" } else { "slate_miss" });
            }
        }
        if self.recent.begun() != brought.begun {
            brought.slate = None;
        }
        reading.profile
    }

    /// A slate of the same version needs the head alone.
    fn judge(&self, key: &UserKey, bytes: Bytes, brought: &Brought) -> Option<Judged> {
        // After the proof: one of a log that was set back meanwhile is none.
        let proves = |age| self.recent.proves(key, age) && self.recent.begun() == brought.begun;
        if let Some(age) = value::age(&bytes, self.rules)
            && brought.slate.as_ref().is_some_and(|slate| slate.state.profile == age.version)
            && proves(age)
        {
            let packed = Packed { bytes, owner: key.clone(), rules: self.rules, limits: self.limits };
            return Some(Judged::Fresh(Held::packed(age.version, packed)));
        }
        let (kept, age) = value::read(&bytes, key, self.rules, &self.limits)?;
        let is_fresh = proves(age);
        match kept {
            value::Kept::MergedInto(user) => is_fresh.then_some(Judged::Merged(user)),
            value::Kept::Profile(profile) => {
                let held = Held::from(profile);
                match is_fresh {
                    true => Some(Judged::Fresh(held)),
                    // It may hold what was erased meanwhile: better none.
                    false => self.recent.may_be_shown(age.as_of).then_some(Judged::Unproven(held)),
                }
            }
        }
    }

    /// From the store; `None` when it fails or takes too long, and at once while it is left alone.
    async fn read_in_time(&self, near: &Near, deadline: Option<Instant>) -> Option<(Arc<Held>, Vec<(UserKey, Bytes)>)> {
        let now = Instant::now();
        if !self.breaker.allows(now) {
            return None;
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now) / 2);
        let patience = left.map_or(self.read_wait, |left| left.min(self.read_wait));
        let as_of = self.recent.tail();
        let read = tokio::time::timeout(patience, self.read(near)).await;
        let error = match read {
            Ok(Ok(read)) => {
                self.breaker.succeeded();
                self.metrics.store_reads_up.set(1);
                let held = self.hold(near, &read);
                return Some((held, self.unsaved(near, read, as_of)));
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
    fn unsaved(&self, near: &Near, read: Read, as_of: Seq) -> Vec<(UserKey, Bytes)> {
        // A log that was set back meanwhile has no such position.
        if !self.cache.as_ref().is_some_and(|cache| cache.is_shared()) || self.recent.tail() < as_of {
            return Vec::new();
        }
        let bytes = |kept| Bytes::from(value::write(&kept, as_of, self.rules));
        let Read { owner, profile, .. } = read;
        let mut unsaved = Vec::with_capacity(1);
        if owner != near.owner {
            unsaved.push((near.owner.clone(), bytes(value::Kept::MergedInto(owner.clone()))));
        }
        unsaved.push((owner, bytes(value::Kept::Profile(profile))));
        unsaved
    }
}
