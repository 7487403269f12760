//! Sparse matrices by row: item to items, user to liked items.

use super::Error;
use super::arrays::{Arrays, ArraysWriter};
use crate::index::prefetch_first;
use crate::types::{Row, TimeMs};

/// For each row the columns it leads to, in order of falling weight.
#[derive(Debug, Clone, Default)]
pub struct Neighbours {
    offsets: Vec<i64>,
    items: Vec<Row>,
    weights: Vec<f32>,
}

impl Neighbours {
    /// Reads `PREFIXoffsets`, `PREFIXitem`, `PREFIXweight` for `rows` rows over `columns` columns.
    ///
    /// # Errors
    /// Offsets that fall or end elsewhere, columns out of range, weights that are not finite.
    pub fn read(arrays: &mut Arrays, prefix: &str, rows: usize, columns: usize) -> Result<Neighbours, Error> {
        let name = |part: &str| format!("{prefix}{part}");
        let offsets: Vec<i64> = arrays.vector(&name("offsets"), rows + 1)?;
        let (items, _) = arrays.numbers::<u32>(&name("item"))?;
        let weights: Vec<f32> = arrays.vector(&name("weight"), items.len())?;
        let wrong = |what: &str| Error::format(prefix, what.to_owned());
        let ends = offsets.first() == Some(&0) && offsets.last() == i64::try_from(items.len()).ok().as_ref();
        if !ends || offsets.windows(2).any(|pair| pair[1] < pair[0]) {
            return Err(wrong("offsets do not rise from 0 to the number of entries"));
        }
        if items.iter().any(|&item| item as usize >= columns) {
            return Err(wrong("an entry points to an item that does not exist"));
        }
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(wrong("a weight is not finite"));
        }
        Ok(Neighbours { offsets, items, weights })
    }

    /// Writes what [`Neighbours::read`] reads.
    pub fn write(&self, writer: &mut ArraysWriter, prefix: &str) {
        let entries = self.items.len();
        writer
            .add(&format!("{prefix}offsets"), &[self.offsets.len()], &self.offsets)
            .add(&format!("{prefix}item"), &[entries], &self.items)
            .add(&format!("{prefix}weight"), &[entries], &self.weights);
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Where `row` leads: items and as many weights; nothing for a row that came after the bundle.
    pub fn of(&self, row: usize) -> (&[Row], &[f32]) {
        let range = self.range(row);
        (&self.items[range.clone()], &self.weights[range])
    }

    /// As [`Neighbours::of`], of many rows; nothing that a row leads to is read yet, so that it can be fetched in time.
    pub(crate) fn of_all(&self, rows: impl Iterator<Item = Row>) -> Vec<(&[Row], &[f32])> {
        rows.map(|row| self.of(row as usize)).collect()
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        match (self.offsets.get(row), self.offsets.get(row + 1)) {
            (Some(&from), Some(&until)) => from as usize..until as usize,
            _ => 0..0,
        }
    }
}

/// Asks the processor to fetch where a list begins; only a hint. Always as much, since a branch on the length of lists
/// that differ costs more than a line too many.
#[inline]
pub(crate) fn prefetch_list((rows, weights): (&[Row], &[f32])) {
    prefetch_first::<4, _>(rows);
    prefetch_first::<4, _>(weights);
}

/// For each user what they liked lately: item, weight, moment; newest first.
#[derive(Debug, Clone, Default)]
pub struct Likes {
    lists: Neighbours,
    times_ms: Vec<TimeMs>,
}

impl Likes {
    /// Reads as [`Neighbours::read`], and `PREFIXtime_ms`.
    ///
    /// # Errors
    /// As there.
    pub fn read(arrays: &mut Arrays, prefix: &str, users: usize, items: usize) -> Result<Likes, Error> {
        let lists = Neighbours::read(arrays, prefix, users, items)?;
        let times_ms = arrays.vector(&format!("{prefix}time_ms"), lists.items.len())?;
        Ok(Likes { lists, times_ms })
    }

    /// Writes what [`Likes::read`] reads.
    pub fn write(&self, writer: &mut ArraysWriter, prefix: &str) {
        self.lists.write(writer, prefix);
        writer.add(&format!("{prefix}time_ms"), &[self.times_ms.len()], &self.times_ms);
    }

    /// What users liked: for each of them items and as many weights, newest first.
    pub(crate) fn of_all(&self, users: impl Iterator<Item = Row>) -> Vec<(&[Row], &[f32])> {
        self.lists.of_all(users)
    }
}
