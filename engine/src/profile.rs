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
    let matters = |event: &ProfileEvent| event.touch.interaction || event.touch.seen || event.touch.weight != 0.0;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Touch;

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

    #[test]
    fn impressions_do_not_enter() {
        let mut impression = event("a", 1, false);
        impression.touch = Touch::default();
        assert!(build(None, 1, [impression], &ProfileLimits::default()).events.is_empty());
    }
}
