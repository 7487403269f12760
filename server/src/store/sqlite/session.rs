//! One transaction of the writer in a SQLite file.

use async_trait::async_trait;
use marquee_engine::types::Seq;
use sqlx::{Connection, SqliteConnection};

use super::{failed, log};
use crate::error::Result;
use crate::store::writer::{self, Batch, Tx};

pub(super) struct Session {
    pub(super) connection: SqliteConnection,
}

#[async_trait]
impl writer::Session for Session {
    type Connection = SqliteConnection;

    async fn commit(&mut self, batch: &mut Batch<SqliteConnection>) -> Result<Seq> {
        let mut transaction =
            self.connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed("beginning a write"))?;
        let end = log::end(&mut transaction).await?;
        let mut tx = Tx::new(&mut *transaction, end);
        batch.apply(&mut tx).await?;
        let end = tx.end();
        transaction.commit().await.map_err(failed("committing"))?;
        if batch.wants_checkpoint() {
            self.checkpoint().await;
        }
        Ok(end)
    }

    async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the store");
        }
    }
}

impl Session {
    /// Best effort: a long read of another connection can hold the log; the next checkpoint gets it then.
    async fn checkpoint(&mut self) {
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut self.connection).await {
            tracing::warn!(%error, "the write-ahead log was not truncated");
        }
    }
}
