//! Bundles in a bucket, with copies of some on this machine. Under `PREFIX/NAMESPACE/`:
//!
//! ```text
//! bundles/VERSION/claim           digest of the manifest that this version is for, written first, only if absent
//! bundles/VERSION/FILE...
//! bundles/VERSION/manifest.json   written last, only if absent: without it the bundle is not there
//! current                         which bundle is meant to serve; see [`Current`]
//! training/...  quarantine/...
//! ```
//!
//! Any S3 will do that has conditional puts. Must not know which bundle serves.

mod cache;
mod connect;
mod current;
mod fetch;
mod publish;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::bundle::{MANIFEST_FILE, Manifest};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::{Artifacts, Kind, Listed, Published, blocking, check_version, is_plain, newest_first};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;
use cache::Cache;

pub use current::{Current, Pointer, Read};

/// Name of the pointer.
const CURRENT: &str = "current";
/// Name of the object that says for which content a version is taken.
const CLAIM: &str = "claim";
/// A manifest that is larger is none of ours.
const MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// Manifests that are read at the same time for a list.
const LIST_MAX_AT_ONCE: usize = 8;

/// A bucket.
pub struct S3 {
    bucket: Arc<dyn ObjectStore>,
    /// PREFIX/NAMESPACE
    root: Path,
    /// The same for people.
    shown: String,
    cache: Cache,
    current: Current,
    poll_every: Option<Duration>,
    bounds: Bounds,
    metrics: Arc<Metrics>,
}

/// How much at once, how often again.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    part_bytes: u64,
    transfers_max: usize,
    attempts_max: u32,
}

impl S3 {
    /// Connects to the bucket and looks whether it can be read.
    ///
    /// # Errors
    /// InvalidArgument of `artifacts.url` in plain words.
    pub async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<S3> {
        let artifacts = &config.artifacts;
        let connect::Connected { bucket, prefix } = connect::connect(artifacts, &config.namespace).await?;
        let (root, bucket) = (prefix.join(config.namespace.as_str()), Arc::new(bucket) as Arc<dyn ObjectStore>);
        let shown = artifacts.url.redacted();
        let shown = shown.split_once('?').map_or(shown.as_str(), |(place, _)| place);
        let cache =
            Cache::new(PathBuf::from(&artifacts.cache_folder).join(&config.namespace), artifacts.cache_max_bundles);
        Ok(S3 {
            current: Current::new(bucket.clone(), root.clone().join(CURRENT), cache.followed()),
            shown: format!("{}/{}", shown.trim_end_matches('/'), config.namespace),
            poll_every: (artifacts.poll_ms > 0).then(|| Duration::from_millis(artifacts.poll_ms)),
            bounds: Bounds {
                part_bytes: artifacts.part_bytes,
                transfers_max: artifacts.transfers_max,
                attempts_max: artifacts.attempts_max,
            },
            bucket,
            root,
            cache,
            metrics,
        })
    }

    fn bundle(&self, version: &str) -> Path {
        self.root.clone().join("bundles").join(version)
    }

    /// The manifest's text; `None` when the bundle is not there.
    async fn manifest(&self, version: &str) -> Result<Option<String>> {
        manifest(&*self.bucket, &self.bundle(version)).await
    }
}

#[async_trait]
impl Artifacts for S3 {
    async fn list(&self) -> Result<Vec<Listed>> {
        let found = self.bucket.list_with_delimiter(Some(&self.root.clone().join("bundles"))).await;
        let prefixes = found.map_err(failed("listing bundles"))?.common_prefixes;
        let mut waiting = prefixes.into_iter();
        let (mut running, mut all) = (JoinSet::new(), Vec::new());
        loop {
            while running.len() < LIST_MAX_AT_ONCE
                && let Some(at) = waiting.next()
            {
                let Some(version) = at.filename().map(str::to_owned) else { continue };
                let bucket = self.bucket.clone();
                if check_version(&version).is_ok() {
                    running.spawn(async move { (manifest(&*bucket, &at).await, version) });
                }
            }
            let Some(done) = running.join_next().await else { break };
            let (text, version) = done.map_err(|error| Error::internal("listing bundles", error))?;
            let manifest = match text {
                Ok(None) => continue,
                Ok(Some(text)) => Manifest::parse(&text).map_err(|error| error.to_string()),
                Err(error @ Error::FailedPrecondition(_)) => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            all.push(Listed { version, manifest });
        }
        newest_first(&mut all);
        Ok(all)
    }

    async fn fetch(&self, version: &str) -> Result<PathBuf> {
        check_version(version)?;
        if let Some(folder) = self.cache.whole(version) {
            return Ok(folder);
        }
        let lock = self.cache.lock(version).await?;
        if let Some(folder) = self.cache.whole(version) {
            return Ok(folder);
        }
        let fetched = self.download(version).await;
        drop(lock);
        if fetched.is_ok() {
            self.metrics.artifacts("fetched");
            tracing::info!(bundle = version, from = self.shown, "fetched");
        }
        fetched
    }

    async fn drop_damaged(&self, version: &str) -> Result<bool> {
        check_version(version)?;
        let (cache, of) = (self.cache.clone(), version.to_owned());
        let dropped = blocking("checking a bundle's copy", move || cache.drop_damaged(&of)).await?;
        if dropped {
            self.metrics.artifacts("damaged");
            tracing::warn!(bundle = version, "the copy on this machine was damaged; it is fetched again");
        }
        Ok(dropped)
    }

    async fn tidy(&self, in_use: &[String]) -> Result<()> {
        let (cache, in_use) = (self.cache.clone(), in_use.to_vec());
        blocking("tidying the cache of bundles", move || cache.tidy(&in_use)).await
    }

    async fn publish(&self, folder: &std::path::Path) -> Result<Published> {
        let published = self.bring(folder).await?;
        if published == Published::New {
            self.metrics.artifacts("published");
        }
        Ok(published)
    }

    async fn delete(&self, version: &str) -> Result<()> {
        check_version(version)?;
        if self.manifest(version).await?.is_none() {
            return Err(Error::NotFound(format!("bundle {version}")));
        }
        let (doing, bundle) = (failed("deleting a bundle"), self.bundle(version));
        // Without its manifest it is no bundle, however far the rest gets; without its claim it can be made anew.
        self.bucket.delete(&bundle.clone().join(MANIFEST_FILE)).await.map_err(&doing)?;
        let mut objects = self.bucket.list(Some(&bundle));
        while let Some(object) = objects.next().await {
            let object = object.map_err(&doing)?;
            if object.location.filename() != Some(CLAIM) {
                self.bucket.delete(&object.location).await.map_err(&doing)?;
            }
        }
        self.bucket.delete(&bundle.join(CLAIM)).await.map_err(&doing)
    }

    async fn keep(&self, kind: Kind, name: &str, file: &std::path::Path) -> Result<Option<String>> {
        if name.len() > 256 || !name.split('/').all(is_plain) {
            let rule =
                "must be names of letters, digits, `.`, `-` or `_` with `/` between them, none starting with `.`";
            return Err(Error::invalid("name", rule));
        }
        let at = name.split('/').fold(self.root.clone().join(kind.name()), Path::join);
        self.upload(file, &at).await?;
        Ok(Some(format!("{}/{}/{name}", self.shown, kind.name())))
    }

    fn current(&self) -> Option<&Current> {
        Some(&self.current)
    }

    fn poll_every(&self) -> Option<Duration> {
        self.poll_every
    }
}

async fn manifest(bucket: &dyn ObjectStore, bundle: &Path) -> Result<Option<String>> {
    let found = match bucket.get(&bundle.clone().join(MANIFEST_FILE)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        other => other.map_err(failed("a manifest"))?,
    };
    let wrong = |why: &str| Error::FailedPrecondition(format!("manifest.json in the bucket {why}"));
    if found.meta.size > MANIFEST_MAX_BYTES {
        return Err(wrong("is too large"));
    }
    let bytes = found.bytes().await.map_err(failed("a manifest"))?;
    String::from_utf8(bytes.into()).map(Some).map_err(|_| wrong("is not UTF-8"))
}

/// What a bucket refuses at run time, after the client's own retries.
fn failed(doing: &'static str) -> impl Fn(object_store::Error) -> Error {
    move |error| {
        let reason = if connect::is_refusal(&error) {
            "the bucket of the artifacts refuses the credentials"
        } else {
            "the bucket of the artifacts does not answer"
        };
        Error::unavailable(reason, format!("{doing}: {error}"))
    }
}
