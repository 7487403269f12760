//! The hot path: a walk over the frozen graph, and the exact scan beside it.
//!
//! The walk is algorithms 2 and 5 of Malkov and Yashunin (2018): greedy down to level 0, then best-first with
//! the `ef` best rows kept. Filters act on what is kept, never on where the walk may go.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::beam::{Beam, entry, node_of, score_of};
use super::codes::{Codes, code_query};
use super::vectors::{NORM_MAX, norm, pad_query, prefetch_lines};
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
    /// Of the nodes; none when there is no graph.
    codes: Codes,
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
    coded: Vec<i16>,
    /// `visited[node] == epoch`: this search has scored the node.
    visited: Vec<u8>,
    epoch: u8,
    /// The best nodes of which a row is accepted.
    beam: Beam,
    /// Other nodes to visit, best first, as entries of a beam.
    rejected: BinaryHeap<u64>,
    /// The best accepted rows so far, worst first.
    best: BinaryHeap<Reverse<u64>>,
    nodes: Vec<u32>,
    /// Nodes that were better than the worst of the beam when they were scored.
    good: Vec<(f32, u32)>,
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
            let codes = Codes::default();
            return Ok(Self { vectors, codes, graph: None, node_of: Vec::new(), rows, exact_below });
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
        let codes = Codes::of(&vectors);
        Ok(Self { vectors, codes, graph: Some(graph), node_of, rows, exact_below })
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

    /// What it holds in memory: vectors, their codes and the graph.
    pub fn memory_bytes(&self) -> usize {
        let graph = self.graph.iter().flat_map(FrozenGraph::arrays).map(|(_, numbers)| size_of_val(numbers));
        self.vectors.memory_bytes() + self.codes.memory_bytes() + size_of_val(&self.node_of[..]) + graph.sum::<usize>()
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

    /// Fills `out` with the scores of many rows, each as [`Self::dot`] has it, or NaN when there is no such row. Panics when
    /// `query` has other than `dims` numbers.
    pub fn dots(&self, rows: &[u32], query: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
        assert_eq!(query.len(), self.dims(), "a query is as wide as the rows");
        if self.is_empty() {
            return out.fill(f32::NAN);
        }
        let Scratch { query: padded, nodes, scores, .. } = scratch;
        pad_query(query, padded);
        // Another row stands in for one that does not exist.
        let known = rows.iter().map(|&row| if (row as usize) < self.rows { row } else { 0 });
        nodes.clear();
        match &self.graph {
            Some(_) => nodes.extend(known.map(|row| self.node_of[row as usize])),
            None => nodes.extend(known),
        }
        self.vectors.scattered_dots(nodes, padded, scores);
        for ((to, &score), &row) in out.iter_mut().zip(scores.iter()).zip(rows) {
            *to = if (row as usize) < self.rows { score } else { f32::NAN };
        }
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
                    self.walk(graph, k.min(self.rows), ef.min(self.rows), &accept, scratch);
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

    fn walk(&self, graph: &FrozenGraph, k: usize, ef: usize, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        code_query(&scratch.query[..self.dims()], &mut scratch.coded);
        self.estimate_walk(graph, ef, accept, scratch);
        self.score_beam(graph, k, accept, scratch);
    }

    /// As [`Self::search`] when it walks, in plain code whatever the processor and through no filter.
    #[cfg(test)]
    pub(super) fn walk_portable(&self, query: &[f32], k: usize, ef: usize, scratch: &mut Scratch, out: &mut Vec<Hit>) {
        let graph = self.graph.as_ref().expect("an index that walks");
        assert!(begin(self, query, k, scratch, out));
        code_query(&scratch.query[..self.dims()], &mut scratch.coded);
        self.estimate_walk_inline(graph, ef, &|_| true, scratch);
        self.score_beam(graph, k, &|_| true, scratch);
        finish(k, scratch, out);
    }

    /// What was kept by its estimate is scored once more, exactly.
    fn score_beam(&self, graph: &FrozenGraph, k: usize, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        let Scratch { query, beam, best, nodes, scores, .. } = scratch;
        nodes.clear();
        nodes.extend(beam.iter().map(|(_, node)| node));
        self.vectors.scattered_dots(nodes, query, scores);
        for (&node, &score) in nodes.iter().zip(scores.iter()) {
            match graph.rows_of(node) {
                &[row] => keep(best, k, score, &[row], &|_| true),
                rows => keep(best, k, score, rows, accept),
            }
        }
    }

    /// Leaves in the beam the `ef` nodes of largest estimate, with a row that is accepted.
    fn estimate_walk(&self, graph: &FrozenGraph, ef: usize, accept: &impl Fn(u32) -> bool, scratch: &mut Scratch) {
        #[cfg(target_arch = "x86_64")]
        {
            /// The walk with these features, if the processor has them.
            macro_rules! with {
                ($features:tt) => {{
                    #[target_feature(enable = $features)]
                    fn walk(
                        index: &Index,
                        graph: &FrozenGraph,
                        ef: usize,
                        accept: &impl Fn(u32) -> bool,
                        scratch: &mut Scratch,
                    ) {
                        index.estimate_walk_inline(graph, ef, accept, scratch);
                    }
                    if is_x86_feature_detected!($features) {
                        // SAFETY: the features were just detected.
                        return unsafe { walk(self, graph, ef, accept, scratch) };
                    }
                }};
            }
            with!("avx512bw");
            with!("avx2");
        }
        self.estimate_walk_inline(graph, ef, accept, scratch);
    }

    #[inline(always)]
    fn estimate_walk_inline(
        &self,
        graph: &FrozenGraph,
        ef: usize,
        accept: &impl Fn(u32) -> bool,
        scratch: &mut Scratch,
    ) {
        let epoch = next_epoch(&mut scratch.visited, &mut scratch.epoch, graph.nodes());
        let Scratch { coded, visited, beam, rejected, nodes, good, evaluations, .. } = scratch;
        let (codes, coded) = (&self.codes, &coded[..]);
        beam.clear(ef);
        let start = self.descend(graph, coded, evaluations);
        visited[start.1 as usize] = epoch;
        offer(graph, accept, beam, rejected, start);
        let mut worst = beam.worst();
        loop {
            let node = match (beam.best_open(), rejected.peek()) {
                (Some((score, node)), other) if other.is_none_or(|&other| score >= score_of(other)) => {
                    beam.close();
                    node
                }
                (_, Some(&other)) if score_of(other) >= worst => {
                    rejected.pop();
                    node_of(other)
                }
                _ => break,
            };
            let links = neighbours(graph, &graph.link_offsets, node);
            nodes.resize(links.len().max(nodes.len()), 0);
            let mut fresh = 0;
            for &link in links {
                let mark = &mut visited[link as usize];
                nodes[fresh] = link;
                // No branch: which links are new cannot be foreseen.
                fresh += usize::from(*mark != epoch);
                *mark = epoch;
            }
            let fresh = &nodes[..fresh];
            fresh.iter().for_each(|&node| codes.prefetch(node));
            if let Some((_, next)) = beam.best_open() {
                prefetch_lines(neighbours(graph, &graph.link_offsets, next));
            }
            *evaluations += fresh.len();
            // What the offers below read of the graph is fetched for all of them at once.
            good.resize(fresh.len().max(good.len()), (0.0, 0));
            let mut better = 0;
            for &node in fresh {
                let score = codes.estimate(node, coded);
                good[better] = (score, node);
                better += usize::from(score > worst);
            }
            let good = &good[..better];
            good.iter().for_each(|&(_, node)| graph.prefetch(node));
            for &(score, node) in good {
                if score > worst {
                    offer(graph, accept, beam, rejected, (score, node));
                    worst = beam.worst();
                }
            }
        }
    }

    /// The node of level 0 at which a greedy walk down the levels arrives, with its estimate.
    #[inline(always)]
    fn descend(&self, graph: &FrozenGraph, coded: &[i16], evaluations: &mut usize) -> (f32, u32) {
        let mut best = (self.codes.estimate(0, coded), 0);
        let mut first_offset = graph.link_offsets.len();
        for &size in graph.level_sizes[1..].iter().rev() {
            first_offset -= size as usize + 1;
            let offsets = &graph.link_offsets[first_offset..];
            loop {
                let before = best.1;
                let links = neighbours(graph, offsets, before);
                for &node in links {
                    self.codes.prefetch(node);
                }
                *evaluations += links.len();
                for &node in links {
                    let score = self.codes.estimate(node, coded);
                    if score > best.0 {
                        best = (score, node);
                    }
                }
                if best.1 == before {
                    break;
                }
            }
        }
        best
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
}

/// To the beam if a row of the node is accepted.
#[inline(always)]
fn offer(
    graph: &FrozenGraph,
    accept: &impl Fn(u32) -> bool,
    beam: &mut Beam,
    rejected: &mut BinaryHeap<u64>,
    (score, node): (f32, u32),
) {
    for &row in graph.rows_of(node) {
        if accept(row) {
            return beam.offer(score, node, true);
        }
    }
    rejected.push(entry(score, node, true));
}

/// False when there is nothing to look for.
fn begin(index: &Index, query: &[f32], k: usize, scratch: &mut Scratch, out: &mut Vec<Hit>) -> bool {
    out.clear();
    scratch.rejected.clear();
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

#[inline(always)]
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
