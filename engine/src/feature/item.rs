//! Item: what the item is and how it fares with everyone.

use super::{Feature, Inputs};
use crate::types::{DAY_MS, TimeMs};
use crate::world::{Decayed, ItemStats, WEEK};

/// Weight of the catalogue's mean, in events, when an item's rate is smoothed.
const ITEM_PRIOR: f32 = 10.0;
/// The same for the rate of the last weeks, towards the item's own rate.
const WEEK_PRIOR: f64 = 5.0;
const DAY: usize = 0;
const MONTH: usize = 3;

pub(super) const FEATURES: &[Feature] = &[
    Feature { name: "item:rating", value: rating },
    Feature { name: "item:positive_rate", value: positive_rate },
    Feature { name: "item:positive_rate_week", value: positive_rate_week },
    Feature { name: "item:percentile", value: percentile },
    Feature { name: "item:trend_week", value: trend_week },
    Feature { name: "item:trend_day", value: trend_day },
    Feature { name: "item:age", value: age },
    Feature { name: "item:release_age", value: release_age },
    Feature { name: "item:genres", value: genres },
];

fn stats<'f>(inputs: &'f Inputs<'_, '_>, at: usize) -> &'f ItemStats {
    let row = inputs.candidates.items[at].row;
    inputs.moment.world.stats(row).expect("every row has statistics")
}

fn decayed(inputs: &Inputs<'_, '_>, at: usize) -> Decayed {
    inputs.moment.world.decayed(inputs.candidates.items[at].row)
}

/// Mean rating, smoothed towards the catalogue's.
fn rating(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = stats(inputs, at);
    let sum = stats.rating_sum_centi as f32 / 100.0;
    (sum + ITEM_PRIOR * inputs.taste.mean_rating) / (stats.ratings as f32 + ITEM_PRIOR)
}

/// Share of interactions that are positive, smoothed towards the catalogue's.
fn positive_rate(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = stats(inputs, at);
    (stats.positives as f32 + ITEM_PRIOR * inputs.taste.positive_share) / (stats.events as f32 + ITEM_PRIOR)
}

/// The same over the last weeks, smoothed towards the item's own.
fn positive_rate_week(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let (sums, whole) = (decayed(inputs, at), f64::from(positive_rate(inputs, at)));
    ((sums.positives[WEEK] + WEEK_PRIOR * whole) / (sums.events[WEEK] + WEEK_PRIOR)) as f32
}

/// Share of the catalogue that has fewer interactions.
pub(super) fn percentile(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.moment.world.percentile(stats(inputs, at).events)
}

/// Log of the item's share of positive interactions in the last weeks over its share of all time.
fn trend_week(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let all = inputs.moment.world.totals().positives as f64;
    let whole = f64::from(stats(inputs, at).positives) / all.max(1e-9);
    log_ratio(inputs, share(inputs, at, WEEK), whole)
}

/// The same of the last days over the last months.
fn trend_day(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    log_ratio(inputs, share(inputs, at, DAY), share(inputs, at, MONTH))
}

fn share(inputs: &Inputs<'_, '_>, at: usize, half_life: usize) -> f64 {
    decayed(inputs, at).positives[half_life] / inputs.taste.totals.positives[half_life].max(1e-9)
}

fn log_ratio(inputs: &Inputs<'_, '_>, above: f64, below: f64) -> f32 {
    let floor = inputs.taste.share_floor;
    ((above + floor) / (below + floor)).ln() as f32
}

/// Log of 1 + days since the item's first interaction; unknown when there was none.
fn age(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let stats = stats(inputs, at);
    if stats.events == 0 { f32::NAN } else { days(inputs.moment.query.now_ms, stats.first_ms).ln_1p() }
}

/// Years since its release.
fn release_age(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let year = inputs.moment.world.get(inputs.candidates.items[at].row).and_then(|found| found.item.year);
    let now = 1970.0 + inputs.moment.query.now_ms as f64 / DAY_MS as f64 / 365.25;
    year.map_or(f32::NAN, |year| (now - f64::from(year)) as f32)
}

/// How many genres it has.
fn genres(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.moment.world.get(inputs.candidates.items[at].row).map_or(0.0, |found| found.genres.len() as f32)
}

/// Days between two moments, not below 0.
pub(super) fn days(now_ms: TimeMs, then_ms: TimeMs) -> f32 {
    (now_ms.saturating_sub(then_ms) as f64 / DAY_MS as f64).max(0.0) as f32
}
