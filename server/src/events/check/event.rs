//! The rules for an event.

use marquee_engine::event::EventKind;
use marquee_engine::types::TimeMs;

use super::{YEAR_9999_END_MS, at_most, id, surface, who};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::store::Event;

/// An event as it came: nothing is known of it yet. `Default` is an event with nothing said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventDraft {
    /// The caller's key of idempotency.
    pub id: String,
    /// Exactly one of this and the next.
    pub user_id: String,
    /// An anonymous visitor.
    pub anonymous_id: String,
    /// The session; may be empty.
    pub session_id: String,
    /// The item; empty only for a search.
    pub item_id: String,
    /// The kind's name: "like", "rating" ..., "custom", or empty when the caller said none.
    pub kind: String,
    /// The name of a custom kind.
    pub custom_type: String,
    /// Rating, fraction watched or custom value.
    pub value: Option<f64>,
    /// Seconds watched.
    pub watched_seconds: Option<f64>,
    /// When; `None` is the moment of receipt. Wider than `TimeMs` so that no moment a caller can write wraps around.
    pub time_ms: Option<i128>,
    /// Where; may be empty.
    pub surface: String,
    /// The slate; may be empty.
    pub slate_id: String,
    /// Zero-based position in it.
    pub position: Option<i64>,
    /// What was searched.
    pub query: String,
}

/// The event, or the first rule that it breaks.
pub fn event(draft: EventDraft, now_ms: TimeMs, limits: &Limits) -> Result<Event> {
    id("id", &draft.id, limits)?;
    let user = who(&draft.user_id, &draft.anonymous_id, limits)?;
    let kind = kind(&draft, limits)?;
    let item = match draft.item_id {
        missing if missing.is_empty() && kind == EventKind::Search => None,
        missing if missing.is_empty() => return Err(Error::invalid("item_id", "is needed by every type but search")),
        given => id("item_id", &given, limits).map(|()| Some(given))?,
    };
    value(&kind, draft.value)?;
    if draft.watched_seconds.is_some_and(|seconds| !seconds.is_finite() || seconds < 0.0) {
        return Err(Error::invalid("watched_seconds", "must be finite and not negative"));
    }
    at_most("session_id", &draft.session_id, limits.id_max_bytes)?;
    at_most("slate_id", &draft.slate_id, limits.id_max_bytes)?;
    at_most("query", &draft.query, limits.query_max_bytes)?;
    surface(&draft.surface, limits)?;
    Ok(Event {
        id: draft.id,
        user,
        kind,
        item,
        value: draft.value,
        watched_seconds: draft.watched_seconds,
        time_ms: time(draft.time_ms, now_ms, limits)?,
        surface: draft.surface,
        session: draft.session_id,
        slate_id: draft.slate_id,
        position: position(draft.position)?,
        query: draft.query,
    })
}

fn kind(draft: &EventDraft, limits: &Limits) -> Result<EventKind> {
    if draft.kind.is_empty() {
        return Err(Error::invalid("type", "is needed"));
    }
    if draft.kind != "custom" {
        if !draft.custom_type.is_empty() {
            return Err(Error::invalid("custom_type", "may only be given with the type custom"));
        }
        return match EventKind::from_name(&draft.kind) {
            EventKind::Custom(_) => {
                Err(Error::invalid("type", "must be a known type; others are custom with a custom_type"))
            }
            known => Ok(known),
        };
    }
    if draft.custom_type.is_empty() {
        return Err(Error::invalid("custom_type", "is needed by the type custom"));
    }
    at_most("custom_type", &draft.custom_type, limits.id_max_bytes)?;
    match EventKind::from_name(&draft.custom_type) {
        EventKind::Custom(name) if name != "custom" => Ok(EventKind::Custom(name)),
        _ => Err(Error::invalid("custom_type", "must not be the name of a built-in type")),
    }
}

/// Far beyond any scale of ratings; the sums of statistics stay exact.
const RATING_MAX: f64 = 1_000_000.0;

fn value(kind: &EventKind, value: Option<f64>) -> Result<()> {
    match (kind, value) {
        (_, Some(value)) if !value.is_finite() => Err(Error::invalid("value", "must be finite")),
        (EventKind::Watch, Some(value)) if !(0.0..=1.0).contains(&value) => {
            Err(Error::invalid("value", "of a watch is the fraction watched: must lie within 0 and 1"))
        }
        (EventKind::Rating, None) => Err(Error::invalid("value", "is needed by a rating")),
        (EventKind::Rating, Some(value)) if value.abs() > RATING_MAX => {
            Err(Error::invalid("value", "of a rating must lie within -1000000 and 1000000"))
        }
        _ => Ok(()),
    }
}

fn time(time_ms: Option<i128>, now_ms: TimeMs, limits: &Limits) -> Result<TimeMs> {
    let Some(time_ms) = time_ms else { return Ok(now_ms) };
    let latest = now_ms.saturating_add_unsigned(limits.clock_skew_future_ms).min(YEAR_9999_END_MS);
    match TimeMs::try_from(time_ms) {
        Ok(time_ms) if (0..=latest).contains(&time_ms) => Ok(time_ms),
        _ if time_ms < 0 => Err(Error::invalid("time", "must not lie before 1970")),
        _ => Err(Error::invalid(
            "time",
            format!("must not lie more than {} ms ahead of the server's clock", limits.clock_skew_future_ms),
        )),
    }
}

fn position(position: Option<i64>) -> Result<Option<u32>> {
    position
        .map(|position| match u32::try_from(position) {
            Ok(position) if position <= i32::MAX as u32 => Ok(position),
            _ => Err(Error::invalid("position", "must be zero-based: not negative")),
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: TimeMs = 1_700_000_000_000;

    fn draft() -> EventDraft {
        EventDraft {
            id: "e1".to_owned(),
            user_id: "ann".to_owned(),
            item_id: "i1".to_owned(),
            kind: "like".to_owned(),
            ..EventDraft::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut EventDraft), field: Option<&str>) {
        let mut draft = draft();
        change(&mut draft);
        match (event(draft, NOW, &Limits::default()), field) {
            (Ok(_), None) => {}
            (Err(Error::InvalidArgument { field: got, .. }), Some(field)) => assert_eq!(got, field),
            (other, _) => panic!("expected {field:?}, got {other:?}"),
        }
    }

    #[test]
    fn a_plain_event_passes_and_takes_the_time_of_receipt() {
        assert_eq!(event(draft(), NOW, &Limits::default()).unwrap().time_ms, NOW);
    }

    #[test]
    fn every_broken_rule_names_its_field() {
        check(|draft| draft.id.clear(), Some("id"));
        check(|draft| draft.id = "x".repeat(10_240), Some("id"));
        check(|draft| draft.user_id.clear(), Some("user_id"));
        check(|draft| draft.anonymous_id = "v".to_owned(), Some("anonymous_id"));
        check(|draft| draft.item_id.clear(), Some("item_id"));
        check(|draft| draft.kind.clear(), Some("type"));
        check(|draft| draft.kind = "stare".to_owned(), Some("type"));
        check(|draft| draft.kind = "custom".to_owned(), Some("custom_type"));
        check(|draft| draft.custom_type = "stare".to_owned(), Some("custom_type"));
        check(|draft| draft.value = Some(f64::NAN), Some("value"));
        check(|draft| draft.value = Some(f64::INFINITY), Some("value"));
        check(|draft| draft.kind = "rating".to_owned(), Some("value"));
        check(|draft| draft.watched_seconds = Some(-1.0), Some("watched_seconds"));
        check(|draft| draft.surface = "s".repeat(65), Some("surface"));
        check(|draft| draft.position = Some(-1), Some("position"));
        check(|draft| draft.query = "q".repeat(1_025), Some("query"));
    }

    #[test]
    fn a_fraction_watched_lies_within_0_and_1() {
        for (value, field) in [(0.0, None), (1.0, None), (1.01, Some("value")), (-0.1, Some("value"))] {
            check(
                |draft| {
                    draft.kind = "watch".to_owned();
                    draft.value = Some(value);
                },
                field,
            );
        }
    }

    #[test]
    fn a_rating_lies_on_some_scale() {
        for (value, field) in [(5.0, None), (1e6, None), (1e30, Some("value")), (-1e308, Some("value"))] {
            check(
                |draft| {
                    draft.kind = "rating".to_owned();
                    draft.value = Some(value);
                },
                field,
            );
        }
    }

    #[test]
    fn years_1_and_9999_are_refused() {
        let skew = i128::from(Limits::default().clock_skew_future_ms);
        check(|draft| draft.time_ms = Some(-62_135_596_800_000), Some("time"));
        check(|draft| draft.time_ms = Some(253_402_300_799_999), Some("time"));
        check(|draft| draft.time_ms = Some(i128::from(NOW) + skew), None);
        check(|draft| draft.time_ms = Some(i128::from(NOW) + skew + 1), Some("time"));
        check(|draft| draft.time_ms = Some(i128::MAX), Some("time"));
        check(|draft| draft.time_ms = Some(0), None);
    }

    #[test]
    fn a_search_needs_no_item_and_a_custom_kind_its_own_name() {
        check(
            |draft| {
                draft.kind = "search".to_owned();
                draft.item_id.clear();
            },
            None,
        );
        for (name, field) in [("stare", None), ("like", Some("custom_type")), ("custom", Some("custom_type"))] {
            check(
                |draft| {
                    draft.kind = "custom".to_owned();
                    draft.custom_type = name.to_owned();
                },
                field,
            );
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_finite_bounded_and_not_in_the_future(
            value in proptest::option::of(proptest::num::f64::ANY),
            time in proptest::option::of(any::<i64>()),
            id in ".{0,300}",
        ) {
            let draft = EventDraft { value, time_ms: time.map(i128::from), id, ..draft() };
            if let Ok(event) = event(draft, NOW, &Limits::default()) {
                prop_assert!(event.value.is_none_or(f64::is_finite));
                prop_assert!((0..=NOW + 300_000).contains(&event.time_ms));
                prop_assert!((1..=256).contains(&event.id.len()));
            }
        }
    }
}
