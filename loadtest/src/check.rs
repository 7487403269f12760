//! Whether an answer is right: as many items as asked for, none twice, none that its user has seen.
//!
//! Reads the encoded answer where it lies, without building messages: the generator must cost little beside the
//! server. What a user has seen is what this generator recorded itself and what was acknowledged before it asked; an
//! answer that says that it could not be made from the latest profile is not held to it.

use std::hash::Hasher;

use marquee_proto::v1::EventStatus;
use prost::encoding::{WireType, decode_key, decode_varint};
use rustc_hash::{FxHashMap, FxHasher};

use crate::traffic::{Asked, Expect, Kind};

/// Seen items that are remembered of all users together; beyond them, new ones are not checked.
const SEEN_MAX: usize = 4_000_000;

/// What an answer said, beside its items.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Something was left out, and the answer says so.
    pub(crate) degraded: bool,
    /// A repeated ranking.
    pub(crate) cached: bool,
    /// What is wrong with it.
    pub(crate) violation: Option<Violation>,
}

/// How an answer can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Another number of items, events or answers than asked for, and no reason.
    Count,
    /// An item twice.
    Duplicate,
    /// An item that its user has seen.
    Seen,
    /// An event that this generator made was refused.
    Rejected,
    /// Not the message that was expected.
    Unreadable,
}

impl Violation {
    pub(crate) const ALL: [Violation; 5] =
        [Violation::Count, Violation::Duplicate, Violation::Seen, Violation::Rejected, Violation::Unreadable];

    /// Its name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Violation::Count => "wrong count",
            Violation::Duplicate => "an item twice",
            Violation::Seen => "an item that the user has seen",
            Violation::Rejected => "a good event refused",
            Violation::Unreadable => "not the expected message",
        }
    }
}

/// What users have seen, as far as this generator knows.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    users: FxHashMap<u32, User>,
    remembered: usize,
}

#[derive(Debug, Default)]
struct User {
    seen: Vec<u64>,
    token: Box<str>,
}

impl Memory {
    /// How many items this user has seen so far.
    pub(crate) fn seen(&self, user: u32) -> u32 {
        self.users.get(&user).map_or(0, |user| user.seen.len() as u32)
    }

    /// The newest write token of this user.
    pub(crate) fn token(&self, user: u32) -> Option<&str> {
        self.users.get(&user).map(|user| &*user.token)
    }

    fn has_seen(&self, asked: &Asked, item: u64) -> bool {
        let user = asked.user.and_then(|user| self.users.get(&user));
        user.is_some_and(|user| user.seen[..asked.seen as usize].contains(&item))
    }

    fn note(&mut self, user: u32, item: u64, token: &str) {
        if self.remembered >= SEEN_MAX {
            return;
        }
        let user = self.users.entry(user).or_default();
        if !user.seen.contains(&item) {
            user.seen.push(item);
            self.remembered += 1;
        }
        user.token = token.into();
    }
}

/// Stands for an item's id.
pub(crate) fn hash(id: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(id);
    hasher.finish()
}

/// Reads answers and compares them with what was expected; keeps its scratch between them.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    items: Vec<u64>,
}

impl Checker {
    /// The messages of one answer.
    pub(crate) fn check<'a>(
        &mut self,
        kind: Kind,
        expect: &Expect,
        messages: impl Iterator<Item = &'a [u8]>,
        memory: &mut Memory,
    ) -> Verdict {
        self.read(kind, expect, messages, memory)
            .unwrap_or_else(|violation| Verdict { violation: Some(violation), ..Verdict::default() })
    }

    fn read<'a>(
        &mut self,
        kind: Kind,
        expect: &Expect,
        mut messages: impl Iterator<Item = &'a [u8]>,
        memory: &mut Memory,
    ) -> Result<Verdict, Violation> {
        if let Expect::Slates(asked) = expect {
            return self.batch(asked, messages, memory);
        }
        let (Some(message), None) = (messages.next(), messages.next()) else { return Err(Violation::Count) };
        match expect {
            Expect::Slate(asked) => self.slate(Layout::of(kind), asked, message, memory),
            Expect::Ranking(asked, candidates) => {
                let all = Asked { count: *candidates, ..*asked };
                self.slate(Layout::of(kind), &all, message, memory)
            }
            Expect::Written(_) => written(expect, message, memory),
            Expect::Slates(_) => Err(Violation::Unreadable),
        }
    }

    fn slate(&mut self, layout: Layout, asked: &Asked, message: &[u8], memory: &Memory) -> Result<Verdict, Violation> {
        let (mut verdict, mut missing, mut is_short, mut is_stale) = (Verdict::default(), 0, false, false);
        self.items.clear();
        for field in Fields(message) {
            match field.ok_or(Violation::Unreadable)? {
                (number, Value::Bytes(result)) if number == layout.results => {
                    self.items.push(hash(item_id(result).ok_or(Violation::Unreadable)?));
                }
                (number, Value::Bytes(degraded)) if number == layout.degraded => {
                    verdict.degraded = true;
                    is_stale = lacks_profile(degraded);
                }
                (number, Value::Number(CACHE_HIT)) if number == layout.cache => verdict.cached = true,
                (number, _) if number == layout.short_reason => is_short = true,
                (number, _) if number == layout.missing => missing += 1,
                _ => {}
            }
        }
        let found = self.items.len() as u32 + missing;
        if found > asked.count || (found < asked.count && !is_short) {
            verdict.violation = Some(Violation::Count);
        } else if !is_stale && self.items.iter().any(|item| memory.has_seen(asked, *item)) {
            verdict.violation = Some(Violation::Seen);
        }
        self.items.sort_unstable();
        if self.items.windows(2).any(|pair| pair[0] == pair[1]) {
            verdict.violation = Some(Violation::Duplicate);
        }
        Ok(verdict)
    }

    fn batch<'a>(
        &mut self,
        asked: &[Asked],
        messages: impl Iterator<Item = &'a [u8]>,
        memory: &Memory,
    ) -> Result<Verdict, Violation> {
        let mut answered = vec![false; asked.len()];
        let mut whole = Verdict { cached: true, ..Verdict::default() };
        for message in messages {
            let (mut index, mut answer) = (0, None);
            for field in Fields(message) {
                match field.ok_or(Violation::Unreadable)? {
                    (1, Value::Number(number)) => index = number as usize,
                    (2, Value::Bytes(response)) => answer = Some(response),
                    // A request of the batch that was refused: the answer as a whole is there, less this part.
                    (3, _) => whole.degraded = true,
                    _ => {}
                }
            }
            let slot = answered.get_mut(index).ok_or(Violation::Count)?;
            if std::mem::replace(slot, true) {
                return Err(Violation::Duplicate);
            }
            if let Some(answer) = answer {
                let part = self.slate(Layout::of(Kind::Recommend), &asked[index], answer, memory)?;
                whole.degraded |= part.degraded;
                whole.cached &= part.cached;
                whole.violation = whole.violation.or(part.violation);
            }
        }
        if answered.contains(&false) {
            return Err(Violation::Count);
        }
        Ok(whole)
    }
}

fn written(expect: &Expect, message: &[u8], memory: &mut Memory) -> Result<Verdict, Violation> {
    let Expect::Written(events) = expect else { return Err(Violation::Unreadable) };
    let (mut token, mut statuses, mut rejected) = (&b""[..], 0, false);
    for field in Fields(message) {
        match field.ok_or(Violation::Unreadable)? {
            (1, Value::Bytes(result)) => {
                statuses += 1;
                let accepted = Value::Number(EventStatus::Accepted as u64);
                rejected |= !Fields(result).any(|field| field == Some((1, accepted)));
            }
            (2, Value::Bytes(bytes)) => token = bytes,
            _ => {}
        }
    }
    if statuses != events.len() {
        return Err(Violation::Count);
    }
    let token = std::str::from_utf8(token).map_err(|_| Violation::Unreadable)?;
    if rejected || token.is_empty() {
        return Err(Violation::Rejected);
    }
    for event in events {
        if let Some(user) = event.user {
            memory.note(user, event.item, token);
        }
    }
    Ok(Verdict::default())
}

/// Field numbers; 0 is none.
#[derive(Clone, Copy)]
struct Layout {
    results: u32,
    cache: u32,
    degraded: u32,
    short_reason: u32,
    missing: u32,
}

impl Layout {
    fn of(kind: Kind) -> Layout {
        match kind {
            Kind::Similar => Layout { results: 1, cache: 0, degraded: 4, short_reason: 6, missing: 0 },
            Kind::Rank => Layout { results: 2, cache: 0, degraded: 5, short_reason: 0, missing: 6 },
            _ => Layout { results: 2, cache: 7, degraded: 8, short_reason: 11, missing: 0 },
        }
    }
}

const CACHE_HIT: u64 = 2;
/// What an answer names that does not know everything its user has seen.
const PROFILE: [&[u8]; 2] = [b"stale_profile", b"profile"];

/// Whether the answer says that it was made without the user's latest events: then it may repeat what they have seen.
fn lacks_profile(degraded: &[u8]) -> bool {
    Fields(degraded).any(|part| match part {
        Some((1, Value::Bytes(part))) => {
            Fields(part).any(|field| matches!(field, Some((1, Value::Bytes(what))) if PROFILE.contains(&what)))
        }
        _ => false,
    })
}

fn item_id(result: &[u8]) -> Option<&[u8]> {
    Fields(result).find_map(|field| match field {
        Some((1, Value::Bytes(id))) => Some(id),
        _ => None,
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of an encoded message; `None` where it cannot be read, which is the last one.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let read = self.field();
        if read.is_none() {
            self.0 = &[];
        }
        Some(read)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let (number, wire_type) = decode_key(&mut self.0).ok()?;
        let value = match wire_type {
            WireType::Varint => Value::Number(decode_varint(&mut self.0).ok()?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).ok()?;
                Value::Bytes(self.skip(usize::try_from(length).ok()?)?)
            }
            WireType::SixtyFourBit => self.skip(8).map(|_| Value::Other)?,
            WireType::ThirtyTwoBit => self.skip(4).map(|_| Value::Other)?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((number, value))
    }

    fn skip(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }
}

#[cfg(test)]
mod tests;
