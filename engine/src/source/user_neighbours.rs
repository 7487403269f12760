//! User-user neighbours: who is like this user, and what they liked lately, as of the bundle.

use super::dense::Sums;
use super::embedding::SCRATCH;
use super::{Answer, LISTS_AHEAD};
use crate::bundle::prefetch_list;
use crate::moment::Moment;

/// Neighbours that count.
const NEIGHBOURS_MAX_USERS: usize = 100;

/// Neighbours of the whole profile.
pub(super) fn whole<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, false)
}

/// Neighbours of its newest part.
pub(super) fn recent<'m>(moment: &'m Moment<'m>) -> Option<Answer<'m>> {
    ask(moment, true)
}

/// The score of an item: over the nearest users who liked it, the sum of squared cosine times the like's weight.
fn ask<'m>(moment: &'m Moment<'m>, is_recent: bool) -> Option<Answer<'m>> {
    let users = moment.bundle.users()?;
    let mut user = moment.user_vector(is_recent)?.to_vec();
    let norm = user.iter().map(|number| number * number).sum::<f32>().sqrt();
    if norm <= 1e-12 {
        return None;
    }
    user.iter_mut().for_each(|number| *number /= norm);
    let own = moment.profile.user.as_ref().and_then(|key| users.by_hash.get(&crate::types::id_hash(key))).copied();
    let counts = |row: u32| Some(row) != own && !is_forgotten(moment, users.hashes[row as usize]);
    let (mut hits, all) = (Vec::new(), users.index.len());
    SCRATCH.with_borrow_mut(|scratch| {
        users.index.search(&user, NEIGHBOURS_MAX_USERS, moment.bundle.ef_search(), all, counts, scratch, &mut hits);
    });
    let mut sums = Sums::new(moment.world.rows());
    hits.retain(|hit| hit.score > 0.0);
    let likes = users.likes.of_all(hits.iter().map(|hit| hit.row));
    for (at, (hit, &(rows, weights))) in hits.iter().zip(&likes).enumerate() {
        likes.get(at + LISTS_AHEAD).copied().map(prefetch_list);
        sums.add_all(rows, weights, hit.score * hit.score);
    }
    Some(sums.answer(moment))
}

fn is_forgotten(moment: &Moment<'_>, hash: u64) -> bool {
    moment.world.has_forgotten() && moment.world.is_forgotten(hash)
}
