//! Draws the next call: its kind, its user, its items, its bytes, and what its answer must be.
//!
//! Encodes messages; must not know connections, clocks or outcomes.

mod log;
mod names;

use bytes::{Bytes, BytesMut};
use marquee_proto::v1;
use prost::Message;

pub(crate) use log::{Log, Row};
pub(crate) use names::{Column, Names, Source};

use crate::check::Memory;
use crate::numbers::Numbers;
use crate::profile::{Call, Profile};
use crate::wire::frame;
use crate::zipf::Weighted;

/// What can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Recommend,
    Similar,
    Rank,
    RecordEvents,
    RecommendBatch,
}

impl Kind {
    /// All, in the order of reports.
    pub(crate) const ALL: [Kind; 5] =
        [Kind::Recommend, Kind::Similar, Kind::Rank, Kind::RecordEvents, Kind::RecommendBatch];

    /// Its key under `[mix]`.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Kind::Recommend => "recommend",
            Kind::Similar => "similar",
            Kind::Rank => "rank",
            Kind::RecordEvents => "record_events",
            Kind::RecommendBatch => "recommend_batch",
        }
    }

    /// Its path on the wire.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Kind::Recommend => "/marquee.v1.RecommendationService/Recommend",
            Kind::Similar => "/marquee.v1.RecommendationService/SimilarItems",
            Kind::Rank => "/marquee.v1.RecommendationService/RankItems",
            Kind::RecordEvents => "/marquee.v1.EventService/RecordEvents",
            Kind::RecommendBatch => "/marquee.v1.RecommendationService/RecommendBatch",
        }
    }
}

/// One call, ready to be sent.
#[derive(Debug)]
pub(crate) struct Shot {
    pub(crate) kind: Kind,
    /// The framed message.
    pub(crate) body: Bytes,
    pub(crate) expect: Expect,
    /// Of events that it writes.
    pub(crate) event_ids: Vec<String>,
}

/// What an answer must be.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Of recommend and similar.
    Slate(Asked),
    /// Every candidate, in the slate or with a reason why not.
    Ranking(Asked, u32),
    /// One slate each.
    Slates(Vec<Asked>),
    /// One result for each event.
    Written(Vec<Written>),
}

/// Of whom a slate was asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) count: u32,
    /// `None`: somebody whom nobody has seen before.
    pub(crate) user: Option<u32>,
    /// How many of the user's seen items were acknowledged before the call was made.
    pub(crate) seen: u32,
}

/// An event that makes an item seen, once it is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// `None`: need not be remembered.
    pub(crate) user: Option<u32>,
    pub(crate) item: u64,
}

/// The source of calls.
#[derive(Debug)]
pub(crate) struct Traffic {
    call: Call,
    cold_share: f64,
    /// Calls of one user go to several processes.
    is_spread: bool,
    kinds: Weighted,
    users: Names,
    items: Names,
    draw: Numbers,
    /// Ids of this run's events and newcomers begin with it.
    run: String,
    made: u64,
    buffer: BytesMut,
}

/// Bytes that are allocated at once for the messages to come.
const CHUNK_BYTES: usize = 64 * 1024;

impl Traffic {
    /// Draws by this profile. `run` makes ids unlike those of other runs. `is_spread`: calls take turns between processes.
    pub(crate) fn new(profile: &Profile, users: Names, items: Names, run: &str, seed: u64, is_spread: bool) -> Traffic {
        Traffic {
            is_spread,
            call: profile.call.clone(),
            cold_share: profile.users.cold_share,
            kinds: Weighted::new(profile.mix),
            users,
            items,
            draw: Numbers::new(seed, 0x7aff),
            run: run.to_owned(),
            made: 0,
            buffer: BytesMut::new(),
        }
    }

    /// The next call of the mix; with a row, of that row's user and about its item.
    pub(crate) fn next(&mut self, memory: &Memory, row: Option<&Row>) -> Shot {
        let kind = Kind::ALL[self.kinds.draw(&mut self.draw)];
        self.shot(kind, memory, row)
    }

    /// A call of this kind.
    pub(crate) fn shot(&mut self, kind: Kind, memory: &Memory, row: Option<&Row>) -> Shot {
        self.made += 1;
        match kind {
            Kind::Recommend => {
                let (request, asked) = self.recommend(memory, row);
                self.ready(kind, &request, Expect::Slate(asked))
            }
            Kind::RecommendBatch => {
                let (requests, asked) =
                    (0..self.call.batch_requests).map(|at| self.recommend(memory, row.filter(|_| at == 0))).unzip();
                self.ready(kind, &v1::RecommendBatchRequest { requests }, Expect::Slates(asked))
            }
            Kind::Similar => {
                let (user_id, asked) = self.user(memory, row);
                let asked = self.without_token(asked);
                let item_ids = self.distinct(self.call.similar_items, row);
                let (count, surface) = (self.call.count as i32, self.call.surface.clone());
                let request = v1::SimilarItemsRequest { item_ids, count, user_id, surface, ..Default::default() };
                self.ready(kind, &request, Expect::Slate(asked))
            }
            Kind::Rank => {
                let (mut query, asked) = self.recommend(memory, row);
                // All that may be ranked, so that every candidate is accounted for.
                (query.count, query.bypass_cache) = (0, false);
                let item_ids = self.distinct(self.call.rank_items, row);
                let candidates = item_ids.len() as u32;
                let request = v1::RankItemsRequest { query: Some(query), item_ids, include_seen: false };
                self.ready(kind, &request, Expect::Ranking(asked, candidates))
            }
            Kind::RecordEvents => {
                let (events, written): (Vec<_>, _) =
                    (0..self.call.events).map(|at| self.event(at, row.filter(|_| at == 0))).unzip();
                let event_ids = events.iter().map(|event| event.id.clone()).collect();
                let shot = self.ready(kind, &v1::RecordEventsRequest { events }, Expect::Written(written));
                Shot { event_ids, ..shot }
            }
        }
    }

    /// Ids of users that calls are about, for a look at whether the server knows them.
    pub(crate) fn sample_users(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.users.id(self.users.draw(&mut self.draw)).into_owned()).collect()
    }

    fn ready(&mut self, kind: Kind, message: &impl Message, expect: Expect) -> Shot {
        if self.buffer.capacity() < message.encoded_len() + frame::HEAD_BYTES {
            self.buffer = BytesMut::with_capacity(CHUNK_BYTES.max(message.encoded_len() + frame::HEAD_BYTES));
        }
        Shot { kind, body: frame::framed(message, &mut self.buffer), expect, event_ids: Vec::new() }
    }

    fn recommend(&mut self, memory: &Memory, row: Option<&Row>) -> (v1::RecommendRequest, Asked) {
        let (user_id, asked) = self.user(memory, row);
        let token = asked.user.filter(|_| self.call.write_tokens).and_then(|user| memory.token(user));
        let request = v1::RecommendRequest {
            surface: self.call.surface.clone(),
            user_id,
            count: self.call.count as i32,
            variant: self.call.variant.clone(),
            write_token: token.unwrap_or_default().to_owned(),
            bypass_cache: self.call.bypass_cache,
            ..Default::default()
        };
        let asked = if self.call.write_tokens { asked } else { self.without_token(asked) };
        (request, asked)
    }

    /// Without a write token, a process need not know yet what another one acknowledged just now.
    fn without_token(&self, asked: Asked) -> Asked {
        if self.is_spread { Asked { seen: 0, ..asked } } else { asked }
    }

    /// Somebody, and what is known that they have seen.
    fn user(&mut self, memory: &Memory, row: Option<&Row>) -> (String, Asked) {
        let count = self.call.count;
        let is_cold = row.is_none() && self.draw.chance(self.cold_share);
        if is_cold {
            return (format!("{}-new-{}", self.run, self.made), Asked { count, user: None, seen: 0 });
        }
        let user = row.map_or_else(|| self.users.draw(&mut self.draw), |row| row.user);
        (self.users.id(user).into_owned(), Asked { count, user: Some(user), seen: memory.seen(user) })
    }

    /// So many different items, or all there are.
    fn distinct(&mut self, count: usize, row: Option<&Row>) -> Vec<String> {
        let count = count.min(self.items.len());
        let mut found: Vec<u32> = row.map(|row| row.item).into_iter().collect();
        while found.len() < count {
            let mut item = self.items.draw(&mut self.draw);
            // Zipf's law draws the first ones again and again: then the next one that is free.
            while found.contains(&item) {
                item = (item + 1) % self.items.len() as u32;
            }
            found.push(item);
        }
        found.into_iter().map(|item| self.items.id(item).into_owned()).collect()
    }

    fn event(&mut self, at: usize, row: Option<&Row>) -> (v1::Event, Written) {
        let user = row.map_or_else(|| self.users.draw(&mut self.draw), |row| row.user);
        let item = row.map_or_else(|| self.items.draw(&mut self.draw), |row| row.item);
        let (kind, value) = match row {
            Some(row) => (row.kind, row.value),
            None => self.deed(),
        };
        let item_id = self.items.id(item).into_owned();
        // What a click or a view means is a matter of the server's policy; these three make an item seen by default.
        let is_seen = matches!(kind, v1::EventType::Like | v1::EventType::Rating | v1::EventType::Watch);
        let written = Written {
            user: Some(user).filter(|_| self.call.seen && is_seen),
            item: crate::check::hash(item_id.as_bytes()),
        };
        let event = v1::Event {
            id: format!("{}-{}-{at}", self.run, self.made),
            user_id: self.users.id(user).into_owned(),
            item_id,
            r#type: kind.into(),
            value,
            surface: self.call.surface.clone(),
            ..Default::default()
        };
        (event, written)
    }

    /// What people do: mostly they click, sometimes they watch, now and then they say what they think.
    fn deed(&mut self) -> (v1::EventType, Option<f64>) {
        match self.draw.below(10) {
            0..5 => (v1::EventType::Click, None),
            5..8 => (v1::EventType::Watch, Some(self.draw.below(11) as f64 / 10.0)),
            8 => (v1::EventType::Rating, Some(1.0 + self.draw.below(5) as f64)),
            _ => (v1::EventType::Like, None),
        }
    }
}
