//! The registry in the store together with where bundles are kept.

use std::sync::Arc;

use marquee_engine::bundle::{Bundle, OpenOptions};

use crate::artifacts::{Artifacts, CurrentRead, Listed, Pointer, check_version};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::{Activations, BundleRecord, Store};

/// Which bundles there are, which one serves, which one served before.
pub struct Registry {
    artifacts: Arc<dyn Artifacts>,
    options: OpenOptions,
    store: Arc<dyn Store>,
    clock: Clock,
}

/// What `current` said before an activation: it is replaced only as long as it says that.
pub enum Before {
    /// There is none: nobody shares the bundles.
    NotShared,
    /// It could not be read. A server that can read it later brings it up to date.
    Unreachable,
    /// It said this.
    Read(CurrentRead),
}

impl Registry {
    /// The registry of that store over these artifacts.
    pub fn new(config: &Config, artifacts: Arc<dyn Artifacts>, store: Arc<dyn Store>, clock: Clock) -> Registry {
        let options =
            OpenOptions { exact_below_items: config.ranking.exact_below_items, ef_search: config.ranking.ef_search };
        Registry { artifacts, options, store, clock }
    }

    /// Where the bundles are kept.
    pub fn artifacts(&self) -> &dyn Artifacts {
        &*self.artifacts
    }

    /// Every bundle there is, newest first.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn list(&self) -> Result<Vec<Listed>> {
        self.artifacts.list().await
    }

    /// Opens a bundle completely, with every check there is; fetches it first if it must.
    ///
    /// # Errors
    /// NotFound; FailedPrecondition with the reason why it cannot serve; Unavailable when it cannot be fetched.
    pub async fn open(&self, version: &str) -> Result<Bundle> {
        check_version(version)?;
        let mut opened = self.open_copy(version).await;
        // What came to harm on this machine since it was fetched is fetched again.
        if matches!(opened, Err(Error::FailedPrecondition(_))) && self.artifacts.drop_damaged(version).await? {
            opened = self.open_copy(version).await;
        }
        let bundle = opened?;
        self.tidy(version).await;
        Ok(bundle)
    }

    async fn open_copy(&self, version: &str) -> Result<Bundle> {
        let (folder, options) = (self.artifacts.fetch(version).await?, self.options);
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

    /// Keeps the copies on this machine within their bound. A failure is told and harms nobody.
    async fn tidy(&self, opened: &str) {
        let tidy = async {
            let Activations { serving, previous } = self.store.activations().await?;
            let in_use: Vec<String> = [serving, previous].into_iter().flatten().collect();
            let opened = (!in_use.iter().any(|version| version == opened)).then(|| opened.to_owned());
            self.artifacts.tidy(&in_use.into_iter().chain(opened).collect::<Vec<_>>()).await
        };
        if let Err(error) = tidy.await {
            tracing::warn!(error = error.detail(), "copies of bundles could not be tidied");
        }
    }

    /// What `current` says now; to be read before anything is done for an activation.
    pub async fn before(&self) -> Before {
        let Some(current) = self.artifacts.current() else { return Before::NotShared };
        match current.read().await {
            Ok(read) => Before::Read(read),
            Err(error) => {
                tracing::warn!(
                    error = error.detail(),
                    "the bucket cannot be told which bundle is current; a server does later"
                );
                Before::Unreachable
            }
        }
    }

    /// Makes an opened bundle the serving one: `current` first, then the registry.
    ///
    /// # Errors
    /// FailedPrecondition when somebody else activated another one since `before`; the store is down.
    pub async fn activate(&self, bundle: &Bundle, before: &Before) -> Result<Activations> {
        let manifest = bundle.manifest();
        let record = BundleRecord {
            version: manifest.version.clone(),
            created_ms: manifest.created_ms,
            parent: manifest.parent.clone().unwrap_or_default(),
            location: manifest.version.clone(),
            manifest: serde_json::to_string(manifest).map_err(|error| Error::internal("writing a manifest", error))?,
        };
        self.store.register_bundle(record).await?;
        let pointer = self.point_if_up(&manifest.version, before).await?;
        let after = self.store.activate_bundle(&manifest.version, self.clock.now_ms()).await?;
        self.follow(pointer)?;
        Ok(after)
    }

    /// Goes back to the bundle before the serving one, which the caller has opened.
    ///
    /// # Errors
    /// FailedPrecondition when another one serves by now; the store is down.
    pub async fn roll_back(&self, from: &str, to: &str, before: &Before) -> Result<Activations> {
        let pointer = self.point_if_up(to, before).await?;
        let after = self.store.roll_back_bundle(from, self.clock.now_ms()).await?;
        self.follow(pointer)?;
        Ok(after)
    }

    /// The serving bundle and the one to go back to.
    ///
    /// # Errors
    /// FailedPrecondition when there is none before.
    pub async fn way_back(&self) -> Result<(String, String)> {
        match self.store.activations().await? {
            Activations { serving: Some(serving), previous: Some(previous) } => Ok((serving, previous)),
            _ => Err(Error::FailedPrecondition("there is no bundle to go back to".to_owned())),
        }
    }

    /// The serving bundle and the one before it.
    ///
    /// # Errors
    /// The store is down.
    pub async fn activations(&self) -> Result<Activations> {
        self.store.activations().await
    }

    /// Makes `current` say that version, unless it does; gives what it says then, to be followed once the registry says
    /// the same. Followed any earlier, a look in between would take the registry for the newer of the two.
    pub(super) async fn point(&self, version: &str, before: &Before) -> Result<Option<Pointer>> {
        let (Some(current), Before::Read(read)) = (self.artifacts.current(), before) else { return Ok(None) };
        if read.pointer.as_ref().is_some_and(|pointer| pointer.version == version) {
            return Ok(None);
        }
        let next = Pointer { version: version.to_owned(), activated_ms: self.clock.now_ms() };
        current.write(&next, read).await?;
        Ok(Some(next))
    }

    /// Remembers that this pointer was heeded.
    pub(super) fn follow(&self, pointer: Option<Pointer>) -> Result<()> {
        match (self.artifacts.current(), pointer) {
            (Some(current), Some(pointer)) => current.follow(&pointer),
            _ => Ok(()),
        }
    }

    /// The same where a bucket that is down must stop nobody: the registry is the truth, and servers mend it later.
    async fn point_if_up(&self, version: &str, before: &Before) -> Result<Option<Pointer>> {
        match self.point(version, before).await {
            Err(Error::Unavailable { reason, detail }) => {
                tracing::warn!(reason, %detail, "the bucket cannot be told which bundle is current; a server does later");
                Ok(None)
            }
            other => other,
        }
    }
}
