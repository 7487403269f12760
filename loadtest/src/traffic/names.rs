//! Ids of users and items, and how often each is drawn.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};

use super::log::Log;
use crate::numbers::Numbers;
use crate::profile::Ids;
use crate::zipf::Weighted;

/// A list of ids with weights.
#[derive(Debug)]
pub(crate) struct Names {
    source: Source,
    weights: Weighted,
    /// Rank to number: popularity must not follow the order in which ids were listed.
    order: Vec<u32>,
}

/// The ids.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Generated { prefix: String, first: u64, digits: usize, count: usize },
    Listed(Vec<Box<str>>),
}

impl Source {
    /// Reads ids that do not come from the server.
    ///
    /// # Errors
    /// A file that cannot be read or holds no id; the message names it.
    pub(crate) fn read(ids: &Ids, count: usize, column: Column) -> anyhow::Result<Source> {
        let listed = match ids {
            Ids::Generated { prefix, first, digits } => {
                return Ok(Source::Generated { prefix: prefix.clone(), first: *first, digits: *digits, count });
            }
            Ids::Server => anyhow::bail!("ids of the server are read from the server"),
            Ids::File(path) => lines(path)?,
            Ids::Events(path) => {
                let log = Log::read(path)?;
                match column {
                    Column::Users => log.users,
                    Column::Items => log.items,
                }
            }
        };
        let (Ids::File(path) | Ids::Events(path)) = ids else { unreachable!("the others are not listed") };
        ensure!(!listed.is_empty(), "{} holds no id", path.display());
        Ok(Source::Listed(listed.into_iter().take(count).collect()))
    }

    fn len(&self) -> usize {
        match self {
            Source::Generated { count, .. } => *count,
            Source::Listed(ids) => ids.len(),
        }
    }
}

/// Which ids of an event file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    Users,
    Items,
}

fn lines(path: &Path) -> anyhow::Result<Vec<Box<str>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut known = HashMap::new();
    Ok(text.lines().filter(|id| !id.is_empty() && known.insert(*id, ()).is_none()).map(Box::from).collect())
}

impl Names {
    /// Those ids, by Zipf's law over a seeded order; the exponent 0 draws each alike.
    pub(crate) fn new(source: Source, zipf: f64, seed: u64) -> Names {
        let count = source.len();
        let (mut draw, mut order): (Numbers, Vec<u32>) = (Numbers::new(seed, 0x0de4), (0..count as u32).collect());
        for at in (1..count).rev() {
            order.swap(at, draw.below(at + 1));
        }
        Names { source, weights: Weighted::zipf(count, zipf), order }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.source.len()
    }

    /// One of them.
    pub(crate) fn draw(&self, draw: &mut Numbers) -> u32 {
        self.order[self.weights.draw(draw)]
    }

    /// Its id.
    pub(crate) fn id(&self, number: u32) -> Cow<'_, str> {
        match &self.source {
            Source::Generated { prefix, first, digits, .. } => {
                Cow::Owned(format!("{prefix}{:0digits$}", first + u64::from(number)))
            }
            Source::Listed(ids) => Cow::Borrowed(&ids[number as usize]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_ids_is_read_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        std::fs::write(&path, "ann\n\nbob\nann\ncy\n").unwrap();
        let source = Source::read(&Ids::File(path.clone()), 2, Column::Users).unwrap();
        let names = Names::new(source, 1.0, 1);
        assert_eq!((names.len(), names.id(0), names.id(1)), (2, "ann".into(), "bob".into()));
        std::fs::write(&path, "\n").unwrap();
        let error = Source::read(&Ids::File(path), 2, Column::Users).unwrap_err();
        assert!(error.to_string().ends_with("users holds no id"), "{error}");
    }

    #[test]
    fn generated_ids_count_from_the_first() {
        let source = Source::Generated { prefix: "u".to_owned(), first: 8, digits: 2, count: 5 };
        let names = Names::new(source, 0.0, 1);
        let mut draw = Numbers::new(1, 2);
        let drawn: std::collections::BTreeSet<String> =
            (0..200).map(|_| names.id(names.draw(&mut draw)).into_owned()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), ["u08", "u09", "u10", "u11", "u12"]);
    }
}
