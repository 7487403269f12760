//! Users: attributes, merges, erasure.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use marquee_engine::types::{Seq, TimeMs};
use sqlx::PgConnection;

use super::fields::{self, Fields, key as bytes};
use super::history;
use super::log::{self, NewRow};
use super::session::{Live, failed};
use crate::error::{Error, Result};
use crate::store::columns::{self, corrupt};
use crate::store::writer::{Tx, Write};
use crate::store::{Counts, Erased, KeyHash, Tombstone, User, UserKey, UserSummary};

pub(super) struct UpsertUsers {
    pub(super) users: Vec<User>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for UpsertUsers {
    type Output = usize;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<usize> {
        let ids: Vec<&str> = self.users.iter().map(|user| user.id.as_str()).collect();
        let mut kept = kept(&mut tx.connection.sql, &ids).await?;
        let mut changed = 0;
        // By id: a statement may touch a row once.
        let mut rows: HashMap<&str, String> = HashMap::new();
        for user in &self.users {
            let json = serde_json::to_string(user).map_err(|error| Error::internal("writing a user", error))?;
            if kept.get(&user.id) != Some(&json) {
                kept.insert(user.id.clone(), json.clone());
                rows.insert(&user.id, json);
                changed += 1;
            }
        }
        sqlx::query(
            "INSERT INTO users (id, updated_ms, json) \
             SELECT id, $1, json FROM unnest($2::bytea[], $3::text[]) AS given (id, json) ON CONFLICT (id) \
             DO UPDATE SET updated_ms = excluded.updated_ms, json = excluded.json",
        )
        .bind(self.now_ms)
        .bind(rows.keys().map(|id| id.as_bytes()).collect::<Vec<_>>())
        .bind(rows.values().map(String::as_str).collect::<Vec<_>>())
        .execute(&mut tx.connection.sql)
        .await
        .map_err(failed("writing users"))?;
        Ok(changed)
    }
}

async fn kept(sql: &mut PgConnection, ids: &[&str]) -> Result<HashMap<String, String>> {
    let doing = "reading users";
    let rows = sqlx::query("SELECT id, json FROM users WHERE id = ANY($1)")
        .bind(ids.iter().map(|id| id.as_bytes()).collect::<Vec<_>>())
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            Ok((fields.text(0)?.unwrap_or_default(), fields.get(1)?))
        })
        .collect()
}

/// See [`crate::store::Store::get_user`].
pub(super) async fn get(sql: &mut PgConnection, key: &UserKey) -> Result<Option<UserSummary>> {
    let doing = "reading a user";
    let row = sqlx::query(
        "WITH who AS (SELECT coalesce((SELECT user_key FROM aliases WHERE anonymous_key = $1 \
         ORDER BY seq DESC LIMIT 1), $1) AS who) \
         SELECT (SELECT json FROM users WHERE 'u:'::bytea = substr(who, 1, 2) AND id = substr(who, 3)), \
         events, version FROM who CROSS JOIN LATERAL \
         (SELECT count(*) FILTER (WHERE kind = 0), coalesce(max(seq + 0), 0) FROM log WHERE user_key = who) \
         AS v (events, version)",
    )
    .bind(bytes(key))
    .fetch_one(sql)
    .await
    .map_err(failed(doing))?;
    let fields = Fields { row: &row, doing };
    let user = fields.get::<Option<String>>(0)?.as_deref().map(parse).transpose()?;
    let (events, version) = (fields.get::<i64>(1)? as u64, fields.get::<i64>(2)? as Seq);
    Ok((user.is_some() || version > 0).then_some(UserSummary { user, events, version }))
}

/// See [`crate::store::Store::list_users`].
pub(super) async fn list(sql: &mut PgConnection, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
    let rows = sqlx::query_scalar::<_, String>("SELECT json FROM users WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after.unwrap_or_default().as_bytes())
        .bind(limit as i64)
        .fetch_all(sql)
        .await
        .map_err(failed("listing users"))?;
    rows.iter().map(|json| parse(json)).collect()
}

fn parse(json: &str) -> Result<User> {
    serde_json::from_str(json).map_err(|error| corrupt(&format!("user: {error}")))
}

pub(super) struct Merge {
    pub(super) anonymous: UserKey,
    pub(super) user: UserKey,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for Merge {
    type Output = (u64, Seq);

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<(u64, Seq)> {
        if history::resolve(&mut tx.connection.sql, &self.anonymous).await? == self.user {
            return Ok((0, tx.end()));
        }
        let seq = tx.next_seq();
        let entry = NewRow {
            user: Some(&self.user),
            moved_from: Some(&self.anonymous),
            ..NewRow::new(seq, columns::MERGE, self.now_ms)
        };
        log::insert(tx.connection, &[entry]).await?;
        let moved = sqlx::query("UPDATE log SET user_key = $1, moved_seq = $2, moved_from = $3 WHERE user_key = $3")
            .bind(bytes(&self.user))
            .bind(seq as i64)
            .bind(bytes(&self.anonymous))
            .execute(&mut tx.connection.sql)
            .await
            .map_err(failed("moving events"))?
            .rows_affected();
        sqlx::query("INSERT INTO aliases (anonymous_key, seq, user_key) VALUES ($1, $2, $3)")
            .bind(bytes(&self.anonymous))
            .bind(seq as i64)
            .bind(bytes(&self.user))
            .execute(&mut tx.connection.sql)
            .await
            .map_err(failed("writing an alias"))?;
        Ok((moved, seq))
    }
}

pub(super) struct Forget {
    pub(super) key: UserKey,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for Forget {
    type Output = Erased;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Erased> {
        let (gone, changed) = self.keys(&mut tx.connection.sql).await?;
        let mut events = 0;
        let mut slates = 0;
        let sql = &mut tx.connection.sql;
        for key in &gone {
            let id = bytes(key);
            events += count(sql, "DELETE FROM log WHERE user_key = $1 AND kind = 0", id).await?;
            count(sql, "DELETE FROM log WHERE user_key = $1", id).await?;
            // Of a user's visitor only what is the user's: what moved to somebody else is theirs.
            if self.key.is_anonymous() {
                events += count(sql, "DELETE FROM log WHERE moved_from = $1 AND kind = 0", id).await?;
                count(sql, "DELETE FROM log WHERE moved_from = $1", id).await?;
            }
            count(sql, "DELETE FROM aliases WHERE anonymous_key = $1 OR user_key = $1", id).await?;
            slates += count(sql, "DELETE FROM slates WHERE user_key = $1", id).await?;
            if !key.is_anonymous() {
                count(sql, "DELETE FROM users WHERE id = $1", key.id().as_bytes()).await?;
            }
        }
        let hashes: Vec<KeyHash> = gone.iter().map(UserKey::hash).collect();
        let payload = columns::hashes_to_hex(&hashes);
        let seq = tx.next_seq();
        let entry = NewRow { payload: Some(&payload), ..NewRow::new(seq, columns::ERASURE, self.now_ms) };
        log::insert(tx.connection, &[entry]).await?;
        sqlx::query("INSERT INTO tombstones (key_hash, seq) SELECT hash, $1 FROM unnest($2::bytea[]) AS given (hash)")
            .bind(seq as i64)
            .bind(hashes.iter().map(|hash| &hash.0[..]).collect::<Vec<_>>())
            .execute(&mut tx.connection.sql)
            .await
            .map_err(failed("writing tombstones"))?;
        Ok(Erased { seq, events, slates, keys: gone.into_iter().chain(changed).collect() })
    }
}

impl Forget {
    /// The keys that are erased, and those of others whose events change by it.
    async fn keys(&self, sql: &mut PgConnection) -> Result<(BTreeSet<UserKey>, BTreeSet<UserKey>)> {
        let mut gone = BTreeSet::from([self.key.clone()]);
        let mut changed = BTreeSet::new();
        if self.key.is_anonymous() {
            let text = "SELECT DISTINCT user_key FROM log WHERE moved_from = $1";
            changed.extend(keys(sql, text, &self.key).await?);
        } else {
            let text = "SELECT DISTINCT anonymous_key FROM aliases WHERE user_key = $1";
            for visitor in keys(sql, text, &self.key).await? {
                // A shared device: a visitor that is another user's by now stays with that user.
                if history::resolve(sql, &visitor).await? == self.key {
                    gone.insert(visitor);
                }
            }
        }
        Ok((gone, changed))
    }
}

async fn keys(sql: &mut PgConnection, text: &'static str, key: &UserKey) -> Result<Vec<UserKey>> {
    let found = sqlx::query_scalar::<_, Vec<u8>>(text)
        .bind(bytes(key))
        .fetch_all(sql)
        .await
        .map_err(failed("reading a user's keys"))?;
    let parse = |bytes: &Vec<u8>| UserKey::parse(&fields::text(bytes)?).ok_or_else(|| corrupt("user key"));
    found.iter().map(parse).collect()
}

async fn count(sql: &mut PgConnection, text: &'static str, id: &[u8]) -> Result<u64> {
    sqlx::query(text).bind(id).execute(sql).await.map(|done| done.rows_affected()).map_err(failed("erasing a user"))
}

/// See [`crate::store::Store::tombstones`].
pub(super) async fn tombstones(sql: &mut PgConnection) -> Result<Vec<Tombstone>> {
    let doing = "reading tombstones";
    let rows = sqlx::query("SELECT key_hash, seq FROM tombstones ORDER BY seq, key_hash")
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            let key = KeyHash::from_bytes(fields.get(0)?).ok_or_else(|| corrupt("tombstone"))?;
            Ok(Tombstone { key, seq: fields.get::<i64>(1)? as Seq })
        })
        .collect()
}

/// See [`crate::store::Store::counts`]. Scans: for status pages, not for every request.
pub(super) async fn counts(sql: &mut PgConnection) -> Result<Counts> {
    let doing = "counting";
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM items WHERE NOT deleted), (SELECT count(*) FROM users), \
         (SELECT count(*) FROM log WHERE kind = 0), \
         (SELECT count(*) FROM log WHERE kind = 0 AND item_id IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM items WHERE id = item_id AND NOT deleted)), (SELECT count(*) FROM slates)",
    )
    .fetch_one(sql)
    .await
    .map_err(failed(doing))?;
    let fields = Fields { row: &row, doing };
    let number = |index| fields.get::<i64>(index).map(|number| number as u64);
    Ok(Counts {
        items: number(0)?,
        users: number(1)?,
        events: number(2)?,
        events_of_unknown_items: number(3)?,
        slates: number(4)?,
    })
}
