//! A store that loses its newest entries under running processes, as when a replica that lacked them took over: the
//! processes forget what it lost, and see what is written in its place. Over real PostgreSQL and Redis.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use marquee::config::Config;
use marquee::store::{Event, UserKey};
use marquee_engine::event::EventKind;
use marquee_proto::v1;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use crate::harness::{Server, authorized, config, ids, item, items, of};
use crate::redis::PrivateRedis;
use crate::shared::metric;

const PATIENCE: usize = 500;

/// A schema of its own, two processes over it.
struct Installation {
    _folder: TempDir,
    _redis: PrivateRedis,
    namespace: String,
    sql: PgConnection,
    servers: [Server; 2],
}

impl Installation {
    async fn start(change: impl Fn(&mut Config)) -> Installation {
        let (folder, redis) = (tempfile::tempdir().unwrap(), PrivateRedis::start());
        let mut config = config(folder.path());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        config.namespace = format!("set-back-{}-{now:x}", std::process::id());
        let url = std::env::var("MARQUEE_TEST_POSTGRES").expect("MARQUEE_TEST_POSTGRES is not set: run `make test`");
        config.store.url = url.as_str().into();
        config.cache.url = redis.url().into();
        config.cache.response_timeout_ms = 1_000;
        change(&mut config);
        let sql = PgConnection::connect(&url).await.unwrap();
        let servers = [Server::with(config.clone()).await, Server::with(config.clone()).await];
        Installation { _folder: folder, _redis: redis, namespace: config.namespace, sql, servers }
    }

    /// What was written after that position never was.
    async fn lose(&mut self, after: u64) {
        let text = format!(
            "SET search_path = \"{}\"; BEGIN; DELETE FROM log WHERE seq > {after}; DELETE FROM items WHERE seq > {after}; \
             DELETE FROM event_ids WHERE hash NOT IN (SELECT substr(sha256(event_id), 1, 16) FROM log WHERE kind = 0); \
             UPDATE log_end SET seq = {after}; COMMIT",
            self.namespace
        );
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.sql).await.unwrap();
    }

    async fn end(mut self) {
        for server in self.servers {
            assert_eq!(metric(&server, "marquee_log_set_back_total").await, 1, "it is found once");
            server.stop().await;
        }
        let text = format!("SET client_min_messages = warning; DROP SCHEMA \"{}\" CASCADE", self.namespace);
        sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut self.sql).await.unwrap();
    }
}

/// Ann's slate once that write is in it.
async fn after(server: &Server, write_token: &str) -> Vec<String> {
    let request = v1::RecommendRequest { write_token: write_token.to_owned(), require_fresh: true, ..of("ann") };
    let mut shown = ids(&server.recommend(request).await.unwrap().results);
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_lost_is_forgotten() {
    let mut all = Installation::start(|_| ()).await;
    all.servers[0].upsert(items(5)).await;
    all.servers[0].like("ann", &["i0"]).await;
    let kept = all.servers[0].store.log_end().await.unwrap();
    all.servers[0].upsert(vec![item("lost", "drama")]).await;
    let token = all.servers[1].like("ann", &["i1"]).await;
    for server in &all.servers {
        assert_eq!(after(server, &token).await, ["i2", "i3", "i4", "lost"]);
    }
    all.lose(kept).await;
    for server in &all.servers {
        let mut shown = Vec::new();
        for _ in 0..PATIENCE {
            shown = ids(&server.recommend(of("ann")).await.unwrap().results);
            shown.sort();
            if shown == ["i1", "i2", "i3", "i4"] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(shown, ["i1", "i2", "i3", "i4"]);
    }
    let token = all.servers[1].like("ann", &["i2"]).await;
    for server in &all.servers {
        assert_eq!(after(server, &token).await, ["i1", "i3", "i4"]);
    }
    all.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_over_the_lost_positions_before_anybody_looks_is_seen() {
    // Looks at the log only for those who wait for a write.
    let mut all = Installation::start(|config| config.ranking.world_tick_ms = 60_000).await;
    all.servers[0].upsert(items(6)).await;
    all.servers[0].like("ann", &["i0"]).await;
    let kept = all.servers[0].store.log_end().await.unwrap();
    all.servers[0].upsert(vec![item("lost", "drama")]).await;
    let token = all.servers[1].like("ann", &["i1"]).await;
    for server in &all.servers {
        assert_eq!(after(server, &token).await, ["i2", "i3", "i4", "i5", "lost"]);
    }
    all.lose(kept).await;
    // Another process's writes: the log is longer than it was before anybody here looks.
    let like = |id: &str, user: &str, item: &str| Event::new(id, UserKey::user(user), EventKind::Like, Some(item), 9);
    let others = (0..20).map(|n| like(&format!("bob-{n}"), "bob", "i5")).chain([like("ann-2", "ann", "i2")]).collect();
    all.servers[0].store.append_events(others, 10).await.unwrap();
    let token = all.servers[0].like("ann", &["i3"]).await;
    for server in &all.servers {
        assert_eq!(after(server, &token).await, ["i1", "i4", "i5"]);
    }
    all.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_of_the_newest_entry_is_no_loss() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    server.upsert(items(3)).await;
    let token = server.like("ann", &["i0"]).await;
    assert_eq!(after(&server, &token).await, ["i1", "i2"]);
    let request = v1::ForgetUserRequest { user_id: "ann".to_owned(), ..Default::default() };
    server.users().forget_user(authorized(request)).await.unwrap();
    let token = server.like("ann", &["i1"]).await;
    assert_eq!(after(&server, &token).await, ["i0", "i2"]);
    assert_eq!(metric(&server, "marquee_log_set_back_total").await, 0);
    server.stop().await;
}
