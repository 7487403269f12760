//! Lost connections, locks that are held, a full queue: real ones.

use std::time::Duration;

use super::*;

/// Ends every session of this store on the server, as an administrator or a failover does.
async fn cut(schema: &Schema) -> i64 {
    let mut sql = schema.connect().await;
    sqlx::query_scalar(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND pid <> pg_backend_pid()",
    )
    .bind(format!("marquee {}", schema.config.namespace))
    .fetch_one(&mut sql)
    .await
    .unwrap()
}

#[tokio::test]
async fn reads_and_writes_come_back_after_every_connection_is_cut() {
    let schema = Schema::new();
    let store = Arc::new(schema.open().await.unwrap());
    for round in 0..5 {
        let (a, b) = tokio::join!(store.log_end(), store.counts());
        assert_eq!((a.unwrap(), b.unwrap().events), (round, round));
        assert!(cut(&schema).await >= 1);
        let written = store.append_events(vec![event(&round.to_string())], 1).await.unwrap();
        assert!(
            matches!(written[..], [Outcome::Accepted { .. }]),
            "nothing was committed before, so it is written again"
        );
        assert_eq!(store.log_end().await.unwrap(), round + 1);
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_once_whatever_is_cut() {
    let schema = Arc::new(Schema::new());
    let store = Arc::new(schema.open().await.unwrap());
    let cutting = tokio::spawn({
        let schema = Arc::clone(&schema);
        async move {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(15)).await;
                cut(&schema).await;
            }
        }
    });
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..100 {
                    let event = event(&format!("{writer}-{n}"));
                    // As a caller does: again, with the same id, until it is acknowledged.
                    while store.append_events(vec![event.clone()], 1).await.is_err() {}
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    cutting.await.unwrap();
    let rows = store.log_after(0, 1_000).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=400).collect::<Vec<_>>());
    let ids: std::collections::HashSet<String> = rows
        .into_iter()
        .map(|row| match row.entry {
            crate::store::StoredEntry::Event(event) => event.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids.len(), 400);
    store.close().await;
}

#[tokio::test]
async fn a_lock_that_is_held_ends_in_unavailable_and_reads_go_on() {
    let mut schema = Schema::new();
    schema.config.store.statement_timeout_ms = 50;
    schema.config.store.write_retry_ms = 100;
    schema.config.store.write_queue_max_entries = 1;
    schema.config.store.write_wait_ms = 1;
    let store = Arc::new(schema.open().await.unwrap());
    let mut other = schema.connect().await;
    sqlx::raw_sql("SET idle_in_transaction_session_timeout = 0; BEGIN; SELECT seq FROM log_end FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let (stuck, refused, read) = tokio::join!(
        store.append_events(vec![event("1")], 1),
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            store.append_events(vec![event("2")], 1).await
        },
        store.log_end()
    );
    assert!(matches!(stuck, Err(Error::Unavailable { .. })), "{stuck:?}");
    assert!(matches!(refused, Err(Error::ResourceExhausted(_))), "{refused:?}");
    assert_eq!(read.unwrap(), 0);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert!(matches!(store.append_events(vec![event("1")], 1).await.unwrap()[..], [Outcome::Accepted { seq: 1, .. }]));
    store.close().await;
}

#[tokio::test]
async fn a_process_that_hangs_in_a_transaction_is_cut_off_by_the_server() {
    let mut schema = Schema::new();
    schema.config.store.statement_timeout_ms = 200;
    let store = schema.open().await.unwrap();
    let mut hanging = schema.connect().await;
    log::lock(&mut hanging).await.unwrap();
    // The writer waits for the lock, in vain at first; the server ends the transaction that does nothing.
    assert!(matches!(store.append_events(vec![event("1")], 1).await.unwrap()[..], [Outcome::Accepted { seq: 1, .. }]));
    assert!(log::end(&mut hanging).await.is_err());
    store.close().await;
}

#[tokio::test]
async fn a_read_that_is_given_up_costs_the_pool_nothing() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    for _ in 0..10 {
        let sleep = async {
            let mut view = store.readers.take().await.unwrap();
            sqlx::query("SELECT pg_sleep(60)").execute(&mut *view).await
        };
        assert!(tokio::time::timeout(Duration::from_millis(10), sleep).await.is_err());
    }
    assert_eq!(store.log_end().await.unwrap(), 0);
    store.close().await;
}

#[tokio::test]
async fn commits_are_durable_whatever_the_servers_default_is() {
    let schema = Schema::new();
    let store = schema.open().await.unwrap();
    let mut sql = schema.connect().await;
    let setting: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut sql).await.unwrap();
    assert_eq!(setting, "on");
    store.close().await;
}
