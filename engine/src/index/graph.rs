//! The frozen graph: five flat arrays that a bundle stores and a walk reads.
//!
//! A *node* is one distinct vector and stands for all rows that hold it, so a thousand equal rows (items
//! without data are all zero) are one node and cannot fence off a region of the graph. Nodes are numbered
//! level by level from the top, and on each level as a breadth-first visit from the entry meets them. So
//! the entry is node 0, level `l` is the nodes `0..level_sizes[l]`, and nodes that are
//! visited together lie together.

use super::vectors::prefetch_first;
use super::{Error, Vectors};

/// hnsw_rs never makes more levels.
pub(super) const LEVELS_MAX: usize = 16;

/// The graph as named arrays. What comes from a file is checked by [`super::Index::new`], not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrozenGraph {
    /// Nodes on each level; level 0 holds all.
    pub(super) level_sizes: Vec<u32>,
    /// Level after level, `level_sizes[l] + 1` positions in `links`.
    pub(super) link_offsets: Vec<u32>,
    /// Neighbours, as node numbers.
    pub(super) links: Vec<u32>,
    /// For each node and one more, a position in `rows`.
    pub(super) row_offsets: Vec<u32>,
    /// The visiting order: every row once, ascending within a node.
    pub(super) rows: Vec<u32>,
}

impl FrozenGraph {
    /// The names of the arrays, in the order of [`Self::arrays`].
    pub const ARRAYS: [&'static str; 5] = ["level_sizes", "link_offsets", "links", "row_offsets", "rows"];

    /// Every array with its name: what a bundle stores.
    pub fn arrays(&self) -> [(&'static str, &[u32]); 5] {
        let [level_sizes, link_offsets, links, row_offsets, rows] = Self::ARRAYS;
        [
            (level_sizes, &self.level_sizes),
            (link_offsets, &self.link_offsets),
            (links, &self.links),
            (row_offsets, &self.row_offsets),
            (rows, &self.rows),
        ]
    }

    /// The inverse of [`Self::arrays`]: `array` gives the numbers stored under a name. Only checks that all
    /// are there.
    pub fn from_arrays(mut array: impl FnMut(&str) -> Option<Vec<u32>>) -> Result<Self, Error> {
        let mut take = |name| array(name).ok_or_else(|| damaged(name, "missing".into()));
        let [level_sizes, link_offsets, links, row_offsets, rows] = Self::ARRAYS;
        Ok(Self {
            level_sizes: take(level_sizes)?,
            link_offsets: take(link_offsets)?,
            links: take(links)?,
            row_offsets: take(row_offsets)?,
            rows: take(rows)?,
        })
    }

    /// Distinct vectors.
    pub fn nodes(&self) -> usize {
        self.row_offsets.len().saturating_sub(1)
    }

    /// The rows that node `node` stands for, ascending.
    #[inline]
    pub(super) fn rows_of(&self, node: u32) -> &[u32] {
        let node = node as usize;
        if self.rows.len() + 1 == self.row_offsets.len() {
            // One row a node: no need to look where they start, which may be far from any cache.
            return &self.rows[node..=node];
        }
        &self.rows[self.row_offsets[node] as usize..self.row_offsets[node + 1] as usize]
    }

    /// Asks the processor to fetch where the rows of a node and its links on level 0 begin; only a hint.
    #[inline(always)]
    pub(super) fn prefetch(&self, node: u32) {
        let node = node as usize;
        let is_alone = self.rows.len() + 1 == self.row_offsets.len();
        prefetch_first::<1, _>(if is_alone { &self.rows[node..] } else { &self.row_offsets[node..] });
        prefetch_first::<1, _>(&self.link_offsets[node..]);
    }

    /// Everything that a walk relies on: afterwards no walk can panic, loop for ever or miss a node for want
    /// of a path. Cost: one pass over the arrays.
    pub(super) fn verify(&self, vectors: &Vectors) -> Result<(), Error> {
        self.verify_rows(vectors)?;
        self.verify_levels()?;
        self.verify_links()?;
        self.verify_reachable()
    }

    fn verify_rows(&self, vectors: &Vectors) -> Result<(), Error> {
        let fail = |array, reason| Err(damaged(array, reason));
        if self.rows.len() != vectors.len() {
            let (rows, vectors) = (self.rows.len(), vectors.len());
            return fail("rows", format!("{rows} rows for {vectors} vectors"));
        }
        let offsets = &self.row_offsets;
        if offsets.first() != Some(&0) || offsets.last().copied() != u32::try_from(self.rows.len()).ok() {
            return fail("row_offsets", "must run from 0 to the number of rows".into());
        }
        if let Some(node) = offsets.windows(2).position(|pair| pair[0] >= pair[1]) {
            return fail("row_offsets", format!("node {node} stands for no row"));
        }
        let mut seen = vec![false; vectors.len()];
        for (at, &row) in self.rows.iter().enumerate() {
            match seen.get_mut(row as usize) {
                None => return fail("rows", format!("row {row} at {at} does not exist")),
                Some(true) => return fail("rows", format!("row {row} at {at} is there twice")),
                Some(first) => *first = true,
            }
        }
        for node in 0..self.nodes() as u32 {
            let rows = self.rows_of(node);
            let first = vectors.row(rows[0] as usize);
            for pair in rows.windows(2) {
                if pair[0] > pair[1] || vectors.row(pair[1] as usize) != first {
                    return fail("rows", format!("node {node}: rows must ascend and hold one vector"));
                }
            }
        }
        Ok(())
    }

    fn verify_levels(&self) -> Result<(), Error> {
        let fail = |array, reason| Err(damaged(array, reason));
        let sizes = &self.level_sizes;
        if sizes.is_empty() || sizes.len() > LEVELS_MAX {
            return fail("level_sizes", format!("{} levels, not 1 to {LEVELS_MAX}", sizes.len()));
        }
        if sizes[0] as usize != self.nodes() {
            return fail("level_sizes", format!("{} on level 0, not {}", sizes[0], self.nodes()));
        }
        if sizes.windows(2).any(|pair| pair[0] < pair[1]) || (self.nodes() > 0 && sizes.contains(&0)) {
            return fail("level_sizes", "must not grow upwards and have no empty level".into());
        }
        Ok(())
    }

    fn verify_links(&self) -> Result<(), Error> {
        let fail = |array, reason| Err(damaged(array, reason));
        let expected: usize = self.level_sizes.iter().map(|&size| size as usize + 1).sum();
        if self.link_offsets.len() != expected {
            let found = self.link_offsets.len();
            return fail("link_offsets", format!("{found} offsets, not {expected}"));
        }
        let (mut rest, mut end) = (&self.link_offsets[..], 0);
        for (level, &size) in self.level_sizes.iter().enumerate() {
            let (offsets, above) = rest.split_at(size as usize + 1);
            rest = above;
            if offsets[0] != end || offsets.windows(2).any(|pair| pair[0] > pair[1]) {
                return fail("link_offsets", format!("level {level} does not ascend from {end}"));
            }
            let (first, last) = (end as usize, offsets[size as usize] as usize);
            end = offsets[size as usize];
            let Some(links) = self.links.get(first..last) else {
                return fail("link_offsets", format!("level {level} ends beyond the links"));
            };
            if let Some(link) = links.iter().find(|&&link| link >= size) {
                return fail("links", format!("level {level} has no node {link}"));
            }
        }
        if end as usize != self.links.len() {
            return fail("links", format!("{} links, {end} in use", self.links.len()));
        }
        Ok(())
    }

    fn verify_reachable(&self) -> Result<(), Error> {
        let mut seen = vec![false; self.nodes()];
        let mut open: Vec<u32> = (0..self.nodes().min(1) as u32).collect();
        let mut reached = open.len();
        seen.iter_mut().take(1).for_each(|entry| *entry = true);
        while let Some(node) = open.pop() {
            let node = node as usize;
            let (from, to) = (self.link_offsets[node], self.link_offsets[node + 1]);
            for &link in &self.links[from as usize..to as usize] {
                if !std::mem::replace(&mut seen[link as usize], true) {
                    reached += 1;
                    open.push(link);
                }
            }
        }
        if reached < self.nodes() {
            let lost = self.nodes() - reached;
            return Err(damaged("links", format!("{lost} nodes cannot be reached on level 0")));
        }
        Ok(())
    }
}

fn damaged(array: &'static str, reason: String) -> Error {
    Error::Graph { array, reason }
}
