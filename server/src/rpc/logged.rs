//! The records of a shared log: what `events::kafka` writes and reads. Here because only `rpc` names generated types.

use marquee_engine::types::TimeMs;
use marquee_proto::v1;
use prost::Message;

use super::convert::{event_in, event_out};
use crate::config::Limits;
use crate::events::check;
use crate::events::line::{EventLine, json_reason};
use crate::store::Received;

/// A record longer than this is refused unread: no event that keeps the rules comes near it.
pub(crate) const RECORD_MAX_BYTES: usize = 256 * 1024;
/// How far a moment of receipt may lie ahead of our clock.
const AHEAD_MAX_MS: TimeMs = 86_400_000;

/// The record's value: a `LoggedEvent`.
pub(crate) fn encode(received: Received) -> Vec<u8> {
    let Received { event, received_ms } = received;
    v1::LoggedEvent { event: Some(event_out(event)), received_ms }.encode_to_vec()
}

/// When a record came: what its value does not say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived {
    /// The moment that the log has for it.
    pub(crate) logged_ms: Option<TimeMs>,
    /// The present.
    pub(crate) now_ms: TimeMs,
}

/// What the value says: a `LoggedEvent`, or JSON of another producer. Checked by the rules of RecordEvents, as of the
/// moment of receipt.
///
/// # Errors
/// Why it cannot be taken: a field and the rule that it breaks, or that it is neither.
pub(crate) fn decode(value: &[u8], arrived: Arrived, limits: &Limits) -> Result<Received, String> {
    if value.len() > RECORD_MAX_BYTES {
        return Err(format!("must have at most {RECORD_MAX_BYTES} bytes, has {}", value.len()));
    }
    // No protobuf message of ours begins with this byte.
    let (draft, received_ms) = if value.trim_ascii_start().starts_with(b"{") {
        let line: EventLine = serde_json::from_slice(value).map_err(|error| json_reason(&error))?;
        let received_ms = arrived.logged_ms.unwrap_or(arrived.now_ms).clamp(0, arrived.now_ms.max(0));
        (line.draft_at(received_ms)?, received_ms)
    } else {
        let logged = v1::LoggedEvent::decode(value).map_err(|_| "neither a LoggedEvent nor JSON".to_owned())?;
        // It was acknowledged: a clock that is ahead of ours must not bury it.
        let latest = arrived.now_ms.saturating_add(AHEAD_MAX_MS);
        if !(0..=latest).contains(&logged.received_ms) {
            return Err("received_ms: must not lie before 1970 nor a day ahead of the clock".to_owned());
        }
        (event_in(logged.event.ok_or("event: is needed")?), logged.received_ms)
    };
    match check::event(draft, received_ms, limits) {
        Ok(event) => Ok(Received { event, received_ms }),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Event, UserKey};
    use marquee_engine::event::EventKind;

    const NOW: TimeMs = 1_700_000_000_000;

    fn read(value: &[u8]) -> Result<Received, String> {
        decode(value, Arrived { logged_ms: Some(NOW - 5), now_ms: NOW }, &Limits::default())
    }

    fn like() -> Received {
        let event = Event::new("e", UserKey::user("ann"), EventKind::Like, Some("i"), NOW - 7);
        Received { event, received_ms: NOW - 6 }
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        assert_eq!(read(&encode(like())).unwrap(), like());
    }

    #[test]
    fn json_of_other_producers_is_read_in_both_spellings() {
        for json in [
            r#"{"id":"e","user_id":"ann","item_id":"i","type":"like","time_ms":1699999999993}"#,
            r#" {"id":"e","userId":"ann","itemId":"i","type":"EVENT_TYPE_LIKE","time":"2023-11-14T22:13:19.993Z"}"#,
        ] {
            assert_eq!(read(json.as_bytes()).unwrap(), Received { received_ms: NOW - 5, ..like() });
        }
        let silent = read(br#"{"id":"e","user_id":"ann","item_id":"i","type":"like"}"#).unwrap();
        assert_eq!(silent.event.time_ms, NOW - 5, "the log's moment stands in");
    }

    #[test]
    fn what_a_process_with_a_clock_ahead_acknowledged_is_taken() {
        let ahead = AHEAD_MAX_MS - 1;
        let event = Event::new("e", UserKey::user("ann"), EventKind::Like, Some("i"), NOW + ahead);
        let acknowledged = Received { event, received_ms: NOW + ahead };
        assert_eq!(read(&encode(acknowledged.clone())).unwrap(), acknowledged);
    }

    #[test]
    fn what_cannot_be_taken_says_why() {
        let broken = |change: &dyn Fn(&mut v1::LoggedEvent)| {
            let mut logged = v1::LoggedEvent::decode(encode(like()).as_slice()).unwrap();
            change(&mut logged);
            logged.encode_to_vec()
        };
        for (value, reason) in [
            (b"\xff\xff\xff".to_vec(), "neither"),
            (b"{".to_vec(), "not as documented"),
            (br#"{"surprise":1}"#.to_vec(), "not as documented"),
            (br#"{"user_id":"a","type":"like"}"#.to_vec(), "item_id: "),
            (Vec::new(), "event: "),
            (vec![b'{'; RECORD_MAX_BYTES + 1], "must have at most"),
            (broken(&|logged| logged.event.as_mut().unwrap().id = "x".repeat(257)), "id: "),
            (broken(&|logged| logged.received_ms = -1), "received_ms: "),
            (broken(&|logged| logged.received_ms = NOW * 2), "received_ms: "),
            (broken(&|logged| logged.event.as_mut().unwrap().time.as_mut().unwrap().seconds = 9_000_000_000), "time: "),
        ] {
            let found = read(&value).unwrap_err();
            assert!(found.starts_with(reason), "{reason}: {found}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(value in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&value);
            let _ = read(&[b"{".as_slice(), &value].concat());
        }
    }
}
