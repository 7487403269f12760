//! Sources: where candidates come from, and what each says of any item.
//!
//! A source scores items for one moment. It gives its best items as hits, and its score and rank of any item as
//! evidence for the features, so that a candidate's features do not depend on who retrieved it. Ranks and the best
//! score are taken over open items (existing, available, not seen), whatever the request's own filter.
//! Adding a source is one entry in [`SOURCES`] and what computes it in a file here.

use crate::index::Hit;
use crate::moment::Moment;
use crate::types::{Row, SourcePlan};

mod content;
mod dense;
mod embedding;
mod fresh;
mod item_neighbours;
mod links;
mod popular;
mod top;
mod user_neighbours;

pub(crate) use content::vector as content_vector;
pub(crate) use embedding::fold_in;
pub(crate) use item_neighbours::VIEWS;
pub(crate) use links::{COUNTED, Links, RATED, STRONGEST};
pub(crate) use popular::Asked;

/// Ranks are known down to here; further down an item has no rank.
pub(crate) const RANKS_MAX: usize = 300;

/// Lists of links that are fetched while those before them are added up.
const LISTS_AHEAD: usize = 2;

/// Rows of the world that are fetched while those before them are scored: enough to cover the way to memory.
const ROWS_AHEAD: usize = 8;

/// What a source is asked for.
pub(crate) type Ask = for<'m> fn(&'m Moment<'m>) -> Option<Answer<'m>>;

/// A source: its name, the reason that it gives to people, and what computes its answer.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    /// The `kind` of [`crate::types::Reason`].
    pub(crate) reason: &'static str,
    pub(crate) ask: Ask,
    /// Name of the feature column of its score.
    pub(crate) score_column: &'static str,
    /// Name of the feature column of its rank.
    pub(crate) rank_column: &'static str,
}

macro_rules! source {
    ($name:literal, $reason:literal, $ask:expr) => {
        Source {
            name: $name,
            reason: $reason,
            ask: $ask,
            score_column: concat!("score:", $name),
            rank_column: concat!("rank:", $name),
        }
    };
}

/// What a source can say of any row.
pub(crate) trait Evidence {
    /// The score of a row; 0 where it has nothing to say, NaN where it cannot know.
    fn score(&self, row: Row) -> f32;

    /// The scores of many rows, each as [`Evidence::score`] has it.
    fn scores(&self, rows: &[Row], out: &mut [f32]) {
        out.iter_mut().zip(rows).for_each(|(score, &row)| *score = self.score(row));
    }

    /// The best rows that `accept` lets through, best first, at most so many: for requests with a filter.
    fn search(&self, count: usize, accept: &dyn Fn(Row) -> bool) -> Vec<Hit>;
}

/// A source's answer to one moment.
pub(crate) struct Answer<'m> {
    /// Open rows of highest score, at most [`RANKS_MAX`], best first.
    pub(crate) ranked: Vec<Hit>,
    pub(crate) evidence: Box<dyn Evidence + 'm>,
}

impl Answer<'_> {
    /// The best score over open items; never 0 or below, so that one can divide by it.
    pub(crate) fn best(&self) -> f32 {
        self.ranked.first().map_or(1.0, |hit| hit.score).max(1e-9)
    }

    /// Score / best of each row.
    pub(crate) fn shares(&self, rows: &[Row], out: &mut [f32]) {
        self.evidence.scores(rows, out);
        let best = self.best();
        out.iter_mut().for_each(|score| *score /= best);
    }

    /// The source's candidates for this request.
    pub(crate) fn hits(&self, moment: &Moment<'_>, plan: SourcePlan) -> Vec<Hit> {
        let budget = budget(plan, moment.query.effort);
        // A list that is shorter than the budget may only be short of evidence: the search may know more.
        if moment.request.is_open() && !moment.query.include_seen && budget <= self.ranked.len() {
            return self.ranked.iter().take(budget).copied().collect();
        }
        self.evidence.search(budget, &|row| moment.is_eligible(row))
    }
}

fn budget(plan: SourcePlan, effort: f32) -> usize {
    let budget = (plan.budget_items as f32 * effort).ceil() as usize;
    budget.clamp(1, plan.budget_items.max(1))
}

/// Every source. Their order is the order of the feature columns that speak of them.
pub(crate) const SOURCES: &[Source] = &[
    source!("embedding", "for_you", embedding::whole),
    source!("embedding_recent", "for_you", embedding::recent),
    source!("user_neighbours", "similar_users", user_neighbours::whole),
    source!("user_neighbours_recent", "similar_users", user_neighbours::recent),
    source!("cooccurrence", "because_you_liked", item_neighbours::ask::<0>),
    source!("cooccurrence_short", "because_you_liked", item_neighbours::ask::<1>),
    source!("cooccurrence_recent", "because_you_liked", item_neighbours::ask::<2>),
    source!("cooccurrence_whole", "because_you_liked", item_neighbours::ask::<3>),
    source!("cooccurrence_signed", "because_you_liked", item_neighbours::ask::<4>),
    source!("liked_short", "because_you_liked", item_neighbours::ask::<5>),
    source!("liked_recent", "because_you_liked", item_neighbours::ask::<6>),
    source!("liked_whole", "because_you_liked", item_neighbours::ask::<7>),
    source!("transitions", "follows", item_neighbours::ask::<8>),
    source!("transitions_last", "follows", item_neighbours::ask::<9>),
    source!("transitions_recent", "follows", item_neighbours::ask::<10>),
    source!("transitions_wide", "follows", item_neighbours::ask::<11>),
    source!("transitions_liked", "follows", item_neighbours::ask::<12>),
    source!("similar", "because_you_liked", item_neighbours::ask::<13>),
    source!("content", "similar_content", content::whole),
    source!("content_recent", "similar_content", content::recent),
    source!("popular", "popular", popular::on_surface),
    source!("popular_day", "popular", popular::day),
    source!("popular_days", "popular", popular::days),
    source!("popular_month", "popular", popular::month),
    source!("popular_ever", "popular", popular::ever),
    source!("fresh", "new", fresh::ask),
];

/// Names of all sources that a variant may ask for.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|source| source.name)
}

/// The view of a source that sums links, as an index of [`VIEWS`].
pub(crate) fn view_of(source: usize) -> Option<usize> {
    let first = SOURCES.iter().position(|source| source.name == "cooccurrence")?;
    source.checked_sub(first).filter(|view| *view < VIEWS.len())
}
