//! The taste of a user at a moment: sums over the profile that several features read.

use crate::moment::{Moment, Past};
use crate::scratch::{Lent, Slots};
use crate::source::STRONGEST;
use crate::world::Decayed;

/// Items of the profile that are "recent".
pub(super) const RECENT_ITEMS: usize = 10;
/// Weight of the mean, in ratings, when a user's mean rating is smoothed.
const USER_PRIOR: f32 = 3.0;
/// Items of a genre, in addition, before its affinity counts in full.
const GENRE_PRIOR: f32 = 5.0;

pub(crate) struct Taste {
    /// Mean rating of all items; 0 without ratings.
    pub(super) mean_rating: f32,
    /// Share of interactions that are positive.
    pub(super) positive_share: f32,
    /// Decayed sums over the catalogue.
    pub(super) totals: Decayed,
    /// Share of the catalogue that is added before the logarithm of a share.
    pub(super) share_floor: f64,
    /// The user's mean rating, smoothed; NaN without ratings.
    pub(super) user_mean: f32,
    pub(super) user_positive: f32,
    pub(super) user_positive_recent: f32,
    /// Mean popularity percentile of recent items; NaN without.
    pub(super) percentile_recent: f32,
    /// Mean year of recent items; NaN without.
    pub(super) year_recent: f32,
    /// Of each genre of the profile.
    genres: ByTerm<OfGenres>,
    /// By person: liked items.
    pub(super) people: ByTerm<f32>,
    pub(super) cooccurrence: Option<Strongest>,
    pub(super) transitions: Option<Strongest>,
}

/// What the profile says of one genre.
#[derive(Debug, Clone, Copy, Default)]
struct OfGenre {
    /// Items of the profile.
    count: f32,
    /// Of their ratings' differences to the user's mean.
    sum: f32,
    /// Of the recency-weighted profile.
    share_recent: f32,
}

/// What is known of the terms that the profile's items have, by the terms' numbers.
#[derive(Debug)]
pub(super) struct ByTerm<T> {
    slots: Lent<Slots>,
    values: Vec<T>,
}

impl<T: Copy + Default> ByTerm<T> {
    /// Defaults for these terms; `update` changes the value of each as often as it comes.
    fn new<'t, E>(
        lists: impl Iterator<Item = (&'t [u32], E)> + Clone,
        mut update: impl FnMut(&mut T, &E),
    ) -> ByTerm<T> {
        let most = lists.clone().filter_map(|(terms, _)| terms.iter().max()).max();
        let mut slots = Slots::empty(most.map_or(0, |&most| most as usize + 1));
        let mut values = Vec::new();
        for (terms, event) in lists {
            for &term in terms {
                let (slot, is_new) = slots.insert(term);
                if is_new {
                    values.push(T::default());
                }
                update(&mut values[slot], &event);
            }
        }
        ByTerm { slots, values }
    }

    /// The same terms with other values.
    fn map<U>(self, value: impl Fn(T) -> U) -> ByTerm<U> {
        ByTerm { slots: self.slots, values: self.values.into_iter().map(value).collect() }
    }

    pub(super) fn get(&self, term: u32) -> Option<&T> {
        self.slots.get(term).map(|slot| &self.values[slot])
    }
}

/// Means over the genres of an item, or of one genre; NaN without.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct OfGenres {
    /// Of how the user rates the genre against their own mean, shrunk.
    pub(super) rating: f32,
    /// Of the genre's share of the profile.
    pub(super) share: f32,
    /// The same, of the recency-weighted profile.
    pub(super) share_recent: f32,
}

/// The strongest single link from the newest items of the profile, by one of [`STRONGEST`].
pub(crate) struct Strongest {
    which: usize,
    best: f32,
}

impl Strongest {
    fn new(moment: &Moment<'_>, matrix: &str) -> Option<Strongest> {
        moment.bundle.matrix(matrix)?;
        let which = STRONGEST.iter().position(|name| *name == matrix)?;
        Some(Strongest { which, best: moment.links().strongest_best(which) })
    }

    /// The link to a row / the best link to an open row; 0 when there is none.
    pub(super) fn share(&self, moment: &Moment<'_>, slot: Option<usize>) -> f32 {
        moment.links().strongest(slot, self.which).0 / self.best
    }

    /// Position in the profile from which it comes; NaN when there is none.
    pub(super) fn position(&self, moment: &Moment<'_>, slot: Option<usize>) -> f32 {
        let (link, position) = moment.links().strongest(slot, self.which);
        if link > 0.0 { position as f32 } else { f32::NAN }
    }
}

/// How the user rated each item of the profile against their own mean; its weight where they did not.
pub(crate) fn differences(moment: &Moment<'_>) -> Vec<f32> {
    let (user_mean, _) = user_mean(moment);
    moment.history.iter().map(|past| difference(past, user_mean)).collect()
}

fn difference(past: &Past, user_mean: f32) -> f32 {
    if past.rating.is_finite() { past.rating - user_mean } else { past.weight }
}

/// The user's mean rating, smoothed towards the catalogue's, and how many items they rated.
fn user_mean(moment: &Moment<'_>) -> (f32, f32) {
    let ratings = || moment.history.iter().map(|past| past.rating).filter(|rating| rating.is_finite());
    let rated = ratings().count() as f32;
    ((ratings().sum::<f32>() + USER_PRIOR * mean_rating(moment)) / (rated + USER_PRIOR), rated)
}

/// Of all items.
fn mean_rating(moment: &Moment<'_>) -> f32 {
    let totals = moment.world.totals();
    ratio(totals.rating_sum_centi as f32 / 100.0, totals.ratings as f32)
}

impl Taste {
    pub(super) fn new(moment: &Moment<'_>) -> Taste {
        let (world, history) = (moment.world, &moment.history[..]);
        let totals = world.totals();
        let mean_rating = mean_rating(moment);
        let positive_share = ratio(totals.positives as f32, totals.events as f32);
        let recent = &history[..history.len().min(RECENT_ITEMS)];
        let positive = |past: &[Past], prior: f32| {
            let liked = past.iter().filter(|past| past.is_liked()).count() as f32;
            (liked + positive_share * prior) / (past.len() as f32 + prior)
        };
        let percentile = |past: &Past| world.stats(past.row).map_or(0.0, |stats| world.percentile(stats.events));
        let year = |past: &Past| world.get(past.row).and_then(|found| found.year).map(f32::from);
        let (user_mean, rated) = user_mean(moment);
        Taste {
            mean_rating,
            positive_share,
            totals: *world.decayed_totals(),
            share_floor: 0.2 / world.rows().max(1) as f64,
            user_mean: if rated > 0.0 { user_mean } else { f32::NAN },
            user_positive: positive(history, USER_PRIOR),
            user_positive_recent: positive(recent, 2.0),
            percentile_recent: mean(recent.iter().map(percentile)),
            year_recent: mean(recent.iter().filter_map(year)),
            genres: genres(moment, |past| difference(past, user_mean)),
            people: people(moment),
            cooccurrence: Strongest::new(moment, "cooccurrence"),
            transitions: Strongest::new(moment, "transitions"),
        }
    }

    /// The means over these genres.
    pub(super) fn of_genres(&self, genres: &[u32]) -> OfGenres {
        let (mut sums, mut count) = ([0.0_f32; 3], 0.0_f32);
        for &genre in genres {
            let of = self.genres.get(genre).copied().unwrap_or_default();
            let values = [of.rating, of.share, of.share_recent];
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            count += 1.0;
        }
        let [rating, share, share_recent] = sums.map(|sum| if count > 0.0 { sum / count } else { f32::NAN });
        OfGenres { rating, share, share_recent }
    }
}

fn genres(moment: &Moment<'_>, difference: impl Fn(&Past) -> f32) -> ByTerm<OfGenres> {
    let recency = |position: usize| (-(position as f32) / RECENT_ITEMS as f32).exp();
    let past = moment.history.iter().enumerate();
    let lists = past.map(|(position, past)| (genres_of(moment, past), (recency(position), past)));
    let weights: f32 = (0..moment.history.len()).map(recency).fold(0.0, |sum, weight| sum + weight);
    let items = moment.history.len().max(1) as f32;
    let sums = ByTerm::new(lists, |sums: &mut OfGenre, &(weight, past)| {
        sums.count += 1.0;
        sums.sum += difference(past);
        sums.share_recent += weight;
    });
    sums.map(|of| OfGenres {
        rating: of.sum / (of.count + GENRE_PRIOR),
        share: of.count / items,
        share_recent: of.share_recent / weights,
    })
}

fn genres_of<'m>(moment: &'m Moment<'_>, past: &Past) -> &'m [u32] {
    moment.world.get(past.row).map(|found| &*found.genres).unwrap_or_default()
}

fn people(moment: &Moment<'_>) -> ByTerm<f32> {
    let liked = moment.history.iter().filter(|past| past.is_liked());
    let of = |past: &Past| moment.world.get(past.row).map(|found| &*found.people).unwrap_or_default();
    ByTerm::new(liked.map(|past| (of(past), ())), |items: &mut f32, ()| *items += 1.0)
}

/// The mean; NaN of nothing.
pub(super) fn mean(numbers: impl Iterator<Item = f32>) -> f32 {
    let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), number| (sum + number, count + 1.0));
    if count > 0.0 { sum / count } else { f32::NAN }
}

fn ratio(above: f32, below: f32) -> f32 {
    if below > 0.0 { above / below } else { 0.0 }
}
