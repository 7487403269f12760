//! The slate log, answers that repeat it, and the clean-up of what has a retention.

use std::ops::Range;

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::fields::{self, Fields};
use super::session::{Live, failed};
use crate::error::Result;
use crate::ids;
use crate::store::columns::{self, ROW_MAX_MS, SlateColumns};
use crate::store::writer::{Tx, Write};
use crate::store::{Pruned, Repeat, SlateRecord};

/// Rows that one clean-up transaction removes at most, so that writes do not wait for it.
const PRUNE_ROWS: i64 = 5_000;

pub(super) struct Put {
    pub(super) slates: Vec<SlateRecord>,
}

#[async_trait]
impl Write<Live> for Put {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<()> {
        let rows: Vec<SlateColumns> = self.slates.iter().map(SlateColumns::of).collect::<Result<_>>()?;
        let users = || self.slates.iter().map(|slate| slate.user.as_ref());
        // Ranked before its user was erased and written after: it must not come back.
        sqlx::query(
            "INSERT INTO slates (slate_id, user_key, now_ms, json, columns_hash, row_items, row_features) \
             SELECT slate_id, user_key, now_ms, json, columns_hash, row_items, row_features \
             FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::bytea[], \
             $8::bytea[], $9::bigint[]) \
             AS given (slate_id, user_key, now_ms, json, columns_hash, row_items, row_features, user_hash, watermark) \
             WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE key_hash = user_hash AND seq > watermark) \
             ON CONFLICT DO NOTHING",
        )
        .bind(self.slates.iter().map(|slate| slate.slate_id.as_bytes()).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(fields::key)).collect::<Vec<_>>())
        .bind(self.slates.iter().map(|slate| slate.now_ms).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.json.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.columns_hash).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.row_items.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.row_features.as_deref()).collect::<Vec<_>>())
        .bind(users().map(|user| user.map(|user| user.hash().0.to_vec())).collect::<Vec<_>>())
        .bind(self.slates.iter().map(|slate| slate.watermark as i64).collect::<Vec<_>>())
        .execute(&mut tx.connection.sql)
        .await
        .map(|_| ())
        .map_err(failed("writing slates"))
    }
}

pub(super) struct PutRepeats {
    pub(super) repeats: Vec<Repeat>,
}

#[async_trait]
impl Write<Live> for PutRepeats {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<()> {
        let rows = columns::pack(&self.repeats);
        sqlx::query(
            "INSERT INTO repeats (first_ms, last_ms, entries) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])",
        )
        .bind(rows.iter().map(|row| row.first_ms).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_ms).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.entries.as_slice()).collect::<Vec<_>>())
        .execute(&mut tx.connection.sql)
        .await
        .map(|_| ())
        .map_err(failed("writing repeated slates"))
    }
}

/// See [`crate::store::Store::get_slate`].
pub(super) async fn get(sql: &mut PgConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    match ranked(sql, slate_id).await? {
        Some(slate) => Ok(Some(slate)),
        None => repeated(sql, slate_id).await,
    }
}

async fn ranked(sql: &mut PgConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    let row = sqlx::query("SELECT json, columns_hash, row_items, row_features FROM slates WHERE slate_id = $1")
        .bind(slate_id.as_bytes())
        .fetch_optional(sql)
        .await
        .map_err(failed("reading a slate"))?;
    row.as_ref().map(read).transpose()
}

/// The slate that `slate_id` repeats, as it was given that time.
async fn repeated(sql: &mut PgConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    let Some(time_ms) = ids::time_of(slate_id) else { return Ok(None) };
    let rows = sqlx::query_scalar::<_, Vec<u8>>(
        "SELECT entries FROM repeats WHERE last_ms >= $1 AND last_ms < $1 + $2 AND first_ms <= $1 ORDER BY last_ms",
    )
    .bind(time_ms)
    .bind(ROW_MAX_MS)
    .fetch_all(&mut *sql)
    .await
    .map_err(failed("reading repeated slates"))?;
    for entries in rows {
        let found = columns::unpack(&entries)?.into_iter().find(|repeat| repeat.slate_id == slate_id);
        if let Some(Repeat { slate_id, ranked_id, now_ms }) = found {
            let ranked = ranked(sql, &ranked_id).await?;
            return Ok(ranked.map(|ranked| SlateRecord { slate_id, now_ms, rows: None, ..ranked }));
        }
    }
    Ok(None)
}

/// See [`crate::store::Store::slates_between`].
pub(super) async fn between(
    sql: &mut PgConnection,
    when: Range<TimeMs>,
    after: Option<&(TimeMs, String)>,
    limit: usize,
) -> Result<Vec<SlateRecord>> {
    let rows = sqlx::query(
        "SELECT json, columns_hash, row_items, row_features FROM slates \
         WHERE now_ms >= $1 AND now_ms < $2 AND (now_ms, slate_id) > ($3, $4) ORDER BY now_ms, slate_id LIMIT $5",
    )
    .bind(when.start)
    .bind(when.end)
    .bind(after.map_or(i64::MIN, |(time_ms, _)| *time_ms))
    .bind(after.map_or(&[][..], |(_, id)| id.as_bytes()))
    .bind(limit as i64)
    .fetch_all(sql)
    .await
    .map_err(failed("reading slates"))?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<SlateRecord> {
    let fields = Fields { row, doing: "reading a slate" };
    SlateColumns {
        json: fields.get(0)?,
        columns_hash: fields.get(1)?,
        row_items: fields.get(2)?,
        row_features: fields.get(3)?,
    }
    .read()
}

/// Removes one batch.
pub(super) struct Prune {
    pub(super) event_ids_before_ms: TimeMs,
    pub(super) slates_before_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for Prune {
    type Output = Pruned;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Pruned> {
        let sql = &mut tx.connection.sql;
        let event_ids = "DELETE FROM event_ids WHERE hash IN \
             (SELECT hash FROM event_ids WHERE received_ms < $1 ORDER BY received_ms LIMIT $2)";
        let slates = "DELETE FROM slates WHERE slate_id IN \
             (SELECT slate_id FROM slates WHERE now_ms < $1 ORDER BY now_ms LIMIT $2)";
        let repeats = "DELETE FROM repeats WHERE id IN \
             (SELECT id FROM repeats WHERE last_ms < $1 ORDER BY last_ms LIMIT $2)";
        Ok(Pruned {
            event_ids: remove(sql, event_ids, self.event_ids_before_ms).await?,
            slates: remove(sql, slates, self.slates_before_ms).await?,
            repeats: remove(sql, repeats, self.slates_before_ms).await?,
        })
    }
}

async fn remove(sql: &mut PgConnection, text: &'static str, before_ms: TimeMs) -> Result<u64> {
    sqlx::query(text)
        .bind(before_ms)
        .bind(PRUNE_ROWS)
        .execute(sql)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed("cleaning up"))
}
