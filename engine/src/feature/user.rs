//! User: what kind of user this is; the same for all candidates of a moment.

use super::Feature;

pub(super) const FEATURES: &[Feature] = &[
    // Log of 1 + items in the profile.
    Feature { name: "user:items", value: |inputs, _| (inputs.moment.history.len() as f32).ln_1p() },
    // Mean rating, smoothed towards the catalogue's.
    Feature { name: "user:rating", value: |inputs, _| inputs.taste.user_mean },
    // Share of the profile that is positive, and of its newest items.
    Feature { name: "user:positive_share", value: |inputs, _| inputs.taste.user_positive },
    Feature { name: "user:positive_share_recent", value: |inputs, _| inputs.taste.user_positive_recent },
    // How mainstream the newest items are.
    Feature { name: "user:percentile_recent", value: |inputs, _| inputs.taste.percentile_recent },
];
