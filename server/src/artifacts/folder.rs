//! Bundles in a folder of this machine. Its copies are the bundles themselves: nothing is fetched, nothing tidied, and
//! nobody else is to be told which one is current.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::bundle::{MANIFEST_FILE, Manifest};

use super::{Artifacts, Current, Kind, Listed, Published, blocking, check_folder, check_version, disk, newest_first};
use crate::error::{Error, Result};

/// A folder of bundles.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes nothing yet: a folder that is missing has no bundles.
    pub fn new(folder: PathBuf) -> Folder {
        Folder(folder)
    }
}

#[async_trait]
impl Artifacts for Folder {
    async fn list(&self) -> Result<Vec<Listed>> {
        let folder = self.0.clone();
        blocking("listing bundles", move || Ok(list(&folder))).await
    }

    async fn fetch(&self, version: &str) -> Result<PathBuf> {
        check_version(version)?;
        let folder = self.0.join(version);
        if !folder.is_dir() {
            return Err(Error::NotFound(format!("bundle {version}")));
        }
        Ok(folder)
    }

    async fn drop_damaged(&self, _version: &str) -> Result<bool> {
        Ok(false)
    }

    async fn tidy(&self, _in_use: &[String]) -> Result<()> {
        Ok(())
    }

    async fn publish(&self, folder: &Path) -> Result<Published> {
        let (from, home) = (folder.to_owned(), self.0.clone());
        blocking("publishing a bundle", move || publish(&from, &home)).await
    }

    async fn delete(&self, version: &str) -> Result<()> {
        let folder = self.fetch(version).await?;
        let delete = move || {
            // Without its manifest it is no bundle, however far the rest gets.
            std::fs::remove_file(folder.join(MANIFEST_FILE)).map_err(disk)?;
            std::fs::remove_dir_all(&folder).map_err(disk)
        };
        blocking("deleting a bundle", delete).await
    }

    async fn keep(&self, _kind: Kind, _name: &str, _file: &Path) -> Result<Option<String>> {
        Ok(None)
    }

    fn current(&self) -> Option<&Current> {
        None
    }

    fn poll_every(&self) -> Option<Duration> {
        None
    }
}

fn list(folder: &Path) -> Vec<Listed> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_bundle = |path: &Path| path.join(MANIFEST_FILE).is_file();
    let names =
        entries.filter(|entry| is_bundle(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok());
    let listed = |version: String| {
        let manifest = Manifest::read(&folder.join(&version)).map_err(|error| error.to_string());
        Listed { version, manifest }
    };
    let mut all: Vec<Listed> = names.filter(|name| check_version(name).is_ok()).map(listed).collect();
    newest_first(&mut all);
    all
}

/// Copies beside its place and renames: it is there whole or not at all.
fn publish(from: &Path, home: &Path) -> Result<Published> {
    let manifest = check_folder(from)?;
    let to = home.join(&manifest.version);
    if to.join(MANIFEST_FILE).is_file() {
        let same = Manifest::read(&to).is_ok_and(|there| there == manifest);
        return if same { Ok(Published::Already) } else { Err(taken(&manifest.version)) };
    }
    let beside = home.join(format!(".partial-{}", manifest.version));
    let copy = || {
        std::fs::create_dir_all(&beside)?;
        for name in manifest.files.keys().map(String::as_str).chain([MANIFEST_FILE]) {
            std::fs::copy(from.join(name), beside.join(name))?;
            std::fs::File::open(beside.join(name))?.sync_all()?;
        }
        std::fs::rename(&beside, &to)
    };
    copy().map_err(disk)?;
    Ok(Published::New)
}

/// The refusal to replace a version.
pub(super) fn taken(version: &str) -> Error {
    Error::FailedPrecondition(format!("bundle {version} is there already with another content; no version is replaced"))
}
