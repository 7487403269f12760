//! The words of the engine: item, event, profile, query, candidate, slate.
//!
//! Everything here is plain data. It must not know how a request arrived, where an event is stored,
//! or what time it is: `now` comes in with the query.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use crate::attributes::Attributes;

/// Milliseconds since the Unix epoch, UTC.
pub type TimeMs = i64;

/// Milliseconds in a day; item statistics are kept by day.
pub const DAY_MS: i64 = 86_400_000;

/// Position of an entry in the event log; 0 is "before the first entry".
pub type Seq = u64;

/// Row of an item: rows of the bundle first, then the items that came since. Means nothing outside one [`World`].
///
/// [`World`]: crate::world::World
pub type Row = u32;

/// An item as the catalogue knows it; also one line of a bundle's `items.jsonl` and of the import layout.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// UTF-8, 1 to 256 bytes, case-sensitive, never reused.
    pub id: Arc<str>,
    /// Title as shown to people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Year of release, 1 to 9999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub year: Option<u16>,
    /// Genres, in the caller's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub genres: Vec<String>,
    /// Cast, in billing order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cast: Vec<String>,
    /// Directors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directors: Vec<String>,
    /// Free tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// A synopsis or any other text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// Recommended from this moment on; `None` is always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_from_ms: Option<TimeMs>,
    /// Recommended before this moment; `None` is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_until_ms: Option<TimeMs>,
    /// Known but never recommended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// When the catalogue got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_ms: Option<TimeMs>,
    /// Anything else; request filters can test it.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

impl Item {
    /// Whether the item may be recommended at `at`.
    pub fn is_available(&self, at: TimeMs) -> bool {
        !self.hidden
            && self.available_from_ms.is_none_or(|from| from <= at)
            && self.available_until_ms.is_none_or(|until| at < until)
    }
}

/// One entry of the event log, as far as ranking cares.
#[derive(Debug, Clone, PartialEq)]
pub enum LogEntry {
    /// A user did something with an item. The item may be unknown: such an event is ignored until it is known.
    Event {
        /// The item's id.
        item: Arc<str>,
        /// What it means; see [`crate::event::EventPolicy`].
        touch: Touch,
        /// When it happened.
        time_ms: TimeMs,
        /// Where it happened; empty when not said.
        surface: Arc<str>,
    },
    /// An item was added or replaced as a whole.
    Upsert {
        /// The item.
        item: Arc<Item>,
        /// When.
        time_ms: TimeMs,
    },
    /// An item was deleted. It never appears again.
    Delete {
        /// The item's id.
        item: Arc<str>,
    },
    /// A user was erased; the log keeps no more of them than this.
    Forget {
        /// [`id_hash`] of the user's key.
        user_hash: u64,
    },
}

/// What one event means for ranking.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Touch {
    /// Preference: above 0 is positive, below is negative, 0 is neither. Finite.
    pub weight: f32,
    /// The rating, NaN when the event is none.
    pub rating: f32,
    /// Whether the user has consumed the item, so that it is not recommended again.
    pub seen: bool,
    /// Whether it counts as an interaction (an impression does not).
    pub interaction: bool,
}

/// What is known of a user: events in order of (time, event id), oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// The user's id; `None` for an unknown visitor.
    pub user: Option<Arc<str>>,
    /// Log position of the newest entry that is in here; 0 for an empty profile.
    pub version: Seq,
    /// The newest `profile_events_max` events, oldest first.
    pub events: Vec<ProfileEvent>,
    /// Ids of seen items that fell out of `events`, in no order.
    pub seen_before: Vec<Arc<str>>,
}

/// One event of a profile.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileEvent {
    /// The item's id.
    pub item: Arc<str>,
    /// When it happened.
    pub time_ms: TimeMs,
    /// What it means.
    pub touch: Touch,
}

/// What the caller knows of the moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context {
    /// "tv", "phone" ...; empty when unknown.
    pub device: String,
    /// Hour of the user's local day, 0 to 23.
    pub hour: Option<u8>,
    /// Day of the user's local week, 0 = Monday.
    pub weekday: Option<u8>,
    /// ISO 3166-1 alpha-2; empty when unknown.
    pub country: String,
}

/// Which items a slate may hold. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// Has at least one of these; empty is no condition.
    pub genres_any: Vec<String>,
    /// Has none of these.
    pub genres_none: Vec<String>,
    /// Inclusive. An item of unknown year fails when either bound is set.
    pub year_min: Option<u16>,
    /// Inclusive.
    pub year_max: Option<u16>,
    /// Conditions on attributes.
    pub attributes: Vec<AttributeCondition>,
    /// Availability is tested at this moment; `None` is the query's `now`.
    pub available_at_ms: Option<TimeMs>,
}

/// One condition on an attribute. A list attribute passes when one of its elements does.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributeCondition {
    /// The attribute's name.
    pub name: String,
    /// The condition.
    pub test: AttributeTest,
}

/// The test of an [`AttributeCondition`]. Numbers and booleans are compared by their JSON text.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeTest {
    /// Equal to one of these; an item without the attribute fails.
    AnyOf(Vec<String>),
    /// Equal to none of these; an item without the attribute passes.
    NoneOf(Vec<String>),
    /// A number within inclusive bounds; an item without a number there fails.
    Range(f64, f64),
}

/// How much of the answer is to be explained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
pub enum ExplainLevel {
    /// Nothing.
    #[default]
    None,
    /// Reasons that an app can show.
    Reasons,
    /// Sources, features, scores, rules.
    Full,
}

/// What to keep beside the slate, for replay and evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// The feature rows of every ranked candidate.
    pub rows: bool,
    /// The hits of every source.
    pub hits: bool,
}

/// One question to the engine. Holds all that the answer depends on beside profile, world and remote hits.
#[derive(Debug, Clone)]
pub struct Query {
    /// The moment of the request.
    pub now_ms: TimeMs,
    /// Where the app asks; never empty.
    pub surface: Arc<str>,
    /// How many items.
    pub count: usize,
    /// The moment's context.
    pub context: Context,
    /// The caller's filter.
    pub filter: Filter,
    /// Ids that must not appear.
    pub exclude: Vec<Arc<str>>,
    /// [`id_hash`] of the items that earlier pages have shown.
    pub shown: Vec<u64>,
    /// The recipe.
    pub variant: Arc<Variant>,
    /// Seed for exploration; the server draws it.
    pub seed: u64,
    /// 1 is full effort; the server lowers it when little time is left: budgets are multiplied by it. Within (0, 1].
    pub effort: f32,
    /// How much to explain.
    pub explain: ExplainLevel,
    /// Items for which to say why they are missing.
    pub explain_missing: Vec<Arc<str>>,
    /// Rank exactly these instead of what the sources find.
    pub candidates: Option<Vec<Arc<str>>>,
    /// Seen items may appear (only RankItems asks for that).
    pub include_seen: bool,
    /// What to keep beside the slate.
    pub record: Record,
}

impl Query {
    /// A query with nothing special about it.
    pub fn new(now_ms: TimeMs, surface: &str, count: usize, variant: Arc<Variant>) -> Query {
        Query {
            now_ms,
            surface: surface.into(),
            count,
            context: Context::default(),
            filter: Filter::default(),
            exclude: Vec::new(),
            shown: Vec::new(),
            variant,
            seed: 0,
            effort: 1.0,
            explain: ExplainLevel::None,
            explain_missing: Vec::new(),
            candidates: None,
            include_seen: false,
            record: Record::default(),
        }
    }
}

/// A named recipe: which sources with which weights, which ranker. Comes from the config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Sources by name; a source that is not named here is not asked.
    pub sources: std::collections::BTreeMap<String, SourcePlan>,
    /// Whether the bundle's ranker orders the candidates; else the blend score does.
    pub ranker: bool,
    /// Weights of the ranker's heads by name; a head that is not named weighs 0. Empty: the first head alone.
    #[serde(default)]
    pub head_weights: std::collections::BTreeMap<String, f32>,
    /// At most this many candidates, best blend score first, are ranked.
    pub candidates_max_items: usize,
}

/// What a variant asks of one source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePlan {
    /// Weight in the blend; finite, not negative.
    pub weight: f32,
    /// At most this many hits.
    pub budget_items: usize,
}

/// Hits of a source that lives outside the process, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceHits {
    /// The source's name.
    pub source: String,
    /// Item ids and scores, best first.
    pub hits: Vec<(Arc<str>, f32)>,
}

/// The ordered answer, with all that its log and its explanation need.
#[derive(Debug, Clone, Default)]
pub struct Slate {
    /// Best first.
    pub items: Vec<SlateItem>,
    /// What had to be left out.
    pub degraded: Vec<Degradation>,
    /// How many items each stage left.
    pub funnel: Funnel,
    /// Answers to `explain_missing`, in order.
    pub missing: Vec<Missing>,
    /// When fewer items than asked for: the stage that ran dry, in plain words.
    pub short_reason: Option<String>,
    /// The feature rows, when the query asked for them.
    pub rows: Option<Rows>,
    /// The hits, when the query asked for them: (source, item ids best first).
    pub hits: Vec<(&'static str, Vec<Arc<str>>)>,
    /// Whether the ranker ordered it (else the blend did).
    pub ranked: bool,
}

/// One item of a slate.
#[derive(Debug, Clone)]
pub struct SlateItem {
    /// The item's id.
    pub id: Arc<str>,
    /// What ordered it: the ranker's score, or the blend score.
    pub score: f32,
    /// The blend score.
    pub blend: f32,
    /// Probability with which exploration put it here; 1 when there was none.
    pub propensity: f32,
    /// Reasons for people, strongest first; empty below [`ExplainLevel::Reasons`].
    pub reasons: Vec<Reason>,
    /// All of it; `None` below [`ExplainLevel::Full`].
    pub explanation: Option<Explanation>,
}

/// A reason that an app can show.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// "because_you_liked", "similar_users", "similar_content", "follows", "popular", "new", "for_you".
    pub kind: &'static str,
    /// The item of the profile that links to it.
    pub item: Option<Arc<str>>,
    /// The source that says so.
    pub source: &'static str,
}

/// Why an item is where it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explanation {
    /// Sources that retrieved it: (name, one-based rank, score).
    pub sources: Vec<(&'static str, u32, f32)>,
    /// Every feature column by name; NaN is unknown.
    pub features: Vec<(&'static str, f32)>,
    /// The blend score.
    pub blend: f32,
    /// The ranker's outputs by name.
    pub heads: Vec<(String, f32)>,
    /// Rules that changed it, in order.
    pub rules: Vec<String>,
}

/// Why an item is not in the slate.
#[derive(Debug, Clone, PartialEq)]
pub struct Missing {
    /// The item's id.
    pub id: Arc<str>,
    /// "catalogue", "retrieval", "filter:seen", "filter:availability", "filter:request", "filter:excluded",
    /// "candidate_limit", "rank", "rules", or "none" when it is in the slate.
    pub stage: &'static str,
    /// The same in a sentence.
    pub detail: String,
    /// What is known of it up to that stage.
    pub explanation: Option<Explanation>,
}

/// One thing that the answer had to do without.
#[derive(Debug, Clone, PartialEq)]
pub struct Degradation {
    /// "ranker", "source:embedding", "stale_profile", "cache", "effort" ...
    pub what: String,
    /// Why, in plain words, without secrets.
    pub why: String,
}

/// How many items each stage left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Funnel {
    /// (source, hits, of them in the slate).
    pub sources: Vec<(&'static str, u32, u32)>,
    /// Distinct candidates of all sources.
    pub candidates: u32,
    /// After the final filter.
    pub eligible: u32,
    /// Scored by the ranker.
    pub ranked: u32,
}

/// Feature rows of the ranked candidates, in an order of no meaning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Item ids.
    pub items: Vec<Arc<str>>,
    /// Row-major, `items.len()` x number of feature columns; NaN is unknown.
    pub features: Vec<f32>,
    /// Blend scores.
    pub blend: Vec<f32>,
    /// Final scores.
    pub scores: Vec<f32>,
}

/// A stable 64-bit hash of an id (FNV-1a): page tokens carry it instead of the id. Two ids that collide cost one item of one page.
pub fn id_hash(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
