//! Items: the newest state by id; every change is an entry of the log too.

use std::collections::HashMap;

use async_trait::async_trait;
use marquee_engine::types::{Item, TimeMs};
use sqlx::{Row, SqliteConnection};

use super::{failed, log};
use crate::error::{Error, Result};
use crate::store::columns::{self, Kept};
use crate::store::writer::{Tx, Write};
use crate::store::{Deleted, Upserted};

pub(super) struct UpsertItems {
    pub(super) items: Vec<Item>,
    pub(super) created: Option<TimeMs>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for UpsertItems {
    type Output = Upserted;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Upserted> {
        let ids: Vec<&str> = self.items.iter().map(|item| &*item.id).collect();
        let mut kept = kept(tx.connection, &ids).await?;
        if let Some(id) = ids.iter().find(|id| matches!(kept.get(**id), Some(Kept::Deleted))) {
            return Err(Error::FailedPrecondition(format!("item {id:?} was deleted, and ids are never reused")));
        }
        let mut changed = 0;
        for item in &self.items {
            let json = columns::item_json(item, kept.get(&*item.id), self.created)?;
            if matches!(kept.get(&*item.id), Some(Kept::Present(old)) if *old == json) {
                continue;
            }
            let entry = log::Entry {
                kind: columns::UPSERT,
                item: Some(&item.id),
                user: None,
                payload: Some(json.clone()),
                moved_from: None,
            };
            let seq = log::append(tx, entry, self.now_ms).await?;
            sqlx::query(
                "INSERT INTO items (id, seq, deleted, json) VALUES (?, ?, 0, ?) \
                 ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, json = excluded.json",
            )
            .bind(item.id.to_string())
            .bind(seq as i64)
            .bind(json.clone())
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("writing an item"))?;
            kept.insert(item.id.to_string(), Kept::Present(json));
            changed += 1;
        }
        Ok(Upserted { seq: tx.end(), changed })
    }
}

pub(super) struct DeleteItems {
    pub(super) ids: Vec<String>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for DeleteItems {
    type Output = Deleted;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Deleted> {
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let mut kept = kept(tx.connection, &ids).await?;
        let mut unknown = Vec::new();
        for id in &self.ids {
            match kept.get(id) {
                None | Some(Kept::Deleted) => {
                    unknown.push(id.clone());
                    continue;
                }
                Some(Kept::Present(_)) => {}
            }
            let entry =
                log::Entry { kind: columns::DELETE, item: Some(id), user: None, payload: None, moved_from: None };
            let seq = log::append(tx, entry, self.now_ms).await?;
            sqlx::query("UPDATE items SET seq = ?, deleted = 1, json = '' WHERE id = ?")
                .bind(seq as i64)
                .bind(id.clone())
                .execute(&mut *tx.connection)
                .await
                .map_err(failed("deleting an item"))?;
            kept.insert(id.clone(), Kept::Deleted);
        }
        Ok(Deleted { seq: tx.end(), unknown })
    }
}

/// See [`crate::store::Store::get_items`].
pub(super) async fn get(connection: &mut SqliteConnection, ids: &[String]) -> Result<Vec<Option<Item>>> {
    let borrowed: Vec<&str> = ids.iter().map(String::as_str).collect();
    let kept = kept(connection, &borrowed).await?;
    ids.iter()
        .map(|id| match kept.get(id) {
            Some(kept) => kept.item(),
            None => Ok(None),
        })
        .collect()
}

/// See [`crate::store::Store::list_items`].
pub(super) async fn list(connection: &mut SqliteConnection, after: Option<&str>, limit: usize) -> Result<Vec<Item>> {
    let rows =
        sqlx::query_scalar::<_, String>("SELECT json FROM items WHERE id > ? AND deleted = 0 ORDER BY id LIMIT ?")
            .bind(after.unwrap_or_default().to_owned())
            .bind(limit as i64)
            .fetch_all(connection)
            .await
            .map_err(failed("listing items"))?;
    rows.iter().map(|json| columns::parse_item(json)).collect()
}

async fn kept(connection: &mut SqliteConnection, ids: &[&str]) -> Result<HashMap<String, Kept>> {
    let mut found = HashMap::new();
    for id in ids {
        let row = sqlx::query("SELECT deleted, json FROM items WHERE id = ?")
            .bind((*id).to_owned())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed("reading an item"))?;
        let Some(row) = row else { continue };
        let deleted: bool = row.try_get(0).map_err(failed("reading an item"))?;
        let json = row.try_get(1).map_err(failed("reading an item"))?;
        found.insert((*id).to_owned(), if deleted { Kept::Deleted } else { Kept::Present(json) });
    }
    Ok(found)
}
