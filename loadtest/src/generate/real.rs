//! What real data look like: the statistics that the generator imitates, each with its source.
//!
//! Measured once on MovieLens (`ml-latest-small`: 100,836 ratings, 610 users with 20 ratings or more, 9,724 films), its
//! films' casts, and MovieTweetings (100,000 ratings, 16,554 users, 10,506 films). Numbers alone are here, nothing of
//! the data. Sums and shares, so no licence of the data reaches them.

/// Popularity of the item of rank r is proportional to (r + offset)^-exponent: maximum likelihood of a Zipf-Mandelbrot
/// law on MovieTweetings. (Of MovieLens: exponent 1.9, offset 640; its users rate lists of well-known films.)
pub(super) const POPULARITY_EXPONENT: f64 = 1.1;
/// See [`POPULARITY_EXPONENT`]. MovieTweetings has 10; less is drawn, because genres, niches and what a user has met
/// already flatten what comes out.
pub(super) const POPULARITY_OFFSET: f64 = 1.0;

/// Length of a history, lognormal: mean and standard deviation of its logarithm. MovieLens, least 20, median 71.
pub(super) const MEMBER_HISTORY: (f64, f64) = (4.45, 1.06);
/// The shortest history of MovieLens.
pub(super) const MEMBER_HISTORY_MIN: usize = 20;
/// Length of a history on MovieTweetings: median 2, 90th percentile 15.
pub(super) const VISITOR_HISTORY: (f64, f64) = (0.96, 1.13);
/// Share of users with histories as on MovieTweetings; the others' are as on MovieLens. Chosen, not measured: it makes
/// 50 events a user.
pub(super) const VISITOR_SHARE: f64 = 0.7;
/// Longest history; the profile's own bound is 1,000 events. MovieLens: 2,698.
pub(super) const HISTORY_MAX: usize = 2_000;

/// Share of the gaps between a user's events that are shorter than an hour: MovieLens, MovieTweetings.
pub(super) const SHORT_GAP_SHARE: (f64, f64) = (0.937, 0.234);
/// Mean of the short gaps in seconds: MovieLens, MovieTweetings.
pub(super) const SHORT_GAP_MEAN_S: (f64, f64) = (39.0, 187.0);
/// Gaps of an hour or more, lognormal in seconds: MovieLens 12.61 and 1.94, MovieTweetings 12.61 and 1.70.
pub(super) const LONG_GAP_S: (f64, f64) = (12.61, 1.94);

/// Shares of the ratings 0.5, 1, ... 5: MovieLens.
pub(super) const RATING_SHARES: [f64; 10] =
    [0.0136, 0.0279, 0.0178, 0.0749, 0.055, 0.1988, 0.1303, 0.266, 0.0848, 0.1309];
/// Standard deviation of ratings, of users' and of items' means (10 ratings or more), MovieLens.
pub(super) const RATING_DEVIATIONS: [f64; 3] = [1.04, 0.48, 0.51];

/// Shares of items with 0, 1, 2 ... genres: MovieLens.
pub(super) const GENRES_PER_ITEM: [f64; 6] = [0.003, 0.289, 0.330, 0.240, 0.101, 0.037];
/// Genres with the share of items that have each: MovieLens.
pub(super) const GENRES: [(&str, f64); 19] = [
    ("Drama", 0.4476),
    ("Comedy", 0.3855),
    ("Thriller", 0.1944),
    ("Action", 0.1876),
    ("Romance", 0.1638),
    ("Adventure", 0.1296),
    ("Crime", 0.1231),
    ("Sci-Fi", 0.1006),
    ("Horror", 0.1004),
    ("Fantasy", 0.08),
    ("Children", 0.0682),
    ("Animation", 0.0627),
    ("Mystery", 0.0588),
    ("Documentary", 0.0452),
    ("War", 0.0392),
    ("Musical", 0.0343),
    ("Western", 0.0171),
    ("IMAX", 0.0162),
    ("Film-Noir", 0.0089),
];
/// Spread (of the logarithm) of a user's liking of genres. The median Kullback-Leibler divergence of a user's genres from
/// everybody's becomes 0.05, half of that on MovieLens: items have several genres, and more spread hardly adds to it.
pub(super) const GENRE_TASTE_DEVIATION: f64 = 1.8;

/// Age of an item in years, lognormal: MovieLens, as of 2018.
pub(super) const AGE_YEARS: (f64, f64) = (2.89, 0.83);

/// Share of items whose cast is known, and names of those: MovieLens' films on Wikipedia (median 6, 90th percentile 12).
pub(super) const CAST_SHARE: f64 = 0.65;
/// Lognormal length of a known cast.
pub(super) const CAST: (f64, f64) = (1.8, 0.6);
/// Longest cast.
pub(super) const CAST_MAX: usize = 30;
/// People for each item of the catalogue: 14,812 names of 9,742 films.
pub(super) const PEOPLE_PER_ITEM: f64 = 1.52;
/// Credits of the person of rank r are proportional to (r + 20)^-this: 60 % of the names have one credit, the
/// hundredth part of them 26 or more.
pub(super) const PEOPLE_EXPONENT: f64 = 0.8;

/// Words of a title: mean of MovieLens without the year.
pub(super) const TITLE_WORDS: (usize, usize) = (1, 5);
/// Words of a synopsis. Shorter than real ones (median 82), so that a million items fit small machines.
pub(super) const TEXT_WORDS: (usize, usize) = (6, 16);
/// Different words for texts and titles.
pub(super) const WORDS: usize = 20_000;

/// How an event's item is chosen: from everybody's popularity, from a genre that the user likes, from one of the user's
/// niches, or what follows the item before. A compromise between the spread of tastes and companions: the ten items that
/// go best with a popular one are met about three times as often together as by chance (MovieLens: four times).
pub(super) const CHOICE_SHARES: [f64; 4] = [0.2, 0.71, 0.05, 0.04];
/// Niches of a user.
pub(super) const NICHES: usize = 3;
/// Clusters of a catalogue: this times the square root of its items.
pub(super) const CLUSTERS_PER_ROOT: f64 = 1.0;
