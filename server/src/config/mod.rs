//! The configuration: a TOML file, environment variables over it, every problem reported at once.
//!
//! `MARQUEE_SECTION__KEY=value` overrides `[section] key`; deeper keys take more `__`. Names without `__` are left
//! alone (Kubernetes sets `MARQUEE_SERVICE_HOST` and the like), but for `MARQUEE_NAMESPACE` and the secrets that no file may
//! hold, `MARQUEE_ADMIN_TOKEN` and `MARQUEE_KAFKA_PASSWORD`. `server/marquee.sample.toml` lists every key; a test keeps it so.

mod address;
mod check;
mod load;
mod redis;
mod variants;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use marquee_engine::event::{EventPolicy, KindPolicy};
use marquee_engine::index::{DEFAULT_EF_SEARCH, DEFAULT_EXACT_BELOW_ROWS};
use marquee_engine::types::Variant;
use serde::{Deserialize, Serialize};

pub use address::Address;
pub use load::Problems;
pub use redis::{Login, RedisUrl, Topology};
pub use variants::{BUILT_IN, default_variants};

/// Exit status of a bad configuration (`EX_USAGE`).
pub const EXIT_BAD_CONFIG: u8 = 64;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Prefix of everything this deployment keeps on shared servers.
    pub namespace: String,
    /// `[server]`
    pub server: Server,
    /// `[store]`
    pub store: Store,
    /// `[cache]`
    pub cache: Cache,
    /// `[artifacts]`
    pub artifacts: Artifacts,
    /// `[limits]`
    pub limits: Limits,
    /// `[ranking]`
    pub ranking: Ranking,
    /// `[events]`
    pub events: Events,
    /// `[slate_log]`
    pub slate_log: SlateLog,
    /// `[log]`
    pub log: Log,
    /// `[variants.NAME]`, by name. `default`, `popular` and `blend` are always there.
    pub variants: BTreeMap<String, Arc<Variant>>,
    /// From `MARQUEE_ADMIN_TOKEN` alone; `None` closes everything that needs it.
    #[serde(skip)]
    pub admin_token: Option<Secret>,
    /// From `MARQUEE_KAFKA_PASSWORD` alone: the password of `sasl.username` in `events.url`.
    #[serde(skip)]
    pub kafka_password: Option<Secret>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            namespace: "default".to_owned(),
            server: Server::default(),
            store: Store::default(),
            cache: Cache::default(),
            artifacts: Artifacts::default(),
            limits: Limits::default(),
            ranking: Ranking::default(),
            events: Events::default(),
            slate_log: SlateLog::default(),
            log: Log::default(),
            variants: default_variants(),
            admin_token: None,
            kafka_password: None,
        }
    }
}

/// A value that must not be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(value: String) -> Secret {
        Secret(value)
    }

    /// The value itself, to be compared or handed to the client that logs in, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Listeners and the pool that computes slates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where the public services listen.
    pub listen: SocketAddr,
    /// Where AdminService listens.
    pub admin_listen: SocketAddr,
    /// Where `/metrics` listens (plain HTTP).
    pub metrics_listen: SocketAddr,
    /// Allows listeners beyond loopback without TLS.
    pub insecure: bool,
    /// PEM certificate chain; empty is none: plain text.
    pub tls_certificate_path: String,
    /// PEM private key of that certificate.
    pub tls_key_path: String,
    /// How long running calls may take to end after a stop signal.
    pub drain_ms: u64,
    /// How long calls are still taken after a stop signal, while health says already that none should be sent.
    pub drain_notice_ms: u64,
    /// How long no call may have run until connections that stay open all the same are cut.
    pub drain_quiet_ms: u64,
    /// Threads that compute slates; 0 is one for each core.
    pub compute_threads: usize,
    /// Requests that may wait for one of these threads; more are refused.
    pub queue_max_requests: usize,
    /// How long a request may wait for one of them; one that would wait longer is refused when it arrives.
    pub queue_wait_max_ms: u64,
    /// The same under lasting overload: while the queue has not been empty for a tenth of a second.
    pub queue_wait_overload_ms: u64,
    /// Calls that may run at once, on all connections together; more are refused. Health is always answered.
    pub in_flight_max_requests: usize,
    /// Streams of events (and reflection) that may be open at once, idle ones included; they take no room of other calls.
    pub streams_max_calls: usize,
    /// Longest time for one unary call, whatever deadline the caller sets.
    pub request_timeout_ms: u64,
    /// The same for AdminService, whose calls open whole bundles.
    pub admin_timeout_ms: u64,
    /// A stream of events that sends nothing for so long is ended.
    pub stream_idle_ms: u64,
    /// Largest message in either direction.
    pub message_max_bytes: usize,
    /// Whether callers may choose a variant.
    pub allow_variant_override: bool,
    /// Whether callers may ask for full explanations.
    pub allow_explain: bool,
    /// Added to the clock: serves a log of the past as if it were then.
    pub clock_offset_ms: i64,
}

impl Default for Server {
    fn default() -> Server {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Server {
            listen: loopback(50051),
            admin_listen: loopback(50052),
            metrics_listen: loopback(9090),
            insecure: false,
            tls_certificate_path: String::new(),
            tls_key_path: String::new(),
            drain_ms: 10_000,
            drain_notice_ms: 0,
            drain_quiet_ms: 250,
            compute_threads: 0,
            queue_max_requests: 256,
            queue_wait_max_ms: 200,
            queue_wait_overload_ms: 10,
            in_flight_max_requests: 1_024,
            streams_max_calls: 1_024,
            request_timeout_ms: 10_000,
            admin_timeout_ms: 300_000,
            stream_idle_ms: 3_600_000,
            message_max_bytes: 4 * 1024 * 1024,
            allow_variant_override: true,
            allow_explain: true,
            clock_offset_ms: 0,
        }
    }
}

/// Where items, users, events and the slate log live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `sqlite://PATH`, whose folder is made if it is missing, or `postgres://USER@HOST:PORT/DATABASE`.
    pub url: Address,
    /// Entries that may wait for the writer; a write that finds no room waits `write_wait_ms`, then is refused.
    pub write_queue_max_entries: usize,
    /// Entries in one transaction, at most (a single larger call still is one transaction).
    pub write_batch_max_entries: usize,
    /// How long a write waits for room in the queue.
    pub write_wait_ms: u64,
    /// Connections that read.
    pub read_connections_max: u32,
    /// How long a read waits for one of them that works.
    pub connection_wait_ms: u64,
    /// How long to wait for another process that holds the database.
    pub busy_timeout_ms: u64,
    /// PostgreSQL: how long opening a connection may take.
    pub connect_timeout_ms: u64,
    /// PostgreSQL: longest time of one statement; a writing transaction may take some of it.
    pub statement_timeout_ms: u64,
    /// PostgreSQL: how long a batch is written again and again while the server is not there.
    pub write_retry_ms: u64,
    /// How long event ids are remembered; a resend after that counts as new.
    pub dedup_retention_days: u32,
    /// How long an answer waits for a profile from the store, and at most half of the time that its caller left.
    pub read_wait_ms: u64,
    /// So many reads of profiles in a row that failed, and none is tried for `breaker_open_ms`.
    pub breaker_failures: u32,
    /// After that time, and a random share of it, one read is tried.
    pub breaker_open_ms: u64,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            url: "sqlite://.marquee/marquee.db".into(),
            write_queue_max_entries: 50_000,
            write_batch_max_entries: 10_000,
            write_wait_ms: 1_000,
            read_connections_max: 4,
            connection_wait_ms: 2_000,
            busy_timeout_ms: 10_000,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 10_000,
            write_retry_ms: 5_000,
            dedup_retention_days: 90,
            read_wait_ms: 500,
            breaker_failures: 5,
            breaker_open_ms: 1_000,
        }
    }
}

/// Where encoded slates, and what Redis is there for, profiles, are kept for a short while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// `memory://`, or a Redis behind it: `redis://`, `redis+sentinel://`, `redis+cluster://`.
    pub url: Address,
    /// All slates in this process; 0 keeps none here.
    pub max_bytes: u64,
    /// A slate that is older is given, and ranked again beside that.
    pub ttl_ms: u64,
    /// A slate that is older is not given.
    pub hard_ttl_ms: u64,
    /// Slates that may be ranked again at once because they are older than `ttl_ms`.
    pub refresh_max_requests: usize,
    /// PEM certificates of who may sign the server's; empty: those that the system trusts.
    pub tls_ca_path: String,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout_ms: u64,
    /// How long an answer waits for Redis.
    pub response_timeout_ms: u64,
    /// So many failures in a row, and Redis is left alone for `breaker_open_ms`.
    pub breaker_failures: u32,
    /// How long it is left alone; then it is tried beside the answers, and longer each time in vain.
    pub breaker_open_ms: u64,
    /// A user's key in Redis goes so long after it was last written.
    pub redis_ttl_ms: u64,
    /// Slates of one user in Redis: another question may take an older one's place.
    pub redis_slates_per_user: usize,
    /// A larger slate or profile is not kept in Redis.
    pub redis_value_max_bytes: usize,
    /// Writes to Redis that may be on their way; more are dropped and counted.
    pub redis_writes_max: usize,
    /// Marks of who wrote lately, 8 bytes each: fewer make a profile in Redis seem old when it is not.
    pub recent_slots: usize,
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            url: "memory://".into(),
            max_bytes: 64 * 1024 * 1024,
            ttl_ms: 60_000,
            hard_ttl_ms: 120_000,
            refresh_max_requests: 8,
            tls_ca_path: String::new(),
            connect_timeout_ms: 1_000,
            response_timeout_ms: 25,
            breaker_failures: 5,
            breaker_open_ms: 1_000,
            redis_ttl_ms: 3_600_000,
            redis_slates_per_user: 4,
            redis_value_max_bytes: 256 * 1024,
            redis_writes_max: 256,
            recent_slots: 1 << 20,
        }
    }
}

impl Cache {
    /// Whether there is a Redis behind the process's own memory.
    pub fn is_shared(&self) -> bool {
        self.url.scheme() != "memory"
    }
}

/// Where bundles live. All but `url` matters for a bucket alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Artifacts {
    /// `file://FOLDER`, or `s3://BUCKET[/PREFIX][?endpoint=URL]` with credentials from the environment (`AWS_...`).
    pub url: Address,
    /// Where bundles of a bucket are kept on this machine.
    pub cache_folder: String,
    /// Bundles kept there; the serving one and the one before always stay.
    pub cache_max_bundles: usize,
    /// How often the bucket is asked which bundle is current; 0 is never.
    pub poll_ms: u64,
    /// Longest time for one request, its bytes included.
    pub request_timeout_ms: u64,
    /// Bytes that one request carries; large files take several.
    pub part_bytes: u64,
    /// Requests that carry bytes at the same time.
    pub transfers_max: usize,
    /// How often in a row a file may bring nothing before its transfer fails.
    pub attempts_max: u32,
}

impl Default for Artifacts {
    fn default() -> Artifacts {
        Artifacts {
            url: "file://.marquee/bundles".into(),
            cache_folder: ".marquee/bundle-cache".to_owned(),
            cache_max_bundles: 4,
            poll_ms: 5_000,
            request_timeout_ms: 10_000,
            part_bytes: 8 * 1024 * 1024,
            transfers_max: 4,
            attempts_max: 5,
        }
    }
}

/// How much of anything one caller may ask for or send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Items in a slate, at most.
    pub count_max: usize,
    /// Items in a slate when the caller does not say.
    pub count_default: usize,
    /// Excluded ids in one request.
    pub exclude_max_items: usize,
    /// Conditions and genres in one filter.
    pub filter_max_conditions: usize,
    /// Events in one call.
    pub events_max_per_call: usize,
    /// Items in one call of the catalogue.
    pub items_max_per_call: usize,
    /// Users in one call.
    pub users_max_per_call: usize,
    /// Requests in one RecommendBatch.
    pub batch_max_requests: usize,
    /// Candidates of one RankItems.
    pub rank_items_max: usize,
    /// Items that one SimilarItems starts from.
    pub similar_items_max: usize,
    /// Items for which one request asks why they are missing.
    pub explain_missing_max_items: usize,
    /// Items over all pages of one slate.
    pub page_depth_max_items: usize,
    /// Entries of one page of a list.
    pub list_page_max_entries: usize,
    /// How far ahead of our clock an event may lie.
    pub clock_skew_future_ms: u64,
    /// Any id.
    pub id_max_bytes: usize,
    /// A surface's name.
    pub surface_max_bytes: usize,
    /// A search query in an event.
    pub query_max_bytes: usize,
    /// An item's title.
    pub title_max_bytes: usize,
    /// An item's text.
    pub text_max_bytes: usize,
    /// Entries of one list of an item: genres, cast, directors, tags.
    pub list_max_entries: usize,
    /// One entry of such a list.
    pub list_entry_max_bytes: usize,
    /// Attributes of an item or a user, as JSON.
    pub attributes_max_bytes: usize,
    /// Nesting of attributes; 1 is plain values only.
    pub attributes_max_depth: usize,
    /// Newest events that a profile holds.
    pub profile_events_max: usize,
    /// Ids of seen items that a profile holds beyond these.
    pub profile_seen_max: usize,
    /// Profiles kept in memory.
    pub profile_cache_max_users: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            count_max: 500,
            count_default: 20,
            exclude_max_items: 1_000,
            filter_max_conditions: 100,
            events_max_per_call: 1_000,
            items_max_per_call: 1_000,
            users_max_per_call: 1_000,
            batch_max_requests: 100,
            rank_items_max: 1_000,
            similar_items_max: 100,
            explain_missing_max_items: 100,
            page_depth_max_items: 500,
            list_page_max_entries: 1_000,
            clock_skew_future_ms: 300_000,
            id_max_bytes: 256,
            surface_max_bytes: 64,
            query_max_bytes: 1_024,
            title_max_bytes: 1_024,
            text_max_bytes: 32 * 1024,
            list_max_entries: 500,
            list_entry_max_bytes: 256,
            attributes_max_bytes: 16 * 1024,
            attributes_max_depth: 4,
            profile_events_max: 1_000,
            profile_seen_max: 10_000,
            profile_cache_max_users: 50_000,
        }
    }
}

/// How slates are computed and how fresh they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ranking {
    /// Catalogues smaller than this are scanned exactly instead of walked through the graph.
    pub exact_below_items: usize,
    /// Width of the walk through the graph: more is better and slower.
    pub ef_search: usize,
    /// How often a new snapshot of items and their statistics is published.
    pub world_tick_ms: u64,
    /// How long a request with a write token waits for that write.
    pub fresh_wait_ms: u64,
    /// With less time than this before the caller's deadline, sources are asked for less.
    pub effort_full_ms: u64,
}

impl Default for Ranking {
    fn default() -> Ranking {
        Ranking {
            exact_below_items: DEFAULT_EXACT_BELOW_ROWS,
            ef_search: DEFAULT_EF_SEARCH,
            world_tick_ms: 100,
            fresh_wait_ms: 50,
            effort_full_ms: 20,
        }
    }
}

/// Where events are acknowledged, what they mean, and where those that cannot be read are put aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// `store://`, or `kafka://HOST:PORT,HOST:PORT[/TOPIC][?librdkafka.key=value&...]`.
    pub url: Address,
    /// Kafka: how long the brokers have to answer when the log is opened.
    pub connect_timeout_ms: u64,
    /// Kafka: whether a topic that is not there is made.
    pub create_topic: bool,
    /// Kafka: partitions of a topic that is made.
    pub topic_partitions: u32,
    /// Kafka: replicas of a topic that is made; 0 is the broker's default.
    pub topic_replicas: u32,
    /// Kafka: events that may wait for the broker's acknowledgement; calls beyond that are refused.
    pub in_flight_max_events: usize,
    /// Kafka: how long the broker has to acknowledge; then the call is answered UNAVAILABLE.
    pub produce_timeout_ms: u64,
    /// Kafka: how long an event waits for others to be sent with.
    pub linger_ms: u64,
    /// Kafka: whether this process takes events over into the store.
    pub ingest: bool,
    /// Kafka: events written to the store at once.
    pub ingest_batch_max_events: usize,
    /// Kafka: how long the first event of such a batch waits for others.
    pub ingest_wait_ms: u64,
    /// Kafka: what may be fetched ahead of the store.
    pub ingest_queue_max_bytes: usize,
    /// Kafka: partitions of a process that was not heard of for so long go to others.
    pub session_timeout_ms: u64,
    /// Kafka: partitions of a process that cannot write to the store for so long go to others.
    pub ingest_failover_ms: u64,
    /// Kafka: how often the store is asked how far it is, while a request waits for a write.
    pub poll_ms: u64,
    /// Folder of the files that hold refused rows of imports. ForgetUser erases a user's rows there too.
    pub quarantine_folder: String,
    /// The weight of each kind of event. A kind that is given here replaces that kind's default as a whole;
    /// kinds that are not given keep theirs.
    pub policy: EventPolicy,
}

impl Default for Events {
    fn default() -> Events {
        Events {
            url: "store://".into(),
            connect_timeout_ms: 5_000,
            create_topic: false,
            topic_partitions: 8,
            topic_replicas: 0,
            in_flight_max_events: 10_000,
            produce_timeout_ms: 2_000,
            linger_ms: 1,
            ingest: true,
            ingest_batch_max_events: 2_000,
            ingest_wait_ms: 2,
            ingest_queue_max_bytes: 16 * 1024 * 1024,
            session_timeout_ms: 6_000,
            ingest_failover_ms: 30_000,
            poll_ms: 3,
            quarantine_folder: ".marquee/quarantine".to_owned(),
            policy: EventPolicy::default(),
        }
    }
}

impl Events {
    /// Puts the defaults under the kinds that the file names.
    fn with_default_kinds(mut self) -> Events {
        let mut kinds: BTreeMap<String, KindPolicy> = EventPolicy::default().kinds;
        kinds.append(&mut self.policy.kinds);
        self.policy.kinds = kinds;
        self
    }
}

/// The record of what was answered: attribution, training rows and skew checks read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlateLog {
    /// Whether slates are recorded.
    pub enabled: bool,
    /// How long they are kept.
    pub retention_days: u32,
    /// Share of slates, 0 to 1, whose feature rows are kept too.
    pub sample_rows: f64,
    /// Slates that may wait to be written; more are dropped and counted, never waited for.
    pub queue_max_slates: usize,
    /// Answers from the cache that may wait to be written; more are dropped and counted.
    pub queue_max_repeats: usize,
}

impl Default for SlateLog {
    fn default() -> SlateLog {
        SlateLog {
            enabled: true,
            retention_days: 30,
            sample_rows: 0.0,
            queue_max_slates: 1_000,
            queue_max_repeats: 100_000,
        }
    }
}

/// What the process says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe level that is written.
    pub level: Level,
    /// One JSON object a line instead of text.
    pub json: bool,
}

impl Default for Log {
    fn default() -> Log {
        Log { level: Level::Info, json: false }
    }
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
