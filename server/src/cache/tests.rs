//! One suite for every place that slates can be kept in, and what happens when Redis fails. Real servers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Address;
use crate::error::Error;
use crate::testkit;
use crate::testkit::redis::PrivateRedis;

const STATE: State = State { profile: 3, item_changes: 1 };

fn config(url: &str) -> Config {
    let mut config = Config { namespace: testkit::unique("cache"), ..Config::default() };
    config.cache.url = Address::from(url);
    if url.starts_with("rediss") {
        config.cache.tls_ca_path = testkit::server("MARQUEE_TEST_TLS_CA");
    }
    // The machine that tests run on may be slow: what is tested is not how fast Redis is.
    config.cache.response_timeout_ms = 5_000;
    config.cache.connect_timeout_ms = 10_000;
    config.cache.breaker_open_ms = 20;
    config
}

async fn open(config: &Config) -> (Cache, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::open(config, metrics.clone()).await.unwrap_or_else(|error| panic!("{}", error.detail()));
    (cache, metrics)
}

fn key(user: &UserKey, question: &str) -> Key {
    Key::new(user.as_str(), &[question.as_bytes()])
}

fn entry(body: &str) -> Entry {
    let told = Told { variant: "default".into(), bundle_version: "b".into() };
    let body = Bytes::copy_from_slice(body.as_bytes());
    Entry { state: STATE, as_of: 0, old_from_ms: 50, expires_ms: 100, body, ranked_id: "r".into(), told }
}

fn wanted(question: Option<Question>) -> Wanted {
    Wanted { question, profile: true, deadline: None }
}

async fn put(cache: &Cache, user: &UserKey, question: &str, entry: &Entry) {
    let key = key(user, question);
    if let Some(question) = cache.question(&key) {
        cache.write(user, None, Some((question, entry)));
    }
    cache.put_near(key, entry);
}

async fn get(cache: &Cache, user: &UserKey, question: &str, state: State, now_ms: TimeMs) -> Option<Entry> {
    let key = key(user, question);
    if let Some(found) = cache.near(&key, state, now_ms) {
        return Some(found.entry);
    }
    let slate = cache.read(user, wanted(Some(cache.question(&key)?))).await.slate?;
    slate.answers(state, now_ms).then_some(slate)
}

/// Waits for what happens beside the calls.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: it never came to that");
}

/// What one process writes another one reads; for `memory://` both are the same.
async fn check(writer: &Cache, reader: &Cache) {
    let (ann, ben) = (UserKey::user("ann"), UserKey::anonymous("{ben}:ü"));
    for user in [&ann, &ben] {
        put(writer, user, "q", &entry(user.as_str())).await;
        until("a slate arrives", async || get(reader, user, "q", STATE, 5).await.is_some()).await;
    }
    assert_eq!(get(reader, &ann, "q", STATE, 99).await.map(|found| found.body), Some(entry("u:ann").body));
    assert_eq!(get(reader, &ben, "q", STATE, 5).await.map(|found| found.told), Some(entry("").told));
    assert_eq!(get(reader, &ann, "another", STATE, 5).await, None, "another question");
    put(writer, &ann, "q", &entry("newer")).await;
    let newer = async || get(reader, &ann, "q", STATE, 5).await.is_some_and(|found| found.body == "newer");
    until("a newer slate takes the place of the old one", newer).await;

    writer.purge_user(&ann).await.unwrap();
    assert_eq!(get(reader, &ann, "q", STATE, 5).await, None, "purged");
    assert!(get(reader, &ben, "q", STATE, 5).await.is_some(), "nobody else's");
    writer.purge().await.unwrap();
    until("a purge reaches every process", async || get(reader, &ben, "q", STATE, 5).await.is_none()).await;

    put(writer, &ann, "q", &entry("after")).await;
    until("a slate arrives after a purge", async || get(reader, &ann, "q", STATE, 5).await.is_some()).await;
    for state in [State { profile: 4, ..STATE }, State { item_changes: 2, ..STATE }] {
        assert_eq!(get(reader, &ann, "q", state, 5).await, None, "another state");
    }
    put(writer, &ann, "q", &entry("after")).await;
    until("a slate arrives again", async || get(reader, &ann, "q", STATE, 5).await.is_some()).await;
    assert_eq!(get(reader, &ann, "q", STATE, 100).await, None, "its time is over");
}

/// Two processes that keep nothing of their own, so that all goes through Redis.
async fn check_redis(url: &str) {
    let mut config = config(url);
    config.cache.max_bytes = 0;
    let (writer, metrics) = open(&config).await;
    let (reader, _) = open(&config).await;
    assert!(metrics.render().contains("marquee_redis_up 1"));
    check(&writer, &reader).await;
    bounded(&config, &writer).await;
}

/// Whether no write is on its way.
fn is_idle(cache: &Cache, config: &Config) -> bool {
    cache.shared.as_ref().is_none_or(|shared| shared.writes_free() == config.cache.redis_writes_max)
}

/// However many questions a user asks, so many slates are kept; each key ends by itself.
async fn bounded(config: &Config, cache: &Cache) {
    let ann = UserKey::user("asks a lot");
    for question in 0..50 {
        put(cache, &ann, &question.to_string(), &entry("body")).await;
    }
    until("all writes are done", async || is_idle(cache, config)).await;
    let mut found = 0;
    for question in 0..50 {
        found += usize::from(get(cache, &ann, &question.to_string(), STATE, 5).await.is_some());
    }
    assert!((1..=config.cache.redis_slates_per_user).contains(&found), "{found}");
    let large = entry(&"x".repeat(config.cache.redis_value_max_bytes));
    let ben = UserKey::user("asks for much");
    put(cache, &ben, "q", &large).await;
    until("all writes are done", async || is_idle(cache, config)).await;
    assert_eq!(get(cache, &ben, "q", STATE, 5).await, None, "larger than redis_value_max_bytes");
}

#[tokio::test]
async fn the_process_s_own_memory_keeps_its_promises() {
    let (cache, _) = open(&config("memory://")).await;
    assert!(!cache.is_shared());
    check(&cache, &cache).await;
}

#[tokio::test]
async fn a_single_redis_keeps_its_promises() {
    check_redis(&testkit::server("MARQUEE_TEST_REDIS")).await;
}

#[tokio::test]
async fn a_redis_behind_sentinels_keeps_its_promises() {
    check_redis(&testkit::server("MARQUEE_TEST_REDIS_SENTINEL")).await;
}

#[tokio::test]
async fn a_redis_cluster_keeps_its_promises() {
    check_redis(&testkit::server("MARQUEE_TEST_REDIS_CLUSTER")).await;
}

#[tokio::test]
async fn a_redis_with_tls_and_a_password_keeps_its_promises() {
    check_redis(&testkit::server("MARQUEE_TEST_REDIS_TLS")).await;
}

#[tokio::test]
async fn every_key_ends_by_itself() {
    let redis = PrivateRedis::start();
    let config = config(&redis.url());
    let (cache, _) = open(&config).await;
    let ann = UserKey::user("ann");
    put(&cache, &ann, "q", &entry("body")).await;
    cache.write(&UserKey::user("ben"), Some(Bytes::from_static(b"profile")), None);
    until("both are there", async || redis.command("DBSIZE").unwrap() == ":2").await;
    for user in ["u:ann", "u:ben"] {
        let lives = redis.command(&format!("PTTL mq:{}:0:{{{user}}}", config.namespace)).unwrap();
        let lives_ms: u64 = lives.trim_start_matches(':').parse().unwrap();
        assert!(lives_ms > 0 && lives_ms <= config.cache.redis_ttl_ms * 5 / 4, "{user}: {lives}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_said_by_its_key_and_without_the_secret() {
    let tls = testkit::server("MARQUEE_TEST_REDIS_TLS");
    let (before, host) = tls.rsplit_once('@').unwrap();
    let port = host.rsplit_once(':').unwrap().1;
    let sentinel = testkit::server("MARQUEE_TEST_REDIS_SENTINEL");
    let sentinels = sentinel.rsplit_once('/').unwrap().0;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, says) in [
        (format!("rediss://:hush-hush@{host}"), "refuses the user or the password"),
        (format!("rediss://{host}"), "refuses the user or the password"),
        (format!("{before}@127.0.0.1:{port}"), "certificate"),
        (format!("redis://:hush-hush@127.0.0.1:{closed}"), "cannot be used as the cache"),
        (format!("redis+cluster://:hush-hush@127.0.0.1:{closed}"), "cannot be used as the cache"),
        (format!("{sentinels}/nobody"), "cannot be used as the cache"),
        ("redis://:hush-hush@nowhere.invalid".to_owned(), "cannot be used as the cache"),
    ] {
        let Err(Error::InvalidArgument { field, rule }) = Cache::open(&config(&url), Arc::new(Metrics::new())).await
        else {
            panic!("{url} was opened");
        };
        assert!(field == "cache.url" && rule.contains(says), "{url}: {field}: {rule}");
        assert!(!rule.contains("hush") && !rule.contains("only-for-tests"), "{rule}");
    }
    let mut config = config(&tls);
    config.cache.tls_ca_path = "/nowhere/ca.pem".to_owned();
    let Err(Error::InvalidArgument { field, .. }) = Cache::open(&config, Arc::new(Metrics::new())).await else {
        panic!("opened without its authority");
    };
    assert_eq!(field, "cache.tls_ca_path");
}

/// Round trips of that kind so far.
fn trips(metrics: &Metrics, what: &str) -> u64 {
    number(metrics, &format!("marquee_redis_seconds_count{{name=\"{what}\"}}"))
}

fn number(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn a_frozen_redis_is_left_alone_after_a_few_answers_that_did_not_come() {
    let redis = PrivateRedis::start();
    let mut config = config(&redis.url());
    config.cache.response_timeout_ms = 25;
    config.cache.breaker_failures = 3;
    config.cache.connect_timeout_ms = 200;
    let (cache, metrics) = open(&config).await;
    let ann = UserKey::user("ann");
    assert!(!cache.read(&ann, wanted(None)).await.is_down);
    let before = trips(&metrics, "read") + trips(&metrics, "epoch");
    redis.freeze();
    for _ in 0..50 {
        assert!(cache.read(&ann, wanted(None)).await.is_down);
        // Writes are dropped, too, and do not pile up.
        cache.write(&ann, Some(Bytes::from_static(b"profile")), None);
    }
    let waited = trips(&metrics, "read") + trips(&metrics, "epoch") + trips(&metrics, "write") - before;
    // Each of the three that open the breaker, and what was on its way beside them.
    assert!(waited <= 8, "{waited}");
    assert_eq!(number(&metrics, "marquee_redis_up"), 0);
    redis.thaw();
    until("it is used again", async || !cache.read(&ann, wanted(None)).await.is_down).await;
    assert_eq!(number(&metrics, "marquee_redis_up"), 1);
}

/// Hands answers on after so many milliseconds. Gives its port.
async fn slowed(redis: &PrivateRedis, delay_ms: Arc<AtomicU64>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, server) = (listener.local_addr().unwrap().port(), redis.port());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = tokio::net::TcpStream::connect(("127.0.0.1", server)).await else { return };
            let ((mut asks, mut hears), (mut answers, mut told)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut asks, &mut told).await });
            let delay_ms = delay_ms.clone();
            tokio::spawn(async move {
                let mut bytes = [0; 4_096];
                while let Ok(length @ 1..) = answers.read(&mut bytes).await {
                    tokio::time::sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed))).await;
                    if hears.write_all(&bytes[..length]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_slow_redis_is_not_tried_by_one_answer_after_the_other() {
    let redis = PrivateRedis::start();
    let delay_ms = Arc::new(AtomicU64::new(0));
    let port = slowed(&redis, delay_ms.clone()).await;
    let mut config = config(&format!("redis://127.0.0.1:{port}"));
    config.cache.response_timeout_ms = 100;
    config.cache.breaker_failures = 3;
    let (cache, metrics) = open(&config).await;
    let ann = UserKey::user("ann");
    let before = trips(&metrics, "read");
    delay_ms.store(300, Ordering::Relaxed);
    for _ in 0..200 {
        assert!(cache.read(&ann, wanted(None)).await.is_down);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let waited = trips(&metrics, "read") - before;
    assert!((1..=3).contains(&waited), "{waited} answers waited for it");
    delay_ms.store(0, Ordering::Relaxed);
    until("it is used again", async || !cache.read(&ann, wanted(None)).await.is_down).await;
}

#[tokio::test]
async fn a_killed_redis_costs_nothing_and_is_used_again_when_it_is_back() {
    let mut redis = PrivateRedis::start();
    let (cache, metrics) = open(&config(&redis.url())).await;
    let ann = UserKey::user("ann");
    put(&cache, &ann, "q", &entry("body")).await;
    redis.kill();
    until("its end is noticed", async || cache.read(&ann, wanted(None)).await.is_down).await;
    assert!(get(&cache, &ann, "q", STATE, 5).await.is_some(), "what this process has, it has");
    let Err(Error::Unavailable { .. }) = cache.purge().await else { panic!("a purge that nobody heard of") };
    assert!(get(&cache, &ann, "q", STATE, 5).await.is_none(), "this process did purge");
    redis.restart();
    until("it is used again", async || !cache.read(&ann, wanted(None)).await.is_down).await;
    put(&cache, &ann, "q", &entry("again")).await;
    let question = cache.question(&key(&ann, "q"));
    until("and written", async || cache.read(&ann, wanted(question)).await.slate.is_some()).await;
    assert!(number(&metrics, "marquee_redis_errors_total{name=\"connection\"}") > 0);
}

#[tokio::test]
async fn a_full_redis_is_still_read_and_a_flushed_one_is_only_empty() {
    let redis = PrivateRedis::start();
    let mut config = config(&redis.url());
    config.cache.breaker_failures = 2;
    let (cache, metrics) = open(&config).await;
    let ann = UserKey::user("ann");
    cache.write(&ann, Some(Bytes::from_static(b"profile")), None);
    until("it is written", async || cache.read(&ann, wanted(None)).await.profile.is_some()).await;
    redis.command("CONFIG SET maxmemory 1").unwrap();
    for _ in 0..10 {
        cache.write(&ann, Some(Bytes::from_static(b"larger")), None);
    }
    let full = || number(&metrics, "marquee_redis_errors_total{name=\"full\"}");
    until("it is full", async || full() == 10).await;
    let reading = cache.read(&ann, wanted(None)).await;
    assert_eq!((reading.profile.as_deref(), reading.is_down), (Some(&b"profile"[..]), false));
    redis.command("CONFIG SET maxmemory 0").unwrap();
    redis.command("FLUSHALL").unwrap();
    let reading = cache.read(&ann, wanted(None)).await;
    assert_eq!((reading.profile, reading.is_down), (None, false));
}

#[tokio::test]
async fn the_master_s_successor_is_found_through_the_sentinels() {
    let mut master = PrivateRedis::with("repl-diskless-sync-delay 0");
    let _replica = PrivateRedis::with(&format!("replicaof 127.0.0.1 {}", master.port()));
    until("the replica follows", async || master.command("WAIT 1 100").unwrap() == ":1").await;
    let sentinel = PrivateRedis::with(&format!(
        "sentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 300\n\
         sentinel failover-timeout main 2000",
        master.port()
    ));
    until("the sentinel knows the replica", async || sentinel.command("SENTINEL REPLICAS main").unwrap() == "*1").await;
    let (cache, metrics) = open(&config(&format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port()))).await;
    let ann = UserKey::user("ann");
    cache.write(&ann, Some(Bytes::from_static(b"profile")), None);
    until("it is written", async || cache.read(&ann, wanted(None)).await.profile.is_some()).await;
    master.kill();
    until("the successor takes a write", async || {
        cache.write(&ann, Some(Bytes::from_static(b"newer")), None);
        cache.read(&ann, wanted(None)).await.profile.as_deref() == Some(b"newer")
    })
    .await;
    assert_eq!(number(&metrics, "marquee_redis_up"), 1);
}
