//! Vector search: which rows have the largest inner product with this query?
//!
//! In reading order, each file with the question it answers:
//! - `vectors`: what is a legal set of vectors, and what exactly is the score of a row?
//! - `graph`: what does a bundle store, and is what it stores a graph that a walk can trust?
//! - `build`: how does a set of vectors become a graph? (slow, in the pipeline only)
//! - `search`: which rows, for this query and this filter? (the hot path)
//!
//! The module knows rows and numbers; it must not know items, files or bundles. It holds no clock, no
//! threads outside `build`, and no randomness but the seed of `BuildParams`.

mod beam;
mod build;
mod codes;
mod draft;
mod graph;
mod grow;
mod reference;
mod search;
mod vectors;

#[cfg(test)]
mod tests;

pub use build::{BuildParams, DEFAULT_EF_CONSTRUCTION, DEFAULT_M, build};
pub use graph::FrozenGraph;
pub use search::{DEFAULT_EF_SEARCH, DEFAULT_EXACT_BELOW_ROWS, Hit, Index, Scratch};
pub(crate) use vectors::prefetch_first;
pub use vectors::{DIMS_MAX, NORM_MAX, Vectors};

/// What can be wrong with what the caller handed in; nothing in this module fails later than that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The vectors cannot be used: fix the data they were made from.
    #[error("vectors: {0}")]
    Vectors(String),
    /// The build was asked for something that cannot be built.
    #[error("parameter {name}: {reason}")]
    Params {
        /// The field of `BuildParams`.
        name: &'static str,
        /// The rule it breaks.
        reason: String,
    },
    /// The arrays do not make a graph over these vectors: the bundle is damaged or mixed up.
    #[error("graph array {array}: {reason}")]
    Graph {
        /// The name of the array, as in the bundle.
        array: &'static str,
        /// The first thing found wrong with it.
        reason: String,
    },
}
