//! For tests of any store: a schema of its own on the tests' server.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, ConnectOptions};

use super::Postgres;
use super::session::Server;
use crate::config::{self, Config};
use crate::error::Result;
use crate::telemetry::Metrics;
use crate::testkit;

/// A schema of its own on the tests' server.
pub(in crate::store) struct Schema {
    pub(in crate::store) config: Config,
}

impl Schema {
    pub(in crate::store) fn new() -> Schema {
        let mut config = Config { namespace: testkit::unique("test"), ..Config::default() };
        config.store = config::Store {
            url: testkit::server("MARQUEE_TEST_POSTGRES").into(),
            read_connections_max: 2,
            ..config.store
        };
        Schema { config }
    }

    pub(in crate::store) async fn open(&self) -> Result<Postgres> {
        Postgres::open(&self.config, Arc::new(Metrics::new())).await
    }

    /// A connection beside the store's.
    pub(in crate::store) async fn connect(&self) -> sqlx::PgConnection {
        Server::new(&self.config).unwrap().connect().await.unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        // Tests run on a runtime of one thread, which is dropping this: another one cleans up.
        let options: sqlx::postgres::PgConnectOptions = self.config.store.url.expose().parse().unwrap();
        let drop =
            format!("SET client_min_messages = warning; DROP SCHEMA IF EXISTS \"{}\" CASCADE", self.config.namespace);
        let clean = move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut sql = options.connect().await?;
                sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut sql).await
            })
        };
        let cleaned = std::thread::spawn(clean).join();
        if !std::thread::panicking() {
            cleaned.unwrap().unwrap();
        }
    }
}
