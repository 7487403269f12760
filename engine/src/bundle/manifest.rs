//! The manifest: what a bundle says of itself, and the checks that hold it to its word.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use super::files::Hashed;
use crate::types::{Seq, TimeMs};

/// The format that this build writes. It reads this one and [`FORMAT_VERSION_OLDEST`] to it.
pub const FORMAT_VERSION: u32 = 1;
/// The oldest format that this build reads.
pub(super) const FORMAT_VERSION_OLDEST: u32 = 1;
/// Name of the manifest's file.
pub const MANIFEST_FILE: &str = "manifest.json";

/// `manifest.json`: a bundle is what its manifest lists, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Layout of the files.
    pub format_version: u32,
    /// Its name: unique, sorts by creation.
    pub version: String,
    /// When it was built.
    pub created_ms: TimeMs,
    /// Log position up to which events and items are in it.
    pub watermark: Seq,
    /// Events from this moment on are not in it although the log held them: a backtest's cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<TimeMs>,
    /// The bundle that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How much of everything.
    pub counts: Counts,
    /// Feature columns in order; must be those of the engine that loads it.
    pub columns: Vec<String>,
    /// What the ranker takes and gives; `None` when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranker: Option<Signature>,
    /// Why there is no ranker, in plain words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_ranker_because: Option<String>,
    /// Metrics of its evaluation by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Every file but this one.
    pub files: BTreeMap<String, FileEntry>,
    /// SHA-256 of this manifest with an empty digest.
    pub digest: String,
}

/// How much a bundle holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Items.
    pub items: usize,
    /// Users with a vector.
    pub users: usize,
    /// Interactions in the statistics.
    pub events: u64,
}

/// Signature of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Number of input columns.
    pub columns: usize,
    /// Names of the outputs.
    pub heads: Vec<String>,
}

/// Size and checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileEntry {
    /// Of the file at `path`, read piece by piece.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(path: &Path) -> std::io::Result<FileEntry> {
        Hashed::open(path)?.rest()
    }
}

impl Manifest {
    /// Whether an event at that position and moment is in the bundle's statistics.
    pub fn holds(&self, seq: Seq, time_ms: TimeMs) -> bool {
        seq <= self.watermark && self.until_ms.is_none_or(|until| time_ms < until)
    }

    /// Whether an item change at that position is in the bundle.
    pub fn holds_change(&self, seq: Seq) -> bool {
        seq <= self.watermark
    }

    /// Reads and checks `manifest.json` of a bundle's folder, without the other files.
    ///
    /// # Errors
    /// Missing, not readable by this build, or changed after it was written.
    pub fn read(folder: &Path) -> Result<Manifest, Error> {
        let path = folder.join(MANIFEST_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| Error::read(&path, &error))?;
        Manifest::parse(&text)
    }

    /// The same from the file's text.
    ///
    /// # Errors
    /// Not readable by this build, or changed after it was written.
    pub fn parse(text: &str) -> Result<Manifest, Error> {
        let wrong = |why: String| Error::format(MANIFEST_FILE, why);
        let manifest: Manifest = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&manifest.format_version) {
            let found = manifest.format_version;
            return Err(wrong(format!("format {found}; this build reads {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}")));
        }
        if manifest.to_text() != text || manifest.digest != manifest.own_digest() {
            return Err(Error::Checksum { file: MANIFEST_FILE.to_owned() });
        }
        Ok(manifest)
    }

    /// Sets the digest and gives the file's text.
    pub(super) fn seal(&mut self) -> String {
        self.digest = self.own_digest();
        self.to_text()
    }

    fn own_digest(&self) -> String {
        let bare = Manifest { digest: String::new(), ..self.clone() };
        hex(&Sha256::digest(bare.to_text().as_bytes()))
    }

    fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain data");
        text.push('\n');
        text
    }
}

/// In hexadecimal.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
