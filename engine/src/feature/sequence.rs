//! Recency and sequence: the strongest single link from the newest items, and where it comes from.

use super::{Feature, Inputs};
use crate::feature::taste::Strongest;

pub(super) const FEATURES: &[Feature] = &[
    // Strongest link / the best one to any open item; 0 without a link.
    feature!("sequence:cooccurrence", |inputs, at| share(inputs, at, inputs.taste.cooccurrence.as_ref())),
    feature!("sequence:transition", |inputs, at| share(inputs, at, inputs.taste.transitions.as_ref())),
    // Log of 1 + the position in the profile from which it comes; 0 is the newest item.
    feature!("sequence:cooccurrence_position", |inputs, at| position(inputs, at, inputs.taste.cooccurrence.as_ref())),
    feature!("sequence:transition_position", |inputs, at| position(inputs, at, inputs.taste.transitions.as_ref())),
];

fn share(inputs: &Inputs<'_, '_>, at: usize, strongest: Option<&Strongest>) -> f32 {
    strongest.map_or(f32::NAN, |links| links.share(inputs.moment, inputs.items[at].slot))
}

fn position(inputs: &Inputs<'_, '_>, at: usize, strongest: Option<&Strongest>) -> f32 {
    strongest.map_or(f32::NAN, |links| links.position(inputs.moment, inputs.items[at].slot).ln_1p())
}
