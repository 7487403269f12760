//! Too much at once: what cannot be done is refused when it arrives, what is cached is still given, and it passes.

use std::time::{Duration, Instant};

use marquee_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, items, of};

/// Asks that wait at once.
const BURST: usize = 200;

/// An answer that takes its time to compute, and none to send: a filter that no item passes looks at all of them.
fn long(user: usize) -> v1::RecommendRequest {
    let genres_any = (0..100).map(|at| format!("a genre of no item, number {at}")).collect();
    let filter = Some(v1::Filter { genres_any, ..Default::default() });
    v1::RecommendRequest { bypass_cache: true, filter, ..of(&format!("u{user}")) }
}

async fn server(folder: &tempfile::TempDir, wait_max_ms: u64) -> Server {
    let mut config = crate::harness::config(folder.path());
    config.server.compute_threads = 1;
    config.server.request_timeout_ms = 60_000;
    config.server.queue_wait_max_ms = wait_max_ms;
    config.server.queue_wait_overload_ms = wait_max_ms;
    let server = Server::with(config).await;
    let mut write_token = String::new();
    for part in items(20_000).chunks(1_000) {
        write_token = server.upsert(part.to_vec()).await;
    }
    // All of them are there, and ann's slate is in the cache.
    server.recommend(v1::RecommendRequest { write_token, require_fresh: true, ..of("ann") }).await.unwrap();
    server
}

fn burst(server: &Server) -> JoinSet<Result<v1::RecommendResponse, Status>> {
    let mut calls = JoinSet::new();
    for user in 0..BURST {
        let mut client = server.recommendations();
        calls.spawn(async move { client.recommend(long(user)).await.map(tonic::Response::into_inner) });
    }
    calls
}

async fn metrics(server: &Server) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_wait_too_long_is_refused_and_what_is_cached_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder, 50).await;
    for user in 0..20 {
        server.recommend(long(user)).await.unwrap();
    }
    let mut calls = burst(&server);
    let cached = server.recommend(of("ann")).await.unwrap();
    assert_eq!(cached.cache_status(), v1::CacheStatus::Hit);
    HealthClient::new(server.channel()).check(HealthCheckRequest::default()).await.unwrap();
    let (mut answered, mut refused) = (0, 0);
    while let Some(answer) = calls.join_next().await {
        match answer.unwrap() {
            Ok(answer) => {
                assert!(answer.short_reason.contains("filter"), "{answer:?}");
                answered += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                refused += 1;
            }
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    server.recommend(long(0)).await.expect("it passes");
    let text = metrics(&server).await;
    let count = format!("marquee_shed_seconds_count {refused}");
    assert!(text.contains(&count) && text.contains("marquee_shed_total{name=\"wait\"}"), "{count} in {text}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_deadline_is_refused_at_once_and_a_possible_one_is_met() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder, 60_000).await;
    // On a slow machine the caller's own timer may be the first, or the burst may be over: then once more.
    for _ in 0..20 {
        // Anew each time: beside other tests one may have taken many times as long as it does now.
        let started = Instant::now();
        for user in 0..20 {
            server.recommend(long(user)).await.unwrap();
        }
        let one = started.elapsed() / 20;
        let mut calls = burst(&server);
        let within = async |deadline: Duration| {
            let mut request = Request::new(long(0));
            request.set_timeout(deadline);
            server.recommendations().recommend(request).await
        };
        // The burst is there by then, and three quarters of it still wait at that deadline.
        tokio::time::sleep(one * 4).await;
        let hurried = within(one * BURST as u32 / 5).await;
        let patient = within(Duration::from_secs(60)).await;
        patient.unwrap();
        while let Some(answer) = calls.join_next().await {
            answer.unwrap().unwrap();
        }
        if let Err(status) = hurried
            && status.code() == Code::ResourceExhausted
        {
            assert!(status.message().contains("deadline"), "{status:?}");
            assert!(metrics(&server).await.contains("marquee_shed_total{name=\"deadline\"}"));
            return server.stop().await;
        }
    }
    panic!("no deadline was refused");
}
