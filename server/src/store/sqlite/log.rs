//! The log and its deduplication: appending many rows a statement, reading rows back.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use marquee_engine::event::EventKind;
use marquee_engine::types::{Seq, TimeMs};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{failed, history};
use crate::error::Result;
use crate::store::columns::{self, DELETE, ERASURE, EVENT, MERGE, UPSERT, corrupt};
use crate::store::writer::{Tx, Write};
use crate::store::{Event, KeyHash, LogRow, Outcome, StoredEntry, StoredEvent, UserKey};

/// Columns in the order in which [`read_row`] takes them.
pub(super) const COLUMNS: &str = "seq, kind, received_ms, user_key, event_id, event_type, item_id, value, \
     watched_seconds, time_ms, surface, session_id, slate_id, position, query, payload, moved_from";

/// Rows a statement: the few sizes keep the statement cache small, and SQLite takes 32,766 variables at most.
const CHUNKS: [usize; 3] = [256, 16, 1];

/// The newest position.
pub(super) async fn end(connection: &mut SqliteConnection) -> Result<Seq> {
    // sqlite_sequence, not max(seq): an erasure must never free a position.
    sqlx::query_scalar::<_, i64>("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'log'), 0)")
        .fetch_one(connection)
        .await
        .map(|end| end as Seq)
        .map_err(failed("reading the log's end"))
}

pub(super) async fn after(connection: &mut SqliteConnection, seq: Seq, limit: usize) -> Result<Vec<LogRow>> {
    static SQL: LazyLock<String> =
        LazyLock::new(|| format!("SELECT {COLUMNS} FROM log WHERE seq > ? ORDER BY seq LIMIT ?"));
    let rows = sqlx::query(SQL.as_str())
        .bind(seq as i64)
        .bind(limit as i64)
        .fetch_all(connection)
        .await
        .map_err(failed("reading the log"))?;
    rows.iter().map(read_row).collect()
}

pub(super) struct Append {
    pub(super) events: Vec<Event>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for Append {
    type Output = Vec<Outcome>;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Vec<Outcome>> {
        let rows: Vec<(&Event, TimeMs)> = self.events.iter().map(|event| (event, self.now_ms)).collect();
        append_all(tx, &rows, self.now_ms).await
    }
}

/// Appends those whose ids are new, each with the moment when a server got it; ids are remembered from `now_ms` on.
pub(super) async fn append_all(
    tx: &mut Tx<'_, SqliteConnection>,
    events: &[(&Event, TimeMs)],
    now_ms: TimeMs,
) -> Result<Vec<Outcome>> {
    let hashes: Vec<KeyHash> = events.iter().map(|(event, _)| KeyHash::of(&event.id)).collect();
    let mut fresh = remember(tx.connection, &hashes, now_ms).await?;
    let aliases = aliases(tx.connection, events).await?;
    let mut outcomes = Vec::with_capacity(events.len());
    let mut rows = Vec::with_capacity(fresh.len());
    for ((event, received_ms), hash) in events.iter().zip(&hashes) {
        // Removed as it is taken: the same id later in this call is a duplicate.
        if !fresh.remove(hash) {
            outcomes.push(Outcome::Duplicate);
            continue;
        }
        let (user, moved) = match aliases.get(&event.user) {
            Some((user, seq)) => (user, Some(*seq)),
            None => (&event.user, None),
        };
        let seq = tx.next_seq();
        rows.push(NewRow { seq, event, user, moved, received_ms: *received_ms });
        outcomes.push(Outcome::Accepted { seq, user: user.clone() });
    }
    insert(tx.connection, &rows).await?;
    Ok(outcomes)
}

/// Notes the ids; gives back those that were new.
async fn remember(connection: &mut SqliteConnection, hashes: &[KeyHash], now_ms: TimeMs) -> Result<HashSet<KeyHash>> {
    static SQL: LazyLock<[String; 3]> = LazyLock::new(|| {
        CHUNKS.map(|rows| {
            format!(
                "INSERT INTO event_ids (hash, received_ms) VALUES {} ON CONFLICT DO NOTHING RETURNING hash",
                tuples(2, rows)
            )
        })
    });
    let mut fresh = HashSet::with_capacity(hashes.len());
    for (size, chunk) in chunked(hashes) {
        let mut query = sqlx::query_scalar::<_, Vec<u8>>(SQL[size].as_str());
        for hash in chunk {
            query = query.bind(hash.0.to_vec()).bind(now_ms);
        }
        let new = query.fetch_all(&mut *connection).await.map_err(failed("remembering event ids"))?;
        for bytes in new {
            fresh.insert(KeyHash::from_bytes(&bytes).ok_or_else(|| corrupt("event id hash"))?);
        }
    }
    Ok(fresh)
}

/// Where the anonymous visitors among them belong, with the merge's position.
async fn aliases(
    connection: &mut SqliteConnection,
    events: &[(&Event, TimeMs)],
) -> Result<HashMap<UserKey, (UserKey, Seq)>> {
    let visitors: HashSet<&UserKey> =
        events.iter().map(|(event, _)| &event.user).filter(|user| user.is_anonymous()).collect();
    let mut found = HashMap::new();
    for visitor in visitors {
        if let Some(alias) = history::alias(connection, visitor, None).await? {
            found.insert(visitor.clone(), alias);
        }
    }
    Ok(found)
}

struct NewRow<'e> {
    seq: Seq,
    event: &'e Event,
    user: &'e UserKey,
    moved: Option<Seq>,
    received_ms: TimeMs,
}

async fn insert(connection: &mut SqliteConnection, rows: &[NewRow<'_>]) -> Result<()> {
    static SQL: LazyLock<[String; 3]> = LazyLock::new(|| {
        CHUNKS.map(|rows| {
            format!(
                "INSERT INTO log (seq, kind, received_ms, user_key, event_id, event_type, item_id, value, \
                 watched_seconds, time_ms, surface, session_id, slate_id, position, query, moved_seq, moved_from) \
                 VALUES {}",
                tuples(17, rows)
            )
        })
    });
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    for (size, chunk) in chunked(rows) {
        let mut query = sqlx::query(SQL[size].as_str());
        for row in chunk {
            let event = row.event;
            query = query
                .bind(row.seq as i64)
                .bind(EVENT)
                .bind(row.received_ms)
                .bind(row.user.as_str().to_owned())
                .bind(event.id.clone())
                .bind(event.kind.name().to_owned())
                .bind(event.item.clone())
                .bind(event.value)
                .bind(event.watched_seconds)
                .bind(event.time_ms)
                .bind(said(&event.surface))
                .bind(said(&event.session))
                .bind(said(&event.slate_id))
                .bind(event.position)
                .bind(said(&event.query))
                .bind(row.moved.map(|seq| seq as i64))
                .bind(row.moved.map(|_| event.user.as_str().to_owned()));
        }
        query.execute(&mut *connection).await.map_err(failed("appending to the log"))?;
    }
    Ok(())
}

/// Splits into chunks of the sizes in [`CHUNKS`], each with the index of its size.
fn chunked<T>(mut rest: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let size = CHUNKS.iter().position(|&rows| rows <= rest.len())?;
        let (chunk, left) = rest.split_at(CHUNKS[size]);
        rest = left;
        Some((size, chunk))
    })
}

fn tuples(columns: usize, rows: usize) -> String {
    let tuple = format!("(?{})", ", ?".repeat(columns - 1));
    let mut text = tuple.clone();
    for _ in 1..rows {
        let _infallible = write!(text, ", {tuple}");
    }
    text
}

/// A row of the log that is no event.
pub(super) struct Entry<'e> {
    pub(super) kind: i64,
    pub(super) item: Option<&'e str>,
    pub(super) user: Option<&'e UserKey>,
    pub(super) payload: Option<String>,
    pub(super) moved_from: Option<&'e UserKey>,
}

/// Appends it; gives its position.
pub(super) async fn append(tx: &mut Tx<'_, SqliteConnection>, entry: Entry<'_>, now_ms: TimeMs) -> Result<Seq> {
    let seq = tx.next_seq();
    sqlx::query(
        "INSERT INTO log (seq, kind, received_ms, item_id, user_key, payload, moved_from) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(seq as i64)
    .bind(entry.kind)
    .bind(now_ms)
    .bind(entry.item.map(str::to_owned))
    .bind(entry.user.map(|user| user.as_str().to_owned()))
    .bind(entry.payload)
    .bind(entry.moved_from.map(|user| user.as_str().to_owned()))
    .execute(&mut *tx.connection)
    .await
    .map_err(failed("appending to the log"))?;
    Ok(seq)
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_row(row: &SqliteRow) -> Result<LogRow> {
    let failed = failed("reading the log");
    let seq = row.try_get::<i64, _>(0).map_err(&failed)? as Seq;
    let received_ms = row.try_get(2).map_err(&failed)?;
    let item = |row: &SqliteRow| row.try_get::<Option<String>, _>(6).map_err(&failed);
    let user = |index: usize| -> Result<UserKey> {
        let key: Option<String> = row.try_get(index).map_err(&failed)?;
        key.as_deref().and_then(UserKey::parse).ok_or_else(|| corrupt("user key"))
    };
    let payload = || -> Result<String> {
        row.try_get::<Option<String>, _>(15).map_err(&failed)?.ok_or_else(|| corrupt("payload"))
    };
    let entry = match row.try_get::<i64, _>(1).map_err(&failed)? {
        EVENT => StoredEntry::Event(read_event(row)?.event),
        UPSERT => StoredEntry::Upsert(Arc::new(columns::parse_item(&payload()?)?)),
        DELETE => StoredEntry::Delete(item(row)?.ok_or_else(|| corrupt("item id"))?.into()),
        MERGE => StoredEntry::Merge { anonymous: user(16)?, user: user(3)? },
        ERASURE => StoredEntry::Erasure(columns::hashes_from_hex(&payload()?)?),
        other => return Err(corrupt(&format!("log kind {other}"))),
    };
    Ok(LogRow { seq, received_ms, entry })
}

/// Reads an event's row of [`COLUMNS`].
pub(super) fn read_event(row: &SqliteRow) -> Result<StoredEvent> {
    let failed = failed("reading an event");
    let text = |index: usize| row.try_get::<Option<String>, _>(index).map_err(&failed);
    let number = |index: usize| row.try_get::<Option<f64>, _>(index).map_err(&failed);
    let user = text(3)?.as_deref().and_then(UserKey::parse).ok_or_else(|| corrupt("user key"))?;
    Ok(StoredEvent {
        seq: row.try_get::<i64, _>(0).map_err(&failed)? as Seq,
        received_ms: row.try_get(2).map_err(&failed)?,
        event: Event {
            id: text(4)?.ok_or_else(|| corrupt("event id"))?,
            user,
            kind: EventKind::from_name(&text(5)?.ok_or_else(|| corrupt("event type"))?),
            item: text(6)?,
            value: number(7)?,
            watched_seconds: number(8)?,
            time_ms: row.try_get(9).map_err(&failed)?,
            surface: text(10)?.unwrap_or_default(),
            session: text(11)?.unwrap_or_default(),
            slate_id: text(12)?.unwrap_or_default(),
            position: row.try_get(13).map_err(&failed)?,
            query: text(14)?.unwrap_or_default(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once_and_in_order() {
        let all: Vec<usize> = (0..789).collect();
        let again: Vec<usize> = chunked(&all)
            .flat_map(|(size, chunk)| {
                assert_eq!(chunk.len(), CHUNKS[size]);
                chunk.to_vec()
            })
            .collect();
        assert_eq!(again, all);
    }
}
