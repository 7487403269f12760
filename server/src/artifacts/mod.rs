//! Where bundles are kept: a folder of this machine, or a bucket that several machines share.
//!
//! A port: one trait, one conformance suite (`conformance.rs`) that both pass. Must not know the store, which bundle
//! serves, nor how one is opened. What it promises: a version is there whole or not at all, and never changes; what
//! [`Artifacts::fetch`] gives was checked against the manifest when it came.

#[cfg(test)]
pub(crate) mod conformance;
mod folder;
mod s3;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::bundle::{FileEntry, Manifest};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

pub use folder::Folder;
pub use s3::{Current, Pointer, Read as CurrentRead, S3};

/// A bundle as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its version: the name of its folder.
    pub version: String,
    /// What it says of itself; the error when that cannot be read.
    pub manifest: Result<Manifest, String>,
}

/// What publishing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The bundle was brought there.
    New,
    /// The same bundle was there already.
    Already,
}

/// What else is kept beside bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Rows that a ranker was fitted on.
    Training,
    /// Events and rows that were put aside, with the reason.
    Quarantine,
}

impl Kind {
    /// The name of its part of a bucket.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Training => "training",
            Kind::Quarantine => "quarantine",
        }
    }
}

/// Bundles, whole and immutable. At run time a bucket that does not answer is Unavailable, after bounded retries.
#[async_trait]
pub trait Artifacts: Send + Sync {
    /// Every whole bundle, newest first.
    async fn list(&self) -> Result<Vec<Listed>>;

    /// The folder on this machine that holds the bundle, brought here first if it must be.
    /// NotFound; FailedPrecondition when what is kept is not what its manifest says.
    async fn fetch(&self, version: &str) -> Result<PathBuf>;

    /// For a bundle that did not open: looks at the copy on this machine byte by byte and drops it when it is damaged.
    /// Tells whether fetching again may help.
    async fn drop_damaged(&self, version: &str) -> Result<bool>;

    /// Removes copies on this machine beyond their bound, unused ones first, never those in use.
    async fn tidy(&self, in_use: &[String]) -> Result<()>;

    /// Brings a bundle's folder here after checking it. FailedPrecondition when its version is taken by another content.
    async fn publish(&self, folder: &Path) -> Result<Published>;

    /// Removes a bundle for ever. NotFound when it is not there.
    async fn delete(&self, version: &str) -> Result<()>;

    /// Keeps another file under that name of letters, digits, `.`, `-`, `_` and `/`, and says where; `None` where such
    /// files stay what they are.
    async fn keep(&self, kind: Kind, name: &str, file: &Path) -> Result<Option<String>>;

    /// Which bundle is meant to serve, where several machines share the bundles.
    fn current(&self) -> Option<&Current>;

    /// How often that is to be asked; `None` is never.
    fn poll_every(&self) -> Option<Duration>;
}

/// Opens what `artifacts.url` names.
///
/// # Errors
/// InvalidArgument of `artifacts.url` in plain words: bucket, credentials, host, TLS.
pub async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<dyn Artifacts>> {
    match config.artifacts.url.scheme() {
        "file" => Ok(Arc::new(Folder::new(config.artifacts.url.rest().into()))),
        "s3" => Ok(Arc::new(S3::open(config, metrics).await?)),
        _ => Err(Error::invalid("artifacts.url", "must start with file:// or s3://")),
    }
}

/// A version is a folder's name and nothing else: no path may be smuggled in.
///
/// # Errors
/// InvalidArgument.
pub fn check_version(version: &str) -> Result<()> {
    if version.len() <= 128 && is_plain(version) {
        return Ok(());
    }
    let rule = "must be 1 to 128 letters, digits, `.`, `-` or `_`, not starting with `.`";
    Err(Error::invalid("version", rule))
}

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_plain)
}

/// Newest first; those that cannot be read last.
fn newest_first(listed: &mut [Listed]) {
    let created = |listed: &Listed| listed.manifest.as_ref().map_or(i64::MIN, |manifest| manifest.created_ms);
    listed.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| b.version.cmp(&a.version)));
}

/// The manifest of a bundle's folder, with every file compared to it. Blocking.
fn check_folder(folder: &Path) -> Result<Manifest> {
    let refuse = |why: String| Error::FailedPrecondition(format!("{}: {why}", folder.display()));
    let manifest = Manifest::read(folder).map_err(|error| refuse(error.to_string()))?;
    check_version(&manifest.version)?;
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        let found = if is_plain(name) { FileEntry::of(&path) } else { Err(std::io::ErrorKind::InvalidFilename.into()) };
        match found {
            Ok(found) if found == *entry => (),
            Ok(_) => return Err(refuse(format!("{name} is not what the manifest says"))),
            Err(error) => return Err(refuse(format!("{name}: {error}"))),
        }
    }
    Ok(manifest)
}

/// Runs what blocks on the threads for that.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::internal(doing, error))?
}

/// What the disk of this machine refuses.
fn disk(error: std::io::Error) -> Error {
    Error::unavailable("the disk that keeps bundles fails", error)
}

/// How long to wait after so many failures in a row: twice as long each time, up to `most`, less up to a half by chance.
pub fn backoff(failures: u32, first: Duration, most: Duration) -> Duration {
    let longest = first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(most);
    let chance = RandomState::new().build_hasher().finish() % 1_000;
    longest / 2 + (longest / 2).mul_f64(chance as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_no_path() {
        assert!(check_version("2026-11-23T06-00.1_a").is_ok());
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "ä", &"x".repeat(129)] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn waits_grow_to_their_bound() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(5));
        for failures in [1, 2, 5, 30, u32::MAX] {
            let wait = backoff(failures, first, most);
            let longest = first.saturating_mul(1 << (failures - 1).min(20)).min(most);
            assert!(wait >= longest / 2 && wait <= longest, "{failures}: {wait:?}");
        }
    }
}
