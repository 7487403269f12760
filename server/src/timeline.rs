//! The log as a timeline: every user's events in order, for replay, evaluation and bundles.
//!
//! Walks the past exactly as serving lives the present: a moment's world holds what happened before it, a moment's
//! profile the user's earlier events, and both are built by the engine's own functions. Must not know what is done
//! with a moment.

use std::collections::HashMap;
use std::sync::Arc;

use marquee_engine::bundle::Bundle;
use marquee_engine::event::EventPolicy;
use marquee_engine::profile::{self, ProfileLimits};
use marquee_engine::types::{LogEntry, Profile, ProfileEvent, Seq, TimeMs, Touch};
use marquee_engine::world::{World, WorldBuilder};

use crate::error::Result;
use crate::store::{Store, StoredEntry, UserKey};

/// Log entries read at once.
const READ_MAX_ENTRIES: usize = 20_000;

/// Everything that users did with items, in order of (time, event id).
#[derive(Debug, Default)]
pub struct Timeline {
    /// Users by number, in order of their first event.
    pub users: Vec<UserKey>,
    /// All events with an item, in order of (time, event id).
    pub events: Vec<TimelineEvent>,
    /// For each user the indices of their events, in order.
    pub by_user: Vec<Vec<u32>>,
    /// Last log entry read.
    pub watermark: Seq,
}

/// One event of a [`Timeline`].
#[derive(Debug, Clone)]
pub struct TimelineEvent {
    /// Position in the log.
    pub seq: Seq,
    /// Number of the user.
    pub user: u32,
    /// The item's id.
    pub item: Arc<str>,
    /// What it means.
    pub touch: Touch,
    /// When.
    pub time_ms: TimeMs,
    /// Where; empty when not said.
    pub surface: Arc<str>,
    /// Seconds watched, where that was said.
    pub watched_seconds: Option<f64>,
}

/// A moment at which a user could have been asked: some of their events follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Number of the user.
    pub user: u32,
    /// When; events of this very time are not in the profile.
    pub time_ms: TimeMs,
}

impl Timeline {
    /// Reads the whole log, up to its present end.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn load(store: &dyn Store, policy: &EventPolicy) -> Result<Timeline> {
        let end = store.log_end().await?;
        let mut read: Vec<(String, TimelineEvent)> = Vec::new();
        let (mut users, mut numbers): (Vec<UserKey>, HashMap<UserKey, u32>) = (Vec::new(), HashMap::new());
        let mut interned: HashMap<String, Arc<str>> = HashMap::new();
        let mut intern = |text: String| interned.entry(text).or_insert_with_key(|text| text.as_str().into()).clone();
        let mut position = 0;
        while position < end {
            let rows = store.log_after(position, READ_MAX_ENTRIES).await?;
            let Some(last) = rows.last() else { break };
            position = last.seq;
            for row in rows.into_iter().filter(|row| row.seq <= end) {
                let StoredEntry::Event(event) = row.entry else { continue };
                let Some(item) = event.item else { continue };
                let user = *numbers.entry(event.user.clone()).or_insert_with(|| {
                    users.push(event.user.clone());
                    users.len() as u32 - 1
                });
                let touch = policy.touch(&event.kind, event.value);
                let (item, surface) = (intern(item), intern(event.surface));
                let (time_ms, watched_seconds) = (event.time_ms, event.watched_seconds);
                read.push((
                    event.id,
                    TimelineEvent { seq: row.seq, user, item, touch, time_ms, surface, watched_seconds },
                ));
            }
        }
        read.sort_by(|(id_a, a), (id_b, b)| a.time_ms.cmp(&b.time_ms).then_with(|| id_a.cmp(id_b)));
        let events: Vec<TimelineEvent> = read.into_iter().map(|(_, event)| event).collect();
        let mut by_user = vec![Vec::new(); users.len()];
        (0..).zip(&events).for_each(|(at, event)| by_user[event.user as usize].push(at));
        Ok(Timeline { users, events, by_user, watermark: end })
    }

    /// The moments of every user in `[from, until)`: distinct times of interactions that have an earlier event, at
    /// most `per_user_max` a user, evenly spaced. In order of time.
    pub fn moments(&self, from_ms: TimeMs, until_ms: TimeMs, per_user_max: usize) -> Vec<Moment> {
        let mut moments: Vec<Moment> = Vec::new();
        for (user, events) in (0..).zip(&self.by_user) {
            let times = events.iter().map(|&at| &self.events[at as usize]).filter(|event| event.touch.interaction);
            let mut times: Vec<TimeMs> = times.map(|event| event.time_ms).collect();
            times.dedup();
            let Some(&first) = times.first() else { continue };
            times.retain(|&time| time > first && (from_ms..until_ms).contains(&time));
            moments.extend(evenly(times.len(), per_user_max).map(|at| Moment { user, time_ms: times[at] }));
        }
        moments.sort_by_key(|moment| (moment.time_ms, moment.user));
        moments
    }

    /// The first moment of every user whose first interaction lies in `[from, until)`: the profile is empty then. In
    /// order of time.
    pub fn first_moments(&self, from_ms: TimeMs, until_ms: TimeMs) -> Vec<Moment> {
        let first = |(user, events): (u32, &Vec<u32>)| {
            let mut events = events.iter().map(|&at| &self.events[at as usize]);
            let time_ms = events.find(|event| event.touch.interaction)?.time_ms;
            (from_ms..until_ms).contains(&time_ms).then_some(Moment { user, time_ms })
        };
        let mut moments: Vec<Moment> = (0..).zip(&self.by_user).filter_map(first).collect();
        moments.sort_by_key(|moment| (moment.time_ms, moment.user));
        moments
    }

    /// What the user liked from the moment on and before `until`: at most `max` distinct items, in order, none of
    /// which the user had seen before.
    pub fn next_liked(&self, moment: Moment, until_ms: TimeMs, max: usize) -> Vec<Arc<str>> {
        let events = &self.by_user[moment.user as usize];
        let split = events.partition_point(|&at| self.events[at as usize].time_ms < moment.time_ms);
        let (before, after) = events.split_at(split);
        let event = |&at: &u32| &self.events[at as usize];
        let mut known: std::collections::HashSet<&str> =
            before.iter().map(event).filter(|event| event.touch.seen).map(|event| &*event.item).collect();
        let in_period = after.iter().map(event).take_while(|event| event.time_ms < until_ms);
        let liked = in_period.filter(|event| event.touch.weight > 0.0).filter(|event| known.insert(&event.item));
        liked.take(max).map(|event| event.item.clone()).collect()
    }

    /// Where the moment's first event happened; empty when that was not said.
    pub fn surface(&self, moment: Moment) -> Arc<str> {
        let events = self.by_user[moment.user as usize].iter().map(|&at| &self.events[at as usize]);
        let mut events = events.skip_while(|event| event.time_ms < moment.time_ms);
        events.next().map_or_else(|| "".into(), |event| event.surface.clone())
    }

    /// The user's profile just before the moment.
    pub fn profile(&self, moment: Moment, limits: &ProfileLimits) -> Profile {
        let events = &self.by_user[moment.user as usize];
        let event = |&at: &u32| &self.events[at as usize];
        let before = || events.iter().map(event).take_while(|event| event.time_ms < moment.time_ms);
        let version = before().map(|event| event.seq).max().unwrap_or(0);
        let key = self.users[moment.user as usize].as_arc();
        let events =
            before().map(|event| ProfileEvent { item: event.item.clone(), time_ms: event.time_ms, touch: event.touch });
        profile::build(Some(key), version, events, limits)
    }

    /// The time at which a share of all interactions with known items has happened: the cut of a global time split.
    pub fn time_at(&self, share: f64) -> TimeMs {
        let times: Vec<TimeMs> =
            self.events.iter().filter(|event| event.touch.interaction).map(|event| event.time_ms).collect();
        let at = (times.len() as f64 * share) as usize;
        times.get(at).copied().unwrap_or_else(|| times.last().map_or(0, |last| last + 1))
    }
}

/// `max` of `0..count`, evenly spaced, first and last included.
fn evenly(count: usize, max: usize) -> impl Iterator<Item = usize> {
    let picked = count.min(max);
    (0..picked).map(move |at| if picked < 2 { 0 } else { (at * (count - 1) + (picked - 1) / 2) / (picked - 1) })
}

/// A world that walks along a timeline: before each moment it takes in what happened until then.
#[derive(Debug)]
pub struct Walker<'a> {
    timeline: &'a Timeline,
    builder: WorldBuilder,
    next: usize,
    last: Option<(TimeMs, Arc<World>)>,
}

impl<'a> Walker<'a> {
    /// Starts before the first event.
    pub fn new(timeline: &'a Timeline, bundle: Arc<Bundle>) -> Walker<'a> {
        Walker { timeline, builder: WorldBuilder::new(bundle), next: 0, last: None }
    }

    /// The world just before `time_ms`; times must not fall from call to call.
    pub fn world_before(&mut self, time_ms: TimeMs) -> Arc<World> {
        if let Some((at, world)) = &self.last
            && *at == time_ms
        {
            return world.clone();
        }
        while let Some(event) = self.timeline.events.get(self.next).filter(|event| event.time_ms < time_ms) {
            let entry = LogEntry::Event {
                item: event.item.clone(),
                touch: event.touch,
                time_ms: event.time_ms,
                surface: event.surface.clone(),
            };
            self.builder.apply(event.seq, &entry);
            self.next += 1;
        }
        let world = Arc::new(self.builder.snapshot());
        self.last = Some((time_ms, world.clone()));
        world
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(events: &[(u32, &str, TimeMs, f32)]) -> Timeline {
        let mut events: Vec<TimelineEvent> = events
            .iter()
            .map(|&(user, item, time_ms, weight)| TimelineEvent {
                seq: 1,
                user,
                item: item.into(),
                touch: Touch { weight, rating: f32::NAN, seen: true, interaction: true },
                time_ms,
                surface: "".into(),
                watched_seconds: None,
            })
            .collect();
        events.sort_by_key(|event| event.time_ms);
        let users = events.iter().map(|event| event.user).max().unwrap_or(0) as usize + 1;
        let mut by_user = vec![Vec::new(); users];
        (0..).zip(&events).for_each(|(at, event)| by_user[event.user as usize].push(at));
        let users = (0..users).map(|user| UserKey::user(&user.to_string())).collect();
        Timeline { users, events, by_user, watermark: 1 }
    }

    #[test]
    fn a_moment_has_an_earlier_event_and_its_own_time_is_not_in_the_profile() {
        let timeline = timeline(&[(0, "a", 1, 1.0), (0, "b", 1, 1.0), (0, "c", 5, 1.0), (0, "d", 9, 1.0)]);
        let moments = timeline.moments(0, 100, 20);
        assert_eq!(moments.iter().map(|moment| moment.time_ms).collect::<Vec<_>>(), [5, 9]);
        let profile = timeline.profile(moments[0], &ProfileLimits::default());
        assert_eq!(profile.events.iter().map(|event| &*event.item).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_first_moment_has_no_earlier_event() {
        let timeline = timeline(&[(0, "a", 1, 1.0), (0, "b", 5, 1.0), (1, "c", 5, 1.0), (1, "d", 9, 1.0)]);
        assert_eq!(timeline.first_moments(2, 100), [Moment { user: 1, time_ms: 5 }]);
        assert!(timeline.profile(Moment { user: 1, time_ms: 5 }, &ProfileLimits::default()).events.is_empty());
    }

    #[test]
    fn what_follows_is_liked_unseen_and_within_the_period() {
        let events = [(0, "a", 1, 1.0), (0, "a", 5, 1.0), (0, "b", 5, 0.0), (0, "c", 6, 1.0), (0, "d", 9, 1.0)];
        let timeline = timeline(&events);
        let next = timeline.next_liked(Moment { user: 0, time_ms: 5 }, 9, 10);
        assert_eq!(next.iter().map(|item| &**item).collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn moments_are_evenly_spaced() {
        assert_eq!(evenly(5, 20).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(evenly(100, 3).collect::<Vec<_>>(), [0, 50, 99]);
        assert_eq!(evenly(7, 1).count(), 1);
    }
}
