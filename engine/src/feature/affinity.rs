//! Affinity: how the item's properties fit what this user chose and rated before.

use super::{Feature, Inputs, item};
use crate::source::{COUNTED, RATED};
use crate::world::ItemRow;

/// Links of similar items, in addition, before their mean rating counts in full.
const LINK_PRIOR: f32 = 0.5;

pub(super) const FEATURES: &[Feature] = &[
    feature!("affinity:percentile", |inputs, at| item::percentile(inputs, at) - inputs.taste.percentile_recent),
    feature!("affinity:year", year),
    feature!("affinity:year_distance", |inputs, at| year(inputs, at).abs()),
    feature!("affinity:year_last", year_last),
    feature!("affinity:genre_rating", genre_rating),
    feature!("affinity:genre_share", genre_share),
    feature!("affinity:genre_share_recent", genre_share_recent),
    feature!("affinity:genre_last", genre_last),
    feature!("affinity:similar_rating", similar_rating),
    feature!("affinity:similar_links", similar_links),
    feature!("affinity:people", people),
];

fn row<'f>(inputs: &'f Inputs<'_, '_>, at: usize) -> Option<&'f ItemRow> {
    inputs.items[at].item
}

fn year_of(row: Option<&ItemRow>) -> f32 {
    row.and_then(|found| found.year).map_or(f32::NAN, f32::from)
}

/// Years between the item and the mean of the newest items.
fn year(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    year_of(row(inputs, at)) - inputs.taste.year_recent
}

/// Years between the item and the newest item of the profile.
fn year_last(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    (year_of(row(inputs, at)) - year_of(inputs.last)).abs()
}

/// Over the item's genres, the mean of how the user rates the genre against their own mean (shrunk).
fn genre_rating(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.items[at].genres.rating
}

/// Over the item's genres, the mean of the genre's share of the profile.
fn genre_share(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.items[at].genres.share
}

/// The same, of the recency-weighted profile.
fn genre_share_recent(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    inputs.items[at].genres.share_recent
}

/// Cosine between the genres of the item and of the newest item of the profile.
fn genre_last(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let (Some(item), Some(last)) = (row(inputs, at), inputs.last) else { return f32::NAN };
    let both = item.genres.iter().filter(|genre| last.genres.contains(genre)).count() as f32;
    both / ((item.genres.len() * last.genres.len()) as f32).sqrt()
}

/// How the user rated similar items against their own mean, weighted by similarity (item-based neighbours;
/// Sarwar et al. 2001), shrunk.
fn similar_rating(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let (slot, links) = (inputs.items[at].slot, inputs.moment.links());
    if links.has(RATED) { links.at(slot, RATED) / (links.at(slot, COUNTED) + LINK_PRIOR) } else { f32::NAN }
}

/// Log of 1 + similarity to the profile.
fn similar_links(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let (slot, links) = (inputs.items[at].slot, inputs.moment.links());
    if links.has(COUNTED) { links.at(slot, COUNTED).max(0.0).ln_1p() } else { f32::NAN }
}

/// Log of 1 + liked items that share a member of the cast or a director, each person counted.
fn people(inputs: &Inputs<'_, '_>, at: usize) -> f32 {
    let people = row(inputs, at).map(|found| &*found.people).unwrap_or_default();
    people.iter().filter_map(|&person| inputs.taste.people.get(person)).sum::<f32>().ln_1p()
}
