//! `[limits]`: what a caller may ask or send.

use serde::{Deserialize, Serialize};

/// How much of anything one caller may ask for or send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Items in a slate, at most.
    pub count_max: usize,
    /// Items in a slate when the caller does not say.
    pub count_default: usize,
    /// Excluded ids in one request.
    pub exclude_max_items: usize,
    /// Conditions and genres in one filter.
    pub filter_max_conditions: usize,
    /// Events in one call.
    pub events_max_per_call: usize,
    /// Items in one call of the catalogue.
    pub items_max_per_call: usize,
    /// Users in one call.
    pub users_max_per_call: usize,
    /// Requests in one RecommendBatch.
    pub batch_max_requests: usize,
    /// Candidates of one RankItems.
    pub rank_items_max: usize,
    /// Items that one SimilarItems starts from.
    pub similar_items_max: usize,
    /// Items for which one request asks why they are missing.
    pub explain_missing_max_items: usize,
    /// Items over all pages of one slate.
    pub page_depth_max_items: usize,
    /// Entries of one page of a list.
    pub list_page_max_entries: usize,
    /// How far ahead of our clock an event may lie.
    pub clock_skew_future_ms: u64,
    /// Any id.
    pub id_max_bytes: usize,
    /// A surface's name.
    pub surface_max_bytes: usize,
    /// A search query in an event.
    pub query_max_bytes: usize,
    /// An item's title.
    pub title_max_bytes: usize,
    /// An item's text.
    pub text_max_bytes: usize,
    /// Entries of one list of an item: genres, cast, directors, tags.
    pub list_max_entries: usize,
    /// One entry of such a list.
    pub list_entry_max_bytes: usize,
    /// Attributes of an item or a user, as JSON.
    pub attributes_max_bytes: usize,
    /// Nesting of attributes; 1 is plain values only.
    pub attributes_max_depth: usize,
    /// Newest events that a profile holds.
    pub profile_events_max: usize,
    /// Ids of seen items that a profile holds beyond these.
    pub profile_seen_max: usize,
    /// Profiles kept in memory.
    pub profile_cache_max_users: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            count_max: 500,
            count_default: 20,
            exclude_max_items: 1_000,
            filter_max_conditions: 100,
            events_max_per_call: 1_000,
            items_max_per_call: 1_000,
            users_max_per_call: 1_000,
            batch_max_requests: 100,
            rank_items_max: 1_000,
            similar_items_max: 100,
            explain_missing_max_items: 100,
            page_depth_max_items: 500,
            list_page_max_entries: 1_000,
            clock_skew_future_ms: 300_000,
            id_max_bytes: 256,
            surface_max_bytes: 64,
            query_max_bytes: 1_024,
            title_max_bytes: 1_024,
            text_max_bytes: 32 * 1024,
            list_max_entries: 500,
            list_entry_max_bytes: 256,
            attributes_max_bytes: 16 * 1024,
            attributes_max_depth: 4,
            profile_events_max: 1_000,
            profile_seen_max: 10_000,
            profile_cache_max_users: 50_000,
        }
    }
}
