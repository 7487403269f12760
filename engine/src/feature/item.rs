//! Item: what the item is and how it fares with everyone.

use super::{Feature, Inputs};
use crate::types::{DAY_MS, TimeMs};
use crate::world::WEEK;

/// Weight of the catalogue's mean, in events, when an item's rate is smoothed.
const ITEM_PRIOR: f32 = 10.0;
/// The same for the rate of the last weeks, towards the item's own rate.
const WEEK_PRIOR: f64 = 5.0;
const DAY: usize = 0;
const MONTH: usize = 3;

pub(super) const FEATURES: &[Feature] = &[
    feature!("item:rating", rating),
    feature!("item:positive_rate", positive_rate),
    feature!("item:positive_rate_week", positive_rate_week),
    feature!("item:percentile", percentile),
    feature!("item:trend_week", trend_week),
    feature!("item:trend_day", trend_day),
    feature!("item:age", age),
    feature!("item:release_age", release_age),
    feature!("item:genres", genres),
];

/// Mean rating, smoothed towards the catalogue's.
fn rating(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = inputs.items[at].stats;
    let sum = stats.rating_sum_centi as f32 / 100.0;
    (sum + ITEM_PRIOR * inputs.taste.mean_rating) / (stats.ratings as f32 + ITEM_PRIOR)
}

/// Share of interactions that are positive, smoothed towards the catalogue's.
fn positive_rate(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = inputs.items[at].stats;
    (stats.positives as f32 + ITEM_PRIOR * inputs.taste.positive_share) / (stats.events as f32 + ITEM_PRIOR)
}

/// The same over the last weeks, smoothed towards the item's own.
fn positive_rate_week(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let (sums, whole) = (inputs.items[at].decayed, f64::from(positive_rate(inputs, at)));
    ((sums.positives[WEEK] + WEEK_PRIOR * whole) / (sums.events[WEEK] + WEEK_PRIOR)) as f32
}

/// Share of the catalogue that has fewer interactions.
pub(super) fn percentile(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.items[at].percentile
}

/// Log of the item's share of positive interactions in the last weeks over its share of all time.
fn trend_week(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let all = inputs.moment.world.totals().positives as f64;
    let whole = f64::from(inputs.items[at].stats.positives) / all.max(1e-9);
    log_ratio(inputs, share(inputs, at, WEEK), whole)
}

/// The same of the last days over the last months.
fn trend_day(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    log_ratio(inputs, share(inputs, at, DAY), share(inputs, at, MONTH))
}

fn share(inputs: &Inputs<'_, '_>, at: usize, half_life: usize) -> f64 {
    inputs.items[at].decayed.positives[half_life] / inputs.taste.totals.positives[half_life].max(1e-9)
}

fn log_ratio(inputs: &Inputs<'_, '_>, above: f64, below: f64) -> f32 {
    let floor = inputs.taste.share_floor;
    ((above + floor) / (below + floor)).ln() as f32
}

/// Log of 1 + days since the item's first interaction; unknown when there was none.
fn age(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = inputs.items[at].stats;
    if stats.events == 0 { f32::NAN } else { days(inputs.moment.query.now_ms, stats.first_ms).ln_1p() }
}

/// Years since its release.
fn release_age(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let year = inputs.items[at].item.and_then(|found| found.year);
    let now = 1970.0 + inputs.moment.query.now_ms as f64 / DAY_MS as f64 / 365.25;
    year.map_or(f32::NAN, |year| (now - f64::from(year)) as f32)
}

/// How many genres it has.
fn genres(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.items[at].item.map_or(0.0, |found| found.genres.len() as f32)
}

/// Days between two moments, not below 0.
pub(super) fn days(now_ms: TimeMs, then_ms: TimeMs) -> f32 {
    (now_ms.saturating_sub(then_ms) as f64 / DAY_MS as f64).max(0.0) as f32
}
