//! Events that a shared log acknowledged first, and how far that log was taken over.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::PgConnection;

use super::fields::Fields;
use super::log;
use super::session::{Live, failed};
use crate::error::Result;
use crate::store::columns::corrupt;
use crate::store::writer::{Tx, Write};
use crate::store::{Ingested, KeyHash, Outcome, Received, Step};

pub(super) struct Append {
    pub(super) events: Vec<Received>,
    pub(super) steps: Vec<Step>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for Append {
    type Output = Vec<Outcome>;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Vec<Outcome>> {
        let erased = erasures(&mut tx.connection.sql, &self.events).await?;
        let is_erased = |received: &Received| {
            !erased.is_empty() && erased.get(&received.event.user.hash()).is_some_and(|&at| received.received_ms <= at)
        };
        let is_erased: Vec<bool> = self.events.iter().map(is_erased).collect();
        let rows: Vec<(&_, TimeMs)> = self
            .events
            .iter()
            .zip(&is_erased)
            .filter(|(_, is_erased)| !**is_erased)
            .map(|(received, _)| (&received.event, received.received_ms))
            .collect();
        let mut appended = log::append_all(tx, &rows, self.now_ms).await?.into_iter();
        let outcome = |is_erased: &bool| match is_erased {
            true => Outcome::Erased,
            false => appended.next().expect("one outcome for each that was appended"),
        };
        let outcomes = is_erased.iter().map(outcome).collect();
        note(&mut tx.connection.sql, &self.steps).await?;
        Ok(outcomes)
    }
}

/// Notes how far the log was taken over; never goes back, nor over a hole.
async fn note(sql: &mut PgConnection, steps: &[Step]) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    // The same partition may come twice, and a statement may touch a row once.
    sqlx::query(
        "INSERT INTO ingested (log, partition, next) \
         SELECT log, partition, max(next) \
         FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[]) AS new (log, partition, next, known) \
         WHERE known <= coalesce((SELECT old.next FROM ingested AS old \
                                  WHERE old.log = new.log AND old.partition = new.partition), 0) \
         GROUP BY log, partition \
         ON CONFLICT (log, partition) DO UPDATE SET next = greatest(ingested.next, excluded.next)",
    )
    .bind(steps.iter().map(|step| step.to.log.as_bytes()).collect::<Vec<_>>())
    .bind(steps.iter().map(|step| i64::from(step.to.partition)).collect::<Vec<_>>())
    .bind(steps.iter().map(|step| step.to.next).collect::<Vec<_>>())
    .bind(steps.iter().map(|step| step.from).collect::<Vec<_>>())
    .execute(sql)
    .await
    .map(|_| ())
    .map_err(failed("noting how far the shared log was taken over"))
}

/// When each of these events' users was erased last; only those who were.
async fn erasures(sql: &mut PgConnection, events: &[Received]) -> Result<HashMap<KeyHash, TimeMs>> {
    let doing = "reading tombstones";
    let is_any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tombstones)")
        .fetch_one(&mut *sql)
        .await
        .map_err(failed(doing))?;
    if !is_any || events.is_empty() {
        return Ok(HashMap::new());
    }
    let users: HashSet<KeyHash> = events.iter().map(|received| received.event.user.hash()).collect();
    let rows = sqlx::query(
        "SELECT key_hash, max(log.received_ms) FROM tombstones JOIN log ON log.seq = tombstones.seq \
         WHERE key_hash = ANY($1) GROUP BY key_hash",
    )
    .bind(users.iter().map(|hash| &hash.0[..]).collect::<Vec<_>>())
    .fetch_all(sql)
    .await
    .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            Ok((KeyHash::from_bytes(fields.get(0)?).ok_or_else(|| corrupt("tombstone"))?, fields.get(1)?))
        })
        .collect()
}

/// See [`crate::store::Store::ingested`].
pub(super) async fn of(sql: &mut PgConnection, log: &str) -> Result<Vec<Ingested>> {
    let doing = "reading how far the shared log was taken over";
    let rows = sqlx::query("SELECT partition, next FROM ingested WHERE log = $1 ORDER BY partition")
        .bind(log.as_bytes())
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            let partition = i32::try_from(fields.get::<i64>(0)?).map_err(|_| corrupt("partition"))?;
            Ok(Ingested { log: log.to_owned(), partition, next: fields.get(1)? })
        })
        .collect()
}
