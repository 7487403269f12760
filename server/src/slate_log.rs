//! The slate log: what was answered, to whom, from what state. Off the request's path, bounded, never waited for.
//!
//! It keeps all that replay needs to ask the engine the same question again ([`LoggedQuery`]). When the queue is full
//! a slate is dropped and counted: an answer never waits for its record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use marquee_engine::types::{
    AttributeCondition, AttributeTest, Context, ExplainLevel, Filter, Query, Record, TimeMs, Variant,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config;
use crate::store::{Repeat, SlateRecord, Store};
use crate::telemetry::Metrics;

/// Slates in one write, at most.
const BATCH_MAX_SLATES: usize = 256;
/// How long a repeated slate waits for others, so that they are written together.
const REPEATS_EVERY: Duration = Duration::from_millis(200);

enum Message {
    Slate(Box<SlateRecord>),
    Flush(oneshot::Sender<()>),
}

/// Takes records and writes them to the store in batches.
pub struct SlateLog {
    queue: Option<mpsc::Sender<Message>>,
    repeats: Arc<Mutex<Vec<Repeat>>>,
    repeats_max: usize,
    metrics: Arc<Metrics>,
}

impl SlateLog {
    /// Starts the writer. The handle ends when the log is dropped and everything queued is written.
    pub fn start(
        config: &config::SlateLog,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> (SlateLog, JoinHandle<()>) {
        let (queue, slates) = mpsc::channel(config.queue_max_slates.max(1));
        let repeats = Arc::default();
        let writer = tokio::spawn(write(slates, Arc::clone(&repeats), store, metrics.clone()));
        let (queue, repeats_max) = (config.enabled.then_some(queue), config.queue_max_repeats);
        (SlateLog { queue, repeats, repeats_max, metrics }, writer)
    }

    /// Whether anything is kept: if not, no record need be made.
    pub fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands a record over; dropped and counted when the queue is full.
    pub fn put(&self, record: SlateRecord) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(Message::Slate(Box::new(record))).is_err() {
            self.metrics.slate_log_dropped.inc();
        }
    }

    /// Hands over an answer that repeats a logged slate; dropped and counted when too many wait.
    pub fn repeat(&self, repeat: Repeat) {
        if self.queue.is_none() {
            return;
        }
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        if repeats.len() < self.repeats_max {
            repeats.push(repeat);
        } else {
            drop(repeats);
            self.metrics.slate_log_dropped.inc();
        }
    }

    /// Waits until everything that was handed over before is written (or given up).
    pub async fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, flushed) = oneshot::channel();
        if queue.send(Message::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

async fn write(
    mut queue: mpsc::Receiver<Message>,
    repeats: Arc<Mutex<Vec<Repeat>>>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
) {
    let mut messages = Vec::with_capacity(BATCH_MAX_SLATES);
    let mut ticker = tokio::time::interval(REPEATS_EVERY);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let received = tokio::select! {
            received = queue.recv_many(&mut messages, BATCH_MAX_SLATES) => Some(received),
            _ = ticker.tick() => None,
        };
        let mut waiting = Vec::new();
        let slates: Vec<SlateRecord> = messages
            .drain(..)
            .filter_map(|message| match message {
                Message::Slate(slate) => Some(*slate),
                Message::Flush(done) => {
                    waiting.push(done);
                    None
                }
            })
            .collect();
        let count = slates.len() as u64;
        if count > 0
            && let Err(error) = store.put_slates(slates).await
        {
            metrics.slate_log_dropped.inc_by(count);
            tracing::warn!(slates = count, error = error.detail(), "slates are not recorded");
        }
        // Slates alone do not take the repeats with them: those wait for the next tick.
        if received.is_none_or(|received| received == 0) || !waiting.is_empty() {
            write_repeats(&repeats, &*store, &metrics).await;
        }
        for done in waiting {
            let _ = done.send(());
        }
        if received == Some(0) {
            return;
        }
    }
}

async fn write_repeats(repeats: &Mutex<Vec<Repeat>>, store: &dyn Store, metrics: &Metrics) {
    let repeats = {
        let mut waiting = repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Vec::with_capacity(waiting.len());
        std::mem::replace(&mut *waiting, room)
    };
    let count = repeats.len() as u64;
    if count > 0
        && let Err(error) = store.put_repeats(repeats).await
    {
        metrics.slate_log_dropped.inc_by(count);
        tracing::warn!(slates = count, error = error.detail(), "repeated slates are not recorded");
    }
}

/// How the question was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoggedKind {
    /// `Engine::recommend`, with or without the caller's candidates.
    Recommend,
    /// `Engine::similar` to [`LoggedQuery::similar_to`].
    Similar,
}

/// A [`Query`] as the slate log keeps it: everything but the moment, which is the record's `now_ms`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoggedQuery {
    /// How the question was put.
    pub kind: LoggedKind,
    surface: String,
    count: usize,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hour: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weekday: Option<u8>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    country: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filter: Option<LoggedFilter>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<Arc<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shown: Vec<u64>,
    /// The whole recipe: the config may be another one by the time of a replay.
    variant: Variant,
    seed: u64,
    effort: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    candidates: Option<Vec<Arc<str>>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    include_seen: bool,
    /// The items that `similar` started from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub similar_to: Vec<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoggedFilter {
    genres_any: Vec<String>,
    genres_none: Vec<String>,
    year_min: Option<u16>,
    year_max: Option<u16>,
    attributes: Vec<LoggedCondition>,
    available_at_ms: Option<TimeMs>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoggedCondition {
    name: String,
    test: LoggedTest,
}

/// Bounds that are open are `None`: JSON knows no infinity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoggedTest {
    AnyOf(Vec<String>),
    NoneOf(Vec<String>),
    Range(Option<f64>, Option<f64>),
}

impl LoggedQuery {
    /// What is kept of a query.
    pub fn new(query: &Query, similar_to: Vec<Arc<str>>) -> LoggedQuery {
        let is_similar = !similar_to.is_empty();
        LoggedQuery {
            kind: if is_similar { LoggedKind::Similar } else { LoggedKind::Recommend },
            surface: query.surface.to_string(),
            count: query.count,
            device: query.context.device.clone(),
            hour: query.context.hour,
            weekday: query.context.weekday,
            country: query.context.country.clone(),
            filter: (query.filter != Filter::default()).then(|| LoggedFilter::new(&query.filter)),
            exclude: query.exclude.clone(),
            shown: query.shown.clone(),
            variant: (*query.variant).clone(),
            seed: query.seed,
            effort: query.effort,
            candidates: query.candidates.clone(),
            include_seen: query.include_seen,
            similar_to,
        }
    }

    /// The query again, without explanation and with nothing recorded.
    pub fn query(self, now_ms: TimeMs) -> Query {
        Query {
            now_ms,
            surface: self.surface.into(),
            count: self.count,
            context: Context { device: self.device, hour: self.hour, weekday: self.weekday, country: self.country },
            filter: self.filter.map(LoggedFilter::filter).unwrap_or_default(),
            exclude: self.exclude,
            shown: self.shown,
            variant: Arc::new(self.variant),
            seed: self.seed,
            effort: self.effort,
            explain: ExplainLevel::None,
            explain_missing: Vec::new(),
            candidates: self.candidates,
            include_seen: self.include_seen,
            record: Record::default(),
        }
    }
}

impl LoggedFilter {
    fn new(filter: &Filter) -> LoggedFilter {
        let condition = |condition: &AttributeCondition| LoggedCondition {
            name: condition.name.clone(),
            test: match &condition.test {
                AttributeTest::AnyOf(values) => LoggedTest::AnyOf(values.clone()),
                AttributeTest::NoneOf(values) => LoggedTest::NoneOf(values.clone()),
                AttributeTest::Range(min, max) => {
                    LoggedTest::Range(min.is_finite().then_some(*min), max.is_finite().then_some(*max))
                }
            },
        };
        LoggedFilter {
            genres_any: filter.genres_any.clone(),
            genres_none: filter.genres_none.clone(),
            year_min: filter.year_min,
            year_max: filter.year_max,
            attributes: filter.attributes.iter().map(condition).collect(),
            available_at_ms: filter.available_at_ms,
        }
    }

    fn filter(self) -> Filter {
        let condition = |condition: LoggedCondition| AttributeCondition {
            name: condition.name,
            test: match condition.test {
                LoggedTest::AnyOf(values) => AttributeTest::AnyOf(values),
                LoggedTest::NoneOf(values) => AttributeTest::NoneOf(values),
                LoggedTest::Range(min, max) => {
                    AttributeTest::Range(min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY))
                }
            },
        };
        Filter {
            genres_any: self.genres_any,
            genres_none: self.genres_none,
            year_min: self.year_min,
            year_max: self.year_max,
            attributes: self.attributes.into_iter().map(condition).collect(),
            available_at_ms: self.available_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_comes_back_from_its_json() {
        let variant = crate::config::default_variants()["default"].clone();
        let mut query = Query::new(7, "home", 12, variant);
        query.context = Context { device: "tv".to_owned(), hour: Some(3), weekday: None, country: "FR".to_owned() };
        query.filter.genres_any = vec!["drama".to_owned()];
        query.filter.attributes = vec![
            AttributeCondition { name: "a".to_owned(), test: AttributeTest::Range(0.1, f64::INFINITY) },
            AttributeCondition { name: "b".to_owned(), test: AttributeTest::NoneOf(vec!["x".to_owned()]) },
        ];
        query.exclude = vec!["e".into()];
        query.shown = vec![u64::MAX, 1];
        query.seed = u64::MAX - 1;
        query.effort = 0.359_375;
        query.candidates = Some(vec!["c".into()]);
        query.include_seen = true;
        let json = serde_json::to_value(LoggedQuery::new(&query, Vec::new())).unwrap();
        let back = serde_json::from_value::<LoggedQuery>(json).unwrap().query(7);
        assert_eq!(format!("{back:?}"), format!("{query:?}"));
    }
}
