//! Write tokens: "read at least what I wrote". Opaque to callers; a log position inside.

use marquee_engine::types::Seq;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

const VERSION: &str = "w1.";

/// The token of everything up to `seq`.
pub fn encode(seq: Seq) -> String {
    format!("{VERSION}{seq:016x}{:08x}", checksum(seq))
}

/// The log position inside; InvalidArgument for anything that [`encode`] did not make.
pub fn decode(token: &str) -> Result<Seq> {
    let bad = || Error::invalid("write_token", "must be a token that RecordEvents or another write gave, unchanged");
    let digits = token.strip_prefix(VERSION).ok_or_else(bad)?;
    let plain = digits.len() == 24 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !plain {
        return Err(bad());
    }
    let (seq, check) = digits.split_at(16);
    let seq = Seq::from_str_radix(seq, 16).map_err(|_| bad())?;
    let check = u32::from_str_radix(check, 16).map_err(|_| bad())?;
    if check == checksum(seq) { Ok(seq) } else { Err(bad()) }
}

/// Not a signature: it finds typing errors and tokens of other services, not forgers, who could only ask to wait.
fn checksum(seq: Seq) -> u32 {
    let digest = Sha256::new().chain_update(b"marquee write token 1").chain_update(seq.to_be_bytes()).finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tokens_round_trip(seq: u64) {
            prop_assert_eq!(decode(&encode(seq)).unwrap(), seq);
        }

        #[test]
        fn other_texts_are_refused_by_name(text in ".{0,40}") {
            let error = decode(&text).unwrap_err().to_string();
            prop_assert!(error.starts_with("write_token: "));
        }

        #[test]
        fn a_changed_digit_is_noticed(seq: u64, at in 3usize..27) {
            let mut token = encode(seq).into_bytes();
            token[at] = if token[at] == b'0' { b'1' } else { b'0' };
            prop_assert!(decode(std::str::from_utf8(&token).unwrap()).is_err());
        }
    }
}
