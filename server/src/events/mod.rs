//! Events, items and users on their way in: checked here, meant by the engine's policy, kept by the store.
//!
//! Must not know gRPC types: a request is turned into these drafts first, so that imports and RPCs share every rule.

pub mod check;
pub mod kafka;
pub mod line;
pub mod log;
pub mod moment;
pub mod quarantine;
pub mod token;
pub mod writer;

use marquee_engine::event::{EventKind, EventPolicy};
use marquee_engine::types::{LogEntry, ProfileEvent};

use crate::store::{KeyHash, LogRow, PastEvent, StoredEntry};

/// What a line of the log means to the engine's world: one entry, none, or one for each key of an erasure.
pub fn log_entries(row: &LogRow, policy: &EventPolicy) -> impl Iterator<Item = LogEntry> {
    let erased = match &row.entry {
        StoredEntry::Erasure(keys) => keys.as_slice(),
        _ => &[],
    };
    let forget = |key: &KeyHash| LogEntry::Forget { user_hash: key.user_hash() };
    log_entry(row, policy).into_iter().chain(erased.iter().map(forget))
}

fn log_entry(row: &LogRow, policy: &EventPolicy) -> Option<LogEntry> {
    match &row.entry {
        StoredEntry::Event(event) => Some(LogEntry::Event {
            item: event.item.as_deref()?.into(),
            touch: policy.touch(&event.kind, event.value),
            time_ms: event.time_ms,
            surface: event.surface.as_str().into(),
        }),
        StoredEntry::Upsert(item) => Some(LogEntry::Upsert { item: item.clone(), time_ms: row.received_ms }),
        StoredEntry::Delete(item) => Some(LogEntry::Delete { item: item.clone() }),
        StoredEntry::Merge { .. } | StoredEntry::Erasure(_) => None,
    }
}

/// What an event means to a profile.
pub fn profile_event(past: &PastEvent, policy: &EventPolicy) -> ProfileEvent {
    ProfileEvent { item: past.item.as_str().into(), time_ms: past.time_ms, touch: policy.touch(&past.kind, past.value) }
}

/// Names of the kinds that never enter a profile under this policy, so that the store need not read them.
pub fn kinds_outside_profiles(policy: &EventPolicy) -> Vec<String> {
    [EventKind::Impression, EventKind::Search]
        .into_iter()
        .filter(|kind| match policy.kinds.get(kind.name()) {
            None => true,
            Some(policy) => !policy.seen && policy.weight == 0.0 && policy.steps.iter().all(|step| step.weight == 0.0),
        })
        .map(|kind| kind.name().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::UserKey;
    use marquee_engine::event::KindPolicy;
    use marquee_engine::types::id_hash;

    #[test]
    fn an_erasure_reaches_the_world_under_the_engine_s_hash() {
        let keys = ["u:ann", "a:visitor"].map(|key| UserKey::parse(key).unwrap());
        let entry = StoredEntry::Erasure(keys.iter().map(UserKey::hash).collect());
        let row = LogRow { seq: 1, received_ms: 0, entry };
        let forgotten: Vec<LogEntry> = log_entries(&row, &EventPolicy::default()).collect();
        assert_eq!(forgotten, keys.map(|key| LogEntry::Forget { user_hash: id_hash(key.as_str()) }));
    }

    #[test]
    fn impressions_enter_profiles_only_when_the_policy_says_so() {
        let mut policy = EventPolicy::default();
        assert_eq!(kinds_outside_profiles(&policy), ["impression", "search"]);
        policy.kinds.insert("impression".to_owned(), KindPolicy { weight: 0.0, steps: Vec::new(), seen: true });
        assert_eq!(kinds_outside_profiles(&policy), ["search"]);
    }
}
