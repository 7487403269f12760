//! From a user's events to a profile: bounded, ordered, versioned.
//!
//! A pure function, so that serving and replay cannot build two different profiles from the same events.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::types::{Profile, ProfileEvent, Seq};

/// Bounds of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileLimits {
    /// The newest events that are kept whole.
    pub profile_events_max: usize,
    /// Seen items that are remembered beyond those events, newest first.
    pub profile_seen_max: usize,
}

impl Default for ProfileLimits {
    fn default() -> ProfileLimits {
        ProfileLimits { profile_events_max: 1_000, profile_seen_max: 10_000 }
    }
}

/// Builds the profile from all events of a user, given in order of (time, event id), oldest first.
///
/// `version` is the log position of the newest of them. Events that are neither interactions nor seen nor weighted
/// (impressions, searches) do not enter a profile.
pub fn build(
    user: Option<Arc<str>>,
    version: Seq,
    events: impl IntoIterator<Item = ProfileEvent>,
    limits: &ProfileLimits,
) -> Profile {
    let mut events: Vec<ProfileEvent> = events.into_iter().filter(matters).collect();
    let older = events.len().saturating_sub(limits.profile_events_max);
    let rest = events.split_off(older);
    let mut known: FxHashSet<Arc<str>> =
        rest.iter().filter(|event| event.touch.seen).map(|event| event.item.clone()).collect();
    let mut seen_before = Vec::new();
    for event in events.iter().rev().filter(|event| event.touch.seen) {
        if seen_before.len() == limits.profile_seen_max {
            break;
        }
        if known.insert(event.item.clone()) {
            seen_before.push(event.item.clone());
        }
    }
    Profile { user, version, events: rest, seen_before }
}

/// What [`build`] makes of all events of `profile` and of these, which were written later and are given in order of (time,
/// event id). `None` when it alone can tell where one of them belongs: at the time of one that is there already, or before
/// those that are kept whole.
///
/// `profile` was built by the same limits, and all events together are at most `profile_events_max + profile_seen_max`: more
/// would push seen items out.
pub fn extended(
    profile: &Profile,
    version: Seq,
    later: impl IntoIterator<Item = ProfileEvent>,
    limits: &ProfileLimits,
) -> Option<Profile> {
    let mut events = Vec::with_capacity(profile.events.len() + 1);
    events.extend_from_slice(&profile.events);
    let may_be_cut = !profile.seen_before.is_empty() || events.len() >= limits.profile_events_max;
    for event in later.into_iter().filter(matters) {
        let place = events.partition_point(|other| other.time_ms <= event.time_ms);
        let is_tied = profile.events.binary_search_by_key(&event.time_ms, |other| other.time_ms).is_ok();
        if is_tied || (may_be_cut && place == 0) {
            return None;
        }
        events.insert(place, event);
    }
    let rest = events.split_off(events.len().saturating_sub(limits.profile_events_max));
    let seen_before = if events.is_empty() && profile.seen_before.is_empty() {
        Vec::new()
    } else {
        let mut known: FxHashSet<&Arc<str>> =
            rest.iter().filter(|event| event.touch.seen).map(|event| &event.item).collect();
        let older = events.iter().rev().filter(|event| event.touch.seen).map(|event| &event.item);
        older.chain(&profile.seen_before).filter(|item| known.insert(item)).cloned().collect()
    };
    Some(Profile { user: profile.user.clone(), version, events: rest, seen_before })
}

/// Whether it enters a profile.
fn matters(event: &ProfileEvent) -> bool {
    event.touch.interaction || event.touch.seen || event.touch.weight != 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{TimeMs, Touch};

    fn event(item: &str, time_ms: i64, seen: bool) -> ProfileEvent {
        let touch = Touch { weight: 1.0, rating: f32::NAN, seen, interaction: true };
        ProfileEvent { item: item.into(), time_ms, touch }
    }

    #[test]
    fn what_falls_out_of_the_events_is_still_seen() {
        let limits = ProfileLimits { profile_events_max: 2, profile_seen_max: 10 };
        let events = [event("a", 1, true), event("b", 2, false), event("c", 3, true), event("a", 4, true)];
        let profile = build(None, 9, events, &limits);
        assert_eq!(profile.events.len(), 2);
        assert!(profile.seen_before.is_empty(), "a is in the events already");
        let profile = build(None, 9, [event("x", 0, true), event("b", 2, true), event("c", 3, true)], &limits);
        assert_eq!(profile.seen_before, vec![Arc::from("x")]);
    }

    proptest! {
        #[test]
        fn an_extended_profile_is_the_one_that_is_built(
            events in prop::collection::vec((0_u8..8, 0_i64..40, 0_u8..4), 0..24),
            split in 0_usize..24,
            is_in_time in any::<bool>(),
        ) {
            let limits = ProfileLimits { profile_events_max: 6, profile_seen_max: 18 };
            let (mut early, mut late): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
            for (at, (item, time_ms, kind)) in events.into_iter().enumerate() {
                // As users do: what is written later happened later, and never twice in a moment.
                let time_ms = if is_in_time { 100 + at as i64 } else { time_ms };
                let mut event = event(&item.to_string(), time_ms, kind > 0);
                if kind == 3 {
                    event.touch = Touch::default();
                }
                if at < split { early.push((time_ms, at, event)) } else { late.push((time_ms, at, event)) }
            }
            let built = |parts: &[&[(TimeMs, usize, ProfileEvent)]]| {
                let mut all: Vec<_> = parts.concat();
                all.sort_by_key(|(time_ms, id, _)| (*time_ms, *id));
                build(None, 9, all.into_iter().map(|(_, _, event)| event), &limits)
            };
            late.sort_by_key(|(time_ms, id, _)| (*time_ms, *id));
            let later = late.iter().map(|(_, _, event)| event.clone());
            match extended(&built(&[&early]), 9, later, &limits) {
                Some(extended) => {
                    let wanted = built(&[&early, &late]);
                    // NaN is no equal of itself.
                    prop_assert_eq!(format!("{extended:?}"), format!("{wanted:?}"));
                }
                None => prop_assert!(!is_in_time, "only the past is beyond it"),
            }
        }
    }

    #[test]
    fn impressions_do_not_enter() {
        let mut impression = event("a", 1, false);
        impression.touch = Touch::default();
        assert!(build(None, 1, [impression], &ProfileLimits::default()).events.is_empty());
    }
}
