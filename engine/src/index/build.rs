//! From vectors to a frozen graph: slow, in the pipeline, never while serving.
//!
//! The graph grows by Euclidean distance over points `v / |v|^2`: long vectors lie near the origin,
//! each in its direction, short ones far out, so that the links lead towards large inner products (Zhou et al.,
//! NeurIPS 2019, "Moebius transformation for fast inner product search on graph"). Unit vectors stay
//! as they are. The better known reduction by one more number, `sqrt(M^2 - |v|^2)` (Bachrach et al., RecSys 2014),
//! piles short vectors up at one pole: on 20,000 clustered vectors with lognormal norms (sigma 1) its recall@100 at
//! ef 200 was 0.41 where this one has 0.99.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::draft::Draft;
use super::vectors::norm;
use super::{Error, FrozenGraph, Vectors, grow, reference};

/// Links a node has on each level (twice as many on level 0).
pub const DEFAULT_M: usize = 16;
/// Rows that the insertion of a row looks at.
pub const DEFAULT_EF_CONSTRUCTION: usize = 200;

/// From this many distinct vectors on our own builder grows the graph; below, hnsw_rs does.
pub(super) const OWN_FROM_NODES: usize = 4_096;
/// Inserted before other threads join: two first points inserted at once would never be linked.
const SERIAL_ROWS: usize = 256;
/// Inserted by a thread between two reports.
const BATCH_ROWS: usize = 64;
/// How much farther out than the longest vector the shortest may lie.
const RADIUS_MAX: f64 = 1000.0;

/// How to build. The same vectors and parameters give the same graph as long as `threads` is 1.
#[derive(Debug, Clone)]
pub struct BuildParams {
    /// 2 to 128.
    pub m: usize,
    /// 1 to 100,000.
    pub ef_construction: usize,
    /// 1 to 256. More than one is faster and gives another, equally good, graph each time.
    pub threads: usize,
    /// Of the order of insertion. (hnsw_rs draws the levels with a seed of its own, always the same.)
    pub seed: u64,
}

impl Default for BuildParams {
    fn default() -> Self {
        Self { m: DEFAULT_M, ef_construction: DEFAULT_EF_CONSTRUCTION, threads: 1, seed: 1 }
    }
}

impl BuildParams {
    fn check(&self) -> Result<(), Error> {
        let range = |name, value: usize, least, most| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::Params { name, reason: format!("{value} is not in {least} to {most}") })
        };
        range("m", self.m, 2, 128)?;
        range("ef_construction", self.ef_construction, 1, 100_000)?;
        range("threads", self.threads, 1, 256)
    }
}

/// Builds the graph over `vectors`. `progress` hears how many distinct vectors are in, now and then, up to all of
/// them. Memory while it runs: about 12 times the vectors.
pub fn build(vectors: &Vectors, params: &BuildParams, mut progress: impl FnMut(usize)) -> Result<FrozenGraph, Error> {
    params.check()?;
    let groups = equal_rows(vectors);
    let points = points(vectors, &groups);
    let draft = match points.len() {
        0 | 1 => Draft::bare(points.len()),
        2..OWN_FROM_NODES => reference::draft(&reference::grow(&points, params, &mut progress), points.len()),
        _ => grow::grow(&points, params, &mut progress),
    };
    let graph = draft.finish(&points, &groups, params.m, params.threads);
    progress(points.len());
    Ok(graph)
}

/// Rows grouped by equal vectors: groups in the order of their first rows, rows ascending.
pub(super) fn equal_rows(vectors: &Vectors) -> Vec<Vec<u32>> {
    let bits = |row: &u32| vectors.row(*row as usize).iter().map(|x| x.to_bits());
    let mut order: Vec<u32> = (0..vectors.len() as u32).collect();
    order.sort_by(|a, b| bits(a).cmp(bits(b))); // stable: rows ascend within a group
    let mut groups: Vec<Vec<u32>> = order.chunk_by(|a, b| bits(a).eq(bits(b))).map(<[u32]>::to_vec).collect();
    groups.sort_unstable_by_key(|rows| rows[0]);
    groups
}

/// One point a group: `v / |v|^2`, scaled so that the longest vector lies at radius 1. Directions stay; vectors
/// shorter than 1 / [`RADIUS_MAX`] of the longest keep that radius, and zero, which has no direction, lies
/// beyond all of them.
pub(super) fn points(vectors: &Vectors, groups: &[Vec<u32>]) -> Vectors {
    let rows = || groups.iter().map(|rows| vectors.row(rows[0] as usize));
    let longest = rows().map(norm).fold(0.0, f64::max);
    let mut numbers = Vec::with_capacity(groups.len() * vectors.dims());
    for row in rows() {
        let norm = norm(row);
        if norm > 0.0 {
            let scale = (longest / norm).min(RADIUS_MAX) / norm;
            numbers.extend(row.iter().map(|&x| (f64::from(x) * scale) as f32));
        } else {
            numbers.push(2.0 * RADIUS_MAX as f32);
            numbers.resize(numbers.len() + vectors.dims() - 1, 0.0);
        }
    }
    Vectors::from_rows(&numbers, vectors.dims())
        .expect("numbers of at most 2 * RADIUS_MAX, in as many rows as there are groups")
}

/// Inserts all of `order`, on `threads` threads of which each makes itself a `state`.
pub(super) fn insert_all<S>(
    order: &[u32],
    threads: usize,
    state: impl Fn() -> S + Sync,
    insert: impl Fn(&mut S, u32) + Sync,
    progress: &mut impl FnMut(usize),
) {
    let serial = if threads == 1 { order.len() } else { SERIAL_ROWS.min(order.len()) };
    let (first, rest) = order.split_at(serial);
    let mut own = state();
    for (batch, nodes) in first.chunks(BATCH_ROWS).enumerate() {
        nodes.iter().for_each(|&node| insert(&mut own, node));
        progress(batch * BATCH_ROWS + nodes.len());
    }
    drop(own);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (done, reports) = mpsc::channel();
        for _ in 0..threads.min(rest.len().div_ceil(BATCH_ROWS)) {
            let done = done.clone();
            let (next, state, insert) = (&next, &state, &insert);
            scope.spawn(move || {
                let mut own = state();
                loop {
                    let at = next.fetch_add(BATCH_ROWS, Ordering::Relaxed);
                    let Some(nodes) = rest.get(at..(at + BATCH_ROWS).min(rest.len())).filter(|nodes| !nodes.is_empty())
                    else {
                        break;
                    };
                    nodes.iter().for_each(|&node| insert(&mut own, node));
                    // The receiver outlives the threads.
                    let _ = done.send(nodes.len());
                }
            });
        }
        drop(done);
        let mut inserted = serial;
        for nodes in reports {
            inserted += nodes;
            progress(inserted);
        }
    });
}

/// Fisher-Yates: rows often come sorted, and a graph grown cluster by cluster is worse.
pub(super) fn shuffled(nodes: usize, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..nodes as u32).collect();
    let mut state = seed;
    for i in (1..nodes).rev() {
        order.swap(i, (random(&mut state) % (i as u64 + 1)) as usize);
    }
    order
}

/// SplitMix64.
pub(super) fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
