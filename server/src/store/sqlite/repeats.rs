//! Answers that repeat a logged slate: many to a row, so that one costs next to nothing.

use async_trait::async_trait;
use sqlx::{Row, SqliteConnection};

use super::failed;
use crate::error::Result;
use crate::ids;
use crate::store::columns::{self, ROW_MAX_MS, unpack};
use crate::store::writer::{Tx, Write};
use crate::store::{Repeat, SlateRecord};

pub(super) struct Put {
    pub(super) repeats: Vec<Repeat>,
}

#[async_trait]
impl Write<SqliteConnection> for Put {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<()> {
        for row in columns::pack(&self.repeats) {
            sqlx::query("INSERT INTO repeats (first_ms, last_ms, entries) VALUES (?, ?, ?)")
                .bind(row.first_ms)
                .bind(row.last_ms)
                .bind(row.entries)
                .execute(&mut *tx.connection)
                .await
                .map_err(failed("writing repeated slates"))?;
        }
        Ok(())
    }
}

/// The slate that `slate_id` repeats, as it was given that time.
pub(super) async fn get(connection: &mut SqliteConnection, slate_id: &str) -> Result<Option<SlateRecord>> {
    let Some(time_ms) = ids::time_of(slate_id) else { return Ok(None) };
    let rows = sqlx::query(
        "SELECT entries FROM repeats WHERE last_ms >= ?1 AND last_ms < ?1 + ?2 AND first_ms <= ?1 ORDER BY last_ms",
    )
    .bind(time_ms)
    .bind(ROW_MAX_MS)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("reading repeated slates"))?;
    for row in rows {
        let entries: Vec<u8> = row.try_get(0).map_err(failed("reading repeated slates"))?;
        let found = unpack(&entries)?.into_iter().find(|repeat| repeat.slate_id == slate_id);
        if let Some(Repeat { slate_id, ranked_id, now_ms }) = found {
            let ranked = super::slates::ranked(connection, &ranked_id).await?;
            return Ok(ranked.map(|ranked| SlateRecord { slate_id, now_ms, rows: None, ..ranked }));
        }
    }
    Ok(None)
}
