//! Synthetic catalogues and users of any size, with the statistics of real ones: what benchmarks and load tests run on.
//!
//! Everything follows from a seed, whatever the number of threads. What is made is what a user of Marquee would bring:
//! files to import, and a folder of trained models as `marquee bundle build` takes it. Item vectors are the latent taste
//! that users' choices were drawn from; everything else (user vectors, likes, item-item matrices, content) is computed
//! from the drawn histories and the items' words, as training does. docs/decisions/0013 says what this is not good for.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use marquee_engine::types::TimeMs;

mod catalogue;
mod content;
mod embedding;
mod files;
mod links;
mod people;
mod random;
mod real;
mod rows;

pub use catalogue::Catalogue;
pub use files::{Member, read_members};
pub use people::{People, Rated, Taste};
pub use random::{Pool, Random};
pub use rows::variant;

/// Numbers of an item's vector, and of its content vector.
pub const DIMS: usize = 64;
/// The log ends here: 2025-01-01.
pub const END_MS: TimeMs = 1_735_689_600_000;
/// The year in which it ends.
const YEAR: u16 = 2024;

/// Arguments of `marquee-loadtest generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Items of the catalogue.
    #[arg(long)]
    pub items: usize,
    /// Users with a history; when it is left out, a quarter of the items, at most 200,000.
    #[arg(long)]
    pub users: Option<usize>,
    /// The same seed gives the same files.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder to write: `import/`, `models/`, `rows.safetensors`, `members.jsonl`.
    #[arg(long)]
    pub out: std::path::PathBuf,
}

/// A catalogue and its users.
#[derive(Debug)]
pub struct Synthetic {
    /// The seed of all of it.
    pub seed: u64,
    /// The items.
    pub catalogue: Catalogue,
    /// The users.
    pub people: People,
}

impl Synthetic {
    /// Draws both; `items` and `users` are above 0.
    pub fn new(items: usize, users: usize, seed: u64) -> Synthetic {
        let catalogue = Catalogue::new(items, seed);
        let people = People::new(&catalogue, users, seed);
        Synthetic { seed, catalogue, people }
    }

    /// Writes the models folder and the vocabulary that its content model was fitted on.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_models(&self, models: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
        std::fs::create_dir_all(models).with_context(|| models.display().to_string())?;
        progress("item-item matrices");
        links::write(self, models)?;
        progress("likes and vectors");
        embedding::write(self, models)?;
        progress("content");
        content::write(self, models)
    }
}

/// Users for so many items, when nobody says how many.
pub fn default_users(items: usize) -> usize {
    (items / 4).clamp(1, 200_000)
}

/// Runs the command.
///
/// # Errors
/// A number that makes no sense, or a file that cannot be written.
pub fn run(args: &Args, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let users = args.users.unwrap_or_else(|| default_users(args.items));
    ensure!((100..=100_000_000).contains(&args.items), "--items: from 100 to 100 million");
    ensure!((1..100_000_000).contains(&users), "--users: from 1 to 99,999,999");
    progress("items and users");
    let made = Synthetic::new(args.items, users, args.seed);
    progress(&format!("{} items, {} users, {} events", made.catalogue.len(), users, made.people.events.len()));
    progress("files to import");
    files::write(&made, &args.out)?;
    made.write_models(&args.out.join("models"), progress)?;
    progress("feature rows for the ranker");
    rows::write(&made, &args.out, rows::USERS)
}

/// `make` for all of `0..count`, on all cores; the answers in order.
fn parallel<T: Send>(count: usize, make: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return made;
            }
            made.push((at, make(at)));
        }
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("generating does not panic")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, made)| made).collect()
}
