//! The caches around a ranking: this process's memory first, then Redis, then one ranking for all who ask the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_engine::types::{Degradation, ExplainLevel, Profile, Seq, SlateItem, TimeMs};

use super::flight::{Boarding, Leader, landing};
use super::{Answer, Ask, CacheStatus, Desk, EFFORT, Encode, Kind, Reply, Situation, Terms, Told};
use crate::cache::{Entry, Key, Question, State};
use crate::compute::Room;
use crate::error::Result;
use crate::profile::{Held, Standing};
use crate::serving::Serving;
use crate::store::{Repeat, UserKey};

/// An old slate that Redis had is ranked again once in this time, however often it is asked for.
const AGAIN_AFTER_MS: TimeMs = 1_000;

/// How long room for a ranking is kept while the store is asked for its profile: a busy store has answered by then, one that
/// hangs has not.
const ROOM_KEPT: Duration = Duration::from_millis(50);

/// What looking beyond this process's memory brought.
pub(super) struct Far {
    pub(super) serving: Arc<Serving>,
    pub(super) held: Arc<Held>,
    pub(super) terms: Terms,
    /// Under which key and for which state the answer may be cached; `None` when it must be ranked anew.
    lookup: Option<(Key, State)>,
    /// The same for Redis.
    question: Option<Question>,
    /// The log position that was reached before the profile was read.
    as_of: Seq,
    /// Profiles that Redis lacks.
    pub(super) unsaved: Vec<(UserKey, Bytes)>,
    /// Redis's answer, if it is still the answer.
    slate: Option<Entry>,
    /// Redis was needed and could not be asked.
    pub(super) outage: Option<Degradation>,
    /// For the ranking, where it was clear from the start that there must be one.
    pub(super) room: Option<Room>,
}

impl Desk {
    /// Profile and slate, both from this process's memory.
    pub(super) fn answer_near(self: &Arc<Self>, ask: &Ask, terms: &Terms, encode: Encode) -> Option<Reply> {
        let version = match &ask.user {
            Some(user) => self.profiles.near(user)?.version(),
            None => 0,
        };
        // After the profile: a world that is newer than the profile is fine, an item of the profile that the world
        // does not know yet is a worse answer.
        let serving = self.live.current();
        let key = self.key(ask, terms, &serving)?;
        let found = self.cache.near(&key, state(version, &serving), terms.now_ms)?;
        if ask.user.is_some() {
            self.metrics.profile(true);
        }
        if found.is_old {
            self.refresh(ask, encode);
        }
        Some(self.repeat(found.entry, terms.now_ms, None))
    }

    /// With the help of Redis and the store; ranked when neither has the slate.
    pub(super) async fn answer_far(self: &Arc<Self>, ask: Ask, terms: Terms, encode: Encode) -> Result<Reply> {
        let mut far = self.look_far(&ask, terms).await?;
        let now_ms = far.terms.now_ms;
        let mut leader = None;
        if let Some(mut entry) = far.slate.take()
            && let Some((key, _)) = far.lookup.take()
        {
            if now_ms >= entry.old_from_ms {
                entry.old_from_ms = now_ms.saturating_add(AGAIN_AFTER_MS);
                self.refresh(&ask, encode);
            }
            self.cache.put_near(key, &entry);
            self.save(far.unsaved);
            return Ok(self.repeat(entry, now_ms, far.outage));
        }
        if let Some((key, state)) = &far.lookup {
            match self.flights.board(key, *state) {
                Boarding::Lead(first) => leader = Some(first),
                Boarding::Follow(follower) => {
                    far.room = None;
                    if let Some(entry) = landing(follower).await {
                        self.metrics.cache_joined.inc();
                        return Ok(self.repeat(entry, now_ms, far.outage));
                    }
                }
            }
            // The profile may be all that was lacking here, or another one has just landed.
            if let Some(found) = self.cache.near(key, *state, now_ms) {
                if found.is_old {
                    self.refresh(&ask, encode);
                }
                if let Some(leader) = leader {
                    leader.land(found.entry.clone());
                }
                self.save(far.unsaved);
                return Ok(self.repeat(found.entry, now_ms, far.outage));
            }
        }
        // Behind a pointer as well: what Redis answers needs no room for a ranking.
        let reply = Box::pin(self.rank_and_keep(&ask, far, encode, leader)).await?;
        self.metrics.cache(reply.cache.name());
        Ok(reply)
    }

    /// The profile, and Redis's slate with it.
    pub(super) async fn look_far(&self, ask: &Ask, mut terms: Terms) -> Result<Far> {
        let as_of = self.profiles.reached();
        let before = self.live.current();
        let mut key = self.key(ask, &terms, &before);
        let mut question = key.as_ref().and_then(|key| self.cache.question(key));
        // What is ranked whatever is found has its room, or its refusal, before the store is asked for a profile.
        let is_near = ask.user.as_ref().is_none_or(|user| self.profiles.near(user).is_some());
        let mut room =
            if is_near || question.is_some() { None } else { Some(self.pool.room(ask.work(), ask.deadline)?) };
        let (mut unsaved, mut slate, mut outage) = (Vec::new(), None, None);
        let held = match &ask.user {
            Some(user) => {
                let mut seek = Box::pin(self.profiles.seek(user, question, ask.deadline));
                let sought = match tokio::time::timeout(ROOM_KEPT, &mut seek).await {
                    Ok(sought) => sought,
                    Err(_) => {
                        // A store that does not answer must not take the room of those who need nothing from it.
                        room = None;
                        seek.await
                    }
                };
                self.admit(ask, sought.standing, &mut terms)?;
                (unsaved, slate) = (sought.unsaved, sought.slate);
                outage = sought.is_cache_down.then(|| self.outage());
                sought.profile
            }
            None => Arc::new(Held::from(Arc::<Profile>::default())),
        };
        // After the profile, see above.
        let serving = self.live.current();
        if !Arc::ptr_eq(before.engine.bundle(), serving.engine.bundle()) {
            // Another bundle makes it another question, which Redis was not asked.
            key = self.key(ask, &terms, &serving);
            question = None;
        }
        // A profile that is not up to date may have come with the best of slates: neither is kept nor repeated.
        let lookup = key.filter(|_| terms.degraded.is_empty()).map(|key| (key, state(held.version(), &serving)));
        let slate = slate.filter(|entry| {
            let answers = |(_, state): &(Key, State)| entry.answers(*state, terms.now_ms);
            question.is_some() && lookup.as_ref().is_some_and(answers) && self.profiles.may_be_shown(entry.as_of)
        });
        Ok(Far { serving, held, terms, lookup, question, as_of, unsaved, slate, outage, room })
    }

    /// The situation of a ranking.
    pub(super) fn unpack(&self, ask: &Ask, far: &mut Far) -> Result<Arc<Profile>> {
        match far.held.profile() {
            Some(profile) => Ok(profile),
            None => {
                // What Redis gave had the head of a profile and no body. The next one asks the store.
                self.admit(ask, Standing::Missing, &mut far.terms)?;
                far.lookup = None;
                Ok(Arc::default())
            }
        }
    }

    async fn rank_and_keep(
        &self,
        ask: &Ask,
        mut far: Far,
        encode: Encode,
        leader: Option<Leader<'_>>,
    ) -> Result<Reply> {
        let profile = self.unpack(ask, &mut far)?;
        let Far { serving, terms, lookup, question, as_of, mut unsaved, outage, room, .. } = far;
        let now_ms = terms.now_ms;
        let cache = if lookup.is_some() { CacheStatus::Miss } else { CacheStatus::Bypass };
        let situation = Situation { serving: serving.clone(), profile, terms, room };
        let (answer, record) = self.rank(ask, situation, cache).await?;
        let started = Instant::now();
        let body = encode(&answer);
        let encoded = Instant::now();
        let told = Told {
            variant: Bytes::copy_from_slice(answer.variant.as_bytes()),
            bundle_version: Bytes::copy_from_slice(answer.bundle_version.as_bytes()),
        };
        if let Some((key, state)) = lookup
            && !answer.slate.degraded.iter().any(|part| part.what == EFFORT)
        {
            let (old_from_ms, expires_ms) = self.times(&answer, now_ms, &serving);
            let ranked_id = answer.slate_id.as_str().into();
            let (body, told) = (body.clone(), told.clone());
            let entry = Entry { state, as_of, old_from_ms, expires_ms, body, ranked_id, told };
            self.keep(ask, key, question.map(|question| (question, &entry)), &entry, &mut unsaved);
            if let Some(leader) = leader {
                leader.land(entry);
            }
        }
        self.save(unsaved);
        if let Some(outage) = &outage {
            self.metrics.degraded(&outage.what);
        }
        if let Some(mut record) = record {
            record.degraded.extend(outage.iter().map(|outage| outage.what.clone()));
            self.slate_log.put(record);
        }
        self.metrics.stage("encode", (encoded - started).as_secs_f64());
        self.metrics.stage("record", encoded.elapsed().as_secs_f64());
        Ok(Reply { body, slate_id: answer.slate_id, told, cache, degraded: outage })
    }

    /// From when on a slate is old, and when it ends. An item whose window ends must not outlive it in a cached slate.
    fn times(&self, answer: &Answer, now_ms: TimeMs, serving: &Serving) -> (TimeMs, TimeMs) {
        let cache = &self.config.cache;
        let after = |ms: u64| now_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        let window = |item: &SlateItem| serving.world.item(&item.id)?.available_until_ms;
        let expires_ms = answer.slate.items.iter().filter_map(window).fold(after(cache.hard_ttl_ms), i64::min);
        (after(cache.ttl_ms).min(expires_ms), expires_ms)
    }

    /// Here and in Redis, there together with the profile.
    fn keep(
        &self,
        ask: &Ask,
        key: Key,
        slate: Option<(Question, &Entry)>,
        entry: &Entry,
        unsaved: &mut Vec<(UserKey, Bytes)>,
    ) {
        // The erasure of somebody may have changed what this was ranked from.
        if !self.profiles.may_be_shown(entry.as_of) {
            return;
        }
        if let (Some(user), Some(_)) = (&ask.user, &slate) {
            let at = unsaved.iter().position(|(key, _)| key == user);
            let profile = at.map(|at| unsaved.swap_remove(at).1);
            self.cache.write(user, profile, slate);
        }
        self.cache.put_near(key, entry);
        if !self.profiles.may_be_shown(entry.as_of) {
            self.cache.purge_near();
        }
    }

    /// Profiles that no slate takes along.
    pub(super) fn save(&self, unsaved: Vec<(UserKey, Bytes)>) {
        for (user, profile) in unsaved {
            self.cache.write(&user, Some(profile), None);
        }
    }

    /// Ranks beside the answer what was given although it is old. The ranking is logged as any other: later answers
    /// point to it.
    fn refresh(self: &Arc<Self>, ask: &Ask, encode: Encode) {
        let Ok(permit) = self.refreshes.clone().try_acquire_owned() else {
            self.metrics.cache_refresh("busy");
            return;
        };
        let (desk, now) = (self.clone(), Instant::now());
        let deadline = Some(now + Duration::from_millis(self.config.server.request_timeout_ms));
        let ask = Ask { fresh: None, deadline, received: None, decoded: now, ..ask.clone() };
        tokio::spawn(async move {
            let _permit = permit;
            let outcome = match desk.rank_again(&ask, encode).await {
                Ok(()) => "done",
                Err(error) => {
                    tracing::debug!(error = error.detail(), "an old slate was not ranked again");
                    "failed"
                }
            };
            desk.metrics.cache_refresh(outcome);
        });
    }

    async fn rank_again(&self, ask: &Ask, encode: Encode) -> Result<()> {
        let terms = self.terms(ask).await?;
        let mut far = self.look_far(ask, terms).await?;
        far.slate = None;
        self.rank_and_keep(ask, far, encode, None).await.map(|_| ())
    }

    fn outage(&self) -> Degradation {
        let why = "the shared cache does not answer; slates and profiles come from elsewhere".to_owned();
        Degradation { what: "cache".to_owned(), why }
    }

    /// Under which key the answer may be cached; `None` when it must be ranked anew.
    fn key(&self, ask: &Ask, terms: &Terms, serving: &Serving) -> Option<Key> {
        let is_repeatable = ask.kind == Kind::Recommend
            && !ask.bypass_cache
            && ask.explain < ExplainLevel::Full
            && ask.explain_missing.is_empty()
            && terms.degraded.is_empty();
        if !is_repeatable || !self.cache.keeps_slates() {
            return None;
        }
        let bundle = &serving.engine.bundle().manifest().version;
        let user = ask.user.as_ref().map_or("", UserKey::as_str);
        let (count, variant) = ((ask.count as u64).to_le_bytes(), terms.variant.name.as_bytes());
        Some(Key::new(user, &[&ask.question, &count, ask.page_token.as_bytes(), bundle.as_bytes(), variant]))
    }

    /// The same ranking once more, under an id of its own.
    fn repeat(&self, entry: Entry, now_ms: TimeMs, degraded: Option<Degradation>) -> Reply {
        let Entry { body, ranked_id, told, .. } = entry;
        let slate_id = self.ids.slate(now_ms);
        self.slate_log.repeat(Repeat { slate_id: slate_id.clone(), ranked_id, now_ms });
        self.metrics.cache(CacheStatus::Hit.name());
        self.metrics.slate(std::str::from_utf8(&told.variant).unwrap_or_default());
        if let Some(part) = &degraded {
            self.metrics.degraded(&part.what);
        }
        Reply { body, slate_id, told, cache: CacheStatus::Hit, degraded }
    }
}

fn state(version: Seq, serving: &Serving) -> State {
    State { profile: version, item_changes: serving.world.item_changes() }
}
