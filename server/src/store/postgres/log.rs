//! The log and its deduplication: many rows a statement, one array a column.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use marquee_engine::event::EventKind;
use marquee_engine::types::{Seq, TimeMs};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::fields::{self, Fields};
use super::session::{Live, failed};
use crate::error::Result;
use crate::store::columns::{self, DELETE, ERASURE, EVENT, MERGE, UPSERT, corrupt};
use crate::store::writer::{Tx, Write};
use crate::store::{Event, KeyHash, LogRow, Outcome, StoredEntry, StoredEvent, UserKey};

/// Columns in the order in which [`read_row`] takes them.
pub(super) const COLUMNS: &str = "seq, kind, received_ms, user_key, event_id, event_type, item_id, value, \
     watched_seconds, time_ms, surface, session_id, slate_id, position, query, payload, moved_from";

/// Begins a transaction that alone may write, and gives the newest position.
pub(super) async fn lock(sql: &mut PgConnection) -> Result<Seq> {
    let failed = failed("beginning a write");
    let row = sqlx::raw_sql("BEGIN; SELECT seq FROM log_end FOR UPDATE").fetch_one(sql).await.map_err(&failed)?;
    sqlx::Row::try_get::<i64, _>(&row, 0).map(|end| end as Seq).map_err(&failed)
}

/// The newest position.
pub(super) async fn end(sql: &mut PgConnection) -> Result<Seq> {
    sqlx::query_scalar::<_, i64>("SELECT seq FROM log_end")
        .fetch_one(sql)
        .await
        .map(|end| end as Seq)
        .map_err(failed("reading the log's end"))
}

pub(super) static AFTER: LazyLock<String> =
    LazyLock::new(|| format!("SELECT {COLUMNS} FROM log WHERE seq > $1 ORDER BY seq LIMIT $2"));

pub(super) async fn after(sql: &mut PgConnection, seq: Seq, limit: usize) -> Result<Vec<LogRow>> {
    let rows = sqlx::query(AFTER.as_str())
        .bind(seq as i64)
        .bind(limit as i64)
        .fetch_all(sql)
        .await
        .map_err(failed("reading the log"))?;
    rows.iter().map(read_row).collect()
}

pub(super) struct Append {
    pub(super) events: Vec<Event>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for Append {
    type Output = Vec<Outcome>;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Vec<Outcome>> {
        let rows: Vec<(&Event, TimeMs)> = self.events.iter().map(|event| (event, self.now_ms)).collect();
        append_all(tx, &rows, self.now_ms).await
    }
}

/// Appends those whose ids are new, each with the moment when a server got it; ids are remembered from `now_ms` on.
pub(super) async fn append_all(
    tx: &mut Tx<'_, Live>,
    events: &[(&Event, TimeMs)],
    now_ms: TimeMs,
) -> Result<Vec<Outcome>> {
    let hashes: Vec<KeyHash> = events.iter().map(|(event, _)| KeyHash::of(&event.id)).collect();
    let mut fresh = remember(&mut tx.connection.sql, &hashes, now_ms).await?;
    let aliases = aliases(&mut tx.connection.sql, events).await?;
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
        rows.push(NewRow {
            user: Some(user),
            event: Some(event),
            item: event.item.as_deref(),
            moved_seq: moved,
            moved_from: moved.map(|_| &event.user),
            ..NewRow::new(seq, EVENT, *received_ms)
        });
        outcomes.push(Outcome::Accepted { seq, user: user.clone() });
    }
    insert(tx.connection, &rows).await?;
    Ok(outcomes)
}

/// Notes the ids; gives back those that were new.
async fn remember(sql: &mut PgConnection, hashes: &[KeyHash], now_ms: TimeMs) -> Result<HashSet<KeyHash>> {
    if hashes.is_empty() {
        return Ok(HashSet::new());
    }
    let new = sqlx::query_scalar::<_, Vec<u8>>(
        "INSERT INTO event_ids (hash, received_ms) SELECT hash, $2::bigint FROM unnest($1::bytea[]) AS new (hash) \
         ON CONFLICT DO NOTHING RETURNING hash",
    )
    .bind(hashes.iter().map(|hash| &hash.0[..]).collect::<Vec<_>>())
    .bind(now_ms)
    .fetch_all(sql)
    .await
    .map_err(failed("remembering event ids"))?;
    new.iter().map(|bytes| KeyHash::from_bytes(bytes).ok_or_else(|| corrupt("event id hash"))).collect()
}

/// Where the anonymous visitors among them belong, with the merge's position.
async fn aliases(sql: &mut PgConnection, events: &[(&Event, TimeMs)]) -> Result<HashMap<UserKey, (UserKey, Seq)>> {
    let visitors: HashSet<&UserKey> =
        events.iter().map(|(event, _)| &event.user).filter(|user| user.is_anonymous()).collect();
    if visitors.is_empty() {
        return Ok(HashMap::new());
    }
    let doing = "resolving merged visitors";
    let rows = sqlx::query(
        "SELECT DISTINCT ON (anonymous_key) anonymous_key, user_key, seq FROM aliases WHERE anonymous_key = ANY($1) \
         ORDER BY anonymous_key, seq DESC",
    )
    .bind(visitors.into_iter().map(fields::key).collect::<Vec<_>>())
    .fetch_all(sql)
    .await
    .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            Ok((fields.user(0)?, (fields.user(1)?, fields.get::<i64>(2)? as Seq)))
        })
        .collect()
}

/// A row to be appended; what is not said is null.
pub(super) struct NewRow<'e> {
    pub(super) seq: Seq,
    pub(super) kind: i64,
    pub(super) received_ms: TimeMs,
    pub(super) user: Option<&'e UserKey>,
    pub(super) event: Option<&'e Event>,
    pub(super) item: Option<&'e str>,
    pub(super) payload: Option<&'e str>,
    pub(super) moved_seq: Option<Seq>,
    pub(super) moved_from: Option<&'e UserKey>,
}

impl NewRow<'_> {
    pub(super) fn new(seq: Seq, kind: i64, received_ms: TimeMs) -> Self {
        NewRow {
            seq,
            kind,
            received_ms,
            user: None,
            event: None,
            item: None,
            payload: None,
            moved_seq: None,
            moved_from: None,
        }
    }
}

/// Appends rows of any kind.
pub(super) async fn insert(live: &mut Live, rows: &[NewRow<'_>]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    live.months.prepare(&mut live.sql, rows.iter().map(|row| row.received_ms)).await?;
    fn all<'r, T>(rows: &'r [NewRow<'_>], of: impl Fn(&'r NewRow<'_>) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    fn said<'r>(rows: &'r [NewRow<'_>], of: impl Fn(&'r Event) -> &'r str) -> Vec<Option<&'r [u8]>> {
        let text = |row: &'r NewRow<'_>| row.event.map(&of).filter(|text| !text.is_empty()).map(str::as_bytes);
        rows.iter().map(text).collect()
    }
    sqlx::query(
        "INSERT INTO log (seq, kind, received_ms, user_key, event_id, event_type, item_id, value, watched_seconds, \
         time_ms, surface, session_id, slate_id, position, query, payload, moved_seq, moved_from) \
         SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::bytea[], \
         $7::bytea[], $8::float8[], $9::float8[], $10::bigint[], $11::bytea[], $12::bytea[], $13::bytea[], \
         $14::bigint[], $15::bytea[], $16::text[], $17::bigint[], $18::bytea[])",
    )
    .bind(all(rows, |row| row.seq as i64))
    .bind(all(rows, |row| row.kind as i16))
    .bind(all(rows, |row| row.received_ms))
    .bind(all(rows, |row| row.user.map(fields::key)))
    .bind(all(rows, |row| row.event.map(|event| event.id.as_bytes())))
    .bind(all(rows, |row| row.event.map(|event| event.kind.name().as_bytes())))
    .bind(all(rows, |row| row.item.map(str::as_bytes)))
    .bind(all(rows, |row| row.event.and_then(|event| event.value)))
    .bind(all(rows, |row| row.event.and_then(|event| event.watched_seconds)))
    .bind(all(rows, |row| row.event.map(|event| event.time_ms)))
    .bind(said(rows, |event| &event.surface))
    .bind(said(rows, |event| &event.session))
    .bind(said(rows, |event| &event.slate_id))
    .bind(all(rows, |row| row.event.and_then(|event| event.position.map(i64::from))))
    .bind(said(rows, |event| &event.query))
    .bind(all(rows, |row| row.payload))
    .bind(all(rows, |row| row.moved_seq.map(|seq| seq as i64)))
    .bind(all(rows, |row| row.moved_from.map(fields::key)))
    .execute(&mut live.sql)
    .await
    .map(|_| ())
    .map_err(failed("appending to the log"))
}

/// Reads a row of [`COLUMNS`].
pub(super) fn read_row(row: &PgRow) -> Result<LogRow> {
    let fields = Fields { row, doing: "reading the log" };
    let payload = || fields.get::<Option<String>>(15)?.ok_or_else(|| corrupt("payload"));
    let entry = match i64::from(fields.get::<i16>(1)?) {
        EVENT => StoredEntry::Event(read_event(row)?.event),
        UPSERT => StoredEntry::Upsert(Arc::new(columns::parse_item(&payload()?)?)),
        DELETE => StoredEntry::Delete(fields.text(6)?.ok_or_else(|| corrupt("item id"))?.into()),
        MERGE => StoredEntry::Merge { anonymous: fields.user(16)?, user: fields.user(3)? },
        ERASURE => StoredEntry::Erasure(columns::hashes_from_hex(&payload()?)?),
        other => return Err(corrupt(&format!("log kind {other}"))),
    };
    Ok(LogRow { seq: fields.get::<i64>(0)? as Seq, received_ms: fields.get(2)?, entry })
}

/// Reads an event's row of [`COLUMNS`].
pub(super) fn read_event(row: &PgRow) -> Result<StoredEvent> {
    let fields = Fields { row, doing: "reading an event" };
    let position: Option<i64> = fields.get(13)?;
    Ok(StoredEvent {
        seq: fields.get::<i64>(0)? as Seq,
        received_ms: fields.get(2)?,
        event: Event {
            id: fields.text(4)?.ok_or_else(|| corrupt("event id"))?,
            user: fields.user(3)?,
            kind: EventKind::from_name(&fields.text(5)?.ok_or_else(|| corrupt("event type"))?),
            item: fields.text(6)?,
            value: fields.get(7)?,
            watched_seconds: fields.get(8)?,
            time_ms: fields.get(9)?,
            surface: fields.text(10)?.unwrap_or_default(),
            session: fields.text(11)?.unwrap_or_default(),
            slate_id: fields.text(12)?.unwrap_or_default(),
            position: position.map(|at| u32::try_from(at).map_err(|_| corrupt("position"))).transpose()?,
            query: fields.text(14)?.unwrap_or_default(),
        },
    })
}
