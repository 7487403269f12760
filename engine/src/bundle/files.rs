//! Files that the manifest answers for: each is read once, and hashed as it is decoded.
//!
//! But for a model and its vocabulary, which are small, nothing holds a file's bytes: they pass through a piece of
//! memory that is used again, into what they become. So the most that opening a bundle needs is near what stays of it.
//! What was decoded is given only when the whole file was what its entry says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use sha2::{Digest, Sha256};

use super::Error;
use super::arrays::Arrays;
use super::manifest::{FileEntry, hex};

/// Small enough to stay in a processor's own cache between reading, hashing and decoding.
const PIECE_BYTES: usize = 256 * 1024;

/// The files of a bundle.
pub(super) struct Files<'a> {
    folder: &'a Path,
    entries: &'a BTreeMap<String, FileEntry>,
    /// What those that were read turned out to be.
    found: Mutex<BTreeMap<&'a str, FileEntry>>,
}

impl<'a> Files<'a> {
    /// Checks names and sizes, in order of names.
    pub(super) fn new(folder: &'a Path, entries: &'a BTreeMap<String, FileEntry>) -> Result<Files<'a>, Error> {
        for (name, entry) in entries {
            if Path::new(name).components().count() != 1 || name.contains("..") {
                return Err(Error::format(name, "a file's name may not be a path"));
            }
            let path = folder.join(name);
            let found = std::fs::metadata(&path).map_err(|error| Error::read(&path, &error))?.len();
            if found != entry.bytes {
                return Err(Error::Size { file: name.clone(), found, wanted: entry.bytes });
            }
        }
        Ok(Files { folder, entries, found: Mutex::default() })
    }

    /// What `decode` makes of the file; `None` without such a file. That it is not what its entry says is told rather
    /// than what `decode` found wrong, which came of it.
    pub(super) fn read<T>(
        &self,
        name: &str,
        decode: impl FnOnce(&mut Hashed) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let Some((name, entry)) = self.entries.get_key_value(name) else { return Ok(None) };
        let path = self.folder.join(name);
        let mut file = Hashed::open(&path).map_err(|error| Error::read(&path, &error))?;
        let decoded = decode(&mut file);
        let found = file.rest().map_err(|error| Error::read(&path, &error))?;
        let verified = verify(name, entry, &found);
        self.found().insert(name, found);
        verified.and(decoded).map(Some)
    }

    /// As [`Files::read`]; no such file is an error.
    pub(super) fn need<T>(&self, name: &str, decode: impl FnOnce(&mut Hashed) -> Result<T, Error>) -> Result<T, Error> {
        self.read(name, decode)?.ok_or_else(|| Error::format(name, "the bundle has no such file"))
    }

    /// The arrays of a file; `vectors_of` as in [`Arrays::read`].
    pub(super) fn arrays(&self, name: &str, vectors_of: Option<&str>) -> Result<Option<Arrays>, Error> {
        self.read(name, |file| Arrays::read(&file.path.clone(), file.bytes, vectors_of, file))
    }

    /// Reads what nobody did. Of all files that are not what their entries say, the first by name is the error: it is
    /// to be told before anything that was found wrong in files.
    pub(super) fn verify_all(&self) -> Result<(), Error> {
        for (name, entry) in self.entries {
            let found = self.found().get(name.as_str()).cloned();
            match found {
                Some(found) => verify(name, entry, &found)?,
                None => self.need(name, |_| Ok(()))?,
            }
        }
        Ok(())
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<&'a str, FileEntry>> {
        self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn verify(name: &str, entry: &FileEntry, found: &FileEntry) -> Result<(), Error> {
    if found.bytes != entry.bytes {
        return Err(Error::Size { file: name.to_owned(), found: found.bytes, wanted: entry.bytes });
    }
    if found.sha256 != entry.sha256 {
        return Err(Error::Checksum { file: name.to_owned() });
    }
    Ok(())
}

/// A file that is hashed as it is read.
pub(super) struct Hashed {
    path: PathBuf,
    file: File,
    /// Its size when it was opened.
    pub(super) bytes: u64,
    digest: Sha256,
    hashed: u64,
    piece: Vec<u8>,
    /// What of `piece` was read from the file and not from here.
    left: std::ops::Range<usize>,
}

impl Hashed {
    pub(super) fn open(path: &Path) -> std::io::Result<Hashed> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let (digest, piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        Ok(Hashed { path: path.to_owned(), file, bytes, digest, hashed: 0, piece, left: 0..0 })
    }

    /// All of its bytes.
    pub(super) fn all(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(self.bytes as usize);
        self.read_to_end(&mut bytes).map_err(|error| Error::read(&self.path, &error))?;
        Ok(bytes)
    }

    /// Its lines, without their ends; `each` hears their numbers, from 1.
    pub(super) fn lines(&mut self, mut each: impl FnMut(usize, &[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = self.read_until(b'\n', &mut line).map_err(|error| Error::read(&self.path, &error))?;
            if read == 0 {
                break;
            }
            each(number, line.strip_suffix(b"\n").unwrap_or(&line))?;
        }
        Ok(())
    }

    /// Reads to the end; gives what the whole file was.
    pub(super) fn rest(mut self) -> std::io::Result<FileEntry> {
        while !self.fill_buf()?.is_empty() {
            self.left = 0..0;
        }
        Ok(FileEntry { bytes: self.hashed, sha256: hex(&self.digest.finalize()) })
    }
}

impl BufRead for Hashed {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.left.is_empty() {
            let read = loop {
                match self.file.read(&mut self.piece) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                    read => break read?,
                }
            };
            self.digest.update(&self.piece[..read]);
            self.hashed += read as u64;
            self.left = 0..read;
        }
        Ok(&self.piece[self.left.clone()])
    }

    fn consume(&mut self, bytes: usize) {
        self.left.start = (self.left.start + bytes).min(self.left.end);
    }
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let some = self.fill_buf()?;
        let bytes = some.len().min(out.len());
        out[..bytes].copy_from_slice(&some[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}
