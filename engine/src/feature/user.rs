//! User: what kind of user this is; the same for all candidates of a moment.

use super::Feature;

pub(super) const FEATURES: &[Feature] = &[
    // Log of 1 + items in the profile.
    feature!("user:items", same: |inputs| (inputs.moment.history.len() as f32).ln_1p()),
    // Mean rating, smoothed towards the catalogue's.
    feature!("user:rating", same: |inputs| inputs.taste.user_mean),
    // Share of the profile that is positive, and of its newest items.
    feature!("user:positive_share", same: |inputs| inputs.taste.user_positive),
    feature!("user:positive_share_recent", same: |inputs| inputs.taste.user_positive_recent),
    // How mainstream the newest items are.
    feature!("user:percentile_recent", same: |inputs| inputs.taste.percentile_recent),
];
