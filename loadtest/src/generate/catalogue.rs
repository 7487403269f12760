//! The catalogue: which items there are, what they are like, how popular each is meant to be.

use marquee_engine::types::{DAY_MS, Item, TimeMs};

use super::random::{Pool, Random};
use super::real::{
    AGE_YEARS, CAST, CAST_MAX, CAST_SHARE, CLUSTERS_PER_ROOT, GENRES, GENRES_PER_ITEM, PEOPLE_EXPONENT,
    PEOPLE_PER_ITEM, POPULARITY_EXPONENT, POPULARITY_OFFSET, TEXT_WORDS, TITLE_WORDS, WORDS,
};
use super::{DIMS, END_MS, YEAR};

/// Streams of random numbers, one for each thing that is drawn.
const CLUSTERS: u64 = 1 << 60;
const RANKS: u64 = 2 << 60;
const ITEMS: u64 = 3 << 60;
const VECTORS: u64 = 4 << 60;
const WORDINGS: u64 = 5 << 60;

/// Share of an item's first genre and of its people that are its cluster's own.
const OWN_SHARE: f64 = 0.8;
/// The catalogue got its items evenly over so many days.
const CATALOGUE_DAYS: i64 = 3_650;
/// Parts of an item's vector: its cluster, its genres, itself.
const VECTOR_PARTS: [f32; 3] = [0.65, 0.45, 0.6];

/// Everything about items that users' choices and vectors depend on; the items' words are made when they are asked for.
#[derive(Debug)]
pub struct Catalogue {
    seed: u64,
    /// By row, a bit for each of the genres.
    pub(super) genres: Vec<u32>,
    /// By row.
    pub(super) cluster: Vec<u32>,
    /// Popularity by row, as meant.
    pub(super) weight: Vec<f64>,
    /// What people think of the item, in standard deviations of an item's mean rating.
    pub(super) quality: Vec<f32>,
    /// All items by popularity.
    pub(super) all: Pool,
    /// Items of each genre.
    pub(super) by_genre: Vec<Pool>,
    /// Items of each cluster.
    pub(super) by_cluster: Vec<Pool>,
    /// The main genre of each cluster.
    pub(super) main_genre: Vec<usize>,
    people: Vec<Pool>,
}

impl Catalogue {
    /// `items` items of a seed.
    pub fn new(items: usize, seed: u64) -> Catalogue {
        let clusters = ((items as f64).sqrt() * CLUSTERS_PER_ROOT).ceil().max(4.0) as usize;
        let mut random = Random::new(seed, CLUSTERS);
        let shares = GENRES.map(|(_, share)| share);
        let main_genre: Vec<usize> = (0..clusters).map(|_| random.pick(&shares)).collect();
        let sizes = Pool::new((0..clusters as u32).collect(), |at| (f64::from(at) + 5.0).powf(-0.6));
        let cluster: Vec<u32> = (0..items).map(|_| sizes.draw(&mut random).unwrap_or(0)).collect();
        let genres: Vec<u32> = (0..items).map(|row| genres(seed, row, main_genre[cluster[row] as usize])).collect();
        let quality = (0..items).map(|_| random.normal() as f32).collect();
        let weight = popularity(items, seed);
        let pool = |rows: Vec<u32>| Pool::new(rows, |row| weight[row as usize]);
        let has = |genre: usize| (0..items as u32).filter(|&row| genres[row as usize] & (1 << genre) != 0).collect();
        let by_genre = (0..GENRES.len()).map(|genre| pool(has(genre))).collect();
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); clusters];
        (0..).zip(&cluster).for_each(|(row, &cluster)| members[cluster as usize].push(row));
        let by_cluster = members.into_iter().map(pool).collect();
        let all = pool((0..items as u32).collect());
        let people = people(items, clusters);
        Catalogue { seed, genres, cluster, weight, quality, all, by_genre, by_cluster, main_genre, people }
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.cluster.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cluster.is_empty()
    }

    /// The id of a row. Ids sort as rows do.
    pub fn id(row: usize) -> String {
        format!("i{row:08}")
    }

    /// The item of a row, the same whenever it is asked for.
    pub fn item(&self, row: usize) -> Item {
        let mut random = Random::new(self.seed, WORDINGS ^ row as u64);
        let genres = (0..GENRES.len()).filter(|genre| self.genres[row] & (1 << genre) != 0);
        let age_years = random.log_normal(AGE_YEARS).min(110.0);
        let created_ms = END_MS - (random.unit() * CATALOGUE_DAYS as f64 * DAY_MS as f64) as TimeMs;
        let (title, text) =
            (random_words(&mut random, TITLE_WORDS, true), random_words(&mut random, TEXT_WORDS, false));
        let credits = if random.unit() < CAST_SHARE { random.log_normal(CAST) as usize } else { 0 };
        let cast: Vec<String> = (0..credits.min(CAST_MAX)).filter_map(|_| self.person(row, &mut random)).collect();
        let directors = self.person(row, &mut random).into_iter().collect();
        let minutes = (60 + random.below(120)).into();
        // Any share of the catalogue can be asked for with a range of this.
        let draw = random.below(1000).into();
        Item {
            id: Catalogue::id(row).into(),
            title,
            year: Some((f64::from(YEAR) - age_years) as u16),
            genres: genres.map(|genre| GENRES[genre].0.to_owned()).collect(),
            cast,
            directors,
            text,
            created_ms: Some(created_ms),
            attributes: [("minutes", minutes), ("draw", draw)].into_iter().collect(),
            ..Item::default()
        }
    }

    /// Somebody of the item's cluster, or anybody.
    fn person(&self, row: usize, random: &mut Random) -> Option<String> {
        let own = self.cluster[row] as usize;
        let cluster = if random.unit() < OWN_SHARE { own } else { random.below(self.people.len()) };
        self.people[cluster].draw(random).map(|person| format!("{} {}", word(person as usize % 997), name(person)))
    }

    /// The direction of a row's taste, of length 1: its cluster, its genres, itself.
    pub(super) fn direction(&self, row: usize) -> [f32; DIMS] {
        let mut sum = self.centre(row);
        add(&mut sum, &noise(self.seed, VECTORS ^ row as u64), VECTOR_PARTS[2]);
        unit(&mut sum);
        sum
    }

    /// [`Catalogue::direction`] without what is the item's own.
    pub(super) fn centre(&self, row: usize) -> [f32; DIMS] {
        let mut sum = [0.0; DIMS];
        add(&mut sum, &noise(self.seed, VECTORS ^ (1 << 50) ^ u64::from(self.cluster[row])), VECTOR_PARTS[0]);
        let count = self.genres[row].count_ones().max(1) as f32;
        for genre in (0..GENRES.len()).filter(|genre| self.genres[row] & (1 << genre) != 0) {
            add(&mut sum, &noise(self.seed, VECTORS ^ (1 << 51) ^ genre as u64), VECTOR_PARTS[1] / count.sqrt());
        }
        sum
    }
}

/// As many genres as real items have, the first one mostly the cluster's.
fn genres(seed: u64, row: usize, main: usize) -> u32 {
    let mut random = Random::new(seed, ITEMS ^ row as u64);
    let count = random.pick(&GENRES_PER_ITEM);
    let shares = GENRES.map(|(_, share)| share);
    let mut bits = 0_u32;
    if count > 0 && random.unit() < OWN_SHARE {
        bits |= 1 << main;
    }
    while (bits.count_ones() as usize) < count {
        bits |= 1 << random.pick(&shares);
    }
    bits
}

/// Zipf-Mandelbrot over a random order of the rows.
fn popularity(items: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed, RANKS);
    let mut ranks: Vec<usize> = (1..=items).collect();
    (1..items).rev().for_each(|at| ranks.swap(at, random.below(at + 1)));
    ranks.into_iter().map(|rank| (rank as f64 + POPULARITY_OFFSET).powf(-POPULARITY_EXPONENT)).collect()
}

/// People by cluster, with how many credits each may expect.
fn people(items: usize, clusters: usize) -> Vec<Pool> {
    let people = (items as f64 * PEOPLE_PER_ITEM).ceil() as usize;
    let of = |cluster: usize| -> Vec<u32> { (cluster..people).step_by(clusters).map(|at| at as u32).collect() };
    let weight =
        |person: u32| (f64::from(person / clusters as u32) + 20.0 / clusters as f64 + 1.0).powf(-PEOPLE_EXPONENT);
    (0..clusters).map(|cluster| Pool::new(of(cluster), weight)).collect()
}

/// Random words, the frequent ones often.
fn random_words(random: &mut Random, (least, most): (usize, usize), is_title: bool) -> String {
    let count = least + random.below(most - least + 1);
    let draw = |random: &mut Random| (WORDS as f64).powf(random.unit()) as usize - 1;
    let words: Vec<String> = (0..count)
        .map(|_| {
            let word = word(draw(random));
            if is_title { capital(&word) } else { word }
        })
        .collect();
    words.join(" ")
}

/// The word of a number, made of syllables.
fn word(number: usize) -> String {
    const CONSONANTS: [&str; 16] = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "br"];
    const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
    let mut rest = number + CONSONANTS.len() * VOWELS.len();
    let mut word = String::new();
    while rest > 0 {
        word.push_str(CONSONANTS[rest % CONSONANTS.len()]);
        rest /= CONSONANTS.len();
        word.push_str(VOWELS[rest % VOWELS.len()]);
        rest /= VOWELS.len();
    }
    word
}

/// A surname of one's own.
fn name(person: u32) -> String {
    capital(&word(person as usize))
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A direction of length about 1.
fn noise(seed: u64, stream: u64) -> [f32; DIMS] {
    let mut random = Random::new(seed, stream);
    std::array::from_fn(|_| (random.normal() / (DIMS as f64).sqrt()) as f32)
}

fn add(sum: &mut [f32; DIMS], part: &[f32; DIMS], weight: f32) {
    sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += weight * part);
}

fn unit(vector: &mut [f32; DIMS]) {
    let norm = vector.iter().map(|number| number * number).sum::<f32>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|number| *number /= norm);
}
