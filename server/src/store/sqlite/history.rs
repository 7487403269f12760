//! A user's events: as of any position of the log, and as a list.

use std::sync::LazyLock;

use marquee_engine::event::EventKind;
use marquee_engine::types::Seq;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::failed;
use super::log::{COLUMNS, read_event, read_row};
use crate::error::Result;
use crate::store::columns::{EVENT, corrupt};
use crate::store::{EventCursor, History, PastEvent, StoredEvent, UserKey};

/// What stands behind [`COLUMNS`] in [`later`].
const CHANGED_COLUMN: usize = 17;

/// The user this visitor was merged into as of `up_to`, and the merge's position.
pub(super) async fn alias(
    connection: &mut SqliteConnection,
    key: &UserKey,
    up_to: Option<Seq>,
) -> Result<Option<(UserKey, Seq)>> {
    let row =
        sqlx::query("SELECT user_key, seq FROM aliases WHERE anonymous_key = ? AND seq <= ? ORDER BY seq DESC LIMIT 1")
            .bind(key.as_str().to_owned())
            .bind(up_to.map_or(i64::MAX, |seq| seq as i64))
            .fetch_optional(connection)
            .await
            .map_err(failed("resolving a merged visitor"))?;
    let Some(row) = row else { return Ok(None) };
    let user: String = row.try_get(0).map_err(failed("resolving a merged visitor"))?;
    let seq: i64 = row.try_get(1).map_err(failed("resolving a merged visitor"))?;
    Ok(Some((UserKey::parse(&user).ok_or_else(|| corrupt("alias"))?, seq as Seq)))
}

/// Itself, or the user it was merged into.
pub(super) async fn resolve(connection: &mut SqliteConnection, key: &UserKey, up_to: Option<Seq>) -> Result<UserKey> {
    if !key.is_anonymous() {
        return Ok(key.clone());
    }
    Ok(alias(connection, key, up_to).await?.map_or_else(|| key.clone(), |(user, _)| user))
}

/// See [`crate::store::Store::history`].
pub(super) async fn as_of(
    connection: &mut SqliteConnection,
    key: &UserKey,
    up_to: Option<Seq>,
    skip: &[String],
    limit: usize,
) -> Result<History> {
    let user = resolve(connection, key, up_to).await?;
    let (rows, version) = match up_to {
        None => now(connection, &user, skip, limit).await?,
        Some(seq) => then(connection, &user, seq, skip, limit).await?,
    };
    let mut events: Vec<PastEvent> = rows.iter().map(read_past).collect::<Result<_>>()?;
    events.reverse();
    Ok(History { user: Some(user), version, events })
}

type Rows = Vec<SqliteRow>;

/// Columns in the order in which [`read_past`] takes them.
const PAST: &str = "seq, event_id, event_type, item_id, value, time_ms";

fn read_past(row: &SqliteRow) -> Result<PastEvent> {
    let failed = failed("reading a history");
    let text = |index: usize| row.try_get::<&str, _>(index).map_err(&failed);
    Ok(PastEvent {
        seq: row.try_get::<i64, _>(0).map_err(&failed)? as Seq,
        id: text(1)?.to_owned(),
        kind: EventKind::from_name(text(2)?),
        item: text(3)?.to_owned(),
        value: row.try_get(4).map_err(&failed)?,
        time_ms: row.try_get(5).map_err(&failed)?,
    })
}

async fn now(connection: &mut SqliteConnection, user: &UserKey, skip: &[String], limit: usize) -> Result<(Rows, Seq)> {
    static EVENTS: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {PAST} FROM log WHERE user_key = ? AND kind = {EVENT} AND item_id IS NOT NULL \
             AND event_type NOT IN (SELECT value FROM json_each(?)) \
             ORDER BY time_ms DESC, event_id DESC, seq DESC LIMIT ?"
        )
    });
    let rows = sqlx::query(EVENTS.as_str())
        .bind(user.as_str().to_owned())
        .bind(json_list(skip))
        .bind(limit as i64)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("reading a history"))?;
    Ok((rows, version(connection, user).await?))
}

/// Newest log entry of this user, by today's merges.
pub(super) async fn version(connection: &mut SqliteConnection, user: &UserKey) -> Result<Seq> {
    sqlx::query_scalar::<_, i64>("SELECT coalesce(max(seq), 0) FROM log WHERE user_key = ?")
        .bind(user.as_str().to_owned())
        .fetch_one(connection)
        .await
        .map(|seq| seq as Seq)
        .map_err(failed("reading a history's version"))
}

/// The user's own entries that were there, and those that a later merge has taken away since.
async fn then(
    connection: &mut SqliteConnection,
    user: &UserKey,
    up_to: Seq,
    skip: &[String],
    limit: usize,
) -> Result<(Rows, Seq)> {
    const MINE: &str = "((user_key = ?1 AND seq <= ?2 AND (moved_seq IS NULL OR moved_seq <= ?2)) \
         OR (moved_from = ?1 AND seq <= ?2 AND moved_seq > ?2))";
    static EVENTS: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {PAST} FROM log WHERE {MINE} AND kind = {EVENT} AND item_id IS NOT NULL \
             AND event_type NOT IN (SELECT value FROM json_each(?3)) \
             ORDER BY time_ms DESC, event_id DESC, seq DESC LIMIT ?4"
        )
    });
    static VERSION: LazyLock<String> = LazyLock::new(|| format!("SELECT coalesce(max(seq), 0) FROM log WHERE {MINE}"));
    let rows = sqlx::query(EVENTS.as_str())
        .bind(user.as_str().to_owned())
        .bind(up_to as i64)
        .bind(json_list(skip))
        .bind(limit as i64)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed("reading a past history"))?;
    let version = sqlx::query_scalar::<_, i64>(VERSION.as_str())
        .bind(user.as_str().to_owned())
        .bind(up_to as i64)
        .fetch_one(connection)
        .await
        .map_err(failed("reading a past history's version"))?;
    Ok((rows, version as Seq))
}

/// See [`crate::store::Store::history_after`]. One statement, and so one view.
pub(super) async fn later(
    connection: &mut SqliteConnection,
    key: &UserKey,
    after: Seq,
    skip: &[String],
    limit: usize,
) -> Result<Option<History>> {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT e.*, v.changed FROM (SELECT EXISTS (SELECT 1 FROM tombstones WHERE seq > ?2) \
             OR EXISTS (SELECT 1 FROM aliases WHERE anonymous_key = ?1) AS changed) AS v \
             LEFT JOIN (SELECT {COLUMNS} FROM log WHERE user_key = ?1 AND +seq > ?2 LIMIT ?3) AS e \
             ORDER BY e.time_ms, e.event_id, e.seq"
        )
    });
    let doing = failed("reading the end of a history");
    let rows = sqlx::query(SQL.as_str())
        .bind(key.as_str().to_owned())
        .bind(after as i64)
        .bind(limit as i64)
        .fetch_all(connection)
        .await
        .map_err(&doing)?;
    let mut later = Vec::with_capacity(rows.len());
    for row in &rows {
        if row.try_get(CHANGED_COLUMN).map_err(&doing)? {
            return Ok(None);
        }
        // A user without later entries is one row of nulls.
        if row.try_get::<Option<i64>, _>(0).map_err(&doing)?.is_some() {
            later.push(read_row(row)?);
        }
    }
    Ok((later.len() < limit).then(|| History::of_later(key, after, later, skip)).flatten())
}

/// See [`crate::store::Store::list_events`].
pub(super) async fn list(
    connection: &mut SqliteConnection,
    key: &UserKey,
    after: Option<&EventCursor>,
    limit: usize,
) -> Result<Vec<StoredEvent>> {
    static SQL: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT {COLUMNS} FROM log WHERE user_key = ?1 AND kind = {EVENT} \
             AND (time_ms, event_id, seq) < (?2, ?3, ?4) \
             ORDER BY time_ms DESC, event_id DESC, seq DESC LIMIT ?5"
        )
    });
    let user = resolve(connection, key, None).await?;
    let (time_ms, id, seq) = match after {
        Some(after) => (after.time_ms, after.event_id.clone(), after.seq as i64),
        None => (i64::MAX, String::new(), 0),
    };
    let rows = sqlx::query(SQL.as_str())
        .bind(user.as_str().to_owned())
        .bind(time_ms)
        .bind(id)
        .bind(seq)
        .bind(limit as i64)
        .fetch_all(connection)
        .await
        .map_err(failed("listing events"))?;
    rows.iter().map(read_event).collect()
}

fn json_list(values: &[String]) -> String {
    serde_json::Value::from(values).to_string()
}
