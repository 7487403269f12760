//! Events that a shared log acknowledged first, and how far that log was taken over.

use std::collections::HashMap;

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::{Row, SqliteConnection};

use super::{failed, log};
use crate::error::Result;
use crate::store::writer::{Tx, Write};
use crate::store::{Ingested, Outcome, Received, Step, UserKey};

pub(super) struct Append {
    pub(super) events: Vec<Received>,
    pub(super) steps: Vec<Step>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for Append {
    type Output = Vec<Outcome>;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Vec<Outcome>> {
        let erased = erasures(tx.connection, &self.events).await?;
        let is_erased =
            |received: &Received| erased.get(&received.event.user).is_some_and(|&at| received.received_ms <= at);
        let rows: Vec<(&_, TimeMs)> = self
            .events
            .iter()
            .filter(|received| !is_erased(received))
            .map(|received| (&received.event, received.received_ms))
            .collect();
        let mut appended = log::append_all(tx, &rows, self.now_ms).await?.into_iter();
        let outcome = |received: &Received| match is_erased(received) {
            true => Outcome::Erased,
            false => appended.next().expect("one outcome for each that was appended"),
        };
        let outcomes = self.events.iter().map(outcome).collect();
        for Step { from, to } in &self.steps {
            sqlx::query(
                "INSERT INTO ingested (log, partition, next) SELECT ?1, ?2, ?3 \
                 WHERE ?4 <= coalesce((SELECT next FROM ingested WHERE log = ?1 AND partition = ?2), 0) \
                 ON CONFLICT (log, partition) DO UPDATE SET next = max(next, excluded.next)",
            )
            .bind(to.log.clone())
            .bind(to.partition)
            .bind(to.next)
            .bind(from)
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("noting how far the shared log was taken over"))?;
        }
        Ok(outcomes)
    }
}

/// When each of these events' users was erased last; only those who were.
async fn erasures(connection: &mut SqliteConnection, events: &[Received]) -> Result<HashMap<UserKey, TimeMs>> {
    let mut found = HashMap::new();
    let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tombstones)")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("reading tombstones"))?;
    if !any {
        return Ok(found);
    }
    for received in events {
        let user = &received.event.user;
        if found.contains_key(user) {
            continue;
        }
        let at = sqlx::query_scalar::<_, Option<i64>>(
            "SELECT max(log.received_ms) FROM tombstones JOIN log ON log.seq = tombstones.seq WHERE key_hash = ?",
        )
        .bind(user.hash().0.to_vec())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("reading tombstones"))?;
        found.insert(user.clone(), at.unwrap_or(TimeMs::MIN));
    }
    Ok(found)
}

/// See [`crate::store::Store::ingested`].
pub(super) async fn of(connection: &mut SqliteConnection, log: &str) -> Result<Vec<Ingested>> {
    let failed = failed("reading how far the shared log was taken over");
    let rows = sqlx::query("SELECT partition, next FROM ingested WHERE log = ? ORDER BY partition")
        .bind(log.to_owned())
        .fetch_all(connection)
        .await
        .map_err(&failed)?;
    rows.iter()
        .map(|row| {
            Ok(Ingested {
                log: log.to_owned(),
                partition: row.try_get(0).map_err(&failed)?,
                next: row.try_get(1).map_err(&failed)?,
            })
        })
        .collect()
}
