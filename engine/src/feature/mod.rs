//! Features: one definition each, for serving and for training rows alike.
//!
//! A feature of a candidate is a number that depends on query, profile, world and bundle, never on other candidates;
//! NaN is unknown. Raw counts and raw scores are avoided: they shift when models are fitted on more data, and the
//! ranker with them. Adding a feature is one entry in one of the lists, in the file of its kind.

use std::sync::LazyLock;

use crate::blend::Candidates;
use crate::moment::Moment;
use crate::source::SOURCES;
use crate::types::Row;
use crate::world::{Decayed, ItemRow, ItemStats, World};

use taste::Taste;
pub(crate) use taste::differences;

/// What a feature may read.
pub(crate) struct Inputs<'f, 'm> {
    pub(crate) moment: &'f Moment<'m>,
    pub(crate) taste: Taste,
    /// The candidates, and what several features read of each.
    pub(crate) items: Vec<Seen<'f>>,
}

/// A candidate's row, looked up once for all features.
pub(crate) struct Seen<'f> {
    pub(crate) row: Row,
    pub(crate) item: Option<&'f ItemRow>,
    pub(crate) stats: &'f ItemStats,
    pub(crate) decayed: Decayed,
    /// Share of the catalogue that has fewer interactions.
    pub(crate) percentile: f32,
}

impl<'f> Seen<'f> {
    fn new(world: &'f World, row: Row) -> Seen<'f> {
        let stats = world.stats(row).expect("every row has statistics");
        let percentile = world.percentile(stats.events);
        Seen { row, item: world.get(row), stats, decayed: stats.days.decayed(world.day()), percentile }
    }
}

/// A feature: its column's name, and what fills the column.
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    /// Writes the value of candidate `at` to `matrix[at * width]`.
    fill: fn(&Inputs<'_, '_>, matrix: &mut [f32], width: usize),
}

/// A feature from its name and its value for the candidate of an index, `fn(&Inputs, usize) -> f32`.
macro_rules! feature {
    ($name:literal, $value:expr) => {
        $crate::feature::Feature {
            name: $name,
            fill: |inputs, matrix, width| {
                let value: fn(&$crate::feature::Inputs<'_, '_>, usize) -> f32 = $value;
                for (at, cell) in matrix.iter_mut().step_by(width).enumerate() {
                    let value = value(inputs, at);
                    *cell = if value.is_finite() { value } else { f32::NAN };
                }
            },
        }
    };
}

mod affinity;
mod context;
mod item;
mod sequence;
mod source;
mod taste;
mod user;

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

/// The feature matrix, row-major, candidates x columns; written column by column.
pub(crate) fn matrix(moment: &Moment<'_>, candidates: &Candidates) -> Vec<f32> {
    let items = candidates.items.iter().map(|candidate| Seen::new(moment.world, candidate.row)).collect();
    let inputs = Inputs { moment, taste: Taste::new(moment), items };
    let width = columns().len();
    let mut matrix = vec![f32::NAN; candidates.items.len() * width];
    source::fill(candidates, &mut matrix, width);
    let rest = KINDS.iter().flat_map(|kind| kind.iter());
    for (column, feature) in (2 * SOURCES.len()..).zip(rest) {
        if let Some(cells) = matrix.get_mut(column..) {
            (feature.fill)(&inputs, cells, width);
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
