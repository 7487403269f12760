//! A slate as Redis keeps it: a header that says what it was ranked for, and the encoded answer as it is.

use bytes::Bytes;

use super::{Entry, Question, State};
use crate::answer::Told;

/// The first byte. Another layout takes another number, so that versions of the server share a Redis.
const FORMAT: u8 = 1;

/// Bytes for [`read`]; `None` for an entry that has no place in them (names are at most 64 KiB).
pub(super) fn write(question: Question, entry: &Entry) -> Option<Vec<u8>> {
    let Entry { state, as_of, old_from_ms, expires_ms, body, ranked_id, told } = entry;
    let mut out = Vec::with_capacity(96 + ranked_id.len() + body.len());
    out.push(FORMAT);
    out.extend_from_slice(&question.0);
    for number in [state.profile, state.item_changes, *as_of, *old_from_ms as u64, *expires_ms as u64] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for part in [ranked_id.as_bytes(), &told.variant, &told.bundle_version] {
        out.extend_from_slice(&u16::try_from(part.len()).ok()?.to_le_bytes());
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&u32::try_from(body.len()).ok()?.to_le_bytes());
    out.extend_from_slice(body);
    Some(out)
}

/// The answer to that question, without a copy of its body; `None` for another question's and for anything that
/// [`write`] did not write.
pub(super) fn read(bytes: &Bytes, question: Question) -> Option<Entry> {
    let mut at = 0;
    // Places: only what is kept is worth counted pieces.
    let mut take = |length: usize| {
        let end = at + length;
        let place = (end <= bytes.len()).then_some(at..end)?;
        at = end;
        Some(place)
    };
    if bytes[take(1)?] != [FORMAT] || bytes[take(16)?] != question.0 {
        return None;
    }
    let mut number = || Some(u64::from_le_bytes(bytes[take(8)?].try_into().ok()?));
    let state = State { profile: number()?, item_changes: number()? };
    let (as_of, old_from_ms, expires_ms) = (number()?, number()? as i64, number()? as i64);
    let mut part = || {
        let length = u16::from_le_bytes(bytes[take(2)?].try_into().ok()?);
        let place = take(length.into())?;
        std::str::from_utf8(&bytes[place.clone()]).ok().map(|text| (place, text))
    };
    let ((_, ranked_id), (variant, _), (bundle_version, _)) = (part()?, part()?, part()?);
    let length = u32::from_le_bytes(bytes[take(4)?].try_into().ok()?);
    let body = take(length as usize)?;
    (at == bytes.len()).then_some(Entry {
        state,
        as_of,
        old_from_ms,
        expires_ms,
        body: bytes.slice(body),
        ranked_id: ranked_id.into(),
        told: Told { variant: bytes.slice(variant), bundle_version: bytes.slice(bundle_version) },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUESTION: Question = Question([3; 16]);

    fn entry(body: &[u8]) -> Entry {
        Entry {
            state: State { profile: 3, item_changes: u64::MAX },
            as_of: 9,
            old_from_ms: -1,
            expires_ms: i64::MAX,
            body: Bytes::copy_from_slice(body),
            ranked_id: "s1".into(),
            told: Told { variant: "default".into(), bundle_version: Bytes::new() },
        }
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_and_a_part_of_it_is_nothing(body: Vec<u8>, cut in any::<prop::sample::Index>()) {
            let bytes = Bytes::from(write(QUESTION, &entry(&body)).unwrap());
            prop_assert_eq!(read(&bytes, QUESTION), Some(entry(&body)));
            prop_assert_eq!(read(&bytes, Question([4; 16])), None);
            prop_assert_eq!(read(&bytes.slice(..cut.index(bytes.len())), QUESTION), None);
            prop_assert_eq!(read(&Bytes::from([&bytes[..], &[0]].concat()), QUESTION), None);
        }

        #[test]
        fn any_bytes_are_an_entry_or_nothing(bytes: Vec<u8>) {
            let mut front = vec![FORMAT];
            front.extend(QUESTION.0);
            let _ = read(&Bytes::from(bytes.clone()), QUESTION);
            let _ = read(&Bytes::from([front, bytes].concat()), QUESTION);
        }
    }
}
