//! From a question to an answer: the path of one request around the engine.
//!
//! Variant, freshness, profile, cache, compute, record, in this order; [`Desk::answer`] reads like that (`caching` is the
//! part around the ranking). It must not know the wire: the caller encodes the answer and adds what differs on a
//! repeated one.

mod caching;
mod flight;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_engine::recommend::{Engine, Stage};
use marquee_engine::types::{
    Context, Degradation, ExplainLevel, Filter, Profile, Query, Record, Rows, Slate, TimeMs, Variant, id_hash,
};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

pub use flight::Flights;

use crate::admission;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::compute::{Done, Pool, Room};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::log::Mark;
use crate::events::quarantine;
use crate::ids::Ids;
use crate::profile::{Profiles, Standing};
use crate::serving::{Live, Serving};
use crate::slate_log::{LoggedQuery, SlateLog};
use crate::store::{Erased, SlateRecord, SlateRecordItem, SlateRows, Store, UserKey};
use crate::telemetry::Metrics;
use crate::token::Page;

/// What was left out for lack of time. Such an answer is not repeated; what the bundle lacks, it lacks next time, too.
const EFFORT: &str = "effort";

/// A question, checked but for what depends on the present state.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What kind of slate.
    pub kind: Kind,
    /// Who; `None` is an unknown visitor.
    pub user: Option<UserKey>,
    /// The session; empty when not said.
    pub session: String,
    /// Where the app asks; never empty.
    pub surface: Arc<str>,
    /// How many items.
    pub count: usize,
    /// The moment's context.
    pub context: Context,
    /// Which items.
    pub filter: Filter,
    /// Ids that must not appear.
    pub exclude: Vec<Arc<str>>,
    /// The variant by name; `None`: as assigned.
    pub variant: Option<String>,
    /// How much to explain.
    pub explain: ExplainLevel,
    /// Items for which to say why they are missing.
    pub explain_missing: Vec<Arc<str>>,
    /// The answer reflects at least this write.
    pub fresh: Option<Mark>,
    /// Rather no answer than a stale one.
    pub require_fresh: bool,
    /// From an earlier answer; empty is the first page.
    pub page_token: String,
    /// Rank anew.
    pub bypass_cache: bool,
    /// Everything that is asked but the count and the page, as bytes; see [`Kind::Recommend`].
    pub question: Vec<u8>,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// When the call arrived, and when this question was made of it.
    pub received: Option<Instant>,
    /// The latter.
    pub decoded: Instant,
}

impl Ask {
    /// What it asks of the threads that rank.
    fn work(&self) -> admission::Kind {
        match &self.kind {
            Kind::Recommend => admission::Kind::Recommend,
            Kind::Rank { .. } => admission::Kind::Rank,
            Kind::Similar { .. } => admission::Kind::Similar,
        }
    }
}

/// What kind of slate.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// What the sources find. The only kind with pages and cache.
    Recommend,
    /// The caller's candidates in the ranker's order.
    Rank {
        /// The candidates.
        items: Vec<Arc<str>>,
        /// Seen ones too.
        include_seen: bool,
    },
    /// Items like these.
    Similar {
        /// These.
        items: Vec<Arc<str>>,
    },
}

/// How the cache took part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// Ranked now; kept if nothing was missing.
    Miss,
    /// A repeated ranking under a new slate id.
    Hit,
    /// The cache was not asked.
    Bypass,
}

impl CacheStatus {
    /// Its name in metrics and metadata.
    pub fn name(self) -> &'static str {
        match self {
            CacheStatus::Miss => "miss",
            CacheStatus::Hit => "hit",
            CacheStatus::Bypass => "bypass",
        }
    }
}

/// A slate that was ranked now.
#[derive(Debug)]
pub struct Answer {
    /// The attribution token.
    pub slate_id: String,
    /// The slate; `degraded` holds what the server had to do without, too.
    pub slate: Slate,
    /// Empty when there is no further page.
    pub next_page_token: String,
    /// The bundle that ranked; empty for none.
    pub bundle_version: String,
    /// The recipe.
    pub variant: String,
    /// Miss or bypass.
    pub cache: CacheStatus,
}

/// An encoded answer and what travels beside it.
#[derive(Debug)]
pub struct Reply {
    /// The encoded answer. Of a repeated one the slate id is the first ranking's: the caller appends the new one.
    pub body: Bytes,
    /// The attribution token.
    pub slate_id: String,
    /// What is told beside the body.
    pub told: Told,
    /// How the cache took part.
    pub cache: CacheStatus,
    /// What this answer had to do without that is not in its body: the next one that repeats it may have it.
    pub degraded: Option<Degradation>,
}

/// Makes the bytes of a fresh answer.
pub type Encode = fn(&Answer) -> Bytes;

/// What is told beside an answer; cheap to clone. UTF-8.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The recipe.
    pub variant: Bytes,
    /// The bundle that ranked; empty for none.
    pub bundle_version: Bytes,
}

/// Everything that answering needs.
pub struct Desk {
    /// The configuration.
    pub config: Arc<Config>,
    /// What serves.
    pub live: Arc<Live>,
    /// Users' profiles.
    pub profiles: Arc<Profiles>,
    /// Threads that rank.
    pub pool: Pool,
    /// Encoded slates, and profiles that processes share.
    pub cache: Arc<Cache>,
    /// Rankings that equal questions wait for.
    pub flights: Flights,
    /// Room for rankings that replace old slates.
    pub refreshes: Arc<Semaphore>,
    /// Where answers are recorded.
    pub slate_log: SlateLog,
    /// What time it is.
    pub clock: Clock,
    /// Slate ids and seeds.
    pub ids: Ids,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// What is settled before anything is looked up.
struct Terms {
    variant: Arc<Variant>,
    page: Page,
    now_ms: TimeMs,
    degraded: Vec<Degradation>,
}

/// What one question is answered from.
struct Situation {
    serving: Arc<Serving>,
    profile: Arc<Profile>,
    terms: Terms,
    /// For the ranking, if it has some already.
    room: Option<Room>,
}

impl Desk {
    /// Answers from the caches or ranks.
    ///
    /// # Errors
    /// A bad variant or page token; not fresh when that was asked for; the queue is full.
    pub async fn answer(self: &Arc<Self>, ask: Ask, encode: Encode) -> Result<Reply> {
        let terms = self.terms(&ask).await?;
        // What this process has is given without any wait.
        if let Some(reply) = self.answer_near(&ask, &terms, encode) {
            return Ok(reply);
        }
        // What only other answers need is behind a pointer, so that a repeated one does not move it about.
        Box::pin(self.answer_far(ask, terms, encode)).await
    }

    /// Ranks, past the cache: for kinds that are never repeated.
    ///
    /// # Errors
    /// As [`Desk::answer`].
    pub async fn answer_anew(&self, ask: Ask) -> Result<Answer> {
        let terms = self.terms(&ask).await?;
        let mut far = self.look_far(&ask, terms).await?;
        let profile = self.unpack(&ask, &mut far)?;
        far.terms.degraded.extend(far.outage);
        let situation = Situation { serving: far.serving, profile, terms: far.terms, room: far.room };
        let (answer, record) = self.rank(&ask, situation, CacheStatus::Bypass).await?;
        self.save(far.unsaved);
        if let Some(record) = record {
            self.slate_log.put(record);
        }
        Ok(answer)
    }

    /// Erases a user from everything: store and slate log, cached slates and profiles, refused rows of imports.
    ///
    /// # Errors
    /// The store or the quarantine folder cannot be written; asking again finishes the work.
    pub async fn forget(&self, key: &UserKey, store: &dyn Store) -> Result<Erased> {
        // Slates that still wait to be written would come back after the erasure.
        self.slate_log.flush().await;
        let erased = store.forget(key, self.clock.now_ms()).await?;
        let keys: Vec<UserKey> = erased.keys.iter().chain([key]).cloned().collect();
        self.profiles.erase(&keys, erased.seq);
        for key in &keys {
            // What stays in Redis is never shown: every process knows from the log that it is older than the erasure.
            if let Err(error) = self.cache.purge_user(key).await {
                tracing::warn!(
                    error = error.detail(),
                    "an erased user stays in redis until cache.redis_ttl_ms is over"
                );
            }
        }
        let folder = self.config.events.quarantine_folder.clone();
        let erase = move || quarantine::erase(Path::new(&folder), &keys);
        match tokio::task::spawn_blocking(erase).await {
            Ok(Ok(_)) => Ok(erased),
            Ok(Err(error)) => Err(Error::internal("erasing refused rows; ask again", error)),
            Err(error) => Err(Error::internal("erasing refused rows; ask again", error)),
        }
    }

    async fn terms(&self, ask: &Ask) -> Result<Terms> {
        let variant = self.variant(ask)?;
        let page = match ask.page_token.as_str() {
            "" => Page::default(),
            token => Page::read(token, identity(ask), self.config.limits.page_depth_max_items)?,
        };
        let mut degraded = Vec::new();
        if let Some(mark) = &ask.fresh
            && !self.live.reach(mark, self.fresh_wait(ask)).await
        {
            let waited = self.config.ranking.fresh_wait_ms;
            let why = format!("the write of write_token was not visible within {waited} ms (ranking.fresh_wait_ms)");
            if ask.require_fresh {
                return Err(Error::FailedPrecondition(why));
            }
            degraded.push(Degradation { what: "stale_profile".to_owned(), why });
        }
        Ok(Terms { variant, page, now_ms: self.clock.now_ms(), degraded })
    }

    /// What a profile that may not be up to date means for the answer.
    fn admit(&self, ask: &Ask, standing: Standing, terms: &mut Terms) -> Result<()> {
        let (what, why) = match standing {
            Standing::Fresh => return Ok(()),
            Standing::Stale => {
                ("stale_profile", "the store does not answer; the profile may lack the user's latest events")
            }
            Standing::Missing => {
                ("profile", "the store does not answer, and no cache holds this profile: ranked as for a new user")
            }
        };
        if ask.require_fresh {
            return Err(Error::FailedPrecondition(why.to_owned()));
        }
        terms.degraded.push(Degradation { what: what.to_owned(), why: why.to_owned() });
        Ok(())
    }

    fn variant(&self, ask: &Ask) -> Result<Arc<Variant>> {
        let Some(name) = &ask.variant else {
            return Ok(self.config.variants["default"].clone());
        };
        if !self.config.server.allow_variant_override {
            let why = "choosing a variant is switched off here (server.allow_variant_override)";
            return Err(Error::PermissionDenied(why.to_owned()));
        }
        self.config.variants.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.config.variants.keys().map(String::as_str).collect();
            Error::invalid("variant", format!("must be one of {}", known.join(", ")))
        })
    }

    /// Half of the caller's time at most: the rest is for ranking.
    fn fresh_wait(&self, ask: &Ask) -> Duration {
        let most = Duration::from_millis(self.config.ranking.fresh_wait_ms);
        ask.deadline.map_or(most, |deadline| most.min(deadline.saturating_duration_since(Instant::now()) / 2))
    }

    /// The answer, and its record where slates are logged.
    async fn rank(&self, ask: &Ask, situation: Situation, cache: CacheStatus) -> Result<(Answer, Option<SlateRecord>)> {
        let Situation { serving, profile, terms: Terms { variant, page, now_ms, mut degraded }, room } = situation;
        if let Some(received) = ask.received {
            self.metrics.stage("decode", (ask.decoded - received).as_secs_f64());
        }
        self.metrics.stage("situation", ask.decoded.elapsed().as_secs_f64());
        let wait = room.as_ref().map_or_else(|| self.pool.expected_wait(), Room::expected_wait);
        let (effort, hurry) = self.effort(ask.deadline, wait);
        degraded.extend(hurry);
        let depth_left = self.config.limits.page_depth_max_items.saturating_sub(page.shown.len());
        let count = if ask.kind == Kind::Recommend { ask.count.min(depth_left) } else { ask.count };
        let (candidates, include_seen, similar_to) = match &ask.kind {
            Kind::Recommend => (None, false, Vec::new()),
            Kind::Rank { items, include_seen } => (Some(items.clone()), *include_seen, Vec::new()),
            Kind::Similar { items } => (None, false, items.clone()),
        };
        let logs = self.slate_log.is_on();
        let query = Query {
            now_ms,
            surface: ask.surface.clone(),
            count,
            context: ask.context.clone(),
            filter: ask.filter.clone(),
            exclude: ask.exclude.clone(),
            shown: page.shown.clone(),
            variant,
            seed: self.ids.seed(),
            effort,
            explain: ask.explain,
            explain_missing: candidates.clone().unwrap_or_else(|| ask.explain_missing.clone()),
            candidates,
            include_seen,
            record: Record { rows: logs && self.ids.chance(self.config.slate_log.sample_rows), hits: false },
        };
        let logged = logs.then(|| LoggedQuery::new(&query, similar_to.clone()));
        let variant = if similar_to.is_empty() { query.variant.name.clone() } else { "similar".to_owned() };
        let state = (serving.clone(), profile.clone());
        let job = move || compute(&state.0, &state.1, &query, &similar_to);
        let Done { value: (mut slate, times), waited } = match room {
            Some(room) => self.pool.run_in(room, job).await?,
            None => self.pool.run(ask.work(), ask.deadline, job).await?,
        };
        self.metrics.stage("queue", waited.as_secs_f64());
        degraded.append(&mut slate.degraded);
        slate.degraded = degraded;
        self.observe(&slate, &times, &variant);
        let answer = Answer {
            slate_id: self.ids.slate(now_ms),
            next_page_token: self.next_page(ask, &page, &slate, count),
            bundle_version: serving.engine.bundle().manifest().version.clone(),
            variant,
            cache,
            slate,
        };
        let record = |logged| record(&answer, logged, ask, page.shown.len(), (&serving, &profile), now_ms);
        let record = logged.map(record);
        Ok((answer, record))
    }

    /// Less effort when little time is left, in steps so that it can be told and logged exactly.
    fn effort(&self, deadline: Option<Instant>, wait: Duration) -> (f32, Option<Degradation>) {
        let full = Duration::from_millis(self.config.ranking.effort_full_ms);
        let left =
            deadline.map_or(full, |deadline| deadline.saturating_duration_since(Instant::now()).saturating_sub(wait));
        if left >= full {
            return (1.0, None);
        }
        let steps = (left.as_secs_f32() / full.as_secs_f32() * 16.0).floor().clamp(1.0, 16.0);
        let why =
            format!("{} ms were left; sources were asked for {} % of their budgets", left.as_millis(), steps * 6.25);
        (steps / 16.0, Some(Degradation { what: EFFORT.to_owned(), why }))
    }

    /// A further page, when this one is full and the depth is not used up.
    fn next_page(&self, ask: &Ask, page: &Page, slate: &Slate, count: usize) -> String {
        let shown = page.shown.len() + slate.items.len();
        let is_last = slate.items.len() < count || count == 0 || shown >= self.config.limits.page_depth_max_items;
        if ask.kind != Kind::Recommend || is_last {
            return String::new();
        }
        let shown = page.shown.iter().copied().chain(slate.items.iter().map(|item| id_hash(&item.id))).collect();
        Page { shown }.token(identity(ask))
    }

    fn observe(&self, slate: &Slate, times: &[(Stage, Duration)], variant: &str) {
        for (stage, time) in times {
            self.metrics.stage(stage.name(), time.as_secs_f64());
        }
        for (source, candidates, survivors) in &slate.funnel.sources {
            self.metrics.source(source, *candidates, *survivors);
        }
        for part in &slate.degraded {
            self.metrics.degraded(&part.what);
        }
        self.metrics.slate(variant);
    }
}

/// The engine's turn, on a thread of the pool.
fn compute(
    serving: &Serving,
    profile: &Profile,
    query: &Query,
    similar_to: &[Arc<str>],
) -> (Slate, Vec<(Stage, Duration)>) {
    if !similar_to.is_empty() {
        return (serving.engine.similar(similar_to, query, profile, &serving.world), Vec::new());
    }
    let mut times = Vec::with_capacity(Stage::ALL.len());
    let mut last = Instant::now();
    let mut observer = |stage| {
        let now = Instant::now();
        times.push((stage, now - last));
        last = now;
    };
    let slate = serving.engine.recommend_observed(query, profile, &serving.world, &[], &mut observer);
    (slate, times)
}

fn record(
    answer: &Answer,
    logged: LoggedQuery,
    ask: &Ask,
    first_position: usize,
    (serving, profile): (&Serving, &Profile),
    now_ms: TimeMs,
) -> SlateRecord {
    let item = |(at, item): (usize, &marquee_engine::types::SlateItem)| SlateRecordItem {
        id: item.id.to_string(),
        position: u32::try_from(first_position + at).unwrap_or(u32::MAX),
        propensity: item.propensity,
        score: item.score,
    };
    SlateRecord {
        slate_id: answer.slate_id.clone(),
        ranked_id: answer.slate_id.clone(),
        user: ask.user.clone(),
        now_ms,
        query: serde_json::to_value(logged).expect("a logged query has only string keys"),
        watermark: serving.world.watermark(),
        bundle_version: answer.bundle_version.clone(),
        profile_version: profile.version,
        variant: answer.variant.clone(),
        arms: Vec::new(),
        items: answer.slate.items.iter().enumerate().map(item).collect(),
        degraded: answer.slate.degraded.iter().map(|part| part.what.clone()).collect(),
        rows: answer.slate.rows.as_ref().map(rows),
    }
}

fn rows(rows: &Rows) -> SlateRows {
    SlateRows {
        columns_hash: id_hash(&Engine::columns().join("\n")),
        items: rows.items.iter().map(ToString::to_string).collect(),
        features: rows.features.clone(),
    }
}

/// What binds a page token to its question: the same in every process.
fn identity(ask: &Ask) -> u64 {
    u64::from_le_bytes(Sha256::digest(&ask.question)[..8].try_into().expect("eight of thirty-two bytes"))
}
