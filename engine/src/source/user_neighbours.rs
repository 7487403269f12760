//! User-user neighbours: who is like this user, and what they liked lately, as of the bundle.

use super::embedding::fold_in;
use super::{Answer, Sums};
use crate::index::Scratch;
use crate::moment::Moment;

/// Neighbours that count.
const NEIGHBOURS_MAX_USERS: usize = 100;
/// As in the factor model's recent view.
const RECENT_TAU: f32 = 10.0;

/// Neighbours of the whole profile.
pub(super) fn whole<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |_| 1.0)
}

/// Neighbours of its newest part.
pub(super) fn recent<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, |position| (-(position as f32) / RECENT_TAU).exp())
}

/// The score of an item: over the nearest users who liked it, the sum of squared cosine times the like's weight.
fn ask<'m>(moment: &'m Moment<'m>, recency: impl Fn(usize) -> f32) -> Option<Answer<'m>> {
    let users = moment.bundle.users()?;
    let mut user = fold_in(moment, moment.bundle.embedding()?, recency)?;
    let norm = user.iter().map(|number| number * number).sum::<f32>().sqrt();
    if norm <= 1e-12 {
        return None;
    }
    user.iter_mut().for_each(|number| *number /= norm);
    let own = moment.profile.user.as_ref().and_then(|key| users.by_hash.get(&crate::types::id_hash(key))).copied();
    let counts = |row: u32| Some(row) != own && !is_forgotten(moment, users.hashes[row as usize]);
    let (mut hits, mut scratch) = (Vec::new(), Scratch::new());
    let all = users.index.len();
    users.index.search(&user, NEIGHBOURS_MAX_USERS, moment.bundle.ef_search(), all, counts, &mut scratch, &mut hits);
    let mut sums = Sums::new(moment.world.rows());
    for hit in hits.iter().filter(|hit| hit.score > 0.0) {
        let near = hit.score * hit.score;
        users.likes.of(hit.row as usize).for_each(|(row, weight, _)| sums.add(row, near * weight));
    }
    Some(sums.answer(moment))
}

fn is_forgotten(moment: &Moment<'_>, hash: u64) -> bool {
    moment.world.has_forgotten() && moment.world.is_forgotten(hash)
}
