//! Users: what each likes, and what each therefore did, when.

use marquee_engine::types::TimeMs;

use super::catalogue::Catalogue;
use super::random::Random;
use super::real::{
    CHOICE_SHARES, GENRE_TASTE_DEVIATION, GENRES, HISTORY_MAX, LONG_GAP_S, MEMBER_HISTORY, MEMBER_HISTORY_MIN, NICHES,
    RATING_DEVIATIONS, RATING_SHARES, SHORT_GAP_MEAN_S, SHORT_GAP_SHARE, VISITOR_HISTORY, VISITOR_SHARE,
};
use super::{END_MS, parallel};

const TASTES: u64 = 6 << 60;
/// The log covers so long.
const PERIOD_MS: TimeMs = 730 * 86_400_000;
/// Users drawn at once; the same for any number of threads.
const CHUNK: usize = 1024;
/// Tries to find an item that the user has not met yet.
const TRIES: usize = 8;
/// Every third event or so says where it happened.
const SURFACE_SHARE: f64 = 0.3;

/// What a user likes.
#[derive(Debug, Clone)]
pub struct Taste {
    /// How much more than everybody, by genre; a factor.
    pub(super) genres: [f64; GENRES.len()],
    /// Clusters that the user keeps coming back to.
    pub(super) niches: [u32; NICHES],
    /// In standard deviations of a user's mean rating.
    mood: f64,
    is_visitor: bool,
}

/// One event of a history: a rating.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rated {
    /// The item's row.
    pub item: u32,
    /// Half stars, 1 to 10.
    pub half_stars: u8,
    /// Whether it says that it happened on the surface "home".
    pub at_home: bool,
    /// When.
    pub time_ms: TimeMs,
}

impl Rated {
    /// Whether the default policy takes it for a like: 4 stars or more.
    pub fn is_liked(&self) -> bool {
        self.half_stars >= 8
    }

    /// In stars.
    pub fn stars(&self) -> f64 {
        f64::from(self.half_stars) / 2.0
    }
}

/// Users in the order of their first event, and what they did.
#[derive(Debug, Default)]
pub struct People {
    /// The number that each user was drawn with; ids are made of it.
    pub numbers: Vec<u32>,
    /// Where each user's events begin; one more than users.
    pub offsets: Vec<usize>,
    /// Events by user, oldest first.
    pub events: Vec<Rated>,
}

impl People {
    /// `users` users of a seed with their histories.
    pub fn new(catalogue: &Catalogue, users: usize, seed: u64) -> People {
        let chunks = parallel(users.div_ceil(CHUNK), |chunk| {
            let numbers = chunk * CHUNK..((chunk + 1) * CHUNK).min(users);
            numbers.map(|number| history(catalogue, seed, number)).collect::<Vec<_>>()
        });
        let mut histories: Vec<(u32, Vec<Rated>)> = (0..).zip(chunks.into_iter().flatten()).collect();
        // As an export numbers users: by (time, event id) of their first event; ids begin with the user's number.
        histories.sort_by_key(|(number, events)| (events[0].time_ms, *number));
        let mut people = People { offsets: vec![0], ..People::default() };
        for (number, events) in histories {
            people.numbers.push(number);
            people.events.extend(events);
            people.offsets.push(people.events.len());
        }
        people
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The events of the user of a row, oldest first.
    pub fn history(&self, user: usize) -> &[Rated] {
        &self.events[self.offsets[user]..self.offsets[user + 1]]
    }

    /// The id of the user of a row.
    pub fn id(&self, user: usize) -> String {
        format!("u{:08}", self.numbers[user])
    }

    /// The id of an event of that user; sorts as time does.
    pub fn event_id(&self, user: usize, at: usize) -> String {
        format!("e{:08}-{at:04}", self.numbers[user])
    }

    /// What the user of a row likes.
    pub fn taste(&self, catalogue: &Catalogue, seed: u64, user: usize) -> Taste {
        Taste::new(catalogue, &mut Random::new(seed, TASTES ^ u64::from(self.numbers[user])))
    }
}

impl Taste {
    fn new(catalogue: &Catalogue, random: &mut Random) -> Taste {
        let genres = std::array::from_fn(|_| (GENRE_TASTE_DEVIATION * random.normal()).exp());
        let clusters = catalogue.main_genre.len();
        // Of a handful of clusters, that of the best liked genre.
        let niche = |random: &mut Random| {
            let drawn = [(); 4].map(|()| random.below(clusters));
            let liked = |cluster: &usize| genres[catalogue.main_genre[*cluster]];
            drawn.into_iter().max_by(|a, b| liked(a).total_cmp(&liked(b))).unwrap_or(0) as u32
        };
        let niches = [(); NICHES].map(|()| niche(random));
        Taste { genres, niches, mood: random.normal(), is_visitor: random.unit() < VISITOR_SHARE }
    }

    /// How well an item fits, about 0 on average: what ratings and the ranker's labels depend on.
    pub fn fit(&self, catalogue: &Catalogue, row: usize) -> f64 {
        let genres = (0..GENRES.len()).filter(|genre| catalogue.genres[row] & (1 << genre) != 0);
        let (mut sum, mut count) = (0.0, 0.0);
        for genre in genres {
            sum += self.genres[genre].ln();
            count += 1.0;
        }
        let niche = f64::from(u8::from(self.niches.contains(&catalogue.cluster[row])));
        let liking: f64 = if count > 0.0 { sum / count } else { 0.0 };
        0.5 * liking + 1.2 * niche
    }
}

/// What one user did, oldest first; at least one event.
fn history(catalogue: &Catalogue, seed: u64, number: usize) -> Vec<Rated> {
    let mut random = Random::new(seed, TASTES ^ number as u64);
    let taste = Taste::new(catalogue, &mut random);
    let length = if taste.is_visitor {
        (random.log_normal(VISITOR_HISTORY) as usize).max(1)
    } else {
        (random.log_normal(MEMBER_HISTORY) as usize).max(MEMBER_HISTORY_MIN)
    };
    let length = length.min(HISTORY_MAX).min(catalogue.len().div_ceil(4));
    let mut shares = [0.0; GENRES.len()];
    for (genre, share) in shares.iter_mut().enumerate() {
        *share = catalogue.by_genre[genre].total() * taste.genres[genre];
    }
    let times = times(&mut random, length, taste.is_visitor);
    let mut met = std::collections::HashSet::with_capacity(length);
    let mut events: Vec<Rated> = Vec::with_capacity(length);
    for time_ms in times {
        let before = events.last().map(|event| event.item);
        let found = (0..TRIES).find_map(|_| {
            let item = choose(catalogue, &taste, &shares, before, &mut random)?;
            met.insert(item).then_some(item)
        });
        let Some(item) = found else { continue };
        let half_stars = rate(catalogue, &taste, item as usize, &mut random);
        events.push(Rated { item, half_stars, at_home: random.unit() < SURFACE_SHARE, time_ms });
    }
    events
}

fn choose(
    catalogue: &Catalogue,
    taste: &Taste,
    genres: &[f64; GENRES.len()],
    before: Option<u32>,
    random: &mut Random,
) -> Option<u32> {
    match random.pick(&CHOICE_SHARES) {
        0 => catalogue.all.draw(random),
        1 => catalogue.by_genre[random.pick(genres)].draw(random),
        2 => catalogue.by_cluster[taste.niches[random.below(NICHES)] as usize].draw(random),
        // One of the next few of the same cluster: as parts of a series, or what is shown one after the other.
        _ => {
            let before = before?;
            let rows = catalogue.by_cluster[catalogue.cluster[before as usize] as usize].rows();
            let at = rows.binary_search(&before).ok()?;
            Some(rows[(at + 1 + random.below(3)) % rows.len()])
        }
    }
}

/// Half stars, in shares as real ones, the higher the better the item and the better it fits.
fn rate(catalogue: &Catalogue, taste: &Taste, row: usize, random: &mut Random) -> u8 {
    let [all, users, items] = RATING_DEVIATIONS;
    let explained = users * taste.mood + items * f64::from(catalogue.quality[row]) + 0.35 * taste.fit(catalogue, row);
    let rest = (all * all - users * users - items * items).sqrt() * random.normal();
    // The logistic function is close to the normal distribution's.
    let place = 1.0 / (1.0 + (-1.702 * (explained + rest) / all).exp());
    let mut sum = 0.0;
    let shares = RATING_SHARES.iter().map(|share| {
        sum += share;
        sum
    });
    1 + shares.take(9).filter(|&sum| sum < place).count() as u8
}

/// Sittings with quick events, and days or months between them.
fn times(random: &mut Random, length: usize, is_visitor: bool) -> Vec<TimeMs> {
    let of = |(member, visitor): (f64, f64)| if is_visitor { visitor } else { member };
    let (share, mean_s) = (of(SHORT_GAP_SHARE), of(SHORT_GAP_MEAN_S));
    let mut gap_s = || match random.unit() < share {
        true => -mean_s * (1.0 - random.unit()).ln(),
        false => random.log_normal(LONG_GAP_S).max(3_600.0),
    };
    let mut at_s = 0.0;
    let mut times_s: Vec<f64> = (0..length)
        .map(|_| {
            at_s += gap_s() + 0.001;
            at_s
        })
        .collect();
    let first_s = times_s[0];
    times_s.iter_mut().for_each(|time_s| *time_s -= first_s);
    let (span_s, period_s) = (times_s[length - 1], PERIOD_MS as f64 / 1000.0);
    // Who was there longer than the log is seen as if through a shorter time.
    let squeeze = (period_s * 0.95 / span_s.max(1.0)).min(1.0);
    let start_s = random.unit() * (period_s - span_s * squeeze);
    let place = |time_s: f64| END_MS - PERIOD_MS + ((start_s + time_s * squeeze) * 1000.0) as TimeMs;
    times_s.into_iter().map(place).collect()
}
