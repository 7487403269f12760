//! Source ranks and scores: what each source says of a candidate, whoever retrieved it.

use crate::blend::{Candidates, NO_RANK};
use crate::source::SOURCES;

/// Two columns a source: `score:NAME` is its score / its best score over open items, `rank:NAME` is log2(2 + rank)
/// with the zero-based rank among open items, unknown below the ranks.
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().flat_map(|source| [source.score_column, source.rank_column])
}

/// Fills the columns of one candidate.
pub(super) fn fill(candidates: &Candidates, at: usize, row: &mut [f32]) {
    for (source, pair) in row.chunks_exact_mut(2).enumerate() {
        let (score, rank) = (candidates.score(at, source), candidates.rank(at, source));
        pair[0] = if score.is_finite() { score } else { f32::NAN };
        pair[1] = if rank != NO_RANK { (rank as f32 + 2.0).log2() } else { f32::NAN };
    }
}
