//! Slate ids, seeds for exploration, and the draw of sampled slates: the server's only randomness.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use marquee_engine::types::TimeMs;

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Twelve hexadecimal digits.
const TIME_MAX_MS: TimeMs = (1 << 48) - 1;

/// The moment in a slate id; `None` when [`Ids::slate`] did not make it.
pub fn time_of(slate_id: &str) -> Option<TimeMs> {
    let digits = slate_id.strip_prefix('s').filter(|digits| digits.len() == 36 && digits.is_ascii())?;
    TimeMs::from_str_radix(&digits[..12], 16).ok()
}

/// Draws ids and numbers. Not for secrets: a slate id is a name, not a key.
pub struct Ids {
    process: u64,
    drawn: AtomicU64,
}

impl Default for Ids {
    fn default() -> Ids {
        Ids::new()
    }
}

impl Ids {
    /// Starts at a random point, from the operating system's randomness.
    pub fn new() -> Ids {
        let random = |salt: u64| RandomState::new().hash_one(salt);
        Ids { process: random(1), drawn: AtomicU64::new(random(2)) }
    }

    /// A new slate id: sorts by time, unique without any coordination.
    pub fn slate(&self, now_ms: TimeMs) -> String {
        let time = now_ms.clamp(0, TIME_MAX_MS) as u64;
        let mut id = String::with_capacity(1 + 12 + 8 + 16);
        id.push('s');
        for (number, digits) in [(time, 12), (self.process >> 32, 8), (self.seed(), 16)] {
            id.extend((0..digits).rev().map(|digit| char::from(HEX[(number >> (4 * digit) & 15) as usize])));
        }
        id
    }

    /// A number that no other call gets.
    pub fn seed(&self) -> u64 {
        // SplitMix64: a bijection of the counter, so that no number comes twice within a process.
        let mut z = self.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) ^ self.process;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True in that share of the calls: 0 never, 1 always.
    pub fn chance(&self, share: f64) -> bool {
        share > 0.0 && ((self.seed() >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let ids = Ids::new();
        assert_ne!(ids.slate(5), ids.slate(5));
        assert!(ids.slate(5) < ids.slate(6));
        assert_eq!(ids.slate(-1).len(), 37);
        assert_eq!(time_of(&ids.slate(1_700_000_000_123)), Some(1_700_000_000_123));
        assert_eq!([time_of("s"), time_of(&"ü".repeat(18)), time_of("")], [None; 3]);
    }

    #[test]
    fn chances_are_kept() {
        let ids = Ids::new();
        assert!((0..1_000).all(|_| ids.chance(1.0)));
        assert!((0..1_000).all(|_| !ids.chance(0.0)));
        let half = (0..10_000).filter(|_| ids.chance(0.5)).count();
        assert!((4_000..6_000).contains(&half), "{half}");
    }
}
