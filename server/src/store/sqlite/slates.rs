//! The slate log, and the clean-up of what has a retention.

use std::ops::Range;

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::failed;
use crate::error::Result;
use crate::store::columns::SlateColumns;
use crate::store::writer::{Tx, Write};
use crate::store::{Pruned, SlateRecord};

/// Rows that one clean-up transaction removes at most, so that writes do not wait for it.
const PRUNE_ROWS: i64 = 5_000;

const COLUMNS: &str = "json, columns_hash, row_items, row_features";

pub(super) struct Put {
    pub(super) slates: Vec<SlateRecord>,
}

#[async_trait]
impl Write<SqliteConnection> for Put {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<()> {
        for slate in &self.slates {
            let columns = SlateColumns::of(slate)?;
            sqlx::query(
                "INSERT INTO slates (slate_id, user_key, now_ms, json, columns_hash, row_items, row_features) \
                 SELECT ?, ?, ?, ?, ?, ?, ? \
                 WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE key_hash = ? AND seq > ?) ON CONFLICT DO NOTHING",
            )
            .bind(slate.slate_id.clone())
            .bind(slate.user.as_ref().map(|user| user.as_str().to_owned()))
            .bind(slate.now_ms)
            .bind(columns.json)
            .bind(columns.columns_hash)
            .bind(columns.row_items)
            .bind(columns.row_features)
            // Ranked before its user was erased and written after: it must not come back.
            .bind(slate.user.as_ref().map(|user| user.hash().0.to_vec()))
            .bind(slate.watermark as i64)
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("writing a slate"))?;
        }
        Ok(())
    }
}

/// A slate that was ranked; see [`crate::store::Store::get_slate`].
pub(super) async fn ranked(connection: &mut SqliteConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM slates WHERE slate_id = ?")))
        .bind(slate_id.to_owned())
        .fetch_optional(connection)
        .await
        .map_err(failed("reading a slate"))?;
    row.as_ref().map(read).transpose()
}

/// See [`crate::store::Store::slates_between`].
pub(super) async fn between(
    connection: &mut SqliteConnection,
    when: Range<TimeMs>,
    after: Option<(TimeMs, String)>,
    limit: usize,
) -> Result<Vec<SlateRecord>> {
    let (time_ms, id) = after.unwrap_or((i64::MIN, String::new()));
    let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT {COLUMNS} FROM slates WHERE now_ms >= ?1 AND now_ms < ?2 AND (now_ms, slate_id) > (?3, ?4) \
         ORDER BY now_ms, slate_id LIMIT ?5"
    )))
    .bind(when.start)
    .bind(when.end)
    .bind(time_ms)
    .bind(id)
    .bind(limit as i64)
    .fetch_all(connection)
    .await
    .map_err(failed("reading slates"))?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<SlateRecord> {
    let failed = failed("reading a slate");
    SlateColumns {
        json: row.try_get(0).map_err(&failed)?,
        columns_hash: row.try_get(1).map_err(&failed)?,
        row_items: row.try_get(2).map_err(&failed)?,
        row_features: row.try_get(3).map_err(&failed)?,
    }
    .read()
}

/// Removes one batch.
pub(super) struct Prune {
    pub(super) event_ids_before_ms: TimeMs,
    pub(super) slates_before_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for Prune {
    type Output = Pruned;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Pruned> {
        let event_ids = remove(
            tx,
            "DELETE FROM event_ids WHERE hash IN (SELECT hash FROM event_ids WHERE received_ms < ? LIMIT ?)",
            self.event_ids_before_ms,
        );
        let event_ids = event_ids.await?;
        let slates = remove(
            tx,
            "DELETE FROM slates WHERE slate_id IN (SELECT slate_id FROM slates WHERE now_ms < ? LIMIT ?)",
            self.slates_before_ms,
        );
        let slates = slates.await?;
        let repeats = remove(
            tx,
            "DELETE FROM repeats WHERE id IN (SELECT id FROM repeats WHERE last_ms < ? ORDER BY last_ms LIMIT ?)",
            self.slates_before_ms,
        );
        Ok(Pruned { event_ids, slates, repeats: repeats.await? })
    }
}

async fn remove(tx: &mut Tx<'_, SqliteConnection>, sql: &'static str, before_ms: TimeMs) -> Result<u64> {
    sqlx::query(sql)
        .bind(before_ms)
        .bind(PRUNE_ROWS)
        .execute(&mut *tx.connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed("cleaning up"))
}
