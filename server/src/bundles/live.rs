//! The engine that follows the registry, and why bundles cannot serve.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use marquee_engine::bundle::Bundle;

use super::registry::Registry;
use crate::artifacts::backoff;
use crate::error::{Error, Result};
use crate::serving::Live;
use crate::store::Activations;
use crate::telemetry::Metrics;

/// How often a server looks whether another process activated a bundle.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
/// A bundle that only a dependency keeps from serving is tried again after this, then more and more rarely.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What a server starts with.
pub struct First {
    /// The engine's first bundle.
    pub bundle: Bundle,
    /// What there is to say about those that could not serve.
    pub problems: Problems,
    /// The activated version, when there is nothing more to try for it.
    pub followed: Option<String>,
}

/// The bundle to start with. Never fails: a server without a bundle serves too.
pub async fn first(registry: &Registry) -> First {
    let mut first = First { bundle: Bundle::empty(), problems: Problems::default(), followed: None };
    let now = match registry.activations().await {
        Ok(now) => now,
        Err(error) => {
            tracing::error!(error = error.detail(), "the registry of bundles cannot be read");
            first.problems.put("", "the registry of bundles cannot be read; see the log");
            return first;
        }
    };
    first.followed.clone_from(&now.serving);
    for version in [now.serving, now.previous].into_iter().flatten() {
        match registry.open(&version).await {
            Ok(bundle) => {
                tracing::info!(bundle = version, "serving");
                first.bundle = bundle;
                return first;
            }
            Err(error) => {
                tracing::error!(
                    bundle = version,
                    error = error.detail(),
                    "a bundle cannot serve; trying the one before"
                );
                first.problems.put(&version, &error.to_string());
                if !is_final(&error) && first.followed.as_ref() == Some(&version) {
                    first.followed = None;
                }
            }
        }
    }
    first
}

/// Whether trying again is useless.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::FailedPrecondition(_) | Error::NotFound(_) | Error::InvalidArgument { .. })
}

/// Why bundles cannot serve, by version; what else is wrong has none.
#[derive(Default)]
pub struct Problems(Mutex<BTreeMap<String, String>>);

impl Problems {
    pub(super) fn put(&self, version: &str, why: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(version.to_owned(), why.to_owned());
    }

    pub(super) fn clear(&self, version: &str) {
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
    pub(super) metrics: Arc<Metrics>,
    pub(super) problems: Problems,
    live: Arc<Live>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// What the registry said when we last looked: a version that failed is not tried every second.
    followed: Mutex<Option<String>>,
    again: Mutex<Again>,
}

/// When a version that a dependency keeps from serving is tried again.
#[derive(Default)]
struct Again {
    version: String,
    failures: u32,
    not_before: Option<Instant>,
}

impl Bundles {
    /// Follows `registry` with `live`, which serves what [`first`] gave.
    pub fn new(
        registry: Registry,
        live: Arc<Live>,
        metrics: Arc<Metrics>,
        (problems, followed): (Problems, Option<String>),
    ) -> Bundles {
        let (turn, again) = Default::default();
        Bundles { registry, metrics, problems, live, turn, followed: Mutex::new(followed), again }
    }

    /// Why that version cannot serve, if that is known; for an empty one, what else is wrong with bundles.
    pub fn problem(&self, version: &str) -> Option<String> {
        self.problems.of(version)
    }

    /// Opens a bundle and swaps it in; on any failure the old one keeps serving. Answers (serving, previous).
    ///
    /// # Errors
    /// As [`Registry::open`]; the store is down; somebody else activated another one meanwhile.
    pub async fn activate(&self, version: &str) -> Result<Activations> {
        let before = self.registry.before().await;
        self.fetch(version).await?;
        let _turn = self.turn.lock().await;
        let bundle = self.open(version).await?;
        let after = self.registry.activate(&bundle, &before).await?;
        self.swap(bundle).await?;
        Ok(after)
    }

    /// Back to the bundle before.
    ///
    /// # Errors
    /// As [`Registry::roll_back`].
    pub async fn roll_back(&self) -> Result<Activations> {
        let before = self.registry.before().await;
        let _turn = self.turn.lock().await;
        let (serving, previous) = self.registry.way_back().await?;
        let bundle = self.open(&previous).await?;
        let after = self.registry.roll_back(&serving, &previous, &before).await?;
        self.swap(bundle).await?;
        Ok(after)
    }

    /// Follows what other processes activate, until the future is dropped.
    pub async fn follow(&self) {
        let mut ticker = tokio::time::interval(FOLLOW_EVERY);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_down = false;
        loop {
            ticker.tick().await;
            match self.catch_up().await {
                Ok(()) => is_down = false,
                // A dependency that is away is said once, not every second.
                Err(Error::Unavailable { .. }) if is_down => {}
                Err(error @ Error::Unavailable { .. }) => {
                    is_down = true;
                    tracing::warn!(error = error.detail(), "no news of bundles; what serves goes on");
                }
                Err(error) => {
                    tracing::error!(error = error.detail(), "the activated bundle does not serve; the old one goes on");
                }
            }
        }
    }

    async fn catch_up(&self) -> Result<()> {
        let wanted = self.registry.activations().await?.serving;
        let is_new = |wanted: &String| self.followed().as_ref() != Some(wanted) && self.is_due(wanted);
        let Some(wanted) = wanted.filter(is_new) else { return Ok(()) };
        let caught_up = async {
            self.fetch(&wanted).await?;
            let _turn = self.turn.lock().await;
            // Somebody may have activated another one, or swapped this one in, while it was fetched.
            let is_wanted = self.registry.activations().await?.serving.as_ref() == Some(&wanted);
            if !is_wanted || self.followed().as_ref() == Some(&wanted) {
                return Ok(());
            }
            let bundle = self.open(&wanted).await?;
            self.swap(bundle).await
        };
        let outcome = caught_up.await;
        // A bundle that cannot serve is not tried again; one that only a dependency kept from serving is.
        match &outcome {
            Ok(()) => *self.again() = Again::default(),
            Err(error) if is_final(error) => *self.followed() = Some(wanted),
            Err(_) => self.try_later(wanted),
        }
        outcome
    }

    /// Whether that version did not just fail.
    fn is_due(&self, version: &str) -> bool {
        let again = self.again();
        again.version != version || again.not_before.is_none_or(|moment| moment <= Instant::now())
    }

    fn try_later(&self, version: String) {
        let mut again = self.again();
        let failures = if again.version == version { again.failures.saturating_add(1) } else { 1 };
        let not_before = Some(Instant::now() + backoff(failures, AGAIN_FIRST, AGAIN_MAX));
        *again = Again { version, failures, not_before };
    }

    fn again(&self) -> MutexGuard<'_, Again> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn followed(&self) -> MutexGuard<'_, Option<String>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens what `current` in the bucket names, makes it the serving one in the registry, and swaps it in.
    pub(super) async fn take(&self, version: &str) -> Result<()> {
        self.fetch(version).await?;
        let _turn = self.turn.lock().await;
        let bundle = self.open(version).await?;
        self.registry.activate(&bundle, &super::Before::NotShared).await?;
        self.swap(bundle).await
    }

    /// Brings a bundle to this machine before anybody waits for its turn.
    async fn fetch(&self, version: &str) -> Result<()> {
        let fetched = self.registry.artifacts().fetch(version).await;
        self.note(version, fetched).map(|_| ())
    }

    async fn open(&self, version: &str) -> Result<Bundle> {
        let opened = self.registry.open(version).await;
        self.note(version, opened)
    }

    fn note<T>(&self, version: &str, outcome: Result<T>) -> Result<T> {
        match &outcome {
            Ok(_) => self.problems.clear(version),
            // What a caller made up is no version whose problem anybody wants to know.
            Err(Error::InvalidArgument { .. }) => (),
            Err(error) => {
                tracing::error!(bundle = version, error = error.detail(), "a bundle is refused");
                self.problems.put(version, &error.to_string());
            }
        }
        outcome
    }

    async fn swap(&self, bundle: Bundle) -> Result<()> {
        let version = bundle.manifest().version.clone();
        self.live.swap(Arc::new(bundle)).await?;
        tracing::info!(bundle = version, "serving");
        *self.followed() = Some(version);
        Ok(())
    }
}
