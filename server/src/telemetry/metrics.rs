//! Every metric there is, by name. Adding one is a field and a line in [`Metrics::new`].

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::process::Process;

/// Upper bounds of latency buckets, in seconds: 50 us to 10 s, tight around a few milliseconds.
const LATENCY_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
];

/// Upper bounds of count buckets.
const COUNTS: [f64; 14] =
    [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];

/// Methods of calls: those of our services, and what else there is. A call that is refused before it is routed must
/// not make up a label.
pub const METHODS: [&str; 23] = [
    "Recommend",
    "RecommendBatch",
    "SimilarItems",
    "RankItems",
    "RecordEvents",
    "StreamEvents",
    "UpsertItems",
    "DeleteItems",
    "GetItems",
    "ListItems",
    "UpsertUsers",
    "GetUser",
    "ListEvents",
    "MergeUsers",
    "ForgetUser",
    "ListBundles",
    "ActivateBundle",
    "RollbackBundle",
    "GetStatus",
    "PurgeCache",
    "Health",
    "Reflection",
    "unknown",
];

/// Stages of a ranked answer, in order: those of the engine between what comes before and after it.
const STAGES: [&str; 11] =
    ["decode", "situation", "queue", "profile", "retrieve", "blend", "features", "rank", "slate", "encode", "record"];

/// The one label of a family, from a set that we choose: a method, a stage, a source, an outcome.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Label {
    /// What it is.
    pub name: String,
}

impl Label {
    /// That label.
    pub fn new(name: &str) -> Label {
        Label { name: name.to_owned() }
    }
}

/// A call's method and status code.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct CallLabel {
    /// `Recommend`
    pub method: String,
    /// `OK`, `INVALID_ARGUMENT` ...
    pub code: String,
}

type Counters = Family<Label, Counter>;
type Histograms = Family<Label, Histogram, fn() -> Histogram>;

/// Members of a family whose names are known beforehand, so that an update on the hot path looks nothing up. A name
/// gets its line when it is first used: what never happened has none.
struct Known<T> {
    names: Vec<&'static str>,
    made: Vec<OnceLock<T>>,
}

impl<T: Clone> Known<T> {
    fn new(names: impl IntoIterator<Item = &'static str>) -> Known<T> {
        let names: Vec<&'static str> = names.into_iter().collect();
        Known { made: names.iter().map(|_| OnceLock::new()).collect(), names }
    }

    /// The member of that name, made when it is first asked for; `None` for a name that is not known.
    fn get(&self, name: &str, make: impl FnOnce() -> T) -> Option<&T> {
        // The same text mostly is the same constant.
        let place = self.names.iter().position(|known| std::ptr::eq(*known, name));
        let place = place.or_else(|| self.names.iter().position(|known| *known == name))?;
        Some(self.made[place].get_or_init(make))
    }
}

/// Every metric of one server. Cheap to update; share it by `Arc`.
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabel, Counter>,
    call_seconds: Histograms,
    stage_seconds: Histograms,
    source_candidates: Histograms,
    source_survivors: Histograms,
    /// Counter of OK answers and histogram of a method.
    ok_calls: Known<(Counter, Histogram)>,
    known_stages: Known<Histogram>,
    known_sources: Known<(Histogram, Histogram)>,
    known_cache: Known<Counter>,
    known_profiles: Known<Counter>,
    known_slates: Known<Counter>,
    process: Process,
    degraded: Counters,
    slates: Counters,
    events: Counters,
    /// Events of items that the catalogue does not know.
    pub events_of_unknown_items: Counter,
    cache: Counters,
    profiles: Counters,
    cache_refreshes: Counters,
    /// Answers that took the ranking of an equal question which came just before.
    pub cache_joined: Counter,
    redis_lookups: Counters,
    redis_errors: Counters,
    redis_seconds: Histograms,
    known_lookups: Known<Counter>,
    known_round_trips: Known<Histogram>,
    /// 1 while Redis is used; 0 while it is left alone, or when there is none.
    pub redis_up: Gauge,
    /// 1 while profiles are read from the store; 0 while it is left alone.
    pub store_reads_up: Gauge,
    /// Calls that run now.
    pub in_flight: Gauge,
    shed: Counters,
    shed_seconds: Histogram,
    /// Time of one commit of the store, fsync included.
    pub store_commit_seconds: Histogram,
    /// Log entries, slates and other rows in one commit.
    pub store_commit_entries: Histogram,
    /// Batches that the store had to write again.
    pub store_retries: Counter,
    /// Position of the newest log entry.
    pub log_end: Gauge,
    /// Log position of the world that answers.
    pub watermark: Gauge,
    /// How often the store was found without entries of the log that were read before.
    pub log_set_back: Counter,
    /// Items in the world that answers.
    pub items: Gauge,
    /// Slates that the slate log had no room for.
    pub slate_log_dropped: Counter,
    /// Events that wait for the shared log's acknowledgement.
    pub event_log_waiting: Gauge,
    /// From the sending of a call's events to their acknowledgement by the shared log.
    pub event_log_seconds: Histogram,
    /// Records of the shared log's partitions of this process that are not in the store yet.
    pub ingest_lag: Gauge,
    ingest: Counters,
    /// Time to write one batch of the shared log to the store, retries included.
    pub ingest_batch_seconds: Histogram,
    /// From the receipt of a batch's oldest event to its presence in the store.
    pub ingest_delay_seconds: Histogram,
    artifacts: Counters,
    /// Bytes of bundles and other files that went to a bucket or came from it.
    pub artifacts_bytes: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// A fresh set, all zero.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            ok_calls: Known::new(METHODS),
            known_stages: Known::new(STAGES),
            known_sources: Known::new(marquee_engine::source_names()),
            known_cache: Known::new(["hit", "miss", "bypass"]),
            known_profiles: Known::new(["hit", "miss"]),
            known_slates: Known::new(["default", "popular", "blend", "similar"]),
            process: Process::start(),
            registry: Registry::with_prefix("marquee"),
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(latencies),
            stage_seconds: Family::new_with_constructor(latencies),
            source_candidates: Family::new_with_constructor(counts),
            source_survivors: Family::new_with_constructor(counts),
            degraded: Family::default(),
            slates: Family::default(),
            events: Family::default(),
            events_of_unknown_items: Counter::default(),
            cache: Family::default(),
            profiles: Family::default(),
            cache_refreshes: Family::default(),
            cache_joined: Counter::default(),
            redis_lookups: Family::default(),
            redis_errors: Family::default(),
            redis_seconds: Family::new_with_constructor(latencies),
            known_lookups: Known::new(["slate_hit", "slate_miss", "profile_hit", "profile_miss"]),
            known_round_trips: Known::new(["read", "write", "epoch", "purge"]),
            redis_up: Gauge::default(),
            store_reads_up: Gauge::default(),
            in_flight: Gauge::default(),
            shed: Counters::default(),
            shed_seconds: latencies(),
            store_commit_seconds: latencies(),
            store_commit_entries: counts(),
            store_retries: Counter::default(),
            log_end: Gauge::default(),
            watermark: Gauge::default(),
            log_set_back: Counter::default(),
            items: Gauge::default(),
            slate_log_dropped: Counter::default(),
            event_log_waiting: Gauge::default(),
            event_log_seconds: latencies(),
            ingest_lag: Gauge::default(),
            ingest: Counters::default(),
            ingest_batch_seconds: latencies(),
            ingest_delay_seconds: latencies(),
            artifacts: Family::default(),
            artifacts_bytes: Counter::default(),
        };
        metrics.store_reads_up.set(1);
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("calls", "Calls by method and status code", self.calls.clone());
        r.register("call_seconds", "Time of a call by method", self.call_seconds.clone());
        r.register("stage_seconds", "Time of a stage of a ranked answer", self.stage_seconds.clone());
        r.register("source_candidates", "Hits of a source in one request", self.source_candidates.clone());
        r.register("source_survivors", "Hits of a source that reached the slate", self.source_survivors.clone());
        r.register("degraded", "Answers that had to do without something, by what", self.degraded.clone());
        r.register("slates", "Slates by variant", self.slates.clone());
        r.register("events", "Events by outcome: accepted, duplicate, rejected", self.events.clone());
        r.register(
            "events_of_unknown_items",
            "Events of items that the catalogue does not know",
            self.events_of_unknown_items.clone(),
        );
        r.register("cache", "Lookups of the slate cache: hit, miss, bypass", self.cache.clone());
        r.register("profiles", "Lookups of the profile cache: hit, miss", self.profiles.clone());
        r.register(
            "cache_refreshes",
            "Slates ranked again because they were old: done, failed, busy",
            self.cache_refreshes.clone(),
        );
        r.register("cache_joined", "Answers that took an equal question's ranking", self.cache_joined.clone());
        r.register(
            "redis_lookups",
            "What Redis had: slate_hit, slate_miss, profile_hit, profile_miss",
            self.redis_lookups.clone(),
        );
        r.register(
            "redis_errors",
            "Failures of Redis: timeout, connection, full, busy, login, read_only, other",
            self.redis_errors.clone(),
        );
        r.register(
            "redis_seconds",
            "Time of a round trip to Redis: read, write, epoch, purge",
            self.redis_seconds.clone(),
        );
        r.register("redis_up", "1 while Redis is used, 0 while it is left alone", self.redis_up.clone());
        r.register(
            "store_reads_up",
            "1 while profiles are read from the store, 0 while it is left alone",
            self.store_reads_up.clone(),
        );
        r.register("in_flight", "Calls that run now", self.in_flight.clone());
        r.register("shed", "Requests refused for lack of room or time, by why", self.shed.clone());
        r.register("shed_seconds", "From the arrival of a call to its refusal", self.shed_seconds.clone());
        r.register("store_commit_seconds", "Time of a commit, fsync included", self.store_commit_seconds.clone());
        r.register("store_commit_entries", "Rows in a commit", self.store_commit_entries.clone());
        r.register("store_retries", "Batches that the store had to write again", self.store_retries.clone());
        r.register("log_end", "Position of the newest log entry", self.log_end.clone());
        r.register("watermark", "Log position of the world that answers", self.watermark.clone());
        let text = "Times that the store lacked entries of the log that were read before: everything was read again";
        r.register("log_set_back", text, self.log_set_back.clone());
        r.register("items", "Items in the world that answers", self.items.clone());
        r.register("slate_log_dropped", "Slates that the slate log had no room for", self.slate_log_dropped.clone());
        r.register("event_log_waiting", "Events that wait for an acknowledgement", self.event_log_waiting.clone());
        r.register("event_log_seconds", "Time to an acknowledgement", self.event_log_seconds.clone());
        r.register("ingest_lag", "Records that are not in the store yet", self.ingest_lag.clone());
        r.register("ingest", "Records by outcome: ingested, duplicate, erased, dead", self.ingest.clone());
        r.register("ingest_batch_seconds", "Time to write a batch to the store", self.ingest_batch_seconds.clone());
        r.register("ingest_delay_seconds", "From receipt to the store", self.ingest_delay_seconds.clone());
        r.register(
            "artifacts",
            "What happened with a bucket: fetched, resumed, retried, damaged, published, poll_ok, poll_failed",
            self.artifacts.clone(),
        );
        r.register("artifacts_bytes", "Bytes that went to a bucket or came from it", self.artifacts_bytes.clone());
    }

    /// One call ended.
    pub fn call(&self, method: &str, code: &str, seconds: f64) {
        let counter =
            || self.calls.get_or_create(&CallLabel { method: method.to_owned(), code: code.to_owned() }).clone();
        let histogram = || self.call_seconds.get_or_create(&Label::new(method)).clone();
        let known = if code == "OK" { self.ok_calls.get(method, || (counter(), histogram())) } else { None };
        match known {
            Some((calls, times)) => {
                calls.inc();
                times.observe(seconds);
            }
            None => {
                counter().inc();
                histogram().observe(seconds);
            }
        }
        if code == "RESOURCE_EXHAUSTED" {
            self.shed_seconds.observe(seconds);
        }
    }

    /// A stage of one request took this long.
    pub fn stage(&self, stage: &str, seconds: f64) {
        let make = || self.stage_seconds.get_or_create(&Label::new(stage)).clone();
        match self.known_stages.get(stage, make) {
            Some(times) => times.observe(seconds),
            None => make().observe(seconds),
        }
    }

    /// A source brought so many candidates, of which so many reached the slate.
    pub fn source(&self, source: &str, candidates: u32, survivors: u32) {
        let make = || {
            let label = Label::new(source);
            let candidates = self.source_candidates.get_or_create(&label).clone();
            (candidates, self.source_survivors.get_or_create(&label).clone())
        };
        let observe = |(all, left): &(Histogram, Histogram)| {
            all.observe(f64::from(candidates));
            left.observe(f64::from(survivors));
        };
        match self.known_sources.get(source, make) {
            Some(both) => observe(both),
            None => observe(&make()),
        }
    }

    /// A request was refused for lack of room or time.
    pub fn shed(&self, why: &str) {
        self.shed.get_or_create(&Label::new(why)).inc();
    }

    /// An answer had to do without `what`.
    pub fn degraded(&self, what: &str) {
        self.degraded.get_or_create(&Label::new(what)).inc();
    }

    /// A slate of this variant was answered. Only names from the config: never what a caller wrote.
    pub fn slate(&self, variant: &str) {
        count(&self.known_slates, &self.slates, variant);
    }

    /// So many events were accepted, duplicates, rejected.
    pub fn events(&self, accepted: usize, duplicate: usize, rejected: usize) {
        for (outcome, count) in [("accepted", accepted), ("duplicate", duplicate), ("rejected", rejected)] {
            if count > 0 {
                self.events.get_or_create(&Label::new(outcome)).inc_by(count as u64);
            }
        }
    }

    /// So many records of the shared log were "ingested", a "duplicate", "erased" or "dead".
    pub fn ingest(&self, outcome: &str, count: usize) {
        if count > 0 {
            self.ingest.get_or_create(&Label::new(outcome)).inc_by(count as u64);
        }
    }

    /// Something happened with a bucket: "fetched", "resumed", "retried", "damaged", "published", "poll_ok" or
    /// "poll_failed".
    pub fn artifacts(&self, what: &str) {
        self.artifacts.get_or_create(&Label::new(what)).inc();
    }

    /// A lookup of the slate cache: "hit", "miss" or "bypass".
    pub fn cache(&self, outcome: &str) {
        count(&self.known_cache, &self.cache, outcome);
    }

    /// A lookup of the profile cache.
    pub fn profile(&self, hit: bool) {
        count(&self.known_profiles, &self.profiles, if hit { "hit" } else { "miss" });
    }

    /// A slate that was old was ranked again: "done", "failed", or there were too many at once: "busy".
    pub fn cache_refresh(&self, outcome: &str) {
        self.cache_refreshes.get_or_create(&Label::new(outcome)).inc();
    }

    /// Redis had what was asked for, or not: "slate_hit", "slate_miss", "profile_hit", "profile_miss".
    pub fn redis_lookup(&self, outcome: &str) {
        count(&self.known_lookups, &self.redis_lookups, outcome);
    }

    /// Redis failed in this way.
    pub fn redis_error(&self, kind: &str) {
        self.redis_errors.get_or_create(&Label::new(kind)).inc();
    }

    /// A round trip to Redis took this long: "read", "write", "epoch", "purge".
    pub fn redis_round_trip(&self, what: &str, seconds: f64) {
        let make = || self.redis_seconds.get_or_create(&Label::new(what)).clone();
        match self.known_round_trips.get(what, make) {
            Some(times) => times.observe(seconds),
            None => make().observe(seconds),
        }
    }

    /// A commit of so many rows took this long.
    pub fn commit(&self, seconds: f64, entries: usize) {
        self.store_commit_seconds.observe(seconds);
        self.store_commit_entries.observe(entries as f64);
    }

    /// All of it in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        // The process's own metrics have no prefix; the end of the text is after them.
        let ours = text.strip_suffix(END).map_or(text.len(), str::len);
        text.truncate(ours);
        text.push_str(&self.process.render());
        text.push_str(END);
        text
    }
}

/// How OpenMetrics ends.
const END: &str = "# EOF\n";

fn count(known: &Known<Counter>, family: &Counters, name: &str) {
    let make = || family.get_or_create(&Label::new(name)).clone();
    match known.get(name, make) {
        Some(counter) => counter.inc(),
        None => make().inc(),
    };
}

fn latencies() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

fn counts() -> Histogram {
    Histogram::new(COUNTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_rendered_with_its_prefix() {
        let metrics = Metrics::new();
        metrics.call("Recommend", "OK", 0.002);
        metrics.events(3, 0, 1);
        metrics.source("popular", 100, 4);
        metrics.call("RankItems", "RESOURCE_EXHAUSTED", 0.0001);
        metrics.shed("deadline");
        metrics.stage("rank", 0.001);
        let text = metrics.render();
        for line in [
            "marquee_calls_total{method=\"Recommend\",code=\"OK\"} 1",
            "marquee_events_total{name=\"accepted\"} 3",
            "marquee_call_seconds_bucket{le=\"0.002\",name=\"Recommend\"} 1",
            "marquee_source_survivors_sum{name=\"popular\"} 4.0",
            "marquee_shed_seconds_count 1",
            "marquee_shed_total{name=\"deadline\"} 1",
            "marquee_stage_seconds_count{name=\"rank\"} 1",
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("name=\"duplicate\""), "what never happened has no line");
        assert!(text.ends_with(END) && text.matches(END).count() == 1);
    }
}
