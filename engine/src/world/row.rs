//! One row of the world: what ranking reads of an item, in few bytes.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::types::{Item, TimeMs, id_hash};

/// An item with what ranking reads of it on every request.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemRow {
    /// The item itself.
    pub item: Arc<Item>,
    /// Its year.
    pub year: Option<u16>,
    /// [`id_hash`] of its id.
    pub hash: u64,
    /// Genres as numbers of [`Terms`], sorted.
    pub genres: Box<[u32]>,
    /// Cast (first [`PEOPLE_MAX`]) and directors as numbers of [`Terms`], sorted.
    pub people: Box<[u32]>,
    /// Its content vector where the bundle's no longer holds or it has none; `None` for an unchanged item.
    pub content: Option<Arc<[f32]>>,
    /// When the catalogue got it, as far as is known.
    pub created_ms: Option<TimeMs>,
}

/// Cast members whose affinity counts, in billing order.
const PEOPLE_MAX: usize = 8;

/// Genres and people as numbers. Which number a term gets means nothing.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    numbers: FxHashMap<String, u32>,
    /// The term that is looked up, to be used again: a catalogue has millions.
    term: String,
}

impl Terms {
    fn number(&mut self, field: &str, value: &str) -> u32 {
        let (numbers, term, value) = (&mut self.numbers, &mut self.term, value.trim());
        term.clear();
        term.push_str(field);
        term.push(':');
        if value.is_ascii() {
            term.push_str(value);
            term.make_ascii_lowercase();
        } else {
            term.push_str(&value.to_lowercase());
        }
        if let Some(&number) = numbers.get(term.as_str()) {
            return number;
        }
        let next = u32::try_from(numbers.len()).expect("fewer than four billion terms");
        numbers.insert(term.clone(), next);
        next
    }

    /// The row of an item; `content` as in [`ItemRow`].
    pub fn row(&mut self, item: Arc<Item>, content: Option<Arc<[f32]>>) -> ItemRow {
        let mut genres: Vec<u32> = item.genres.iter().map(|genre| self.number("genre", genre)).collect();
        let cast = item.cast.iter().take(PEOPLE_MAX).map(|name| ("cast", name));
        let directors = item.directors.iter().map(|name| ("director", name));
        let mut people: Vec<u32> = cast.chain(directors).map(|(field, name)| self.number(field, name)).collect();
        for list in [&mut genres, &mut people] {
            list.sort_unstable();
            list.dedup();
        }
        let (hash, year, created_ms) = (id_hash(&item.id), item.year, item.created_ms);
        ItemRow { item, year, hash, genres: genres.into(), people: people.into(), content, created_ms }
    }
}

/// What is asked of a row most often, in one byte, so that most answers touch nothing else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(super) u8);

impl Flags {
    pub(super) const EXISTS: u8 = 1;
    /// May be recommended at any moment.
    pub(super) const ALWAYS: u8 = 2;
    /// May be recommended at some moments: the item says when.
    pub(super) const WINDOWED: u8 = 4;
    /// Its content is no longer the bundle's.
    pub(super) const CHANGED: u8 = 8;

    /// Those of an item.
    pub(crate) fn of(item: &Item, is_changed: bool) -> Flags {
        let window = match (item.hidden, item.available_from_ms, item.available_until_ms) {
            (true, _, _) => 0,
            (false, None, None) => Flags::ALWAYS,
            (false, _, _) => Flags::WINDOWED,
        };
        Flags(Flags::EXISTS | window | if is_changed { Flags::CHANGED } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_differ_in_case_and_spaces_are_one() {
        let mut terms = Terms::default();
        let mut of = |genres: &[&str], directors: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let item = Item { genres: texts(genres), directors: texts(directors), ..Item::default() };
            let row = terms.row(Arc::new(item), None);
            (row.genres, row.people)
        };
        let first = of(&["Drama", "\u{c9}pop\u{e9}e"], &["drama"]);
        assert_eq!((first.0.len(), first.1.len()), (2, 1));
        // A field's terms are its own.
        assert!(!first.0.contains(&first.1[0]));
        assert_eq!(of(&[" dRAMA ", "\u{e9}POP\u{c9}E\u{a0}", "drama"], &["DRAMA"]), first);
        assert_ne!(of(&["Dramas", "Epopee"], &["Dram"]), first);
    }
}
