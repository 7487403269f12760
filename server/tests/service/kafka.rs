//! Two processes, one store, one Kafka: what one acknowledged, the other's next slate knows.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use marquee::config::Config;
use marquee_proto::v1;

use crate::harness::{Server, config, ids, items, like, of};

/// Of this many users, each likes one item after the other.
const USERS: usize = 50;

/// How many writes are read back; a long run sets it.
fn writes() -> usize {
    std::env::var("MARQUEE_READ_BACK_WRITES").map_or(300, |count| count.parse().unwrap())
}

fn over_kafka(folder: &Path, namespace: &str, ingest: bool) -> Config {
    let mut config = config(folder);
    let kafka = std::env::var("MARQUEE_TEST_KAFKA");
    config.events.url = kafka.expect("MARQUEE_TEST_KAFKA is not set: run `make test`").into();
    config.namespace = namespace.to_owned();
    config.events.create_topic = true;
    config.events.ingest = ingest;
    config.events.connect_timeout_ms = 30_000;
    config.events.produce_timeout_ms = 9_000;
    config
}

fn namespace() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    format!("service-{}-{now:x}", std::process::id())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_one_process_acknowledged_changes_the_next_slate_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let namespace = namespace();
    let one = Server::with(over_kafka(folder.path(), &namespace, false)).await;
    let other = Server::with(over_kafka(folder.path(), &namespace, true)).await;
    let each = writes().div_ceil(USERS);
    let token = one.upsert(items(each + 50)).await;
    let fresh = |token: String, user: &str| v1::RecommendRequest {
        write_token: token,
        require_fresh: true,
        count: 500,
        ..of(user)
    };
    let all = other.recommend(fresh(token, "nobody")).await.unwrap();
    assert_eq!(all.results.len(), (each + 50).min(500));
    let mut waits = Vec::with_capacity(writes());
    for n in 0..writes() {
        let (user, item) = (format!("u{}", n % USERS), format!("i{}", n / USERS));
        let token = one.like(&user, &[&item]).await;
        assert!(token.starts_with("w2."), "{token}");
        let acknowledged = Instant::now();
        let slate = other.recommend(fresh(token, &user)).await.unwrap();
        waits.push(acknowledged.elapsed());
        assert!(!ids(&slate.results).contains(&item), "write {n}: {user} has seen {item}");
    }
    waits.sort();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
    println!(
        "{} writes: from the acknowledgement to the other's slate p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
        waits.len(),
        at(50),
        at(99),
        at(100)
    );
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_hands_its_partitions_to_the_one_that_stays() {
    let folder = tempfile::tempdir().unwrap();
    let namespace = namespace();
    let leaving = Server::with(over_kafka(folder.path(), &namespace, true)).await;
    let staying = Server::with(over_kafka(folder.path(), &namespace, true)).await;
    staying.upsert(items(20)).await;
    for n in 0..40 {
        let events = vec![like(&format!("a{n}"), &format!("u{n}"), "i1")];
        leaving.events().record_events(v1::RecordEventsRequest { events }).await.unwrap();
    }
    leaving.stop().await;
    let events = (0..40).map(|n| like(&format!("b{n}"), &format!("u{n}"), "i2")).collect();
    staying.events().record_events(v1::RecordEventsRequest { events }).await.unwrap();
    let started = Instant::now();
    loop {
        let mut counts = Vec::new();
        for n in 0..40 {
            let user = v1::GetUserRequest { user_id: format!("u{n}"), ..Default::default() };
            counts.push(staying.users().get_user(user).await.map_or(0, |user| user.into_inner().events));
        }
        assert!(counts.iter().all(|count| *count <= 2), "{counts:?}");
        if counts.iter().all(|count| *count == 2) {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{counts:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    staying.stop().await;
}
