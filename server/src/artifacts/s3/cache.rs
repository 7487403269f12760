//! Copies of a bucket's bundles on this machine: VERSION/ is whole, `.partial-VERSION/` is on its way.
//!
//! Several processes may share the folder: a lock a version keeps them from fetching the same one twice. Must not know
//! where bundles come from.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use marquee_engine::bundle::MANIFEST_FILE;

use crate::artifacts::{check_folder, check_version, disk};
use crate::error::Result;

/// How often a lock is tried that another process holds.
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// A partial copy that nobody went on with for so long is removed.
const PARTIAL_MAX: Duration = Duration::from_secs(86_400);

#[derive(Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    max_bundles: usize,
}

impl Cache {
    pub(super) fn new(folder: PathBuf, max_bundles: usize) -> Cache {
        Cache { folder, max_bundles }
    }

    /// Where the pointer is remembered that was followed last.
    pub(super) fn followed(&self) -> PathBuf {
        self.folder.join(".current.json")
    }

    /// The whole copy of that version, marked as used now.
    pub(super) fn whole(&self, version: &str) -> Option<PathBuf> {
        let folder = self.folder.join(version);
        if !folder.join(MANIFEST_FILE).is_file() {
            return None;
        }
        // A folder that cannot be marked only goes sooner.
        let _marked = File::open(&folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        Some(folder)
    }

    /// The folder of a copy on its way.
    pub(super) fn partial(&self, version: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!(".partial-{version}"));
        fs::create_dir_all(&folder).map_err(disk)?;
        Ok(folder)
    }

    /// Waits until nobody else works on that version; the lock is held as long as the file is.
    pub(super) async fn lock(&self, version: &str) -> Result<File> {
        fs::create_dir_all(&self.folder).map_err(disk)?;
        let path = self.folder.join(format!(".lock-{version}"));
        let file = File::options().create(true).append(true).open(path).map_err(disk)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_EVERY).await,
                Err(TryLockError::Error(error)) => return Err(disk(error)),
            }
        }
    }

    /// Makes a partial copy, complete by now, the whole one. Blocking.
    pub(super) fn settle(&self, version: &str) -> Result<PathBuf> {
        let (partial, whole) = (self.folder.join(format!(".partial-{version}")), self.folder.join(version));
        let settle = || {
            File::open(&partial)?.sync_all()?;
            if whole.exists() {
                fs::remove_dir_all(&whole)?;
            }
            fs::rename(&partial, &whole)?;
            File::open(&self.folder)?.sync_all()
        };
        settle().map_err(disk)?;
        // Who waits for the lock looks again for a whole copy, so the file may go while it is held.
        let _gone = fs::remove_file(self.folder.join(format!(".lock-{version}")));
        Ok(whole)
    }

    /// Compares a copy with its manifest and removes it when they differ. Tells whether it did. Blocking.
    pub(super) fn drop_damaged(&self, version: &str) -> Result<bool> {
        let folder = self.folder.join(version);
        let is_good = check_folder(&folder).is_ok_and(|manifest| manifest.version == version);
        if !is_good && folder.exists() {
            fs::remove_dir_all(&folder).map_err(disk)?;
        }
        Ok(!is_good)
    }

    /// Removes copies beyond the bound, unused ones first, never those in use. Blocking.
    pub(super) fn tidy(&self, in_use: &[String]) -> Result<()> {
        let mut copies = Vec::new();
        for entry in self.entries().map_err(disk)? {
            let Some(name) = entry.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let modified = fs::metadata(&entry).and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            let age = SystemTime::now().duration_since(modified).unwrap_or_default();
            if name.starts_with(".partial-") && age > PARTIAL_MAX {
                fs::remove_dir_all(&entry).map_err(disk)?;
            } else if check_version(&name).is_ok() && !in_use.contains(&name) {
                copies.push((modified, entry));
            }
        }
        copies.sort();
        let room = self.max_bundles.saturating_sub(in_use.len());
        for (_, folder) in copies.iter().take(copies.len().saturating_sub(room)) {
            tracing::info!(folder = %folder.display(), "the cache of bundles is full: the one unused for longest goes");
            fs::remove_dir_all(folder).map_err(disk)?;
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(&self.folder) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Size of what is there of a file; 0 when nothing is.
    pub(super) fn length(file: &Path) -> u64 {
        fs::metadata(file).map_or(0, |about| about.len())
    }
}
