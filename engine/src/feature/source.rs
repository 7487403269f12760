//! Source ranks and scores: what each source says of a candidate, whoever retrieved it.

use std::sync::LazyLock;

use crate::blend::{Candidates, NO_RANK};
use crate::source::{RANKS_MAX, SOURCES};

/// Two columns a source: `score:NAME` is its score / its best score over open items, `rank:NAME` is log2(2 + rank)
/// with the zero-based rank among open items, unknown below the ranks.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().flat_map(|source| [source.score_column, source.rank_column])
}

/// Fills the columns of the candidates from `first` on; a row of `matrix` is `width` numbers, these columns first.
pub(super) fn fill(candidates: &Candidates, first: usize, matrix: &mut [f32], width: usize) {
    static LOGARITHMS: LazyLock<[f32; RANKS_MAX]> =
        LazyLock::new(|| std::array::from_fn(|rank| (rank as f32 + 2.0).log2()));
    let logarithms = &*LOGARITHMS;
    for source in 0..SOURCES.len() {
        let pairs = candidates.scores_of(source)[first..].iter().zip(&candidates.ranks_of(source)[first..]);
        for ((&score, &rank), row) in pairs.zip(matrix.chunks_exact_mut(width)) {
            row[2 * source] = super::known(score);
            row[2 * source + 1] = if rank != NO_RANK { logarithms[rank as usize] } else { f32::NAN };
        }
    }
}
