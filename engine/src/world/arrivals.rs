//! Rows in the order in which they arrived: the bundle's, sorted once, and beside them what changed since.
//!
//! An entry may be out of date, when its row has another moment by now; who reads compares.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::sync::Arc;

use crate::types::{Row, TimeMs};

#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals {
    /// Ascending.
    bundle: Arc<[(TimeMs, Row)]>,
    since: Arc<BTreeSet<(TimeMs, Row)>>,
}

impl Arrivals {
    /// Those of a bundle.
    pub(crate) fn new(mut entries: Vec<(TimeMs, Row)>) -> Arrivals {
        entries.sort_unstable();
        Arrivals { bundle: entries.into(), since: Arc::default() }
    }

    /// The row has this moment from now on.
    pub(super) fn add(&mut self, time_ms: TimeMs, row: Row) {
        if self.bundle.binary_search(&(time_ms, row)).is_err() {
            Arc::make_mut(&mut self.since).insert((time_ms, row));
        }
    }

    /// All entries up to that moment, newest first; each once.
    pub(super) fn until(&self, time_ms: TimeMs) -> impl Iterator<Item = (TimeMs, Row)> + '_ {
        let end = self.bundle.partition_point(|&(time, _)| time <= time_ms);
        let since = self.since.range(..=(time_ms, Row::MAX)).rev().copied();
        Merged { bundle: self.bundle[..end].iter().rev().copied().peekable(), since: since.peekable() }
    }
}

/// Two falling sequences as one.
struct Merged<A: Iterator, B: Iterator> {
    bundle: Peekable<A>,
    since: Peekable<B>,
}

impl<T: Ord, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for Merged<A, B> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match (self.bundle.peek(), self.since.peek()) {
            (Some(bundle), Some(since)) if since > bundle => self.since.next(),
            (Some(_), _) => self.bundle.next(),
            (None, _) => self.since.next(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_come_newest_first_and_each_entry_once() {
        let mut arrivals = Arrivals::new(vec![(30, 1), (10, 0), (20, 2)]);
        arrivals.add(25, 0);
        arrivals.add(20, 2);
        arrivals.add(99, 3);
        assert_eq!(arrivals.until(30).collect::<Vec<_>>(), [(30, 1), (25, 0), (20, 2), (10, 0)]);
        assert_eq!(arrivals.until(9).count(), 0);
    }
}
