//! Page tokens: opaque to callers, versioned, checked. (Write tokens: `events::token`.)
//!
//! A token that was not made here is refused as a whole; a token never reaches anything but its own decoder.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use marquee_engine::types::id_hash;

use crate::error::{Error, Result};

const PAGE_PREFIX: &str = "p1.";
const LIST_PREFIX: &str = "l1.";

/// The token for the next page of a list: where the last page ended.
pub fn list(after: &str) -> String {
    seal(LIST_PREFIX, after.as_bytes())
}

/// Where the last page ended; `None` for an empty token.
///
/// # Errors
/// `InvalidArgument` when the token was not made by [`list`].
pub fn read_list(field: &str, token: &str) -> Result<Option<String>> {
    if token.is_empty() {
        return Ok(None);
    }
    let bytes = open(LIST_PREFIX, token).and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.map(Some).ok_or_else(|| foreign(field, "a next_page_token"))
}

/// What the earlier pages of a slate have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// [`id_hash`] of every item on them, in order.
    pub shown: Vec<u64>,
}

impl Page {
    /// The token for the page after this one. `identity` is the hash of the question, so that a token answers no other.
    pub fn token(&self, identity: u64) -> String {
        let mut bytes = identity.to_le_bytes().to_vec();
        bytes.extend(self.shown.iter().flat_map(|hash| hash.to_le_bytes()));
        seal(PAGE_PREFIX, &bytes)
    }

    /// Reads a token; an empty one is the first page.
    ///
    /// # Errors
    /// `InvalidArgument` when the token was not made by [`Page::token`], for another question, or is deeper than
    /// `depth_max_items`.
    pub fn read(token: &str, identity: u64, depth_max_items: usize) -> Result<Page> {
        if token.is_empty() {
            return Ok(Page::default());
        }
        let bytes = open(PAGE_PREFIX, token).ok_or_else(|| foreign("page_token", "a next_page_token"))?;
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight")));
        if bytes.len() % 8 != 0 || words.len() == 0 {
            return Err(foreign("page_token", "a next_page_token"));
        }
        if words.next() != Some(identity) {
            return Err(Error::invalid(
                "page_token",
                "belongs to another request: only count may change between pages",
            ));
        }
        let shown: Vec<u64> = words.collect();
        if shown.len() > depth_max_items {
            let rule = format!("pages end after limits.page_depth_max_items ({depth_max_items}) items");
            return Err(Error::invalid("page_token", rule));
        }
        Ok(Page { shown })
    }
}

fn foreign(field: &str, what: &str) -> Error {
    Error::invalid(field, format!("must be {what} of this service, unchanged"))
}

fn seal(prefix: &str, payload: &[u8]) -> String {
    let mut bytes = payload.to_vec();
    bytes.extend(check(prefix, payload));
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn open(prefix: &str, token: &str) -> Option<Vec<u8>> {
    let mut bytes = URL_SAFE_NO_PAD.decode(token.strip_prefix(prefix)?).ok()?;
    let payload = bytes.len().checked_sub(4)?;
    let found = bytes.split_off(payload);
    (found == check(prefix, &bytes)).then_some(bytes)
}

/// Catches accidents, not attackers: a token grants nothing.
fn check(prefix: &str, payload: &[u8]) -> [u8; 4] {
    let start = id_hash(prefix);
    let hash = payload.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    ((hash >> 32) as u32 ^ hash as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_for_its_own_question_alone() {
        let page = Page { shown: vec![1, 2, 3] };
        assert_eq!(Page::read(&page.token(9), 9, 10).unwrap(), page);
        assert!(Page::read(&page.token(9), 8, 10).is_err());
        assert!(Page::read(&page.token(9), 9, 2).is_err());
        assert_eq!(Page::read("", 9, 10).unwrap(), Page::default());
    }

    #[test]
    fn a_list_position_comes_back() {
        assert_eq!(read_list("page_token", &list("ü/1")).unwrap().as_deref(), Some("ü/1"));
    }

    #[test]
    fn garbage_is_refused_with_its_field() {
        let good = Page { shown: vec![5] }.token(1);
        let cut = &good[..good.len() - 1];
        for token in ["x", "p1.", "p1.AAAA", "p1.!!", cut, &"p1.A".repeat(10_000), "\u{0}"] {
            let error = Page::read(token, 1, 100).unwrap_err();
            assert!(error.to_string().starts_with("page_token: "), "{token}: {error}");
            assert!(read_list("page_token", token).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn a_flipped_character_is_noticed(shown in proptest::collection::vec(0_u64.., 1..20), at in 3_usize..40) {
            let mut token = Page { shown }.token(4).into_bytes();
            let at = at.min(token.len() - 2);
            token[at] = if token[at] == b'A' { b'B' } else { b'A' };
            proptest::prop_assert!(Page::read(std::str::from_utf8(&token).unwrap(), 4, 100).is_err());
        }
    }
}
