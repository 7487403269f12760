//! Write tokens: "read at least what I wrote". Opaque to callers; a [`Mark`] inside.
//!
//! `w1.` holds a position of the store's log. `w2.` also holds offsets of a shared log; only where there is one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use marquee_engine::types::Seq;
use sha2::{Digest, Sha256};

use super::log::{Mark, PARTITIONS_MAX, Shared};
use crate::error::{Error, Result};

const POSITION: &str = "w1.";
const SHARED: &str = "w2.";
/// Longer than any token that is made here: [`PARTITIONS_MAX`] offsets of at most fourteen bytes each.
const TOKEN_MAX_BYTES: usize = 4_900;

/// The token of everything up to `seq`.
pub fn encode(seq: Seq) -> String {
    format!("{POSITION}{seq:016x}{:08x}", checksum(b"1", &seq.to_be_bytes()))
}

/// The token of a mark.
pub fn of(mark: &Mark) -> String {
    let Some(shared) = &mark.shared else { return encode(mark.seq) };
    let mut bytes = Vec::with_capacity(16 + 12 * shared.next.len());
    put(&mut bytes, mark.seq);
    put(&mut bytes, u64::from(shared.log));
    for (partition, next) in &shared.next {
        put(&mut bytes, u64::from(partition.unsigned_abs()));
        put(&mut bytes, next.unsigned_abs());
    }
    let check = checksum(b"2", &bytes);
    bytes.extend(check.to_be_bytes());
    format!("{SHARED}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// The mark inside; InvalidArgument for anything that was not made here.
pub fn decode(token: &str) -> Result<Mark> {
    let mark = match (token.strip_prefix(POSITION), token.strip_prefix(SHARED)) {
        _ if token.len() > TOKEN_MAX_BYTES => None,
        (Some(digits), _) => position(digits).map(Mark::from),
        (_, Some(text)) => shared(text),
        _ => None,
    };
    mark.ok_or_else(|| {
        Error::invalid("write_token", "must be a token that RecordEvents or another write gave, unchanged")
    })
}

fn position(digits: &str) -> Option<Seq> {
    let plain = digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let (seq, check) = plain.then(|| digits.split_at(16))?;
    let seq = Seq::from_str_radix(seq, 16).ok()?;
    (u32::from_str_radix(check, 16).ok()? == checksum(b"1", &seq.to_be_bytes())).then_some(seq)
}

fn shared(text: &str) -> Option<Mark> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (payload, check) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if check != checksum(b"2", payload).to_be_bytes() {
        return None;
    }
    let mut rest = payload;
    let seq = take(&mut rest)?;
    let log = u32::try_from(take(&mut rest)?).ok()?;
    let mut next: Vec<(i32, i64)> = Vec::new();
    while !rest.is_empty() {
        let partition = i32::try_from(take(&mut rest)?).ok()?;
        let offset = i64::try_from(take(&mut rest)?).ok()?;
        if next.len() == PARTITIONS_MAX || next.last().is_some_and(|(last, _)| *last >= partition) {
            return None;
        }
        next.push((partition, offset));
    }
    Some(Mark { seq, shared: Some(Shared { log, next }) })
}

/// Seven bits a byte, the lowest first; the high bit says that another byte follows.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if (part << shift) >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Not a signature: it finds typing errors and tokens of other services, not forgers, who could only ask to wait.
fn checksum(version: &[u8], payload: &[u8]) -> u32 {
    let digest =
        Sha256::new().chain_update(b"marquee write token ").chain_update(version).chain_update(payload).finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn marks() -> impl Strategy<Value = Mark> {
        let next = proptest::collection::btree_map(0..=i32::MAX, 0..=i64::MAX, 0..=PARTITIONS_MAX);
        let shared = (any::<u32>(), next).prop_map(|(log, next)| Shared { log, next: next.into_iter().collect() });
        (any::<u64>(), proptest::option::of(shared)).prop_map(|(seq, shared)| Mark { seq, shared })
    }

    proptest! {
        #[test]
        fn tokens_round_trip_and_are_bounded(mark in marks()) {
            let token = of(&mark);
            prop_assert!(token.len() <= TOKEN_MAX_BYTES);
            prop_assert_eq!(decode(&token).unwrap(), mark);
        }

        #[test]
        fn other_texts_are_refused_by_name(text in "(w[12]\\.)?.{0,40}") {
            let error = decode(&text).unwrap_err().to_string();
            prop_assert!(error.starts_with("write_token: "));
        }

        #[test]
        fn bytes_that_nobody_made_are_refused_or_read_back_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let check = checksum(b"2", &bytes).to_be_bytes();
            let token = format!("{SHARED}{}", URL_SAFE_NO_PAD.encode([bytes, check.to_vec()].concat()));
            if let Ok(mark) = decode(&token) {
                prop_assert_eq!(decode(&of(&mark)).unwrap(), mark);
            }
        }

        #[test]
        fn a_changed_digit_is_noticed(mark in marks(), at in 3usize..24) {
            let mut token = of(&mark).into_bytes();
            let at = at.min(token.len() - 2);
            token[at] = if token[at] == b'0' { b'1' } else { b'0' };
            prop_assert!(decode(std::str::from_utf8(&token).unwrap()).is_err());
        }
    }

    #[test]
    fn a_token_of_the_release_before_is_still_read() {
        assert_eq!(decode("w1.000000000000002a03e84590").unwrap(), Mark::from(42));
        assert_eq!(of(&Mark::from(42)), encode(42));
    }

    #[test]
    fn a_token_that_is_too_long_is_not_even_read() {
        assert!(decode(&format!("{SHARED}{}", "A".repeat(1_000_000))).is_err());
    }
}
