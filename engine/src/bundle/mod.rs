//! The bundle: one immutable version of models, vectors, neighbours, statistics and feature schema.
//!
//! Useful for: opening a folder so that nothing unchecked ever serves; writing one from its parts. It must not
//! know where bundles come from (file or S3), which one serves, or what a request is.
//!
//! A bundle opens completely or not at all: sizes and checksums of all files, shapes and ranges of all arrays,
//! columns against the compiled list of features, the model from memory, golden rows through the ranker.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::content::ContentModel;
use crate::index::{Index, Vectors};
use crate::rank::Ranker;
use crate::types::{Row, TimeMs};
use crate::world::{Arrivals, Chunked, Flags, Histogram, ItemRow, ItemStats, Terms, Totals};

pub mod arrays;
mod files;
mod manifest;
mod neighbours;
mod read;
mod write;

pub use manifest::{Counts, FORMAT_VERSION, FileEntry, MANIFEST_FILE, Manifest, Signature};
pub(crate) use neighbours::prefetch_list;
pub use neighbours::{Likes, Neighbours};
pub use write::{ArrayFiles, Parts, write};

/// The item-item matrices that a bundle may hold, by name; see [`crate::source`] for who reads them.
pub const MATRICES: [&str; 6] =
    ["cooccurrence", "cooccurrence_liked", "transitions", "transitions_wide", "transitions_liked", "similar"];

/// Why a bundle cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{path}: {why}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A file has another size than the manifest says.
    #[error("{file}: {found} bytes, the manifest says {wanted}")]
    Size {
        /// The file.
        file: String,
        /// Its size.
        found: u64,
        /// The size in the manifest.
        wanted: u64,
    },
    /// A file was changed after it was written.
    #[error("{file}: the checksum is not the manifest's")]
    Checksum {
        /// The file.
        file: String,
    },
    /// A file does not hold what it should.
    #[error("{file}: {why}")]
    Format {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The bundle was trained for other features.
    #[error("feature columns: {0}")]
    Columns(String),
    /// The model cannot serve.
    #[error("ranker.onnx: {0}")]
    Ranker(#[from] crate::rank::Error),
    /// The model gives other scores than when it was trained.
    #[error("golden.safetensors: row {row} scores {found}, expected {wanted}")]
    Golden {
        /// The row.
        row: usize,
        /// The score of this build.
        found: f32,
        /// The score at training.
        wanted: f32,
    },
}

impl Error {
    pub(crate) fn read(path: &Path, error: &std::io::Error) -> Error {
        Error::Read { path: path.to_owned(), why: error.to_string() }
    }

    pub(crate) fn format(file: &str, why: impl Into<String>) -> Error {
        Error::Format { file: file.to_owned(), why: why.into() }
    }
}

/// How a bundle is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOptions {
    /// Vector sets below this size are scanned exactly; 0 always walks the graph.
    pub exact_below_items: usize,
    /// Rows that a walk keeps: more is slower and finds more.
    pub ef_search: usize,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            exact_below_items: crate::index::DEFAULT_EXACT_BELOW_ROWS,
            ef_search: crate::index::DEFAULT_EF_SEARCH,
        }
    }
}

/// One opened bundle. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Bundle {
    manifest: Manifest,
    base: Base,
    embedding: Option<Embedding>,
    users: Option<Users>,
    content: Option<Content>,
    matrices: HashMap<&'static str, Neighbours>,
    ranker: Option<Ranker>,
    ef_search: usize,
}

/// Items and statistics up to the watermark: what a world starts from.
#[derive(Debug, Default)]
pub(crate) struct Base {
    pub(crate) items: Chunked<Option<Arc<ItemRow>>>,
    pub(crate) flags: Chunked<Flags>,
    pub(crate) stats: Chunked<ItemStats>,
    pub(crate) histogram: Arc<Histogram>,
    pub(crate) arrivals: Arrivals,
    pub(crate) ids: Arc<FxHashMap<Arc<str>, Row>>,
    pub(crate) surfaces: Arc<Vec<Arc<str>>>,
    pub(crate) totals: Totals,
    pub(crate) events_max: u32,
    pub(crate) newest_ms: TimeMs,
    pub(crate) terms: Terms,
}

/// Factor model: item vectors, and what folding a user in needs.
#[derive(Debug)]
pub struct Embedding {
    /// Item vectors by row.
    pub index: Index,
    /// Y^T Y of the item vectors, row-major.
    pub gram: Vec<f32>,
    /// Confidence of an event is 1 + alpha x weight.
    pub alpha: f32,
    /// L2 regularisation.
    pub regularization: f32,
}

/// Users of the bundle: vectors of unit length, ids, likes.
#[derive(Debug)]
pub struct Users {
    /// User vectors by user row.
    pub index: Index,
    /// [`crate::types::id_hash`] of the user's key, by user row.
    pub hashes: Vec<u64>,
    /// User row by hash.
    pub by_hash: FxHashMap<u64, u32>,
    /// What they liked lately.
    pub likes: Likes,
}

/// Content vectors of the bundle's items, and the model that makes them.
#[derive(Debug)]
pub struct Content {
    /// Item vectors of unit length (or zero) by row.
    pub index: Index,
    /// Makes the vectors of items that came since.
    pub model: ContentModel,
}

impl Bundle {
    /// Opens a bundle's folder: verifies everything, loads, runs the golden rows.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing of a bundle that fails is used.
    pub fn open(folder: &Path, options: &OpenOptions) -> Result<Bundle, Error> {
        read::open(folder, options)
    }

    /// The state before the first bundle: no items, no models. Popular and fresh items come from the world.
    pub fn empty() -> Bundle {
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            version: String::new(),
            created_ms: 0,
            watermark: 0,
            until_ms: None,
            parent: None,
            counts: Counts::default(),
            columns: crate::feature::columns().iter().map(|&column| column.to_owned()).collect(),
            ranker: None,
            no_ranker_because: Some("no bundle yet".to_owned()),
            metrics: Default::default(),
            files: Default::default(),
            digest: String::new(),
        };
        let (base, matrices) = (Base::default(), HashMap::new());
        Bundle { manifest, base, embedding: None, users: None, content: None, matrices, ranker: None, ef_search: 0 }
    }

    /// What it says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The factor model, if it has one.
    pub fn embedding(&self) -> Option<&Embedding> {
        self.embedding.as_ref()
    }

    /// The users, if it has some.
    pub fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }

    /// The content vectors, if it has some.
    pub fn content(&self) -> Option<&Content> {
        self.content.as_ref()
    }

    /// The item-item matrix of that name of [`MATRICES`], if it has it.
    pub fn matrix(&self, name: &str) -> Option<&Neighbours> {
        self.matrices.get(name)
    }

    /// The ranker, if it has one.
    pub fn ranker(&self) -> Option<&Ranker> {
        self.ranker.as_ref()
    }

    /// Rows that a walk over a graph keeps.
    pub fn ef_search(&self) -> usize {
        self.ef_search
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }
}

/// Y^T Y of vectors, row-major, summed in double precision in row order.
pub(crate) fn gram(vectors: &Vectors) -> Vec<f32> {
    let dims = vectors.dims();
    let mut sums = vec![0.0_f64; dims * dims];
    for row in 0..vectors.len() {
        let vector = vectors.row(row);
        for (i, &a) in vector.iter().enumerate() {
            // From the diagonal on: the rest is the same products.
            for (sum, &b) in sums[i * dims + i..(i + 1) * dims].iter_mut().zip(&vector[i..]) {
                *sum += f64::from(a) * f64::from(b);
            }
        }
    }
    let sum = |at: usize| sums[(at / dims).min(at % dims) * dims + (at / dims).max(at % dims)];
    (0..dims * dims).map(|at| sum(at) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gram_is_the_sums_of_all_products() {
        let numbers: Vec<f32> = (0..7 * 33).map(|at| (at as f32 * 1.7).sin() * 3.0).collect();
        let (dims, found) = (33, gram(&Vectors::from_rows(&numbers, 33).unwrap()));
        for (at, found) in found.into_iter().enumerate() {
            let product = |row: &[f32]| f64::from(row[at / dims]) * f64::from(row[at % dims]);
            let sum = numbers.chunks_exact(dims).map(product).fold(0.0, |sum, product| sum + product);
            assert_eq!(found.to_bits(), (sum as f32).to_bits(), "{at}");
        }
    }
}
