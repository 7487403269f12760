//! From this machine to the bucket: files first, several parts at a time, the manifest last.

use std::path::Path;

use marquee_engine::bundle::{FileEntry, MANIFEST_FILE};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions,
};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::{CLAIM, S3, failed};
use crate::artifacts::folder::taken;
use crate::artifacts::{Published, blocking, check_folder, disk};
use crate::error::{Error, Result};

/// The metadata that says what an object is: so that a publication can go on where it was cut off.
const SHA256: &str = "sha256";

impl S3 {
    /// Brings a bundle's folder into the bucket. What is there already, by size and checksum, is not sent again.
    pub(super) async fn bring(&self, folder: &Path) -> Result<Published> {
        let from = folder.to_owned();
        let (manifest, text) = blocking("checking a bundle", move || {
            let text = std::fs::read_to_string(from.join(MANIFEST_FILE)).map_err(disk)?;
            Ok((check_folder(&from)?, text))
        })
        .await?;
        let version = manifest.version.as_str();
        let bundle = self.bundle(version);
        // A version is for one content. Who comes first says for which, before any file can be mixed up.
        if !self.put_if_absent(&bundle.clone().join(CLAIM), manifest.digest.clone()).await? {
            return Err(taken(version));
        }
        if let Some(there) = self.manifest(version).await? {
            return if there == text { Ok(Published::Already) } else { Err(taken(version)) };
        }
        for (name, entry) in &manifest.files {
            let at = bundle.clone().join(name.as_str());
            if self.is_there(&at, entry).await? {
                self.metrics.artifacts("resumed");
                continue;
            }
            self.send(&folder.join(name), &at, entry).await?;
        }
        if self.put_if_absent(&bundle.join(MANIFEST_FILE), text).await? {
            Ok(Published::New)
        } else {
            Err(taken(version))
        }
    }

    /// Sends a file that is no bundle's; the same name again replaces it.
    pub(super) async fn upload(&self, file: &Path, at: &Key) -> Result<()> {
        let path = file.to_owned();
        let found = blocking("reading a file", move || {
            FileEntry::of(&path).map_err(|error| Error::invalid("file", format!("{}: {error}", path.display())))
        });
        self.send(file, at, &found.await?).await
    }

    /// Puts a small text unless something is there. Tells whether that text is there now.
    async fn put_if_absent(&self, at: &Key, text: String) -> Result<bool> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.bucket.put_opts(at, text.clone().into_bytes().into(), options).await {
            Ok(_) => return Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => (),
            Err(error) => return Err(failed("publishing a bundle")(error)),
        }
        let there = self.bucket.get(at).await.map_err(failed("publishing a bundle"))?;
        if there.meta.size != text.len() as u64 {
            return Ok(false);
        }
        Ok(there.bytes().await.map_err(failed("publishing a bundle"))? == text.as_bytes())
    }

    async fn is_there(&self, at: &Key, entry: &FileEntry) -> Result<bool> {
        let found = match self.bucket.get_opts(at, GetOptions { head: true, ..GetOptions::default() }).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            other => other.map_err(failed("publishing a bundle"))?,
        };
        let sha256 = found.attributes.get(&Attribute::Metadata(SHA256.into()));
        Ok(found.meta.size == entry.bytes && sha256.is_some_and(|value| **value == *entry.sha256))
    }

    /// Sends a file: in one request, or as parts of which no more than the bound are in memory.
    async fn send(&self, from: &Path, to: &Key, entry: &FileEntry) -> Result<()> {
        let failed = failed("sending a file");
        let attributes = Attributes::from_iter([(Attribute::Metadata(SHA256.into()), entry.sha256.clone())]);
        let mut file = File::open(from).await.map_err(disk)?;
        if entry.bytes <= self.bounds.part_bytes {
            let bytes = self.part(&mut file).await?;
            let options = PutOptions { attributes, ..PutOptions::default() };
            self.bucket.put_opts(to, bytes.into(), options).await.map_err(&failed)?;
            return Ok(());
        }
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = self.bucket.put_multipart_opts(to, options).await.map_err(&failed)?;
        let sent = async {
            let mut running = JoinSet::new();
            loop {
                let part = self.part(&mut file).await?;
                let is_last = part.is_empty();
                if !is_last {
                    running.spawn(upload.put_part(part.into()));
                }
                while !running.is_empty() && (is_last || running.len() >= self.bounds.transfers_max) {
                    let Some(done) = running.join_next().await else { break };
                    done.map_err(|error| Error::internal("sending a part", error))?.map_err(&failed)?;
                }
                if is_last {
                    return Ok(());
                }
            }
        };
        let sent: Result<()> = sent.await;
        let outcome = match sent {
            Ok(()) => upload.complete().await.map(|_| ()).map_err(&failed),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            // Parts that stay behind cost money until a lifecycle rule removes them.
            let _best_effort = upload.abort().await;
        }
        outcome
    }

    /// The next part of a file; empty at its end.
    async fn part(&self, file: &mut File) -> Result<Vec<u8>> {
        let mut part = Vec::new();
        file.take(self.bounds.part_bytes).read_to_end(&mut part).await.map_err(disk)?;
        self.metrics.artifacts_bytes.inc_by(part.len() as u64);
        Ok(part)
    }
}
