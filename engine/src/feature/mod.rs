//! Features: one definition each, for serving and for training rows alike.
//!
//! A feature of a candidate is a number that depends on query, profile, world and bundle, never on other candidates;
//! NaN is unknown. Raw counts and raw scores are avoided: they shift when models are fitted on more data, and the
//! ranker with them. Adding a feature is one entry in one of the lists, in the file of its kind.

use std::sync::LazyLock;

use crate::blend::Candidates;
use crate::moment::Moment;
use crate::source::SOURCES;

mod affinity;
mod context;
mod item;
mod sequence;
mod source;
mod taste;
mod user;

use taste::Taste;

/// What a feature may read.
pub(crate) struct Inputs<'f, 'm> {
    pub(crate) moment: &'f Moment<'m>,
    pub(crate) candidates: &'f Candidates,
    pub(crate) taste: Taste,
}

/// A feature: its column's name, and its value for the candidate of that index.
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    pub(crate) value: fn(&Inputs<'_, '_>, usize) -> f32,
}

/// The features beside those of the sources, by kind.
const KINDS: [&[Feature]; 5] =
    [item::FEATURES, user::FEATURES, affinity::FEATURES, sequence::FEATURES, context::FEATURES];

static COLUMNS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let of_kinds = KINDS.iter().flat_map(|kind| kind.iter().map(|feature| feature.name));
    source::columns().chain(of_kinds).collect()
});

/// Names of all columns in order: what the manifest of a bundle must list.
pub(crate) fn columns() -> &'static [&'static str] {
    &COLUMNS
}

/// The feature matrix, row-major, candidates x columns.
pub(crate) fn matrix(moment: &Moment<'_>, candidates: &Candidates) -> Vec<f32> {
    let inputs = Inputs { moment, candidates, taste: Taste::new(moment) };
    let width = columns().len();
    let of_sources = 2 * SOURCES.len();
    let mut matrix = vec![f32::NAN; candidates.items.len() * width];
    for (at, row) in matrix.chunks_exact_mut(width).enumerate() {
        source::fill(candidates, at, &mut row[..of_sources]);
        let rest = KINDS.iter().flat_map(|kind| kind.iter());
        for (cell, feature) in row[of_sources..].iter_mut().zip(rest) {
            let value = (feature.value)(&inputs, at);
            *cell = if value.is_finite() { value } else { f32::NAN };
        }
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_thirty_features_of_six_kinds_with_names_of_their_own() {
        let mut names = columns().to_vec();
        assert!(names.len() >= 30 && KINDS.iter().all(|kind| !kind.is_empty()));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), columns().len());
    }
}
