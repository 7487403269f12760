//! The suite on a real server, each test in a schema of its own, and what only such a server can show.

mod faults;
mod killed;
mod opening;
mod plans;

use sqlx::{AssertSqlSafe, Row};

use super::testing::Schema;
use super::*;
use crate::store::conformance;
use crate::testkit;

async fn open() -> (Schema, Arc<dyn Store>) {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    (schema, Arc::new(store))
}

conformance::suite!(open);

pub(super) fn event(id: &str) -> Event {
    Event::new(id, UserKey::user("ann"), marquee_engine::event::EventKind::Like, Some("i"), 1)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    store.append_events(vec![event("1"), event("2")], 1).await.unwrap();
    store.forget(&UserKey::user("ann"), 2).await.unwrap();
    store.close().await;
    let store = schema.open().await.unwrap();
    assert_eq!(store.log_end().await.unwrap(), 3, "erased positions are not reused");
    assert_eq!(store.append_events(vec![event("1")], 3).await.unwrap(), [Outcome::Duplicate]);
    assert_eq!(*store.commits().borrow(), 3);
    store.close().await;
}

#[tokio::test]
async fn positions_of_several_processes_rise_by_time_of_commit_without_gaps() {
    let schema = Schema::new();
    let (first, second) = (schema.open().await.unwrap(), schema.open().await.unwrap());
    let write = async |store: &Postgres, name: &str| {
        for n in 0..30 {
            let id = format!("{name}{n}");
            store.append_events(vec![event(&id), event("same")], 1).await.unwrap();
        }
    };
    let follow = async {
        // Whatever is seen at a position stays the whole truth up to it.
        let mut seen = Vec::new();
        while seen.len() < 61 {
            let rows = first.log_after(seen.len() as Seq, 100).await.unwrap();
            seen.extend(rows.into_iter().map(|row| row.seq));
            tokio::task::yield_now().await;
        }
        seen
    };
    let ((), (), seen) = tokio::join!(write(&first, "a"), write(&second, "b"), follow);
    assert_eq!(seen, (1..=61).collect::<Vec<_>>());
    assert_eq!(second.counts().await.unwrap().events, 61);
    assert_eq!(first.metrics.log_end.get(), 61, "what others wrote is in the metric once it is read");
    first.close().await;
    second.close().await;
}

#[tokio::test]
async fn rows_lie_in_the_partition_of_their_month() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    for (id, received_ms) in
        [("a", 1_767_225_599_999), ("b", 1_767_225_600_000), ("c", -1), ("d", i64::MAX), ("e", 1_767_225_600_001)]
    {
        store.append_events(vec![event(id)], received_ms).await.unwrap();
    }
    let rows = sqlx::query("SELECT tableoid::regclass::text FROM log ORDER BY seq")
        .fetch_all(&mut schema.connect().await)
        .await
        .unwrap();
    let tables: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(tables, ["log_2025_12", "log_2026_01", "log_before_1970", "log_from_2200", "log_2026_01"]);
    assert_eq!(store.log_after(0, 10).await.unwrap().len(), 5, "in order, across partitions");
    store.close().await;
}

#[tokio::test]
async fn people_can_read_events() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    let mut odd = event("E\u{0}1");
    odd.user = UserKey::user("Ünï");
    store.append_events(vec![odd], 1_767_225_600_000).await.unwrap();
    let row = sqlx::query("SELECT user_key, event_id, received::text FROM events_readable")
        .fetch_one(&mut schema.connect().await)
        .await
        .unwrap();
    let shown: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    assert_eq!(shown, ["u:Ünï", r"E\0001", "2026-01-01 00:00:00+00"]);
    store.close().await;
}
