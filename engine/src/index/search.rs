//! The hot path: a walk over the frozen graph, and the exact scan beside it.
//!
//! The walk is algorithms 2 and 5 of Malkov and Yashunin (2018): greedy down to level 0, then best-first with
//! the `ef` best rows kept. Filters act on what is kept, never on where the walk may go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vectors::{NORM_MAX, norm, pad_query};
use super::{Error, FrozenGraph, Vectors};

/// Rows kept by a walk unless the caller says otherwise: recall@100 stays above 0.98 on every set of
/// `index::tests::recall`, on those with lognormal norms too (unit vectors need 100 to 200).
pub const DEFAULT_EF_SEARCH: usize = 300;

/// A scan that accepts this many rows takes about as long as a walk with [`DEFAULT_EF_SEARCH`] (24,000 rows
/// unfiltered, 21,000 accepted of 100,000: `index::tests::recall`).
pub const DEFAULT_EXACT_BELOW_ROWS: usize = 20_000;

/// Nodes scored at a time by the exact scan.
const SCAN_CHUNK_NODES: usize = 256;

/// A row and its inner product with the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The row, as in the vectors given to [`Index::new`].
    pub row: u32,
    /// `Vectors::dot(row, query)`, the same bits.
    pub score: f32,
}

/// Vectors and, when there is one, the graph over them. Immutable; share it between threads.
#[derive(Debug)]
pub struct Index {
    /// One vector a node, in the graph's visiting order; row order when there is no graph.
    vectors: Vectors,
    graph: Option<FrozenGraph>,
    /// The node of each row; empty when there is no graph.
    node_of: Vec<u32>,
    rows: usize,
    exact_below: usize,
}

/// What a search needs to remember while it runs. One for each thread; any index may use it next. Allocates
/// nothing once it has served the largest index and `ef`.
#[derive(Debug, Default)]
pub struct Scratch {
    query: Vec<f32>,
    /// `visited[node] == epoch`: this search has scored the node.
    visited: Vec<u8>,
    epoch: u8,
    /// Nodes to visit, best first.
    open: BinaryHeap<u64>,
    /// The best accepted rows so far, worst first.
    best: BinaryHeap<Reverse<u64>>,
    nodes: Vec<u32>,
    scores: Vec<f32>,
    evaluations: usize,
}

impl Scratch {
    /// Empty; grows with the first searches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Inner products computed by the last search.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }
}

impl Index {
    /// `exact_below`: fewer accepted rows than this are scanned, not walked (see [`Self::search`]); 0 walks
    /// whenever there is a graph. Err when the graph is not sound or not one over these vectors.
    pub fn new(vectors: Vectors, graph: Option<FrozenGraph>, exact_below: usize) -> Result<Self, Error> {
        let rows = vectors.len();
        let Some(graph) = graph else {
            return Ok(Self { vectors, graph: None, node_of: Vec::new(), rows, exact_below });
        };
        graph.verify(&vectors)?;
        let mut node_of = vec![0; rows];
        for node in 0..graph.nodes() as u32 {
            for &row in graph.rows_of(node) {
                node_of[row as usize] = node;
            }
        }
        let firsts = graph.row_offsets[..graph.nodes()].iter().map(|&at| graph.rows[at as usize]);
        let vectors = vectors.reordered(firsts);
        Ok(Self { vectors, graph: Some(graph), node_of, rows, exact_below })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Numbers in a row.
    pub fn dims(&self) -> usize {
        self.vectors.dims()
    }

    /// The vector of row `row`. Panics when there is no such row.
    pub fn vector(&self, row: u32) -> &[f32] {
        let node = if self.graph.is_some() { self.node_of[row as usize] } else { row };
        self.vectors.row(node as usize)
    }

    /// The score of a row: the same bits as in any [`Hit`]. Panics when there is no such row or `query` has other than
    /// `dims` numbers.
    pub fn dot(&self, row: u32, query: &[f32]) -> f32 {
        let node = if self.graph.is_some() { self.node_of[row as usize] } else { row };
        self.vectors.dot(node as usize, query)
    }

    /// Fills `out` with the `k` rows of largest inner product with `query` among those that `accept` lets
    /// through: best first, equal scores by lower row. `ef` (raised to `k`) is how many rows the walk keeps:
    /// more is slower and finds more.
    ///
    /// `accepted_hint` is about how many rows `accept` lets through (the number of rows when it is no filter). A
    /// walk visits about `ef * rows / accepted` times a constant, a scan all rows: so it scans when
    /// `accepted_hint < exact_below * ef / DEFAULT_EF_SEARCH`, whatever the number of rows. A wrong hint costs
    /// time, never a result: no walk visits a node twice.
    ///
    /// No hits for a query that is all zero, not finite, longer than [`NORM_MAX`] or of another width.
    #[expect(clippy::too_many_arguments, reason = "the hot path; the first five are the question")]
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        ef: usize,
        accepted_hint: usize,
        accept: impl Fn(u32) -> bool,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) {
        let ef = ef.max(k);
        let scan_below = self.exact_below.saturating_mul(ef) / DEFAULT_EF_SEARCH;
        match &self.graph {
            Some(graph) if accepted_hint.min(self.rows) >= scan_below => {
                if begin(self, query, k, scratch, out) {
                    self.walk(graph, ef.min(self.rows), &accept, scratch);
                    finish(k, scratch, out);
                }
            }
            _ => self.search_exact(query, k, accepted_hint, accept, scratch, out),
        }
    }

    /// The same question as [`Self::search`], answered by scoring every row that `accept` lets through.
    pub fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        accepted_hint: usize,
        accept: impl Fn(u32) -> bool,
        scratch: &mut Scratch,
        out: &mut Vec<Hit>,
    ) {
        if begin(self, query, k, scratch, out) {
            // A score costs more than a look at the filter, unless the filter lets most rows through: then
            // only the few rows that would be kept are looked up.
            let filter_first = accepted_hint < self.rows / 2;
            self.scan(k.min(self.rows), filter_first, &accept, scratch);
            finish(k, scratch, out);
        }
    }

    fn walk(&self, graph: &FrozenGraph, ef: usize, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        let Scratch { query, visited, open, best, nodes, scores, evaluations, .. } = scratch;
        let epoch = next_epoch(visited, &mut scratch.epoch, graph.nodes());

        let mut entry = (self.score(0, query), 0);
        let mut first_offset = graph.link_offsets.len();
        for &size in graph.level_sizes[1..].iter().rev() {
            first_offset -= size as usize + 1;
            let offsets = &graph.link_offsets[first_offset..];
            loop {
                let links = neighbours(graph, offsets, entry.1);
                self.vectors.dots(links, query, scores);
                *evaluations += links.len();
                let before = entry.1;
                for (&node, &score) in links.iter().zip(scores.iter()) {
                    if score > entry.0 {
                        entry = (score, node);
                    }
                }
                if entry.1 == before {
                    break;
                }
            }
        }

        visited[entry.1 as usize] = epoch;
        open.push(key(entry.0, entry.1));
        keep(best, ef, entry.0, graph.rows_of(entry.1), accept);
        while let Some(nearest) = open.pop() {
            let (score, node) = unkey(nearest);
            if best.len() >= ef && score < worst(best) {
                break;
            }
            nodes.clear();
            for &link in neighbours(graph, &graph.link_offsets, node) {
                let mark = &mut visited[link as usize];
                if *mark != epoch {
                    *mark = epoch;
                    nodes.push(link);
                    self.vectors.prefetch(link as usize);
                }
            }
            self.vectors.dots(nodes, query, scores);
            *evaluations += nodes.len();
            for (&node, &score) in nodes.iter().zip(scores.iter()) {
                if best.len() < ef || score > worst(best) {
                    open.push(key(score, node));
                    keep(best, ef, score, graph.rows_of(node), accept);
                }
            }
        }
    }

    fn scan(&self, k: usize, filter_first: bool, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        let Scratch { query, best, nodes, scores, evaluations, .. } = scratch;
        let all = self.vectors.len() as u32;
        for start in (0..all).step_by(SCAN_CHUNK_NODES) {
            let chunk = start..all.min(start.saturating_add(SCAN_CHUNK_NODES as u32));
            nodes.clear();
            if filter_first {
                nodes.extend(chunk.filter(|&node| self.rows_of(&node).iter().any(|&row| accept(row))));
            } else {
                nodes.extend(chunk);
            }
            self.vectors.dots(nodes, query, scores);
            *evaluations += nodes.len();
            for (node, &score) in nodes.iter().zip(scores.iter()) {
                // Equal to the worst may still be kept: the lower row wins.
                if best.len() < k || score >= worst(best) {
                    keep(best, k, score, self.rows_of(node), accept);
                }
            }
        }
    }

    fn rows_of<'a>(&'a self, node: &'a u32) -> &'a [u32] {
        match &self.graph {
            Some(graph) => graph.rows_of(*node),
            None => std::slice::from_ref(node),
        }
    }

    fn score(&self, node: u32, padded_query: &[f32]) -> f32 {
        super::vectors::dot(self.vectors.line_row(node as usize), padded_query)
    }
}

/// False when there is nothing to look for.
fn begin(index: &Index, query: &[f32], k: usize, scratch: &mut Scratch, out: &mut Vec<Hit>) -> bool {
    out.clear();
    scratch.open.clear();
    scratch.best.clear();
    scratch.evaluations = 0;
    pad_query(query, &mut scratch.query);
    let norm = norm(query); // NaN and infinity fail the comparisons below
    query.len() == index.dims() && k > 0 && !index.is_empty() && norm > 0.0 && norm <= NORM_MAX
}

fn finish(k: usize, scratch: &mut Scratch, out: &mut Vec<Hit>) {
    out.extend(scratch.best.drain().map(|Reverse(kept)| {
        let (score, row) = unkey(kept);
        Hit { row, score }
    }));
    out.sort_unstable_by_key(|hit| Reverse(key(hit.score, hit.row)));
    out.truncate(k);
}

fn next_epoch(visited: &mut Vec<u8>, epoch: &mut u8, nodes: usize) -> u8 {
    if visited.len() < nodes {
        visited.resize(nodes, 0);
    }
    if *epoch == u8::MAX {
        visited.fill(0);
        *epoch = 0;
    }
    *epoch += 1;
    *epoch
}

fn neighbours<'a>(graph: &'a FrozenGraph, level_offsets: &[u32], node: u32) -> &'a [u32] {
    let node = node as usize;
    &graph.links[level_offsets[node] as usize..level_offsets[node + 1] as usize]
}

/// Offers rows of one score, ascending, to the `limit` best.
fn keep(best: &mut BinaryHeap<Reverse<u64>>, limit: usize, score: f32, rows: &[u32], accept: &impl Fn(u32) -> bool) {
    for &row in rows {
        let offered = key(score, row);
        let full = best.len() >= limit;
        if full && best.peek().is_some_and(|Reverse(worst)| offered < *worst) {
            return; // and the rows after it are worse
        }
        if accept(row) {
            if full {
                best.pop();
            }
            best.push(Reverse(offered));
        }
    }
}

fn worst(best: &BinaryHeap<Reverse<u64>>) -> f32 {
    best.peek().map_or(f32::NEG_INFINITY, |Reverse(worst)| unkey(*worst).0)
}

/// A number that is larger for a better score and, at the same score, for a lower id.
fn key(score: f32, id: u32) -> u64 {
    let bits = score.to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    u64::from(ascending) << 32 | u64::from(!id)
}

fn unkey(key: u64) -> (f32, u32) {
    let ascending = (key >> 32) as u32;
    let bits = if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending };
    (f32::from_bits(bits), !(key as u32))
}
