//! Context: the moment itself; the same for all candidates.

use super::{Feature, Inputs, item};

const HOUR_MS: i64 = 3_600_000;

pub(super) const FEATURES: &[Feature] = &[
    feature!("context:gap", same: gap),
    feature!("context:burst", same: burst),
    feature!("context:tenure", same: tenure),
    feature!("context:hour", same: hour),
];

/// Log of 1 + seconds since the user's newest interaction.
fn gap(inputs: &Inputs<'_, '_>) -> f32 {
    let newest = inputs.moment.history.first().map(|past| past.time_ms);
    let now = inputs.moment.query.now_ms;
    newest.map_or(f32::NAN, |newest| (now.saturating_sub(newest).max(0) as f32 / 1_000.0).ln_1p())
}

/// Log of 1 + items of the last hour.
fn burst(inputs: &Inputs<'_, '_>) -> f32 {
    let since = inputs.moment.query.now_ms.saturating_sub(HOUR_MS);
    (inputs.moment.history.iter().filter(|past| past.time_ms > since).count() as f32).ln_1p()
}

/// Log of 1 + days since the oldest item of the profile.
fn tenure(inputs: &Inputs<'_, '_>) -> f32 {
    let oldest = inputs.moment.history.last().map(|past| past.time_ms);
    oldest.map_or(f32::NAN, |oldest| item::days(inputs.moment.query.now_ms, oldest).ln_1p())
}

/// Hour of the user's day; unknown when the caller does not say (the log does not say it either).
fn hour(inputs: &Inputs<'_, '_>) -> f32 {
    inputs.moment.query.context.hour.map_or(f32::NAN, f32::from)
}
