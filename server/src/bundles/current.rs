//! Keeping `current` of a bucket and the registry together.
//!
//! A pointer that this machine has not followed yet is new: its bundle is activated through the registry, once. One that
//! it has followed while the registry says otherwise is old: the registry is the truth, and the pointer is replaced.

use std::time::Duration;

use super::live::Bundles;
use super::registry::Before;
use crate::artifacts::{Current, Pointer, backoff};
use crate::error::{Error, Result};

/// Longest wait for a bucket that does not answer.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Under this name the trouble with the bucket is told; no version can be empty.
const NO_VERSION: &str = "";

impl Bundles {
    /// Asks the bucket which bundle is current, again and again, until the future is dropped. Ends at once where bundles
    /// are not shared.
    pub async fn follow_current(&self) {
        let artifacts = self.registry.artifacts();
        let (Some(every), Some(current)) = (artifacts.poll_every(), artifacts.current()) else { return };
        let (mut failures, mut refused) = (0, None);
        loop {
            let wait = if failures == 0 { every } else { backoff(failures + 1, every, WAIT_MAX.max(every)) };
            tokio::time::sleep(wait).await;
            match self.heed(current, &mut refused).await {
                Ok(()) => {
                    failures = 0;
                    self.problems.clear(NO_VERSION);
                    self.metrics.artifacts("poll_ok");
                }
                Err(error) => {
                    failures += 1;
                    let told = format!("which bundle is current cannot be settled with the bucket: {error}");
                    if self.problem(NO_VERSION).as_ref() != Some(&told) {
                        tracing::warn!(
                            error = error.detail(),
                            "which bundle is current cannot be settled; what serves goes on"
                        );
                    }
                    self.problems.put(NO_VERSION, &told);
                    self.metrics.artifacts("poll_failed");
                }
            }
        }
    }

    /// Brings pointer and registry together. `refused` is the pointer whose bundle cannot serve here: another machine
    /// may still be right about it, so it is left alone.
    async fn heed(&self, current: &Current, refused: &mut Option<Pointer>) -> Result<()> {
        let read = current.read().await?;
        let serving = self.registry.activations().await?.serving;
        let Some(pointer) = read.pointer.clone() else {
            return match serving {
                Some(serving) => self.settle(&serving, read).await,
                None => Ok(()),
            };
        };
        let followed = current.followed();
        if serving.as_ref() == Some(&pointer.version) {
            return if followed.as_ref() == Some(&pointer) { Ok(()) } else { current.follow(&pointer) };
        }
        if refused.as_ref() == Some(&pointer) {
            return Ok(());
        }
        match serving {
            // On a new machine there is no telling which is newer: the registry is the truth.
            Some(serving) if followed.is_none() || followed.as_ref() == Some(&pointer) => {
                self.settle(&serving, read).await
            }
            _ => {
                tracing::info!(bundle = pointer.version, "another machine activated a bundle");
                match self.take(&pointer.version).await {
                    Ok(()) => current.follow(&pointer),
                    Err(Error::Unavailable { reason, detail }) => Err(Error::Unavailable { reason, detail }),
                    Err(error) => {
                        tracing::error!(bundle = pointer.version, error = error.detail(), "it cannot serve here");
                        *refused = Some(pointer);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Makes the pointer say what the registry says. Somebody who was quicker is heard at the next look.
    async fn settle(&self, serving: &str, read: crate::artifacts::CurrentRead) -> Result<()> {
        match self.registry.point(serving, &Before::Read(read)).await {
            Err(Error::FailedPrecondition(_)) => Ok(()),
            pointer => self.registry.follow(pointer?),
        }
    }
}
