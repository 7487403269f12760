//! What the store keeps, in our own words: users' keys, events, log entries, slates, bundles.
//!
//! Plain data. Must not know SQL, and must not know what an event is worth (`marquee_engine::event` does).

use std::fmt;
use std::sync::Arc;

use marquee_engine::event::EventKind;
use marquee_engine::types::{Attributes, Item, Seq, TimeMs, id_hash};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who: `u:` and a user id, or `a:` and an anonymous id, so that the two never collide.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserKey(Arc<str>);

impl UserKey {
    /// A known user.
    pub fn user(id: &str) -> UserKey {
        UserKey(format!("u:{id}").into())
    }

    /// An anonymous visitor.
    pub fn anonymous(id: &str) -> UserKey {
        UserKey(format!("a:{id}").into())
    }

    /// A key as the store wrote it; `None` when it has no known prefix.
    pub fn parse(key: &str) -> Option<UserKey> {
        (key.starts_with("u:") || key.starts_with("a:")).then(|| UserKey(key.into()))
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as profiles carry it.
    pub fn as_arc(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The id alone, without the prefix.
    pub fn id(&self) -> &str {
        &self.0[2..]
    }

    /// Whether it is an anonymous visitor.
    pub fn is_anonymous(&self) -> bool {
        self.0.starts_with("a:")
    }

    /// What stays of a user who was erased. Its first half is the engine's [`id_hash`] of the key, by which worlds and
    /// bundles know users.
    pub fn hash(&self) -> KeyHash {
        let KeyHash(mut hash) = KeyHash::of(&self.0);
        hash[..8].copy_from_slice(&id_hash(&self.0).to_le_bytes());
        KeyHash(hash)
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first 16 bytes of an id's SHA-256. Event ids and erased users are remembered by it alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 16]);

impl KeyHash {
    /// The hash of `id`.
    pub fn of(id: &str) -> KeyHash {
        let digest = Sha256::digest(id.as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        KeyHash(hash)
    }

    /// The engine's hash of the user's key; for what [`UserKey::hash`] made.
    pub fn user_hash(self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("eight of sixteen bytes"))
    }

    /// From the store's bytes; `None` when they are not 16.
    pub fn from_bytes(bytes: &[u8]) -> Option<KeyHash> {
        bytes.try_into().ok().map(KeyHash)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a user did. Checked already: see [`crate::events::check`].
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The caller's key of idempotency.
    pub id: String,
    /// Who.
    pub user: UserKey,
    /// What.
    pub kind: EventKind,
    /// With which item; every kind but search has one.
    pub item: Option<String>,
    /// Rating, fraction watched or custom value.
    pub value: Option<f64>,
    /// Seconds watched.
    pub watched_seconds: Option<f64>,
    /// When it happened.
    pub time_ms: TimeMs,
    /// Where; empty when not said.
    pub surface: String,
    /// The session; empty when not said.
    pub session: String,
    /// The slate in which the user met the item; empty when not said.
    pub slate_id: String,
    /// Zero-based position in that slate.
    pub position: Option<u32>,
    /// What was searched; empty when not said.
    pub query: String,
}

impl Event {
    /// An event with nothing optional said.
    pub fn new(id: &str, user: UserKey, kind: EventKind, item: Option<&str>, time_ms: TimeMs) -> Event {
        Event {
            id: id.to_owned(),
            user,
            kind,
            item: item.map(str::to_owned),
            value: None,
            watched_seconds: None,
            time_ms,
            surface: String::new(),
            session: String::new(),
            slate_id: String::new(),
            position: None,
            query: String::new(),
        }
    }
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Position in the log.
    pub seq: Seq,
    /// When the server got it.
    pub received_ms: TimeMs,
    /// The event; `user` is whom it belongs to now, after merges.
    pub event: Event,
}

/// What became of one appended event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log, at this position, under this user (an alias is resolved).
    Accepted {
        /// Position in the log.
        seq: Seq,
        /// Whose profile changed.
        user: UserKey,
    },
    /// The id is known; nothing changed.
    Duplicate,
    /// It was received before its user was erased: not kept. Only of [`super::Store::append_ingested`].
    Erased,
}

/// An event that a shared log acknowledged before the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// The event.
    pub event: Event,
    /// When a server got it: before the acknowledgement.
    pub received_ms: TimeMs,
}

/// How far one partition of a shared log was taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingested {
    /// The log's name: its topic.
    pub log: String,
    /// The partition.
    pub partition: i32,
    /// Everything before this offset is in the store.
    pub next: i64,
}

/// A consumer's step along one partition of a shared log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Up to where the consumer knows the store to hold everything; 0 for nothing.
    pub from: i64,
    /// How far it holds everything with this step.
    pub to: Ingested,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    /// Position in the log.
    pub seq: Seq,
    /// When the server got it.
    pub received_ms: TimeMs,
    /// What it says.
    pub entry: StoredEntry,
}

/// What a line of the log says.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredEntry {
    /// A user did something.
    Event(Event),
    /// An item was added or replaced as a whole.
    Upsert(Arc<Item>),
    /// An item was deleted.
    Delete(Arc<str>),
    /// An anonymous visitor became a known user; the events went over.
    Merge {
        /// From.
        anonymous: UserKey,
        /// To.
        user: UserKey,
    },
    /// A user was erased; only the hashes of the keys stay.
    Erasure(Vec<KeyHash>),
}

/// A user who was upserted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// 1 to 256 bytes.
    pub id: String,
    /// Anything the caller knows.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

/// What is known of a user without the events themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct UserSummary {
    /// The upserted row; `None` for one who only did things.
    pub user: Option<User>,
    /// Events in the log.
    pub events: u64,
    /// Newest log entry of this user; 0 for none.
    pub version: Seq,
}

/// A user's events as of a moment of the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// Whom the key stands for after merges: differs from the key that was asked for when that one was merged.
    pub user: Option<UserKey>,
    /// Newest log entry of this user that is included; 0 for none.
    pub version: Seq,
    /// In order of (time, event id), oldest first.
    pub events: Vec<PastEvent>,
}

/// What a profile takes of an event: a history is read for the next slate, and has many.
#[derive(Debug, Clone, PartialEq)]
pub struct PastEvent {
    /// Position in the log.
    pub seq: Seq,
    /// The caller's id.
    pub id: String,
    /// What was done.
    pub kind: EventKind,
    /// With which item.
    pub item: String,
    /// How: see [`Event::value`].
    pub value: Option<f64>,
    /// When.
    pub time_ms: TimeMs,
}

impl History {
    /// What came after `after`, from the entries of `user` since then, in order of (time, event id). `None` when one of them
    /// is no event: a merge changes what was there before.
    pub(super) fn of_later(user: &UserKey, after: Seq, rows: Vec<LogRow>, skip: &[String]) -> Option<History> {
        let mut history = History { user: Some(user.clone()), version: after, events: Vec::new() };
        for LogRow { seq, entry, .. } in rows {
            let StoredEntry::Event(Event { id, kind, item, value, time_ms, .. }) = entry else { return None };
            history.version = history.version.max(seq);
            if let Some(item) = item
                && !skip.iter().any(|skipped| skipped == kind.name())
            {
                history.events.push(PastEvent { seq, id, kind, item, value, time_ms });
            }
        }
        Some(history)
    }
}

/// Where a list of events goes on: after this one, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCursor {
    /// Its time.
    pub time_ms: TimeMs,
    /// Its id.
    pub event_id: String,
    /// Its position.
    pub seq: Seq,
}

/// What an upsert of items did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Upserted {
    /// Log position that holds all of it.
    pub seq: Seq,
    /// Items that were new or differed; the others got no log entry.
    pub changed: usize,
}

/// What a deletion of items did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Deleted {
    /// Log position that holds all of it.
    pub seq: Seq,
    /// Ids that were not there.
    pub unknown: Vec<String>,
}

/// What an erasure took away.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Erased {
    /// Log position of the erasure.
    pub seq: Seq,
    /// Events.
    pub events: u64,
    /// Logged slates.
    pub slates: u64,
    /// Every key that was this user: the one asked for and the anonymous ones merged into it.
    pub keys: Vec<UserKey>,
}

/// A user who must not appear in bundles that know the log up to an earlier position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// The erased user's key.
    pub key: KeyHash,
    /// Log position of the erasure: bundles with a later watermark never saw the user.
    pub seq: Seq,
}

/// One answered request, as the slate log keeps it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SlateRecord {
    /// The attribution token.
    pub slate_id: String,
    /// The ranking that it repeats; its own id when it was ranked anew.
    pub ranked_id: String,
    /// Who asked; `None` for an unknown visitor.
    pub user: Option<UserKey>,
    /// The query's `now_ms`.
    pub now_ms: TimeMs,
    /// What else is needed to ask the same again; `rpc/` or `serving` writes and reads it.
    pub query: serde_json::Value,
    /// Log position of the world that answered.
    pub watermark: Seq,
    /// The bundle that answered.
    pub bundle_version: String,
    /// The profile's version.
    pub profile_version: Seq,
    /// The recipe.
    pub variant: String,
    /// Experiments and arms.
    pub arms: Vec<(String, String)>,
    /// What was shown, in order.
    pub items: Vec<SlateRecordItem>,
    /// What the answer had to do without.
    pub degraded: Vec<String>,
    /// Feature rows, for the sampled few. Kept beside the JSON, as bytes: NaN survives.
    #[serde(skip)]
    pub rows: Option<SlateRows>,
}

/// One more answer from a ranking that has a slate of its own in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    /// The attribution token.
    pub slate_id: String,
    /// The slate that it repeats.
    pub ranked_id: Arc<str>,
    /// When.
    pub now_ms: TimeMs,
}

/// One place of a logged slate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlateRecordItem {
    /// The item.
    pub id: String,
    /// Zero-based.
    pub position: u32,
    /// Probability with which exploration put it there.
    pub propensity: f32,
    /// What ordered it.
    pub score: f32,
}

/// Feature rows of a logged slate.
#[derive(Debug, Clone, PartialEq)]
pub struct SlateRows {
    /// Hash of the column names, in order.
    pub columns_hash: u64,
    /// Item ids, one a row.
    pub items: Vec<String>,
    /// Row-major; NaN is unknown. Kept bit for bit.
    pub features: Vec<f32>,
}

/// A bundle that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRecord {
    /// Its version, unique.
    pub version: String,
    /// When it was built.
    pub created_ms: TimeMs,
    /// The bundle that it replaces; empty for none.
    pub parent: String,
    /// Where it lies, relative to the artifacts' URL.
    pub location: String,
    /// Its manifest, as JSON.
    pub manifest: String,
}

/// Which bundle serves, and which one before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Activations {
    /// The bundle that serves; `None` before the first activation.
    pub serving: Option<String>,
    /// Where a rollback goes.
    pub previous: Option<String>,
}

/// What a store holds, for status pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Items that are not deleted.
    pub items: u64,
    /// Users who were upserted.
    pub users: u64,
    /// Events.
    pub events: u64,
    /// Events whose item the catalogue does not know.
    pub events_of_unknown_items: u64,
    /// Logged slates.
    pub slates: u64,
}

/// What a clean-up removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Remembered event ids.
    pub event_ids: u64,
    /// Logged slates.
    pub slates: u64,
    /// Rows of repeated slates, each of many.
    pub repeats: u64,
}
