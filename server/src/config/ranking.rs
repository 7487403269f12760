//! `[ranking]`: how indices are searched, and how long a request waits for its write.

use marquee_engine::index::{DEFAULT_EF_SEARCH, DEFAULT_EXACT_BELOW_ROWS};
use serde::{Deserialize, Serialize};

/// How slates are computed and how fresh they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ranking {
    /// Catalogues smaller than this are scanned exactly instead of walked through the graph.
    pub exact_below_items: usize,
    /// Width of the walk through the graph: more is better and slower.
    pub ef_search: usize,
    /// How often a new snapshot of items and their statistics is published.
    pub world_tick_ms: u64,
    /// How long a request with a write token waits for that write.
    pub fresh_wait_ms: u64,
    /// With less time than this before the caller's deadline, sources are asked for less.
    pub effort_full_ms: u64,
}

impl Default for Ranking {
    fn default() -> Ranking {
        Ranking {
            exact_below_items: DEFAULT_EXACT_BELOW_ROWS,
            ef_search: DEFAULT_EF_SEARCH,
            world_tick_ms: 100,
            fresh_wait_ms: 50,
            effort_full_ms: 20,
        }
    }
}
