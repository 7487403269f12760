//! Two processes over one Redis, and what becomes of answers when Redis or the store is gone.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use marquee::config::Config;
use marquee_proto::v1;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, authorized, ids, items, like, of};
use crate::redis::PrivateRedis;

const PATIENCE: usize = 500;

fn config(folder: &TempDir, redis: &PrivateRedis) -> Config {
    let mut config = crate::harness::config(folder.path());
    config.cache.url = redis.url().into();
    // A busy machine is no frozen Redis.
    config.cache.response_timeout_ms = 1_000;
    config.cache.breaker_open_ms = 20;
    config.cache.breaker_failures = 2;
    config
}

/// A user whom nobody has met.
fn someone() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("someone{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What an answer lacked, but for the ranker: there is no bundle here.
fn missed(answer: &v1::RecommendResponse) -> Vec<&str> {
    let parts = answer.degraded.iter().flat_map(|degraded| &degraded.parts);
    parts.map(|part| part.what.as_str()).filter(|what| *what != "ranker").collect()
}

/// Tries until it holds: for what happens beside the calls.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..PATIENCE {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: it never came to that");
}

pub(crate) async fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect(server.metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_repeats_what_another_one_ranked() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), PrivateRedis::start());
    let (one, two) = (Server::with(config(&folder, &redis)).await, Server::with(config(&folder, &redis)).await);
    let token = one.upsert(items(20)).await;
    for server in [&one, &two] {
        let request = v1::RecommendRequest { write_token: token.clone(), require_fresh: true, ..of("first") };
        server.recommend(request).await.unwrap();
    }
    until("a slate of the one is repeated by the other", async || {
        let user = someone();
        let ranked = one.recommend(of(&user)).await.unwrap();
        assert_eq!(ranked.cache_status(), v1::CacheStatus::Miss);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let repeated = two.recommend(of(&user)).await.unwrap();
        assert!(missed(&ranked).is_empty() && missed(&repeated).is_empty());
        assert_eq!(ids(&repeated.results), ids(&ranked.results));
        assert_ne!(repeated.slate_id, ranked.slate_id);
        repeated.cache_status() == v1::CacheStatus::Hit && repeated.ranked_id == ranked.slate_id
    })
    .await;
    // A purge by one is a purge for both.
    let user = someone();
    for server in [&one, &two] {
        server.recommend(of(&user)).await.unwrap();
    }
    one.admin().purge_cache(authorized(v1::PurgeCacheRequest::default())).await.unwrap();
    until("the other process purges its memory, too", async || {
        two.recommend(of(&user)).await.unwrap().cache_status() == v1::CacheStatus::Miss
    })
    .await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_one_process_is_in_the_next_slate_of_the_other() {
    let (folder, redis) = (tempfile::tempdir().unwrap(), PrivateRedis::start());
    let servers = [Server::with(config(&folder, &redis)).await, Server::with(config(&folder, &redis)).await];
    let mut write_token = servers[0].upsert(items(120)).await;
    let mut seen = Vec::new();
    for round in 0..50 {
        let (writer, reader) = (&servers[round % 2], &servers[(round + 1) % 2]);
        // Redis gets an old profile and an old slate now and then, and is emptied once.
        let request = v1::RecommendRequest { write_token, require_fresh: true, count: 100, ..of("ann") };
        let slate = reader.recommend(request).await.unwrap();
        let shown = ids(&slate.results);
        assert!(seen.iter().all(|item| !shown.contains(item)), "round {round}: {seen:?} in {shown:?}");
        assert!(missed(&slate).is_empty(), "{:?}", slate.degraded);
        write_token = writer.like("ann", &[&shown[0]]).await;
        seen.push(shown[0].clone());
        if round == 25 {
            redis.command("FLUSHALL").unwrap();
        }
    }
    // What was erased is shown by neither.
    let request = v1::ForgetUserRequest { user_id: "ann".to_owned(), ..Default::default() };
    servers[0].users().forget_user(authorized(request)).await.unwrap();
    let keys = redis.command("EXISTS mq:default:0:{u:ann}").unwrap();
    assert_eq!(keys, ":0", "nothing of an erased user stays in redis");
    until("the other process forgets, too", async || {
        let slate = servers[1].recommend(v1::RecommendRequest { count: 120, ..of("ann") }).await.unwrap();
        slate.results.len() == 120
    })
    .await;
    for server in servers {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_because_of_redis_and_the_answer_says_what_it_lacked() {
    let (folder, mut redis) = (tempfile::tempdir().unwrap(), PrivateRedis::start());
    let mut config = config(&folder, &redis);
    config.cache.response_timeout_ms = 50;
    let server = Server::with(config).await;
    let token = server.upsert(items(20)).await;
    server.recommend(v1::RecommendRequest { write_token: token, ..of("ann") }).await.unwrap();
    for fault in ["frozen", "killed"] {
        match fault {
            "frozen" => redis.freeze(),
            _ => redis.kill(),
        }
        until("redis is left alone", async || {
            let answer = server.recommend(of(&someone())).await.unwrap();
            assert!(missed(&answer).iter().all(|part| *part == "cache"), "{fault}: {:?}", answer.degraded);
            missed(&answer) == ["cache"] && metric(&server, "marquee_redis_up").await == 0
        })
        .await;
        for _ in 0..20 {
            let user = someone();
            let ranked = server.recommend(of(&user)).await.unwrap();
            assert_eq!((ranked.cache_status(), missed(&ranked)), (v1::CacheStatus::Miss, vec!["cache"]));
            // This process keeps it all the same, and lacks nothing the next time.
            let repeated = server.recommend(of(&user)).await.unwrap();
            assert_eq!((repeated.cache_status(), missed(&repeated)), (v1::CacheStatus::Hit, vec![]));
        }
        match fault {
            "frozen" => redis.thaw(),
            _ => redis.restart(),
        }
        until("redis is used again", async || missed(&server.recommend(of(&someone())).await.unwrap()).is_empty())
            .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_because_of_the_store_and_the_answer_says_what_it_lacked() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.ranking.fresh_wait_ms = 10;
    let server = Server::with(config).await;
    let token = server.upsert(items(20)).await;
    let fresh = |user: &str, write_token: &str| {
        let write_token = write_token.to_owned();
        v1::RecommendRequest { write_token, require_fresh: true, bypass_cache: true, ..of(user) }
    };
    until("the items are there", async || server.recommend(fresh("ann", &token)).await.is_ok()).await;
    let later = server.like("ben", &["i3"]).await;
    server.store.close().await;

    // Ann's profile is in this process's memory.
    let answer = server.recommend(of("ann")).await.unwrap();
    assert_eq!((answer.results.len(), missed(&answer)), (20, vec![]));
    assert!(server.recommend(fresh("ann", &token)).await.is_ok());
    for _ in 0..20 {
        let answer = server.recommend(of(&someone())).await.unwrap();
        assert_eq!((answer.results.len(), missed(&answer)), (20, vec!["profile"]));
        assert_eq!(answer.cache_status(), v1::CacheStatus::Bypass, "it is not kept");
    }
    let answer = server.recommend(v1::RecommendRequest { write_token: later, ..of("ann") }).await.unwrap();
    assert!(missed(&answer).iter().all(|part| *part == "stale_profile"), "{:?}", answer.degraded);
    let refused = server.recommend(fresh(&someone(), &token)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    let ranked =
        v1::RankItemsRequest { query: Some(of(&someone())), item_ids: vec!["i1".to_owned()], include_seen: false };
    let ranked = server.recommendations().rank_items(ranked).await.unwrap().into_inner();
    assert!(ranked.degraded.unwrap().parts.iter().any(|part| part.what == "profile"));

    let refused = server.events().record_events(v1::RecordEventsRequest { events: vec![like("e", "u", "i1")] }).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable, "what is not durable is not acknowledged");
    let health = HealthClient::new(server.channel()).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    assert_eq!(metric(&server, "marquee_store_reads_up").await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slate_that_is_old_is_given_and_ranked_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.cache.ttl_ms = 50;
    let server = Server::with(config).await;
    let write_token = server.upsert(items(20)).await;
    let request = v1::RecommendRequest { write_token, require_fresh: true, ..of("ann") };
    let first = server.recommend(request).await.unwrap();
    until("a newer ranking takes its place", async || {
        let answer = server.recommend(of("ann")).await.unwrap();
        assert_eq!(answer.cache_status(), v1::CacheStatus::Hit, "nobody waits for it");
        answer.ranked_id != first.slate_id
    })
    .await;
    assert!(metric(&server, "marquee_cache_refreshes_total{name=\"done\"}").await > 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_at_once_are_ranked_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let write_token = server.upsert(items(20)).await;
    let request = v1::RecommendRequest { write_token, require_fresh: true, ..of("first") };
    server.recommend(request).await.unwrap();
    let before = metric(&server, "marquee_cache_total{name=\"miss\"}").await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let mut client = server.recommendations();
        calls.spawn(async move { client.recommend(of("ann")).await.unwrap().into_inner() });
    }
    let answers = calls.join_all().await;
    let ranked = answers.iter().filter(|answer| answer.cache_status() == v1::CacheStatus::Miss).count();
    assert_eq!(ranked, 1);
    assert!(answers.iter().all(|answer| answer.ranked_id == answers[0].ranked_id));
    assert_eq!(metric(&server, "marquee_cache_total{name=\"miss\"}").await - before, 1);
    server.stop().await;
}
