//! Items: the newest state by id; every change is an entry of the log too.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use marquee_engine::types::{Item, Seq, TimeMs};
use sqlx::PgConnection;

use super::fields::Fields;
use super::log::{self, NewRow};
use super::session::{Live, failed};
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
impl Write<Live> for UpsertItems {
    type Output = Upserted;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Upserted> {
        let ids: Vec<&str> = self.items.iter().map(|item| &*item.id).collect();
        let mut kept = kept(&mut tx.connection.sql, &ids).await?;
        if let Some(id) = ids.iter().find(|id| matches!(kept.get(**id), Some(Kept::Deleted))) {
            return Err(Error::FailedPrecondition(format!("item {id:?} was deleted, and ids are never reused")));
        }
        let mut changed: Vec<(Seq, &str, String)> = Vec::new();
        for item in &self.items {
            let json = columns::item_json(item, kept.get(&*item.id), self.created)?;
            if matches!(kept.get(&*item.id), Some(Kept::Present(old)) if *old == json) {
                continue;
            }
            kept.insert(item.id.to_string(), Kept::Present(json.clone()));
            changed.push((tx.next_seq(), &item.id, json));
        }
        let entries: Vec<NewRow<'_>> = changed
            .iter()
            .map(|(seq, id, json)| NewRow {
                item: Some(id),
                payload: Some(json),
                ..NewRow::new(*seq, columns::UPSERT, self.now_ms)
            })
            .collect();
        log::insert(tx.connection, &entries).await?;
        let newest = newest(&changed);
        sqlx::query(
            "INSERT INTO items (id, seq, deleted, json) \
             SELECT id, seq, FALSE, json FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS given (id, seq, json) \
             ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, json = excluded.json",
        )
        .bind(newest.iter().map(|(_, id, _)| id.as_bytes()).collect::<Vec<_>>())
        .bind(newest.iter().map(|(seq, ..)| *seq as i64).collect::<Vec<_>>())
        .bind(newest.iter().map(|(.., json)| json.as_str()).collect::<Vec<_>>())
        .execute(&mut tx.connection.sql)
        .await
        .map_err(failed("writing items"))?;
        Ok(Upserted { seq: tx.end(), changed: changed.len() })
    }
}

/// The last one of each id: a statement may touch a row once.
fn newest<'c>(changed: &'c [(Seq, &'c str, String)]) -> Vec<&'c (Seq, &'c str, String)> {
    let mut taken = HashSet::new();
    changed.iter().rev().filter(|(_, id, _)| taken.insert(*id)).collect()
}

pub(super) struct DeleteItems {
    pub(super) ids: Vec<String>,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for DeleteItems {
    type Output = Deleted;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Deleted> {
        let ids: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let mut kept = kept(&mut tx.connection.sql, &ids).await?;
        let (mut unknown, mut gone) = (Vec::new(), Vec::new());
        for id in &self.ids {
            match kept.get(id) {
                None | Some(Kept::Deleted) => unknown.push(id.clone()),
                Some(Kept::Present(_)) => {
                    gone.push((tx.next_seq(), id.as_str()));
                    kept.insert(id.clone(), Kept::Deleted);
                }
            }
        }
        let entries: Vec<NewRow<'_>> = gone
            .iter()
            .map(|(seq, id)| NewRow { item: Some(id), ..NewRow::new(*seq, columns::DELETE, self.now_ms) })
            .collect();
        log::insert(tx.connection, &entries).await?;
        sqlx::query(
            "UPDATE items SET seq = given.seq, deleted = TRUE, json = '' \
             FROM unnest($1::bytea[], $2::bigint[]) AS given (id, seq) WHERE items.id = given.id",
        )
        .bind(gone.iter().map(|(_, id)| id.as_bytes()).collect::<Vec<_>>())
        .bind(gone.iter().map(|(seq, _)| *seq as i64).collect::<Vec<_>>())
        .execute(&mut tx.connection.sql)
        .await
        .map_err(failed("deleting items"))?;
        Ok(Deleted { seq: tx.end(), unknown })
    }
}

/// See [`crate::store::Store::get_items`].
pub(super) async fn get(sql: &mut PgConnection, ids: &[String]) -> Result<Vec<Option<Item>>> {
    let borrowed: Vec<&str> = ids.iter().map(String::as_str).collect();
    let kept = kept(sql, &borrowed).await?;
    ids.iter()
        .map(|id| match kept.get(id) {
            Some(kept) => kept.item(),
            None => Ok(None),
        })
        .collect()
}

/// See [`crate::store::Store::list_items`].
pub(super) async fn list(sql: &mut PgConnection, after: Option<&str>, limit: usize) -> Result<Vec<Item>> {
    let rows =
        sqlx::query_scalar::<_, String>("SELECT json FROM items WHERE id > $1 AND NOT deleted ORDER BY id LIMIT $2")
            .bind(after.unwrap_or_default().as_bytes())
            .bind(limit as i64)
            .fetch_all(sql)
            .await
            .map_err(failed("listing items"))?;
    rows.iter().map(|json| columns::parse_item(json)).collect()
}

async fn kept(sql: &mut PgConnection, ids: &[&str]) -> Result<HashMap<String, Kept>> {
    let doing = "reading items";
    let rows = sqlx::query("SELECT id, deleted, json FROM items WHERE id = ANY($1)")
        .bind(ids.iter().map(|id| id.as_bytes()).collect::<Vec<_>>())
        .fetch_all(sql)
        .await
        .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            let kept = if fields.get(1)? { Kept::Deleted } else { Kept::Present(fields.get(2)?) };
            Ok((fields.text(0)?.unwrap_or_default(), kept))
        })
        .collect()
}
