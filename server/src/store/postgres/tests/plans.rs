//! Indices earn their keep: the plans of what runs often, on a table that is worth an index.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::super::{history, log};
use super::*;

/// The plan of a statement with these arguments, as text.
async fn plan(sql: &mut sqlx::PgConnection, text: &str, bind: impl FnOnce(Bound) -> Bound) -> String {
    let explain = format!("EXPLAIN (COSTS OFF) {text}");
    let rows = bind(sqlx::query(AssertSqlSafe(explain))).fetch_all(sql).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

type Bound = Query<'static, sqlx::Postgres, PgArguments>;

#[tokio::test]
async fn what_runs_often_walks_an_index() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    // 20,000 events of 500 users in two months.
    for (month, received_ms) in [("a", 1_767_225_500_000), ("b", 1_767_225_600_000)] {
        let events = (0..10_000).map(|n: i64| {
            let (user, n) = (n / 20, n % 20);
            let key =
                if n % 5 == 0 { UserKey::anonymous(&format!("v{user}")) } else { UserKey::user(&format!("u{user}")) };
            Event { user: key, time_ms: n, ..event(&format!("{month}{user}-{n}")) }
        });
        store.append_events(events.collect(), received_ms).await.unwrap();
    }
    store.merge_users(&UserKey::anonymous("v7"), &UserKey::user("u7"), 1_767_225_600_000).await.unwrap();
    store.close().await;
    let mut sql = schema.connect().await;
    sqlx::raw_sql("ANALYZE log; ANALYZE aliases").execute(&mut sql).await.unwrap();
    let user = b"u:u7".to_vec();
    let now = plan(&mut sql, &history::NOW, |query| {
        query.bind(user.clone()).bind(i64::MAX).bind(vec![b"impression".to_vec()]).bind(100_i64)
    })
    .await;
    let then = plan(&mut sql, &history::THEN, |query| {
        query.bind(user.clone()).bind(15_000_i64).bind(vec![b"impression".to_vec()]).bind(100_i64)
    })
    .await;
    let list = plan(&mut sql, &history::LIST, |query| {
        query.bind(user.clone()).bind(i64::MAX).bind(9_i64).bind(b"e".to_vec()).bind(9_i64).bind(20_i64)
    })
    .await;
    let later = plan(&mut sql, &history::LATER, |query| query.bind(user.clone()).bind(9_000_i64).bind(20_i64)).await;
    let latest = plan(&mut sql, &history::LATER, |query| query.bind(user.clone()).bind(19_990_i64).bind(20_i64)).await;
    let after = plan(&mut sql, &log::AFTER, |query| query.bind(19_000_i64).bind(100_i64)).await;
    let plans = [
        ("history", &now),
        ("past history", &then),
        ("later history", &later),
        ("latest history", &latest),
        ("list", &list),
        ("log_after", &after),
    ];
    for (name, plan) in plans {
        // Partitions that hold nothing may be scanned whole.
        for table in ["log_2025_12", "log_2026_01"] {
            assert!(!plan.contains(&format!("Seq Scan on {table}")), "{name}:\n{plan}");
        }
    }
    for (name, plan) in [("history", &now), ("later history", &later), ("list", &list)] {
        assert!(plan.contains("user_key_time_ms_event_id_seq_idx"), "{name}:\n{plan}");
    }
    assert!(then.contains("moved_from_idx"), "{then}");
    assert!(after.contains("_pkey"), "{after}");
}
