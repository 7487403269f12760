//! Features: one definition each, for serving and for training rows alike.
//!
//! A feature of a candidate is a number that depends on query, profile, world and bundle, never on other candidates;
//! NaN is unknown. Raw counts and raw scores are avoided: they shift when models are fitted on more data, and the
//! ranker with them. Adding a feature is one entry in one of the lists, in the file of its kind.

use std::sync::LazyLock;

use crate::blend::Candidates;
use crate::moment::Moment;
use crate::scratch::{Floats, Lent};
use crate::source::SOURCES;
use crate::types::Row;
use crate::world::{Decayed, ItemRow, ItemStats};

pub(crate) use taste::differences;
use taste::{OfGenres, Taste};

/// What a feature may read.
pub(crate) struct Inputs<'f, 'm> {
    pub(crate) moment: &'f Moment<'m>,
    pub(crate) taste: Taste,
    /// The candidates, and what several features read of each.
    pub(crate) items: Vec<Seen<'f>>,
    /// The newest item of the profile.
    pub(crate) last: Option<&'f ItemRow>,
}

/// A candidate's row, looked up once for all features.
pub(crate) struct Seen<'f> {
    pub(crate) item: Option<&'f ItemRow>,
    pub(crate) stats: &'f ItemStats,
    pub(crate) decayed: Decayed,
    /// Share of the catalogue that has fewer interactions.
    pub(crate) percentile: f32,
    /// Where its sums of links are.
    pub(crate) slot: Option<usize>,
    /// Means over its genres.
    pub(crate) genres: OfGenres,
}

impl<'f> Seen<'f> {
    fn new(moment: &'f Moment<'_>, taste: &Taste, row: Row) -> Seen<'f> {
        let (world, item) = (moment.world, moment.world.get(row));
        let stats = world.stats(row).expect("every row has statistics");
        Seen {
            item,
            stats,
            decayed: stats.days.decayed(world.day()),
            percentile: world.percentile(stats.events),
            slot: moment.links().slot(row),
            genres: taste.of_genres(item.map(|found| &*found.genres).unwrap_or_default()),
        }
    }
}

/// A feature: its column's name, and what fills the column.
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    /// Writes the values of the candidates from `first` on to the first of every `width` numbers.
    fill: fn(&Inputs<'_, '_>, first: usize, cells: &mut [f32], width: usize),
}

/// A feature from its name and its value for the candidate of an index, `fn(&Inputs, usize) -> f32`; or, after `same:`,
/// its value for all candidates alike, `fn(&Inputs) -> f32`.
macro_rules! feature {
    ($name:literal, same: $value:expr) => {
        $crate::feature::Feature {
            name: $name,
            fill: |inputs, _, cells, width| {
                let value: fn(&$crate::feature::Inputs<'_, '_>) -> f32 = $value;
                let value = $crate::feature::known(value(inputs));
                cells.iter_mut().step_by(width).for_each(|cell| *cell = value);
            },
        }
    };
    ($name:literal, $value:expr) => {
        $crate::feature::Feature {
            name: $name,
            fill: |inputs, first, cells, width| {
                let value: fn(&$crate::feature::Inputs<'_, '_>, usize) -> f32 = $value;
                for (at, cell) in (first..).zip(cells.iter_mut().step_by(width)) {
                    *cell = $crate::feature::known(value(inputs, at));
                }
            },
        }
    };
}

/// What is not finite is unknown.
#[inline]
fn known(value: f32) -> f32 {
    if value.is_finite() { value } else { f32::NAN }
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

/// Candidates whose rows lie in the nearest cache together.
const ROWS_AT_ONCE: usize = 32;

/// Rows of the world that are fetched while those before them are read.
const ROWS_AHEAD: usize = 6;

/// The feature matrix, row-major, candidates x columns; written column by column for some rows at once.
pub(crate) fn matrix(moment: &Moment<'_>, candidates: &Candidates) -> Lent<Floats> {
    let taste = Taste::new(moment);
    let rows: Vec<Row> = candidates.items.iter().map(|candidate| candidate.row).collect();
    let items = rows.iter().enumerate().map(|(at, &row)| {
        rows.get(at + ROWS_AHEAD).into_iter().for_each(|&ahead| moment.world.prefetch(ahead));
        Seen::new(moment, &taste, row)
    });
    let items = items.collect();
    let last = moment.history.first().and_then(|past| moment.world.get(past.row));
    let inputs = Inputs { moment, taste, items, last };
    let width = columns().len();
    let mut matrix = Lent::<Floats>::take();
    // Every cell is written below, whatever was in it.
    matrix.resize(candidates.items.len() * width, f32::NAN);
    for (block, rows) in matrix.chunks_mut(ROWS_AT_ONCE * width).enumerate() {
        let first = block * ROWS_AT_ONCE;
        source::fill(candidates, first, rows, width);
        let rest = KINDS.iter().flat_map(|kind| kind.iter());
        for (column, feature) in (2 * SOURCES.len()..).zip(rest) {
            (feature.fill)(&inputs, first, &mut rows[column..], width);
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
