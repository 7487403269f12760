//! The best nodes that a walk has met: a sorted array of fixed size, and how far the walk has come in it.
//!
//! For some hundred entries of eight bytes, shifting half of them on an insertion is cheaper than the branches of two
//! heaps. Both the walk of a search and that of a build run over it.

/// Nodes are numbered in 31 bits: the lowest bit of an entry says whether the walk has still to go there.
pub(super) const NODES_MAX: usize = i32::MAX as usize;

/// The best `limit` nodes, best first; equal scores by lower node.
#[derive(Debug, Default)]
pub(super) struct Beam {
    /// As [`entry`] makes them, descending.
    entries: Vec<u64>,
    limit: usize,
    /// No entry before this one is open.
    next: usize,
}

impl Beam {
    /// Forgets everything; `limit` is at least 1.
    pub(super) fn clear(&mut self, limit: usize) {
        self.entries.clear();
        self.limit = limit;
        self.next = 0;
    }

    /// What a score must exceed to be kept for certain; nothing is kept below.
    #[inline(always)]
    pub(super) fn worst(&self) -> f32 {
        if self.entries.len() < self.limit {
            return f32::NEG_INFINITY;
        }
        self.entries.last().map_or(f32::NEG_INFINITY, |&entry| score_of(entry))
    }

    /// The best score of an open entry.
    #[inline(always)]
    pub(super) fn best_open(&mut self) -> Option<(f32, u32)> {
        while let Some(&entry) = self.entries.get(self.next) {
            if entry & 1 == 1 {
                return Some((score_of(entry), node_of(entry)));
            }
            self.next += 1;
        }
        None
    }

    /// Closes the entry that `best_open` found.
    #[inline(always)]
    pub(super) fn close(&mut self) {
        if let Some(entry) = self.entries.get_mut(self.next) {
            *entry &= !1;
            self.next += 1;
        }
    }

    /// Keeps `node` if it is among the best; `open`: the walk has still to go there. A node is offered once.
    #[inline(always)]
    pub(super) fn offer(&mut self, score: f32, node: u32, open: bool) {
        let new = entry(score, node, open);
        let len = self.entries.len();
        if len == self.limit {
            if self.entries[len - 1] >= new {
                return;
            }
        } else {
            self.entries.push(0);
        }
        let last = self.entries.len() - 1;
        let at = self.entries[..last].partition_point(|&old| old > new);
        self.entries.copy_within(at..last, at + 1);
        self.entries[at] = new;
        self.next = self.next.min(at);
    }

    /// Scores and nodes, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (f32, u32)> {
        self.entries.iter().map(|&entry| (score_of(entry), node_of(entry)))
    }
}

/// Larger for a better score and, at the same score, for a lower node.
#[inline(always)]
pub(super) fn entry(score: f32, node: u32, open: bool) -> u64 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ascending) << 32 | u64::from(!node << 1 | u32::from(open))
}

/// The score of an [`entry`].
#[inline(always)]
pub(super) fn score_of(entry: u64) -> f32 {
    let ascending = (entry >> 32) as u32;
    let bits = if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending };
    f32::from_bits(bits)
}

/// The node of an [`entry`].
#[inline(always)]
pub(super) fn node_of(entry: u64) -> u32 {
    !(entry as u32) >> 1
}
