//! The registry of bundles: which exist, which serves, what served before.

use async_trait::async_trait;
use marquee_engine::types::TimeMs;
use sqlx::PgConnection;

use super::fields::{self, Fields};
use super::session::{Live, failed};
use crate::error::{Error, Result};
use crate::store::writer::{Tx, Write};
use crate::store::{Activations, BundleRecord};

pub(super) struct Register {
    pub(super) bundle: BundleRecord,
}

#[async_trait]
impl Write<Live> for Register {
    type Output = ();

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<()> {
        let bundle = &self.bundle;
        sqlx::query(
            "INSERT INTO bundles (version, created_ms, parent, location, manifest) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (version) DO UPDATE SET created_ms = excluded.created_ms, parent = excluded.parent, \
             location = excluded.location, manifest = excluded.manifest",
        )
        .bind(bundle.version.as_bytes())
        .bind(bundle.created_ms)
        .bind(bundle.parent.as_bytes())
        .bind(bundle.location.as_bytes())
        .bind(bundle.manifest.as_str())
        .execute(&mut tx.connection.sql)
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
impl Write<Live> for Activate {
    type Output = Activations;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Activations> {
        let sql = &mut tx.connection.sql;
        let is_known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM bundles WHERE version = $1)")
            .bind(self.version.as_bytes())
            .fetch_one(&mut *sql)
            .await
            .map_err(failed("looking for a bundle"))?;
        if !is_known {
            return Err(Error::NotFound(format!("bundle {:?}", self.version)));
        }
        let before = activations(sql).await?;
        if before.serving.as_deref() == Some(&self.version) {
            return Ok(before);
        }
        sqlx::query("INSERT INTO activations (version, activated_ms) VALUES ($1, $2)")
            .bind(self.version.as_bytes())
            .bind(self.now_ms)
            .execute(&mut *sql)
            .await
            .map_err(failed("activating a bundle"))?;
        activations(sql).await
    }
}

pub(super) struct RollBack {
    pub(super) serving: String,
    pub(super) now_ms: TimeMs,
}

#[async_trait]
impl Write<Live> for RollBack {
    type Output = Activations;

    async fn apply(&mut self, tx: &mut Tx<'_, Live>) -> Result<Activations> {
        let sql = &mut tx.connection.sql;
        let before = activations(sql).await?;
        if before.serving.as_deref() != Some(&self.serving) {
            return Err(Error::FailedPrecondition(format!("bundle {:?} does not serve any more", self.serving)));
        }
        if before.previous.is_none() {
            return Err(Error::FailedPrecondition("no bundle served before this one".to_owned()));
        }
        sqlx::query(
            "UPDATE activations SET rolled_back_ms = $1 \
             WHERE id = (SELECT max(id) FROM activations WHERE rolled_back_ms IS NULL)",
        )
        .bind(self.now_ms)
        .execute(&mut *sql)
        .await
        .map_err(failed("rolling back a bundle"))?;
        activations(sql).await
    }
}

/// See [`crate::store::Store::list_bundles`].
pub(super) async fn list(sql: &mut PgConnection) -> Result<Vec<BundleRecord>> {
    let doing = "listing bundles";
    let rows = sqlx::query(
        "SELECT version, created_ms, parent, location, manifest FROM bundles ORDER BY created_ms DESC, version DESC",
    )
    .fetch_all(sql)
    .await
    .map_err(failed(doing))?;
    rows.iter()
        .map(|row| {
            let fields = Fields { row, doing };
            Ok(BundleRecord {
                version: fields.text(0)?.unwrap_or_default(),
                created_ms: fields.get(1)?,
                parent: fields.text(2)?.unwrap_or_default(),
                location: fields.text(3)?.unwrap_or_default(),
                manifest: fields.get(4)?,
            })
        })
        .collect()
}

/// See [`crate::store::Store::activations`].
pub(super) async fn activations(sql: &mut PgConnection) -> Result<Activations> {
    let newest = sqlx::query_scalar::<_, Vec<u8>>(
        "SELECT version FROM activations WHERE rolled_back_ms IS NULL ORDER BY id DESC LIMIT 2",
    )
    .fetch_all(sql)
    .await
    .map_err(failed("reading activations"))?;
    let mut newest = newest.iter().map(|version| fields::text(version));
    Ok(Activations { serving: newest.next().transpose()?, previous: newest.next().transpose()? })
}
