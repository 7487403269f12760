//! Events, both ways. What an event must hold is the business of `events::check`.

use marquee_engine::event::EventKind;
use marquee_proto::v1;

use super::time_out;
use crate::events::check::EventDraft;
use crate::store::Event;

/// An event from the wire, unchecked.
pub(in crate::rpc) fn event_in(event: v1::Event) -> EventDraft {
    let kind = match event.r#type() {
        v1::EventType::Unspecified => "",
        v1::EventType::Impression => "impression",
        v1::EventType::Click => "click",
        v1::EventType::View => "view",
        v1::EventType::Watch => "watch",
        v1::EventType::Like => "like",
        v1::EventType::Dislike => "dislike",
        v1::EventType::Rating => "rating",
        v1::EventType::Search => "search",
        v1::EventType::Custom => "custom",
    };
    let time_ms = |time: prost_types::Timestamp| i128::from(time.seconds) * 1_000 + i128::from(time.nanos / 1_000_000);
    EventDraft {
        id: event.id,
        user_id: event.user_id,
        anonymous_id: event.anonymous_id,
        session_id: event.session_id,
        item_id: event.item_id,
        kind: kind.to_owned(),
        custom_type: event.custom_type,
        value: event.value,
        watched_seconds: event.watched_seconds,
        time_ms: event.time.map(time_ms),
        surface: event.surface,
        slate_id: event.slate_id,
        position: event.position.map(i64::from),
        query: event.query,
    }
}

/// An event onto the wire.
pub(in crate::rpc) fn event_out(event: Event) -> v1::Event {
    let (kind, custom_type) = match event.kind {
        EventKind::Impression => (v1::EventType::Impression, String::new()),
        EventKind::Click => (v1::EventType::Click, String::new()),
        EventKind::View => (v1::EventType::View, String::new()),
        EventKind::Watch => (v1::EventType::Watch, String::new()),
        EventKind::Like => (v1::EventType::Like, String::new()),
        EventKind::Dislike => (v1::EventType::Dislike, String::new()),
        EventKind::Rating => (v1::EventType::Rating, String::new()),
        EventKind::Search => (v1::EventType::Search, String::new()),
        EventKind::Custom(name) => (v1::EventType::Custom, name),
    };
    let id = event.user.id().to_owned();
    let (user_id, anonymous_id) = if event.user.is_anonymous() { (String::new(), id) } else { (id, String::new()) };
    v1::Event {
        id: event.id,
        user_id,
        anonymous_id,
        session_id: event.session,
        item_id: event.item.unwrap_or_default(),
        r#type: kind.into(),
        custom_type,
        value: event.value,
        watched_seconds: event.watched_seconds,
        time: Some(time_out(event.time_ms)),
        surface: event.surface,
        slate_id: event.slate_id,
        position: event.position.map(|position| i32::try_from(position).unwrap_or(i32::MAX)),
        query: event.query,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::events::check;

    #[test]
    fn an_event_comes_back_as_it_was() {
        let wire = |kind: v1::EventType, custom: &str| v1::Event {
            id: "e".to_owned(),
            user_id: "u".to_owned(),
            item_id: "i".to_owned(),
            r#type: kind.into(),
            custom_type: custom.to_owned(),
            value: Some(0.5),
            watched_seconds: Some(7.0),
            time: Some(prost_types::Timestamp { seconds: 5, nanos: 3_000_000 }),
            surface: "home".to_owned(),
            slate_id: "s".to_owned(),
            position: Some(3),
            query: "q".to_owned(),
            session_id: "x".to_owned(),
            ..Default::default()
        };
        for kind in 1..=8 {
            let event = wire(v1::EventType::try_from(kind).unwrap(), "");
            let stored = check::event(event_in(event.clone()), 10_000, &Limits::default()).unwrap();
            assert_eq!(event_out(stored), event);
        }
        let poke = wire(v1::EventType::Custom, "poke");
        let stored = check::event(event_in(poke.clone()), 10_000, &Limits::default()).unwrap();
        assert_eq!(event_out(stored), poke);
    }

    #[test]
    fn a_type_that_nobody_knows_is_none() {
        assert_eq!(event_in(v1::Event { r#type: 999, ..Default::default() }).kind, "");
    }
}
