//! Between the wire and our own words. Every bad input is refused here, with the field and the rule that it breaks.

mod answer;
mod catalog;
mod event;
mod question;

pub(super) use answer::{append_identity, degraded, missing, recommend_response, results};
pub(super) use catalog::{attributes_in, attributes_out, item_in, item_out};
pub(super) use event::{event_in, event_out};
pub(super) use question::{Refine, rank, recommend, similar};

use marquee_engine::types::TimeMs;
use prost_types::Timestamp;

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::events::check;
use crate::store::UserKey;

/// 0001-01-01T00:00:00Z, the first moment of a `Timestamp`.
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last whole second of a `Timestamp`.
const SECONDS_MAX: i64 = 253_402_300_799;

/// Milliseconds since the epoch of a timestamp.
pub(super) fn time_in(field: &str, time: &Timestamp) -> Result<TimeMs> {
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&time.seconds) || !(0..1_000_000_000).contains(&time.nanos) {
        return Err(Error::invalid(field, "must be a Timestamp of the years 1 to 9999 with nanos of 0 to 999,999,999"));
    }
    Ok(time.seconds * 1_000 + i64::from(time.nanos / 1_000_000))
}

/// The timestamp of that millisecond.
pub(super) fn time_out(time_ms: TimeMs) -> Timestamp {
    let nanos = i32::try_from(time_ms.rem_euclid(1_000) * 1_000_000).expect("below a thousand million");
    Timestamp { seconds: time_ms.div_euclid(1_000), nanos }
}

/// A list of ids, bounded by the limit of that name.
pub(super) fn ids_in(field: &str, ids: &[String], (name, most): (&str, usize), limits: &Limits) -> Result<()> {
    count_in(field, ids.len(), (name, most))?;
    ids.iter().enumerate().try_for_each(|(at, id)| check::id(&format!("{field}[{at}]"), id, limits))
}

/// The length of a list, bounded by the limit of that name.
pub(super) fn count_in(field: &str, count: usize, (name, most): (&str, usize)) -> Result<()> {
    if count > most {
        return Err(Error::invalid(field, format!("must have at most limits.{name} ({most}) entries, has {count}")));
    }
    Ok(())
}

/// At most one of the two ids.
pub(super) fn visitor_in(user_id: &str, anonymous_id: &str, limits: &Limits) -> Result<Option<UserKey>> {
    if user_id.is_empty() && anonymous_id.is_empty() {
        return Ok(None);
    }
    check::who(user_id, anonymous_id, limits).map(Some)
}

/// The size of a page of a list: 0 takes `default`.
pub(super) fn page_size_in(size: i32, default: usize, limits: &Limits) -> Result<usize> {
    let most = limits.list_page_max_entries;
    match usize::try_from(size) {
        Ok(0) => Ok(default.min(most)),
        Ok(size) if size <= most => Ok(size),
        _ => Err(Error::invalid("page_size", format!("must lie within 0 and limits.list_page_max_entries ({most})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for time_ms in [0, -1, 1_500, -62_135_596_800_000, 253_402_300_799_999] {
            assert_eq!(time_in("time", &time_out(time_ms)).unwrap(), time_ms);
        }
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (SECONDS_MAX + 1, 0), (0, -1), (0, i32::MAX)] {
            let error = time_in("time", &Timestamp { seconds, nanos }).unwrap_err();
            assert!(error.to_string().starts_with("time: "));
        }
    }

    #[test]
    fn both_ids_are_one_too_many() {
        let limits = Limits::default();
        assert!(visitor_in("a", "b", &limits).unwrap_err().to_string().starts_with("anonymous_id: "));
        assert!(visitor_in(&"x".repeat(10_240), "", &limits).unwrap_err().to_string().contains("10240"));
        assert_eq!(visitor_in("", "b", &limits).unwrap(), Some(UserKey::anonymous("b")));
    }
}
