//! A profile as Redis keeps it: compact, versioned, bounded. What does not decode exactly is nothing.

use std::sync::Arc;

use marquee_engine::profile::ProfileLimits;
use marquee_engine::types::{Profile, ProfileEvent, Seq, TimeMs, Touch};

use super::recent::Age;
use crate::store::UserKey;

/// The first byte. Another layout takes another number, so that versions of the server share a Redis.
const FORMAT: u8 = 1;
const PROFILE: u8 = 0;
const MERGED: u8 = 1;

const SEEN: u8 = 1;
const INTERACTION: u8 = 2;
const HAS_WEIGHT: u8 = 4;
const HAS_RATING: u8 = 8;

/// What is kept under a user's key.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// The profile.
    Profile(Arc<Profile>),
    /// A merged visitor: the profile is that user's.
    MergedInto(UserKey),
}

/// Bytes for [`read`]. `rules` stands for the policy and limits that the profile was built by.
pub(super) fn write(kept: &Kept, as_of: Seq, rules: u64) -> Vec<u8> {
    let mut out = vec![FORMAT, if matches!(kept, Kept::Profile(_)) { PROFILE } else { MERGED }];
    out.extend_from_slice(&rules.to_le_bytes());
    number(&mut out, as_of);
    match kept {
        Kept::MergedInto(user) => text(&mut out, user.as_str()),
        Kept::Profile(profile) => {
            number(&mut out, profile.version);
            number(&mut out, profile.events.len() as u64);
            let mut before = 0;
            for event in &profile.events {
                text(&mut out, &event.item);
                number(&mut out, zigzag(event.time_ms.wrapping_sub(before)));
                before = event.time_ms;
                touch(&mut out, event.touch);
            }
            number(&mut out, profile.seen_before.len() as u64);
            profile.seen_before.iter().for_each(|item| text(&mut out, item));
        }
    }
    out
}

/// How old the profile is that [`write`] wrote by the same rules, by its head alone; `None` for anything else.
pub(super) fn age(bytes: &[u8], rules: u64) -> Option<Age> {
    let mut reader = Reader { rest: bytes };
    let (kind, as_of) = reader.head(rules)?;
    (kind == PROFILE).then_some(Age { as_of, version: reader.number()? })
}

/// What [`write`] wrote by the same rules, of this user; `None` for anything else.
pub(super) fn read(bytes: &[u8], key: &UserKey, rules: u64, limits: &ProfileLimits) -> Option<(Kept, Age)> {
    let mut reader = Reader { rest: bytes };
    let (kind, as_of) = reader.head(rules)?;
    let (kept, version) = match kind {
        PROFILE => {
            let version = reader.number()?;
            let count = reader.count(limits.profile_events_max)?;
            let mut events = Vec::with_capacity(count);
            let mut time_ms: TimeMs = 0;
            for _ in 0..count {
                let item = reader.text()?.into();
                time_ms = time_ms.wrapping_add(unzigzag(reader.number()?));
                events.push(ProfileEvent { item, time_ms, touch: reader.touch()? });
            }
            let count = reader.count(limits.profile_seen_max)?;
            let seen_before = (0..count).map(|_| reader.text().map(Arc::from)).collect::<Option<_>>()?;
            (Kept::Profile(Arc::new(Profile { user: Some(key.as_arc()), version, events, seen_before })), version)
        }
        MERGED => (Kept::MergedInto(UserKey::parse(reader.text()?)?), 0),
        _ => return None,
    };
    reader.rest.is_empty().then_some((kept, Age { as_of, version }))
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn touch(out: &mut Vec<u8>, touch: Touch) {
    let bits = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let (has_weight, has_rating) = (touch.weight != 0.0, !touch.rating.is_nan());
    let flags = bits(touch.seen, SEEN) | bits(touch.interaction, INTERACTION);
    out.push(flags | bits(has_weight, HAS_WEIGHT) | bits(has_rating, HAS_RATING));
    for (is_there, value) in [(has_weight, touch.weight), (has_rating, touch.rating)] {
        if is_there {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

/// Small numbers of either sign become small numbers.
fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// The kind and the position.
    fn head(&mut self, rules: u64) -> Option<(u8, Seq)> {
        if self.byte()? != FORMAT {
            return None;
        }
        let kind = self.byte()?;
        let is_ours = u64::from_le_bytes(self.take(8)?.try_into().ok()?) == rules;
        Some((kind, self.number()?)).filter(|_| is_ours)
    }

    fn take(&mut self, bytes: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// At most `most`, and at most what the rest could hold.
    fn count(&mut self, most: usize) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= most && count <= self.rest.len()).then_some(count)
    }

    fn text(&mut self) -> Option<&'b str> {
        let length = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn touch(&mut self) -> Option<Touch> {
        let flags = self.byte()?;
        if flags & !(SEEN | INTERACTION | HAS_WEIGHT | HAS_RATING) != 0 {
            return None;
        }
        let mut float = |bit: u8, otherwise: f32| {
            if flags & bit == 0 {
                return Some(otherwise);
            }
            Some(f32::from_le_bytes(self.take(4)?.try_into().ok()?))
        };
        let (weight, rating) = (float(HAS_WEIGHT, 0.0)?, float(HAS_RATING, f32::NAN)?);
        let is_whole = weight.is_finite() && (flags & HAS_RATING == 0 || rating.is_finite());
        is_whole.then_some(Touch { weight, rating, seen: flags & SEEN != 0, interaction: flags & INTERACTION != 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: ProfileLimits = ProfileLimits { profile_events_max: 20, profile_seen_max: 20 };
    const RULES: u64 = 77;

    fn ann() -> UserKey {
        UserKey::user("ann")
    }

    fn event() -> impl Strategy<Value = ProfileEvent> {
        let rating = prop_oneof![Just(f32::NAN), -5.0..5.0_f32];
        (".{1,12}", any::<i64>(), -2.0..2.0_f32, rating, any::<bool>(), any::<bool>()).prop_map(
            |(item, time_ms, weight, rating, seen, interaction)| ProfileEvent {
                item: item.into(),
                time_ms,
                touch: Touch { weight, rating, seen, interaction },
            },
        )
    }

    fn profile() -> impl Strategy<Value = Profile> {
        let events = proptest::collection::vec(event(), 0..20);
        (any::<u64>(), events, proptest::collection::vec(".{0,12}", 0..20)).prop_map(|(version, events, seen)| {
            Profile {
                user: Some(ann().as_arc()),
                version,
                events,
                seen_before: seen.into_iter().map(Arc::from).collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn a_profile_comes_back(profile in profile(), as_of: u64) {
            let bytes = write(&Kept::Profile(profile.clone().into()), as_of, RULES);
            let Some((Kept::Profile(back), age)) = read(&bytes, &ann(), RULES, &LIMITS) else { panic!("no profile") };
            // NaN is no number's equal.
            prop_assert_eq!(format!("{back:?}"), format!("{profile:?}"));
            prop_assert_eq!(age, Age { as_of, version: profile.version });
            prop_assert_eq!(super::age(&bytes, RULES), Some(age));
        }

        #[test]
        fn a_part_of_one_is_nothing(profile in profile(), cut in any::<prop::sample::Index>()) {
            let bytes = write(&Kept::Profile(profile.into()), 5, RULES);
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert!(read(part, &ann(), RULES, &LIMITS).is_none());
            prop_assert!(read(&[&bytes[..], &[0]].concat(), &ann(), RULES, &LIMITS).is_none());
        }

        #[test]
        fn any_bytes_are_a_profile_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            for start in [&[][..], &[FORMAT, PROFILE], &[FORMAT, MERGED]] {
                bytes.splice(0..start.len().min(bytes.len()), start.iter().copied());
                let _ = read(&bytes, &ann(), 0, &LIMITS);
            }
        }
    }

    /// What docs/operations.md says of memory.
    #[test]
    fn an_event_of_a_profile_takes_some_twenty_bytes() {
        let event = |n: i64| ProfileEvent {
            item: format!("i{}", 10_000 + n).into(),
            time_ms: 1_700_000_000_000 + n * 86_400_000,
            touch: Touch { weight: 1.0, rating: 4.5, seen: true, interaction: true },
        };
        let rated = Profile { events: (0..100).map(event).collect(), ..Profile::default() };
        let bytes = write(&Kept::Profile(rated.into()), 1 << 40, RULES).len();
        assert!((1_500..2_200).contains(&bytes), "{bytes}");
    }

    #[test]
    fn other_rules_and_larger_profiles_are_nothing() {
        let event = ProfileEvent { item: "i".into(), time_ms: 1, touch: Touch::default() };
        let profile = Profile { events: vec![event; 21], ..Profile::default() };
        let bytes = write(&Kept::Profile(profile.clone().into()), 5, RULES);
        assert!(read(&bytes, &ann(), RULES, &LIMITS).is_none());
        let larger = ProfileLimits { profile_events_max: 21, ..LIMITS };
        assert!(read(&bytes, &ann(), RULES, &larger).is_some());
        assert!(read(&bytes, &ann(), RULES + 1, &larger).is_none());
    }

    #[test]
    fn a_merged_visitor_comes_back() {
        let bytes = write(&Kept::MergedInto(ann()), 9, RULES);
        let (kept, age) = read(&bytes, &UserKey::anonymous("x"), RULES, &LIMITS).unwrap();
        assert!(matches!(kept, Kept::MergedInto(user) if user == ann()));
        assert_eq!(age, Age { as_of: 9, version: 0 });
    }
}
