//! Users: attributes, merges, erasure.

use std::collections::BTreeSet;

use async_trait::async_trait;
use marquee_engine::types::{Seq, TimeMs};
use sqlx::{Row, SqliteConnection};

use super::{failed, history, log};
use crate::error::{Error, Result};
use crate::store::columns::{self, corrupt};
use crate::store::writer::{Tx, Write};
use crate::store::{Counts, Erased, KeyHash, Tombstone, User, UserKey, UserSummary};

pub(super) struct UpsertUsers {
    pub(super) users: Vec<User>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for UpsertUsers {
    type Output = usize;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<usize> {
        let mut changed = 0;
        for user in &self.users {
            let json = serde_json::to_string(user).map_err(|error| Error::internal("writing a user", error))?;
            let done = sqlx::query(
                "INSERT INTO users (id, updated_ms, json) VALUES (?, ?, ?) ON CONFLICT (id) \
                 DO UPDATE SET updated_ms = excluded.updated_ms, json = excluded.json WHERE json <> excluded.json",
            )
            .bind(user.id.clone())
            .bind(self.now_ms)
            .bind(json)
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("writing a user"))?;
            changed += done.rows_affected() as usize;
        }
        Ok(changed)
    }
}

/// See [`crate::store::Store::get_user`].
pub(super) async fn get(connection: &mut SqliteConnection, key: &UserKey) -> Result<Option<UserSummary>> {
    let key = history::resolve(connection, key, None).await?;
    let json = if key.is_anonymous() {
        None
    } else {
        sqlx::query_scalar::<_, String>("SELECT json FROM users WHERE id = ?")
            .bind(key.id().to_owned())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed("reading a user"))?
    };
    let user = json.as_deref().map(parse).transpose()?;
    let events = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM log WHERE user_key = ? AND kind = 0")
        .bind(key.as_str().to_owned())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("counting a user's events"))? as u64;
    let version = history::version(connection, &key).await?;
    Ok((user.is_some() || version > 0).then_some(UserSummary { user, events, version }))
}

/// See [`crate::store::Store::list_users`].
pub(super) async fn list(connection: &mut SqliteConnection, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
    let rows = sqlx::query_scalar::<_, String>("SELECT json FROM users WHERE id > ? ORDER BY id LIMIT ?")
        .bind(after.unwrap_or_default().to_owned())
        .bind(limit as i64)
        .fetch_all(connection)
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
impl Write<SqliteConnection> for Merge {
    type Output = (u64, Seq);

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<(u64, Seq)> {
        let alias = history::alias(tx.connection, &self.anonymous, None).await?;
        if alias.is_some_and(|(user, _)| user == self.user) {
            return Ok((0, tx.end()));
        }
        let entry = log::Entry {
            kind: columns::MERGE,
            item: None,
            user: Some(&self.user),
            payload: None,
            moved_from: Some(&self.anonymous),
        };
        let seq = log::append(tx, entry, self.now_ms).await?;
        let moved = sqlx::query("UPDATE log SET user_key = ?1, moved_seq = ?2, moved_from = ?3 WHERE user_key = ?3")
            .bind(self.user.as_str().to_owned())
            .bind(seq as i64)
            .bind(self.anonymous.as_str().to_owned())
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("moving events"))?
            .rows_affected();
        sqlx::query("INSERT INTO aliases (anonymous_key, seq, user_key) VALUES (?, ?, ?)")
            .bind(self.anonymous.as_str().to_owned())
            .bind(seq as i64)
            .bind(self.user.as_str().to_owned())
            .execute(&mut *tx.connection)
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
impl Write<SqliteConnection> for Forget {
    type Output = Erased;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Erased> {
        let (gone, changed) = self.keys(tx.connection).await?;
        let mut events = 0;
        let mut slates = 0;
        for key in &gone {
            events += count(tx, "DELETE FROM log WHERE user_key = ? AND kind = 0", key).await?;
            count(tx, "DELETE FROM log WHERE user_key = ?", key).await?;
            // Of a user's visitor only what is the user's: what moved to somebody else is theirs.
            if self.key.is_anonymous() {
                events += count(tx, "DELETE FROM log WHERE moved_from = ? AND kind = 0", key).await?;
                count(tx, "DELETE FROM log WHERE moved_from = ?", key).await?;
            }
            count(tx, "DELETE FROM aliases WHERE anonymous_key = ?", key).await?;
            count(tx, "DELETE FROM aliases WHERE user_key = ?", key).await?;
            slates += count(tx, "DELETE FROM slates WHERE user_key = ?", key).await?;
            count(tx, "DELETE FROM users WHERE 'u:' || id = ?", key).await?;
        }
        let hashes: Vec<KeyHash> = gone.iter().map(UserKey::hash).collect();
        let payload = columns::hashes_to_hex(&hashes);
        let entry =
            log::Entry { kind: columns::ERASURE, item: None, user: None, payload: Some(payload), moved_from: None };
        let seq = log::append(tx, entry, self.now_ms).await?;
        for hash in hashes {
            sqlx::query("INSERT INTO tombstones (key_hash, seq) VALUES (?, ?)")
                .bind(hash.0.to_vec())
                .bind(seq as i64)
                .execute(&mut *tx.connection)
                .await
                .map_err(failed("writing a tombstone"))?;
        }
        Ok(Erased { seq, events, slates, keys: gone.into_iter().chain(changed).collect() })
    }

    fn wants_checkpoint(&self) -> bool {
        true
    }
}

impl Forget {
    /// The keys that are erased, and those of others whose events change by it.
    async fn keys(&self, connection: &mut SqliteConnection) -> Result<(BTreeSet<UserKey>, BTreeSet<UserKey>)> {
        let mut gone = BTreeSet::from([self.key.clone()]);
        let mut changed = BTreeSet::new();
        if self.key.is_anonymous() {
            let sql = "SELECT DISTINCT user_key FROM log WHERE moved_from = ?";
            changed.extend(keys(connection, sql, &self.key).await?);
        } else {
            let sql = "SELECT DISTINCT anonymous_key FROM aliases WHERE user_key = ?";
            for visitor in keys(connection, sql, &self.key).await? {
                // A shared device: a visitor that is another user's by now stays with that user.
                if history::resolve(connection, &visitor, None).await? == self.key {
                    gone.insert(visitor);
                }
            }
        }
        Ok((gone, changed))
    }
}

async fn keys(connection: &mut SqliteConnection, sql: &'static str, key: &UserKey) -> Result<Vec<UserKey>> {
    let found = sqlx::query_scalar::<_, String>(sql)
        .bind(key.as_str().to_owned())
        .fetch_all(connection)
        .await
        .map_err(failed("reading a user's keys"))?;
    found.iter().map(|key| UserKey::parse(key).ok_or_else(|| corrupt("user key"))).collect()
}

async fn count(tx: &mut Tx<'_, SqliteConnection>, sql: &'static str, key: &UserKey) -> Result<u64> {
    sqlx::query(sql)
        .bind(key.as_str().to_owned())
        .execute(&mut *tx.connection)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed("erasing a user"))
}

/// See [`crate::store::Store::tombstones`].
pub(super) async fn tombstones(connection: &mut SqliteConnection) -> Result<Vec<Tombstone>> {
    let rows = sqlx::query("SELECT key_hash, seq FROM tombstones ORDER BY seq, key_hash")
        .fetch_all(connection)
        .await
        .map_err(failed("reading tombstones"))?;
    rows.iter()
        .map(|row| {
            let bytes: Vec<u8> = row.try_get(0).map_err(failed("reading tombstones"))?;
            let seq: i64 = row.try_get(1).map_err(failed("reading tombstones"))?;
            Ok(Tombstone { key: KeyHash::from_bytes(&bytes).ok_or_else(|| corrupt("tombstone"))?, seq: seq as Seq })
        })
        .collect()
}

/// See [`crate::store::Store::counts`]. Scans: for status pages, not for every request.
pub(super) async fn counts(connection: &mut SqliteConnection) -> Result<Counts> {
    let mut numbers = [0; 5];
    let queries = [
        "SELECT count(*) FROM items WHERE deleted = 0",
        "SELECT count(*) FROM users",
        "SELECT count(*) FROM log WHERE kind = 0",
        "SELECT count(*) FROM log WHERE kind = 0 AND item_id IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM items WHERE id = item_id AND deleted = 0)",
        "SELECT count(*) FROM slates",
    ];
    for (number, sql) in numbers.iter_mut().zip(queries) {
        *number =
            sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *connection).await.map_err(failed("counting"))? as u64;
    }
    let [items, users, events, events_of_unknown_items, slates] = numbers;
    Ok(Counts { items, users, events, events_of_unknown_items, slates })
}
