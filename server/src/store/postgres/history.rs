//! A user's events: as of any position of the log, and as a list. One round trip each: a statement resolves merges itself.

use std::sync::LazyLock;

use marquee_engine::event::EventKind;
use marquee_engine::types::Seq;
use sqlx::PgConnection;

use super::fields::{Fields, key as bytes};
use super::log::{COLUMNS, read_event, read_row};
use super::session::failed;
use crate::error::Result;
use crate::store::columns::{EVENT, corrupt};
use crate::store::{EventCursor, History, PastEvent, StoredEvent, UserKey};

/// Whom the key `$1` stood for at `$2`.
const WHO: &str = "who AS (SELECT coalesce((SELECT user_key FROM aliases WHERE anonymous_key = $1 AND seq <= $2 \
     ORDER BY seq DESC LIMIT 1), $1) AS who)";

/// Columns in the order in which [`read_past`] takes them.
const PAST: &str = "seq, event_id, event_type, item_id, value, time_ms";
/// What stands behind [`PAST`] in [`as_of`].
const WHO_COLUMN: usize = 6;
const VERSION_COLUMN: usize = 7;
/// What stands behind [`COLUMNS`] in [`later`].
const CHANGED_COLUMN: usize = 17;

/// The newest entry of that user. With `+ 0` the position's own index is of no use: it would be walked to the first row
/// of that user.
fn version_of(condition: &str) -> String {
    format!("SELECT coalesce(max(seq + 0), 0) FROM log WHERE {condition}")
}

fn newest(condition: &str, version: &str) -> String {
    format!(
        "WITH {WHO} SELECT e.*, who.who, v.version FROM who \
         CROSS JOIN LATERAL ({version}) AS v (version) \
         LEFT JOIN LATERAL (SELECT {PAST} FROM log WHERE {condition} AND kind = {EVENT} AND item_id IS NOT NULL \
         AND event_type <> ALL ($3::bytea[]) ORDER BY time_ms DESC, event_id DESC, seq DESC LIMIT $4) AS e ON TRUE \
         ORDER BY e.time_ms DESC, e.event_id DESC, e.seq DESC"
    )
}

pub(super) static NOW: LazyLock<String> = LazyLock::new(|| {
    let mine = "user_key = who.who";
    newest(mine, &version_of(mine))
});

/// The user's own entries that were there, and those that a later merge has taken away since.
pub(super) static THEN: LazyLock<String> = LazyLock::new(|| {
    let mine = "((user_key = who.who AND seq <= $2 AND (moved_seq IS NULL OR moved_seq <= $2)) \
         OR (moved_from = who.who AND seq <= $2 AND moved_seq > $2))";
    newest(mine, &version_of(mine))
});

fn read_past(fields: Fields<'_>) -> Result<PastEvent> {
    let text = |index: usize| fields.text(index)?.ok_or_else(|| corrupt("event"));
    Ok(PastEvent {
        seq: fields.get::<i64>(0)? as Seq,
        id: text(1)?,
        kind: EventKind::from_name(&text(2)?),
        item: text(3)?,
        value: fields.get(4)?,
        time_ms: fields.get(5)?,
    })
}

/// See [`crate::store::Store::history`].
pub(super) async fn as_of(
    sql: &mut PgConnection,
    key: &UserKey,
    up_to: Option<Seq>,
    skip: &[String],
    limit: usize,
) -> Result<History> {
    let doing = "reading a history";
    let rows = sqlx::query(if up_to.is_some() { THEN.as_str() } else { NOW.as_str() })
        .bind(bytes(key))
        .bind(up_to.map_or(i64::MAX, |seq| seq as i64))
        .bind(skip.iter().map(String::as_bytes).collect::<Vec<_>>())
        .bind(limit as i64)
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    let mut history = History::default();
    for row in rows.iter().rev() {
        let fields = Fields { row, doing };
        history.user = Some(fields.user(WHO_COLUMN)?);
        history.version = fields.get::<i64>(VERSION_COLUMN)? as Seq;
        // A user without events is one row of nulls.
        if fields.get::<Option<i64>>(0)?.is_some() {
            history.events.push(read_past(fields)?);
        }
    }
    Ok(history)
}

pub(super) static LATER: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT e.*, v.changed FROM (SELECT EXISTS (SELECT 1 FROM tombstones WHERE seq > $2) \
         OR EXISTS (SELECT 1 FROM aliases WHERE anonymous_key = $1)) AS v (changed) \
         LEFT JOIN (SELECT {COLUMNS} FROM log WHERE user_key = $1 AND seq > $2 LIMIT $3) AS e ON TRUE \
         ORDER BY e.time_ms, e.event_id, e.seq"
    )
});

/// See [`crate::store::Store::history_after`].
pub(super) async fn later(
    sql: &mut PgConnection,
    key: &UserKey,
    after: Seq,
    skip: &[String],
    limit: usize,
) -> Result<Option<History>> {
    let doing = "reading the end of a history";
    let rows = sqlx::query(LATER.as_str())
        .bind(bytes(key))
        .bind(after as i64)
        .bind(limit as i64)
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    let mut later = Vec::with_capacity(rows.len());
    for row in &rows {
        let fields = Fields { row, doing };
        if fields.get(CHANGED_COLUMN)? {
            return Ok(None);
        }
        // A user without later entries is one row of nulls.
        if fields.get::<Option<i64>>(0)?.is_some() {
            later.push(read_row(row)?);
        }
    }
    Ok((later.len() < limit).then(|| History::of_later(key, after, later, skip)).flatten())
}

pub(super) static LIST: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH {WHO} SELECT {COLUMNS} FROM log WHERE user_key = (SELECT who FROM who) AND kind = {EVENT} \
         AND (time_ms, event_id, seq) < ($3, $4, $5) ORDER BY time_ms DESC, event_id DESC, seq DESC LIMIT $6"
    )
});

/// See [`crate::store::Store::list_events`].
pub(super) async fn list(
    sql: &mut PgConnection,
    key: &UserKey,
    after: Option<&EventCursor>,
    limit: usize,
) -> Result<Vec<StoredEvent>> {
    let (time_ms, id, seq) = match after {
        Some(after) => (after.time_ms, after.event_id.as_bytes(), after.seq as i64),
        None => (i64::MAX, &[][..], 0),
    };
    let rows = sqlx::query(LIST.as_str())
        .bind(bytes(key))
        .bind(i64::MAX)
        .bind(time_ms)
        .bind(id)
        .bind(seq)
        .bind(limit as i64)
        .fetch_all(sql)
        .await
        .map_err(failed("listing events"))?;
    rows.iter().map(read_event).collect()
}

/// The user this visitor was merged into, or itself.
pub(super) async fn resolve(sql: &mut PgConnection, key: &UserKey) -> Result<UserKey> {
    static SQL: LazyLock<String> = LazyLock::new(|| format!("WITH {WHO} SELECT who FROM who"));
    if !key.is_anonymous() {
        return Ok(key.clone());
    }
    let doing = "resolving a merged visitor";
    let row = sqlx::query(SQL.as_str()).bind(bytes(key)).bind(i64::MAX).fetch_one(sql).await.map_err(failed(doing))?;
    Fields { row: &row, doing }.user(0)
}
