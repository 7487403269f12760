//! AdminService. Every call needs the admin token.

use std::sync::Arc;

use marquee_engine::types::TimeMs;
use marquee_proto::encoded::admin_service_server::AdminService;
use marquee_proto::v1;
use tonic::{Request, Response, Status};

use super::{auth, convert};
use crate::answer::Desk;
use crate::bundles::Bundles;
use crate::error::Result;
use crate::store::Store;

/// Operates the server.
pub(super) struct Admin {
    pub(super) store: Arc<dyn Store>,
    pub(super) desk: Arc<Desk>,
    pub(super) bundles: Arc<Bundles>,
    pub(super) started_ms: TimeMs,
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn list_bundles(
        &self,
        request: Request<v1::ListBundlesRequest>,
    ) -> Result<Response<v1::ListBundlesResponse>, Status> {
        self.open(&request)?;
        let listed = self.bundles.registry.list().await?;
        let serving = self.desk.live.current();
        let serving = &serving.engine.bundle().manifest().version;
        let info = |listed: crate::artifacts::Listed| {
            let problem = listed.manifest.as_ref().err().cloned().or_else(|| self.bundles.problem(&listed.version));
            let manifest = listed.manifest.ok();
            let counts = manifest.as_ref().map(|manifest| manifest.counts).unwrap_or_default();
            v1::BundleInfo {
                created: manifest.as_ref().map(|manifest| convert::time_out(manifest.created_ms)),
                parent: manifest.as_ref().and_then(|manifest| manifest.parent.clone()).unwrap_or_default(),
                serving: listed.version == *serving,
                items: counts.items as u64,
                users: counts.users as u64,
                has_ranker: manifest.as_ref().is_some_and(|manifest| manifest.ranker.is_some()),
                metrics: manifest.map(|manifest| manifest.metrics).unwrap_or_default(),
                problem: problem.unwrap_or_default(),
                version: listed.version,
            }
        };
        Ok(Response::new(v1::ListBundlesResponse { bundles: listed.into_iter().map(info).collect() }))
    }

    async fn activate_bundle(
        &self,
        request: Request<v1::ActivateBundleRequest>,
    ) -> Result<Response<v1::ActivateBundleResponse>, Status> {
        self.open(&request)?;
        let after = self.bundles.activate(&request.into_inner().version).await?;
        Ok(Response::new(v1::ActivateBundleResponse {
            serving_version: after.serving.unwrap_or_default(),
            previous_version: after.previous.unwrap_or_default(),
        }))
    }

    async fn rollback_bundle(
        &self,
        request: Request<v1::RollbackBundleRequest>,
    ) -> Result<Response<v1::RollbackBundleResponse>, Status> {
        self.open(&request)?;
        let before = self.bundles.registry.activations().await?.serving;
        let after = self.bundles.roll_back().await?;
        Ok(Response::new(v1::RollbackBundleResponse {
            serving_version: after.serving.unwrap_or_default(),
            previous_version: before.unwrap_or_default(),
        }))
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        self.open(&request)?;
        let activations = self.bundles.registry.activations().await?;
        let log_end = self.store.log_end().await?;
        let serving = self.desk.live.current();
        let manifest = serving.engine.bundle().manifest();
        let mut notes = crate::status::notes(&serving, log_end, self.desk.metrics.ingest_lag.get(), &self.desk.config);
        let problem = |version: &String| self.bundles.problem(version).filter(|_| *version != manifest.version);
        notes.extend(activations.serving.iter().filter_map(problem));
        // What is wrong with bundles but not with one of them.
        notes.extend(self.bundles.problem(""));
        Ok(Response::new(v1::GetStatusResponse {
            ready: true,
            notes,
            bundle_version: manifest.version.clone(),
            items: serving.world.len() as u64,
            watermark: serving.world.watermark(),
            log_end,
            variants: self.desk.config.variants.keys().cloned().collect(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: Some(convert::time_out(self.started_ms)),
            previous_bundle_version: activations.previous.unwrap_or_default(),
            has_ranker: serving.engine.bundle().ranker().is_some(),
        }))
    }

    async fn purge_cache(
        &self,
        request: Request<v1::PurgeCacheRequest>,
    ) -> Result<Response<v1::PurgeCacheResponse>, Status> {
        self.open(&request)?;
        let v1::PurgeCacheRequest { user_id, anonymous_id } = request.into_inner();
        match convert::visitor_in(&user_id, &anonymous_id, &self.desk.config.limits)? {
            Some(user) => self.desk.cache.purge_user(&user).await?,
            None => self.desk.cache.purge().await?,
        }
        Ok(Response::new(v1::PurgeCacheResponse {}))
    }
}

impl Admin {
    fn open<T>(&self, request: &Request<T>) -> Result<()> {
        auth::check(request.metadata(), self.desk.config.admin_token.as_ref())
    }
}
