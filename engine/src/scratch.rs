//! Scratch: memory that a thread keeps from one request to the next, so that a request allocates little.
//!
//! What is left in it never changes a result. Its size is bounded by the number of rows, or of genres and people: four bytes
//! each for a set.

use std::cell::{Cell, RefCell};
use std::hint::select_unpredictable;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

use crate::types::Row;

/// What a thread keeps.
pub(crate) trait Kept: Default + 'static {
    /// Those that are not in use.
    fn shelf() -> &'static LocalKey<RefCell<Vec<Self>>>;
}

/// One of a thread's, given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Lent<T: Kept>(T);

impl<T: Kept> Lent<T> {
    /// As the last user left it.
    pub(crate) fn take() -> Lent<T> {
        Lent(T::shelf().with_borrow_mut(Vec::pop).unwrap_or_default())
    }
}

impl<T: Kept> Drop for Lent<T> {
    fn drop(&mut self) {
        /// More than one request needs.
        const SHELF_MAX: usize = 8;
        let own = std::mem::take(&mut self.0);
        // A thread that ends has no shelf any more.
        let _gone = T::shelf().try_with(|shelf| {
            let mut shelf = shelf.borrow_mut();
            if shelf.len() < SHELF_MAX {
                shelf.push(own);
            }
        });
    }
}

impl<T: Kept> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Kept> DerefMut for Lent<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

macro_rules! kept {
    ($type:ty, $shelf:ident) => {
        thread_local! {
            static $shelf: RefCell<Vec<$type>> = const { RefCell::new(Vec::new()) };
        }
        impl Kept for $type {
            fn shelf() -> &'static LocalKey<RefCell<Vec<$type>>> {
                &$shelf
            }
        }
    };
}

/// A set of rows, each with a number in the order in which they came: a sparse set (Briggs and Torczon 1993), which is
/// emptied at no cost.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slot_of: Vec<u32>,
    rows: Vec<Row>,
}

kept!(Slots, SLOTS);

impl Slots {
    /// Empty, for rows below `rows`.
    pub(crate) fn empty(rows: usize) -> Lent<Slots> {
        let mut slots = Lent::<Slots>::take();
        slots.rows.clear();
        if slots.slot_of.len() < rows {
            slots.slot_of.resize(rows, 0);
        }
        slots
    }

    /// The row's number.
    #[inline]
    pub(crate) fn get(&self, row: Row) -> Option<usize> {
        let slot = *self.slot_of.get(row as usize)? as usize;
        (self.rows.get(slot) == Some(&row)).then_some(slot)
    }

    /// The row's number, and whether it is new. Panics for a row that it was not made for.
    #[inline]
    pub(crate) fn insert(&mut self, row: Row) -> (usize, bool) {
        let slot = self.slot_of[row as usize] as usize;
        if self.rows.get(slot) == Some(&row) {
            return (slot, false);
        }
        let slot = self.rows.len();
        self.slot_of[row as usize] = slot as u32;
        self.rows.push(row);
        (slot, true)
    }

    /// As [`Slots::insert`], of many rows: their numbers are left in `numbers`. There is no branch, since which rows are
    /// new cannot be foreseen.
    pub(crate) fn insert_all(&mut self, rows: &[Row], numbers: &mut Vec<u32>) {
        let mut len = self.rows.len();
        self.rows.resize(len + rows.len() + 1, 0);
        numbers.resize(rows.len(), 0);
        let (slot_of, known) = (&mut self.slot_of[..], &mut self.rows[..]);
        let last = known.len() - 1;
        for (&row, number) in rows.iter().zip(&mut numbers[..]) {
            let slot = &mut slot_of[row as usize];
            let before = *slot as usize;
            // What lies from `len` on was not inserted. Where to look does not depend on the rows before, so that the
            // processor looks for many at once.
            let is_new = (before >= len) | (known[before.min(last)] != row);
            let after = select_unpredictable(is_new, len, before);
            known[len] = row;
            *slot = after as u32;
            *number = after as u32;
            len += usize::from(is_new);
        }
        self.rows.truncate(len);
    }

    /// The rows in order of their numbers.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }
}

/// A set of rows that answers in one bit.
#[derive(Debug, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    set: Vec<Row>,
}

kept!(Bits, BITS);

impl Bits {
    /// Empty, for rows below `rows`.
    pub(crate) fn empty(rows: usize) -> Lent<Bits> {
        let mut bits = Lent::<Bits>::take();
        let Bits { words, set } = &mut *bits;
        set.drain(..).for_each(|row| words[row as usize / 64] = 0);
        if words.len() * 64 < rows {
            words.resize(rows.div_ceil(64), 0);
        }
        bits
    }

    /// Panics for a row that it was not made for.
    pub(crate) fn insert(&mut self, row: Row) {
        self.words[row as usize / 64] |= 1 << (row % 64);
        self.set.push(row);
    }

    #[inline]
    pub(crate) fn contains(&self, row: Row) -> bool {
        self.words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1)
    }
}

/// What was decided of rows: yes, no, or nothing yet. Forgotten at no cost.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    /// Twice the number of the request that decided, and 1 more for yes.
    of: Vec<Cell<u8>>,
    now: u8,
}

kept!(Verdicts, VERDICTS);

impl Verdicts {
    /// None yet, for rows below `rows`.
    pub(crate) fn none(rows: usize) -> Lent<Verdicts> {
        let mut verdicts = Lent::<Verdicts>::take();
        let Verdicts { of, now } = &mut *verdicts;
        if *now == u8::MAX / 2 {
            of.fill(Cell::new(0));
            *now = 0;
        }
        *now += 1;
        if of.len() < rows {
            of.resize(rows, Cell::new(0));
        }
        verdicts
    }

    /// The row's verdict: an earlier one, else what `decide` says.
    #[inline]
    pub(crate) fn of(&self, row: Row, decide: impl FnOnce() -> bool) -> bool {
        let Some(cell) = self.of.get(row as usize) else { return decide() };
        if cell.get() >> 1 == self.now {
            return cell.get() & 1 == 1;
        }
        let verdict = decide();
        cell.set(self.now << 1 | u8::from(verdict));
        verdict
    }
}

/// Numbers.
pub(crate) type Floats = Vec<f32>;

kept!(Floats, FLOATS);

/// Whole numbers.
pub(crate) type Numbers = Vec<u32>;

kept!(Numbers, NUMBERS);

/// Numbers of one row that are computed together.
pub(crate) const EIGHT: usize = 8;

/// Half a cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(32))]
pub(crate) struct Eight(pub(crate) [f32; EIGHT]);

pub(crate) type Eights = Vec<Eight>;

kept!(Eights, EIGHTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_asked_for_once_and_forgotten_with_its_request() {
        for request in 0..300 {
            let (verdicts, wanted) = (Verdicts::none(10), request % 3 == 0);
            assert_eq!(verdicts.of(4, || wanted), wanted, "request {request}");
            assert_eq!((verdicts.of(4, || !wanted), verdicts.of(99, || !wanted)), (wanted, !wanted));
        }
    }

    #[test]
    fn a_set_that_was_used_before_is_empty_again() {
        for _ in 0..2 {
            let (mut slots, mut bits) = (Slots::empty(100), Bits::empty(100));
            assert!(slots.rows().is_empty() && slots.get(7).is_none() && !bits.contains(70));
            assert_eq!([slots.insert(7), slots.insert(9), slots.insert(7)], [(0, true), (1, true), (0, false)]);
            assert_eq!((slots.get(9), slots.get(8), slots.get(500), slots.rows()), (Some(1), None, None, &[7, 9][..]));
            let mut numbers = vec![99];
            slots.insert_all(&[3, 9, 3, 0, 7], &mut numbers);
            assert_eq!((&numbers[..], slots.rows()), (&[2, 1, 2, 3, 0][..], &[7, 9, 3, 0][..]));
            slots.insert_all(&[], &mut numbers);
            assert_eq!((numbers.len(), slots.rows().len(), slots.get(0)), (0, 4, Some(3)));
            bits.insert(70);
            assert!(bits.contains(70) && !bits.contains(6) && !bits.contains(500));
        }
    }
}
