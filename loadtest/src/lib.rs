//! What load tests and benchmarks share: catalogues and users that can be made anywhere.

pub mod bench;
pub mod generate;
