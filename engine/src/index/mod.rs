//! The frozen HNSW index.
