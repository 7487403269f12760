//! The registry of bundles: which exist, which serves, what served before.

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::{Row, SqliteConnection};

use super::failed;
use crate::error::{Error, Result};
use crate::store::writer::{Tx, Write};
use crate::store::{Activations, BundleRecord};

pub(super) struct Register {
    pub(super) bundle: BundleRecord,
}

#[async_trait]
impl Write<SqliteConnection> for Register {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<()> {
        let bundle = &self.bundle;
        sqlx::query(
            "INSERT INTO bundles (version, created_ms, parent, location, manifest) VALUES (?, ?, ?, ?, ?) \
             ON CONFLICT (version) DO UPDATE SET created_ms = excluded.created_ms, parent = excluded.parent, \
             location = excluded.location, manifest = excluded.manifest",
        )
        .bind(bundle.version.clone())
        .bind(bundle.created_ms)
        .bind(bundle.parent.clone())
        .bind(bundle.location.clone())
        .bind(bundle.manifest.clone())
        .execute(&mut *tx.connection)
        .await
        .map(|_| ())
        .map_err(failed("registering a bundle"))
    }
}

pub(super) struct Activate {
    pub(super) version: String,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for Activate {
    type Output = Activations;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Activations> {
        let known = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM bundles WHERE version = ?")
            .bind(self.version.clone())
            .fetch_one(&mut *tx.connection)
            .await
            .map_err(failed("looking for a bundle"))?;
        if known == 0 {
            return Err(Error::NotFound(format!("bundle {:?}", self.version)));
        }
        let before = activations(tx.connection).await?;
        if before.serving.as_deref() == Some(&self.version) {
            return Ok(before);
        }
        sqlx::query("INSERT INTO activations (version, activated_ms) VALUES (?, ?)")
            .bind(self.version.clone())
            .bind(self.now_ms)
            .execute(&mut *tx.connection)
            .await
            .map_err(failed("activating a bundle"))?;
        activations(tx.connection).await
    }
}

pub(super) struct RollBack {
    pub(super) serving: String,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<SqliteConnection> for RollBack {
    type Output = Activations;

    async fn apply(&mut self, tx: &mut Tx<'_, SqliteConnection>) -> Result<Activations> {
        let before = activations(tx.connection).await?;
        if before.serving.as_deref() != Some(&self.serving) {
            return Err(Error::FailedPrecondition(format!("bundle {:?} does not serve any more", self.serving)));
        }
        if before.previous.is_none() {
            return Err(Error::FailedPrecondition("no bundle served before this one".to_owned()));
        }
        sqlx::query(
            "UPDATE activations SET rolled_back_ms = ? \
             WHERE id = (SELECT max(id) FROM activations WHERE rolled_back_ms IS NULL)",
        )
        .bind(self.now_ms)
        .execute(&mut *tx.connection)
        .await
        .map_err(failed("rolling back a bundle"))?;
        activations(tx.connection).await
    }
}

/// See [`crate::store::Store::list_bundles`].
pub(super) async fn list(connection: &mut SqliteConnection) -> Result<Vec<BundleRecord>> {
    let failed = failed("listing bundles");
    let rows = sqlx::query(
        "SELECT version, created_ms, parent, location, manifest FROM bundles ORDER BY created_ms DESC, version DESC",
    )
    .fetch_all(connection)
    .await
    .map_err(&failed)?;
    rows.iter()
        .map(|row| {
            Ok(BundleRecord {
                version: row.try_get(0).map_err(&failed)?,
                created_ms: row.try_get(1).map_err(&failed)?,
                parent: row.try_get(2).map_err(&failed)?,
                location: row.try_get(3).map_err(&failed)?,
                manifest: row.try_get(4).map_err(&failed)?,
            })
        })
        .collect()
}

/// See [`crate::store::Store::activations`].
pub(super) async fn activations(connection: &mut SqliteConnection) -> Result<Activations> {
    let mut newest = sqlx::query_scalar::<_, String>(
        "SELECT version FROM activations WHERE rolled_back_ms IS NULL ORDER BY id DESC LIMIT 2",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("reading activations"))?
    .into_iter();
    Ok(Activations { serving: newest.next(), previous: newest.next() })
}
