//! Health, deadlines, draining, metrics, restarts.

use std::time::{Duration, Instant};

use marquee_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Server, items, like, of};

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(4)).await;
    let token = server.like("ann", &["i0"]).await;
    server.stop().await;
    let server = Server::start(&folder).await;
    let request = v1::RecommendRequest { write_token: token, require_fresh: true, ..of("ann") };
    assert_eq!(server.recommend(request).await.unwrap().results.len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn health_is_told_by_service() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let mut health = HealthClient::new(server.channel());
    for service in ["", "marquee.v1.RecommendationService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status(), ServingStatus::Serving);
    }
    let request = HealthCheckRequest { service: "nobody".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_deadline_that_passed_is_deadline_exceeded() {
    // The server's own bound: with a deadline of the caller, tonic's client would be the first to give up.
    let with_timeout = async |timeout_ms| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::harness::config(folder.path());
        config.server.request_timeout_ms = timeout_ms;
        let server = Server::with(config).await;
        let answer = server.recommend(v1::RecommendRequest { bypass_cache: true, ..of("ann") }).await;
        server.stop().await;
        answer
    };
    assert_eq!(with_timeout(1).await.unwrap_err().code(), Code::DeadlineExceeded);
    // Little time left: less effort, and it is told.
    match with_timeout(18).await {
        Ok(answer) => assert_eq!(answer.degraded.unwrap().parts[0].what, "effort"),
        Err(status) => assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}"),
    }
}

#[tokio::test]
async fn idle_streams_are_bounded_and_take_no_room_of_calls() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.server.in_flight_max_requests = 1;
    config.server.streams_max_calls = 1;
    let server = Server::with(config).await;
    let idle = || {
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        (sender, tokio_stream::wrappers::ReceiverStream::new(messages))
    };
    let (sender, messages) = idle();
    let open = server.events().stream_events(messages).await.unwrap();
    let (_other, messages) = idle();
    let status = server.events().stream_events(messages).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("server.streams_max_calls"), "{status:?}");
    server.recommend(of("ann")).await.unwrap();
    let mut health = HealthClient::new(server.channel());
    health.check(HealthCheckRequest::default()).await.unwrap();
    drop((open, sender));
    for _ in 0..100 {
        if server.events().stream_events(idle().1).await.is_ok() {
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the room was not given back");
}

#[tokio::test]
async fn a_stop_ends_streams_and_does_not_wait_for_silent_connections() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.server.drain_ms = 60_000;
    let mut server = Server::with(config).await;
    // A connection that never sends its preface would hold a graceful shutdown for ever.
    let silent = TcpStream::connect(server.address).await.unwrap();
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut acks = server.events().stream_events(stream).await.unwrap().into_inner();
    sender.send(v1::StreamEventsRequest { sequence: 1, events: vec![like("e", "u", "i")] }).await.unwrap();
    assert_eq!(acks.message().await.unwrap().unwrap().sequence, 1);
    let started = Instant::now();
    server.signal();
    assert_eq!(acks.message().await.unwrap_err().code(), Code::Unavailable);
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(10));
    drop(silent);
}

#[tokio::test]
async fn a_stop_is_told_to_watchers_first_and_calls_are_taken_until_the_notice_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.server.drain_notice_ms = 3_000;
    let mut server = Server::with(config).await;
    let write_token = server.upsert(items(3)).await;
    let mut health = HealthClient::new(server.channel());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.signal();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let request = v1::RecommendRequest { write_token, require_fresh: true, ..of("ann") };
    assert_eq!(server.recommend(request).await.unwrap().results.len(), 3);
    // The stream ends with the drain instead of holding it.
    assert!(watched.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn metrics_count_calls_by_code() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(3)).await;
    server.recommend(of("ann")).await.unwrap();
    server.recommend(v1::RecommendRequest { count: -1, ..of("ann") }).await.unwrap_err();
    let mut stream = TcpStream::connect(server.metrics).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    for line in [
        "marquee_calls_total{method=\"Recommend\",code=\"OK\"} 1",
        "marquee_calls_total{method=\"Recommend\",code=\"INVALID_ARGUMENT\"} 1",
        "marquee_stage_seconds_count{name=\"retrieve\"} 1",
        "marquee_cache_total{name=\"miss\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("ann"), "no user in metrics");
    server.stop().await;
}
