//! From the bucket to this machine: range by range into a partial copy, gone on with after a broken connection or a
//! restart, compared with the manifest before it gets its name.

use std::path::PathBuf;
use std::time::Duration;

use marquee_engine::bundle::{FileEntry, MANIFEST_FILE, Manifest};
use object_store::{GetOptions, GetRange, ObjectStore};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;

use super::cache::Cache;
use super::{Bounds, S3, failed};
use crate::artifacts::{backoff, blocking, disk, is_plain};
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// Waits between attempts that brought nothing.
const WAIT_FIRST: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// A file that came whole so often and was never what the manifest says is damaged in the bucket.
const DAMAGED_MAX: u32 = 2;

/// One file on its way.
struct Transfer {
    bucket: std::sync::Arc<dyn ObjectStore>,
    metrics: std::sync::Arc<Metrics>,
    bounds: Bounds,
    from: object_store::path::Path,
    to: PathBuf,
    entry: FileEntry,
}

/// Why a transfer stopped.
enum Stop {
    /// It came whole, and it is another file: what came is removed.
    Damaged,
    /// Anything else; what came stays.
    Failed(Error),
}

impl S3 {
    /// Fetches a bundle into the cache. The caller holds its lock.
    pub(super) async fn download(&self, version: &str) -> Result<PathBuf> {
        let refuse = |why: String| Error::FailedPrecondition(format!("bundle {version} in the bucket: {why}"));
        let text = self.manifest(version).await?.ok_or_else(|| Error::NotFound(format!("bundle {version}")))?;
        let manifest = Manifest::parse(&text).map_err(|error| refuse(error.to_string()))?;
        if manifest.version != version {
            return Err(refuse(format!("its manifest is that of version {}", manifest.version)));
        }
        if let Some(name) = manifest.files.keys().find(|name| !is_plain(name)) {
            return Err(refuse(format!("{name:?} is no file's name")));
        }
        let partial = self.cache.partial(version)?;
        let mut waiting = manifest.files.into_iter();
        let mut running = JoinSet::new();
        loop {
            while running.len() < self.bounds.transfers_max
                && let Some((name, entry)) = waiting.next()
            {
                let (from, to) = (self.bundle(version).join(name.as_str()), partial.join(&name));
                let (bucket, metrics) = (self.bucket.clone(), self.metrics.clone());
                let transfer = Transfer { bucket, metrics, bounds: self.bounds, from, to, entry };
                running.spawn(async move { transfer.run().await.map_err(|error| (name, error)) });
            }
            let Some(done) = running.join_next().await else { break };
            match done.map_err(|error| Error::internal("fetching a bundle", error))? {
                Ok(()) => (),
                Err((name, Error::FailedPrecondition(why))) => return Err(refuse(format!("{name} {why}"))),
                Err((_, error)) => return Err(error),
            }
        }
        let (cache, version) = (self.cache.clone(), version.to_owned());
        let settle = move || {
            let write = || {
                std::fs::write(partial.join(MANIFEST_FILE), text)?;
                std::fs::File::open(partial.join(MANIFEST_FILE))?.sync_all()
            };
            write().map_err(disk)?;
            cache.settle(&version)
        };
        blocking("putting a bundle into the cache", settle).await
    }
}

impl Transfer {
    /// Goes on until the file is whole and right. Attempts that bring nothing are bounded; so are damaged copies.
    async fn run(&self) -> Result<()> {
        let (mut failures, mut damaged) = (0, 0);
        loop {
            let before = Cache::length(&self.to);
            if before > 0 {
                self.metrics.artifacts("resumed");
            }
            match self.attempt().await {
                Ok(()) => return Ok(()),
                Err(Stop::Damaged) => {
                    damaged += 1;
                    self.metrics.artifacts("damaged");
                    tracing::warn!(file = %self.from, "what came is not what the manifest says");
                    if damaged >= DAMAGED_MAX {
                        return Err(Error::FailedPrecondition("is not what the manifest says".to_owned()));
                    }
                }
                Err(Stop::Failed(error @ Error::FailedPrecondition(_))) => return Err(error),
                Err(Stop::Failed(error)) => {
                    failures = if Cache::length(&self.to) > before { 1 } else { failures + 1 };
                    if failures >= self.bounds.attempts_max {
                        return Err(error);
                    }
                    self.metrics.artifacts("retried");
                    tracing::warn!(file = %self.from, error = error.detail(), "a transfer broke off; going on with it");
                    tokio::time::sleep(backoff(failures, WAIT_FIRST, WAIT_MAX)).await;
                }
            }
        }
    }

    async fn attempt(&self) -> Result<(), Stop> {
        let io = |error| Stop::Failed(disk(error));
        let mut at = Cache::length(&self.to);
        if at > self.entry.bytes {
            fs::remove_file(&self.to).await.map_err(io)?;
            at = 0;
        }
        let mut file = File::options().create(true).append(true).open(&self.to).await.map_err(io)?;
        while at < self.entry.bytes {
            let end = self.entry.bytes.min(at + self.bounds.part_bytes);
            let came = self.range(&mut file, at..end).await;
            // What came stays, also of a range that broke off.
            file.flush().await.map_err(io)?;
            at += came.map_err(Stop::Failed)?;
        }
        file.sync_all().await.map_err(io)?;
        let (path, entry) = (self.to.clone(), self.entry.clone());
        let compare = move || Ok(FileEntry::of(&path).map_err(disk)? == entry);
        if blocking("checking a file", compare).await.map_err(Stop::Failed)? {
            return Ok(());
        }
        fs::remove_file(&self.to).await.map_err(io)?;
        Err(Stop::Damaged)
    }

    /// Appends one range; gives its bytes.
    async fn range(&self, file: &mut File, range: std::ops::Range<u64>) -> Result<u64> {
        let failed = failed("fetching a file");
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = match self.bucket.get_opts(&self.from, options).await {
            Err(object_store::Error::NotFound { .. }) => {
                return Err(Error::FailedPrecondition("is not there".to_owned()));
            }
            other => other.map_err(&failed)?,
        };
        if found.meta.size != self.entry.bytes {
            let (found, wanted) = (found.meta.size, self.entry.bytes);
            return Err(Error::FailedPrecondition(format!("has {found} bytes, the manifest says {wanted}")));
        }
        if found.range.start != range.start {
            return Err(Error::unavailable("the bucket of the artifacts gave another range", self.from.to_string()));
        }
        let (mut stream, mut came) = (found.into_stream(), 0);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(&failed)?;
            // A server that sends more than it was asked for must not fill the disk.
            if came + chunk.len() as u64 > range.end - range.start {
                return Err(Error::unavailable(
                    "the bucket of the artifacts gave another range",
                    self.from.to_string(),
                ));
            }
            file.write_all(&chunk).await.map_err(disk)?;
            came += chunk.len() as u64;
            self.metrics.artifacts_bytes.inc_by(chunk.len() as u64);
        }
        if came == 0 {
            return Err(Error::unavailable("the bucket of the artifacts gave nothing", self.from.to_string()));
        }
        Ok(came)
    }
}
