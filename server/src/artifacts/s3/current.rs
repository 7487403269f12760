//! `current`: which bundle is meant to serve, told to every machine that shares the bucket.
//!
//! It is written only over what was read before (If-Match, or If-None-Match for the first): of two who activate at the
//! same time one wins, and the other hears whose bundle it is.

use std::path::PathBuf;
use std::sync::Arc;

use marquee_engine::types::TimeMs;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::failed;
use crate::artifacts::disk;
use crate::error::{Error, Result};

/// More than this is no pointer of ours.
const MAX_BYTES: u64 = 4_096;

/// What `current` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The bundle that is meant to serve.
    pub version: String,
    /// When it was activated.
    pub activated_ms: TimeMs,
}

/// The pointer at one moment, so that it can be replaced as long as it is that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// What it said; `None` when there was none, or none that can be read.
    pub pointer: Option<Pointer>,
    e_tag: Option<String>,
}

/// The pointer of one namespace.
pub struct Current {
    bucket: Arc<dyn ObjectStore>,
    at: Path,
    /// The pointer that this machine followed last: a file, so that a restart takes nothing old for new.
    followed: PathBuf,
}

impl Current {
    pub(super) fn new(bucket: Arc<dyn ObjectStore>, at: Path, followed: PathBuf) -> Current {
        Current { bucket, at, followed }
    }

    /// Reads it.
    ///
    /// # Errors
    /// Unavailable.
    pub async fn read(&self) -> Result<Read> {
        let found = match self.bucket.get(&self.at).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(Read { pointer: None, e_tag: None }),
            other => other.map_err(failed("the pointer"))?,
        };
        let e_tag = found.meta.e_tag.clone();
        if found.meta.size > MAX_BYTES {
            return Ok(Read { pointer: None, e_tag });
        }
        let bytes = found.bytes().await.map_err(failed("the pointer"))?;
        Ok(Read { pointer: serde_json::from_slice(&bytes).ok(), e_tag })
    }

    /// Replaces what was read.
    ///
    /// # Errors
    /// FailedPrecondition when somebody else replaced it meanwhile, with the version they activated; Unavailable.
    pub async fn write(&self, next: &Pointer, over: &Read) -> Result<()> {
        let mode = match &over.e_tag {
            None => PutMode::Create,
            Some(e_tag) => PutMode::Update(UpdateVersion { e_tag: Some(e_tag.clone()), version: None }),
        };
        let text = serde_json::to_vec(next).map_err(|error| Error::internal("writing a pointer", error))?;
        let options = PutOptions { mode, ..PutOptions::default() };
        let conflict = match self.bucket.put_opts(&self.at, text.into(), options).await {
            Ok(_) => return Ok(()),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. },
            ) => self.read().await?,
            Err(error) => return Err(failed("the pointer")(error)),
        };
        match conflict.pointer {
            // A request that was sent twice met itself.
            Some(there) if there == *next => Ok(()),
            Some(there) => Err(Error::FailedPrecondition(format!(
                "somebody else activated bundle {} meanwhile; {} was not activated",
                there.version, next.version
            ))),
            None => Err(Error::FailedPrecondition(format!(
                "somebody else changed which bundle is current meanwhile; {} was not activated",
                next.version
            ))),
        }
    }

    /// The pointer that this machine followed last; `None` on a new machine.
    pub fn followed(&self) -> Option<Pointer> {
        serde_json::from_slice(&std::fs::read(&self.followed).ok()?).ok()
    }

    /// Remembers that this machine followed it.
    ///
    /// # Errors
    /// The disk.
    pub fn follow(&self, pointer: &Pointer) -> Result<()> {
        let text = serde_json::to_vec(pointer).map_err(|error| Error::internal("writing a pointer", error))?;
        let beside = self.followed.with_extension(format!("{}.tmp", std::process::id()));
        let write = || {
            if let Some(folder) = self.followed.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&beside, text)?;
            std::fs::rename(&beside, &self.followed)
        };
        write().map_err(disk)
    }
}
