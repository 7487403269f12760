//! Which bundle serves: the registry in the store, the folders of the artifacts, and the engine that follows them.
//!
//! The registry is the truth. `marquee bundle activate` and `AdminService` change it; every running server follows it
//! within a second. A bundle is opened, and with that verified, before anything changes; one that fails never serves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use marquee_engine::bundle::{Bundle, Manifest, OpenOptions};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::serving::Live;
use crate::store::{Activations, BundleRecord, Store};

/// How often a server looks whether another process activated a bundle.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Bundles in a folder and their registry.
pub struct Registry {
    folder: PathBuf,
    options: OpenOptions,
    store: Arc<dyn Store>,
    clock: Clock,
}

/// A bundle as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its version: the name of its folder.
    pub version: String,
    /// What it says of itself; the error when that cannot be read.
    pub manifest: Result<Manifest, String>,
}

impl Registry {
    /// The registry of that store over the folder of `artifacts.url`.
    ///
    /// # Errors
    /// The URL is not `file://`.
    pub fn new(config: &Config, store: Arc<dyn Store>, clock: Clock) -> Result<Registry> {
        if config.artifacts.url.scheme() != "file" {
            return Err(Error::invalid("artifacts.url", "must start with file://"));
        }
        let folder = config.artifacts.url.rest();
        let options =
            OpenOptions { exact_below_items: config.ranking.exact_below_items, ef_search: config.ranking.ef_search };
        Ok(Registry { folder: folder.into(), options, store, clock })
    }

    /// Every bundle in the folder, newest first.
    pub fn list(&self) -> Vec<Listed> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let is_bundle = |path: &Path| path.join(marquee_engine::bundle::MANIFEST_FILE).is_file();
        let names =
            entries.filter(|entry| is_bundle(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok());
        let listed = |version: String| {
            let manifest = self.manifest(&version).map_err(|error| error.to_string());
            Listed { version, manifest }
        };
        let mut all: Vec<Listed> = names.filter(|name| check_version(name).is_ok()).map(listed).collect();
        let created = |listed: &Listed| listed.manifest.as_ref().map_or(i64::MIN, |manifest| manifest.created_ms);
        all.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| b.version.cmp(&a.version)));
        all
    }

    /// Opens a bundle completely, with every check there is.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition with the reason why it cannot serve.
    pub async fn open(&self, version: &str) -> Result<Bundle> {
        check_version(version)?;
        let (folder, options) = (self.folder.join(version), self.options);
        if !folder.is_dir() {
            return Err(Error::NotFound(format!("bundle {version}")));
        }
        let open = move || std::panic::catch_unwind(|| Bundle::open(&folder, &options));
        let opened =
            tokio::task::spawn_blocking(open).await.map_err(|error| Error::internal("opening a bundle", error))?;
        let refuse = |why: String| Error::FailedPrecondition(format!("bundle {version} cannot serve: {why}"));
        let bundle = opened.map_err(|_| refuse("opening it panicked".to_owned()))?;
        let bundle = bundle.map_err(|error| refuse(error.to_string()))?;
        let named = &bundle.manifest().version;
        if named != version {
            return Err(refuse(format!("its manifest is that of version {named}")));
        }
        Ok(bundle)
    }

    /// Makes an opened bundle the serving one, in the registry.
    ///
    /// # Errors
    /// The store is down.
    pub async fn activate(&self, bundle: &Bundle) -> Result<Activations> {
        let manifest = bundle.manifest();
        let record = BundleRecord {
            version: manifest.version.clone(),
            created_ms: manifest.created_ms,
            parent: manifest.parent.clone().unwrap_or_default(),
            location: manifest.version.clone(),
            manifest: serde_json::to_string(manifest).map_err(|error| Error::internal("writing a manifest", error))?,
        };
        self.store.register_bundle(record).await?;
        self.store.activate_bundle(&manifest.version, self.clock.now_ms()).await
    }

    /// Opens the bundle before the serving one and makes it the serving one, in the registry.
    ///
    /// # Errors
    /// FailedPrecondition when there is none before, or when it cannot serve.
    pub async fn roll_back(&self) -> Result<(Bundle, Activations)> {
        let now = self.store.activations().await?;
        let (Some(serving), Some(previous)) = (now.serving, now.previous) else {
            return Err(Error::FailedPrecondition("there is no bundle to go back to".to_owned()));
        };
        let bundle = self.open(&previous).await?;
        let after = self.store.roll_back_bundle(&serving, self.clock.now_ms()).await?;
        Ok((bundle, after))
    }

    /// The serving bundle and the one before it.
    ///
    /// # Errors
    /// The store is down.
    pub async fn activations(&self) -> Result<Activations> {
        self.store.activations().await
    }

    fn manifest(&self, version: &str) -> Result<Manifest, marquee_engine::bundle::Error> {
        Manifest::read(&self.folder.join(version))
    }
}

/// A version is a folder's name and nothing else: no path may be smuggled in.
fn check_version(version: &str) -> Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if version.is_empty() || version.len() > 128 || version.starts_with('.') || !version.bytes().all(is_plain) {
        let rule = "must be 1 to 128 letters, digits, `.`, `-` or `_`, not starting with `.`";
        return Err(Error::invalid("version", rule));
    }
    Ok(())
}

/// The bundle to start with, and what there is to say about it. Never fails: a server without a bundle serves too.
pub async fn first(registry: &Registry) -> (Bundle, Problems) {
    let problems = Problems::default();
    let now = match registry.activations().await {
        Ok(now) => now,
        Err(error) => {
            tracing::error!(error = error.detail(), "the registry of bundles cannot be read");
            problems.put("", "the registry of bundles cannot be read; see the log");
            return (Bundle::empty(), problems);
        }
    };
    for version in [now.serving, now.previous].into_iter().flatten() {
        match registry.open(&version).await {
            Ok(bundle) => {
                tracing::info!(bundle = version, "serving");
                return (bundle, problems);
            }
            Err(error) => {
                tracing::error!(
                    bundle = version,
                    error = error.detail(),
                    "a bundle cannot serve; trying the one before"
                );
                problems.put(&version, &error.to_string());
            }
        }
    }
    (Bundle::empty(), problems)
}

/// Why bundles cannot serve, by version.
#[derive(Default)]
pub struct Problems(Mutex<BTreeMap<String, String>>);

impl Problems {
    fn put(&self, version: &str, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(version.to_owned(), why.to_owned());
    }

    fn clear(&self, version: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(version);
    }

    /// Why that version cannot serve, if that is known.
    pub fn of(&self, version: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned()
    }
}

/// The registry together with the engine that follows it.
pub struct Bundles {
    /// The registry.
    pub registry: Registry,
    live: Arc<Live>,
    problems: Problems,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// What the registry said when we last looked: a version that failed is not tried every second.
    followed: Mutex<Option<String>>,
}

impl Bundles {
    /// Follows `registry` with `live`, which serves what [`first`] gave.
    pub fn new(registry: Registry, live: Arc<Live>, problems: Problems, followed: Option<String>) -> Bundles {
        Bundles { registry, live, problems, turn: tokio::sync::Mutex::default(), followed: Mutex::new(followed) }
    }

    /// Why that version cannot serve, if that is known.
    pub fn problem(&self, version: &str) -> Option<String> {
        self.problems.of(version)
    }

    /// Opens a bundle and swaps it in; on any failure the old one keeps serving. Answers (serving, previous).
    ///
    /// # Errors
    /// As [`Registry::open`]; the store is down.
    pub async fn activate(&self, version: &str) -> Result<Activations> {
        let _turn = self.turn.lock().await;
        let bundle = self.open(version).await?;
        let after = self.registry.activate(&bundle).await?;
        self.swap(bundle).await?;
        Ok(after)
    }

    /// Back to the bundle before.
    ///
    /// # Errors
    /// As [`Registry::roll_back`].
    pub async fn roll_back(&self) -> Result<Activations> {
        let _turn = self.turn.lock().await;
        let (bundle, after) = self.registry.roll_back().await?;
        self.swap(bundle).await?;
        Ok(after)
    }

    /// Follows what other processes activate, until the future is dropped.
    pub async fn follow(&self) {
        let mut ticker = tokio::time::interval(FOLLOW_EVERY);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            if let Err(error) = self.catch_up().await {
                tracing::error!(error = error.detail(), "the activated bundle does not serve; the old one goes on");
            }
        }
    }

    async fn catch_up(&self) -> Result<()> {
        let _turn = self.turn.lock().await;
        let wanted = self.registry.activations().await?.serving;
        let Some(wanted) = wanted.filter(|wanted| self.followed().as_ref() != Some(wanted)) else { return Ok(()) };
        let opened = self.open(&wanted).await;
        // A bundle that cannot serve is not tried every second; one that only the store kept from serving is.
        if matches!(opened, Err(Error::FailedPrecondition(_) | Error::NotFound(_) | Error::InvalidArgument { .. })) {
            *self.followed() = Some(wanted);
        }
        self.swap(opened?).await
    }

    fn followed(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, version: &str) -> Result<Bundle> {
        let opened = self.registry.open(version).await;
        match &opened {
            Ok(_) => self.problems.clear(version),
            Err(error) => {
                tracing::error!(bundle = version, error = error.detail(), "a bundle is refused");
                self.problems.put(version, &error.to_string());
            }
        }
        opened
    }

    async fn swap(&self, bundle: Bundle) -> Result<()> {
        let version = bundle.manifest().version.clone();
        self.live.swap(Arc::new(bundle)).await?;
        tracing::info!(bundle = version, "serving");
        *self.followed() = Some(version);
        Ok(())
    }
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
}
