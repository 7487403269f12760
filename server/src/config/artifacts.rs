//! `[artifacts]`: where bundles live.

use serde::{Deserialize, Serialize};

use super::Address;

/// Where bundles live. All but `url` matters for a bucket alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Artifacts {
    /// `file://FOLDER`, or `s3://BUCKET[/PREFIX][?endpoint=URL]` with credentials from the environment (`AWS_...`).
    pub url: Address,
    /// Where bundles of a bucket are kept on this machine.
    pub cache_folder: String,
    /// Bundles kept there; the serving one and the one before always stay.
    pub cache_max_bundles: usize,
    /// How often the bucket is asked which bundle is current; 0 is never.
    pub poll_ms: u64,
    /// Longest time for one request, its bytes included.
    pub request_timeout_ms: u64,
    /// Bytes that one request carries; large files take several.
    pub part_bytes: u64,
    /// Requests that carry bytes at the same time.
    pub transfers_max: usize,
    /// How often in a row a file may bring nothing before its transfer fails.
    pub attempts_max: u32,
}

impl Default for Artifacts {
    fn default() -> Artifacts {
        Artifacts {
            url: "file://.marquee/bundles".into(),
            cache_folder: ".marquee/bundle-cache".to_owned(),
            cache_max_bundles: 4,
            poll_ms: 5_000,
            request_timeout_ms: 10_000,
            part_bytes: 8 * 1024 * 1024,
            transfers_max: 4,
            attempts_max: 5,
        }
    }
}
