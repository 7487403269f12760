//! A grown graph on its way to being frozen: links chosen anew, everything connected, nodes numbered.
//!
//! Of the links into a node builders keep the nearest only: so each list is chosen anew among the links in both
//! directions (at ef 300 recall on lognormal norms rose from 0.975 to 0.994). And level 0 is made strongly
//! connected: no walk can lose a node.

use std::sync::Mutex;

use super::FrozenGraph;
use super::vectors::{Vectors, distance_squared, distance_squared_inline};

/// Nodes whose links a thread chooses at a time.
const BATCH_NODES: usize = 1024;

/// A graph under construction; nodes are numbered by their first rows.
pub(super) struct Draft {
    /// The highest level of each node.
    pub(super) top: Vec<usize>,
    pub(super) entry: u32,
    /// On each level, the links of every node (none where the node does not reach).
    pub(super) levels: Vec<Vec<Vec<u32>>>,
}

impl Draft {
    /// Without a link.
    pub(super) fn bare(nodes: usize) -> Self {
        Self { top: vec![0; nodes], entry: 0, levels: vec![vec![Vec::new(); nodes]] }
    }

    /// The finished graph over `points`, which stand for `groups` of rows. The same on any number of threads.
    pub(super) fn finish(mut self, points: &Vectors, groups: &[Vec<u32>], m: usize, threads: usize) -> FrozenGraph {
        self.diversify(points, m, threads);
        connect(&mut self.levels[0], self.entry, points);
        self.freeze(groups)
    }

    /// Chooses the links of every node anew among those it has and those that lead to it.
    fn diversify(&mut self, points: &Vectors, m: usize, threads: usize) {
        for (level, links) in self.levels.iter_mut().enumerate() {
            let limit = if level == 0 { 2 * m } else { m };
            let mut both = transposed(links);
            for (candidates, own) in both.iter_mut().zip(links.iter()) {
                candidates.extend_from_slice(own);
                candidates.sort_unstable();
                candidates.dedup();
            }
            let batches = links.chunks_mut(BATCH_NODES).zip(both.chunks(BATCH_NODES)).enumerate();
            let batches = Mutex::new(batches);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        loop {
                            let taken = batches.lock().expect("taking a batch cannot panic").next();
                            let Some((batch, (links, both))) = taken else { break };
                            for (at, (links, candidates)) in links.iter_mut().zip(both).enumerate() {
                                let node = (batch * BATCH_NODES + at) as u32;
                                *links = chosen(points, node, candidates, limit);
                            }
                        }
                    });
                }
            });
        }
    }

    /// Numbers the nodes as [`FrozenGraph`] says and lays everything out flat.
    fn freeze(self, groups: &[Vec<u32>]) -> FrozenGraph {
        let mut order = breadth_first(&self.levels[0], self.entry);
        order.sort_by_key(|&node| std::cmp::Reverse(self.top[node as usize])); // stable
        let mut number = vec![0; order.len()];
        for (to, &node) in order.iter().enumerate() {
            number[node as usize] = to as u32;
        }
        let mut graph = FrozenGraph {
            level_sizes: Vec::new(),
            link_offsets: Vec::new(),
            links: Vec::new(),
            row_offsets: vec![0],
            rows: Vec::new(),
        };
        for (level, links) in self.levels.iter().enumerate() {
            let size = order.iter().take_while(|&&node| self.top[node as usize] >= level).count();
            graph.level_sizes.push(size as u32);
            graph.link_offsets.push(graph.links.len() as u32);
            for &node in &order[..size] {
                graph.links.extend(links[node as usize].iter().map(|&other| number[other as usize]));
                graph.link_offsets.push(graph.links.len() as u32);
            }
        }
        for &node in &order {
            graph.rows.extend_from_slice(&groups[node as usize]);
            graph.row_offsets.push(graph.rows.len() as u32);
        }
        graph
    }
}

fn transposed(links: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut incoming = vec![Vec::new(); links.len()];
    for (node, others) in links.iter().enumerate() {
        for &other in others {
            incoming[other as usize].push(node as u32);
        }
    }
    incoming
}

/// The well spread ones of `candidates`, and then the nearest of the others, up to `limit`.
fn chosen(points: &Vectors, node: u32, candidates: &[u32], limit: usize) -> Vec<u32> {
    let query = points.line_row(node as usize);
    let away = |other: u32| distance_squared(points.line_row(other as usize), query);
    let mut nearest: Vec<(f32, u32)> = candidates.iter().map(|&other| (away(other), other)).collect();
    nearest.sort_unstable_by(nearer);
    spread_out(points, &mut nearest, limit, true);
    nearest.into_iter().map(|(_, other)| other).collect()
}

/// Nearest first, at the same distance the lower node.
pub(super) fn nearer(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))
}

/// Thins candidates at their distances, nearest first, out to at most `limit`: one is taken unless one already taken is
/// nearer to it than it is to the node (Malkov and Yashunin, algorithm 4). With `fill`, those passed over take what room
/// is left.
pub(super) fn spread_out(points: &Vectors, nearest: &mut Vec<(f32, u32)>, limit: usize, fill: bool) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(points: &Vectors, nearest: &mut Vec<(f32, u32)>, limit: usize, fill: bool) {
            spread_out_inline(points, nearest, limit, fill);
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { avx2(points, nearest, limit, fill) };
        }
    }
    spread_out_inline(points, nearest, limit, fill);
}

#[inline(always)]
pub(super) fn spread_out_inline(points: &Vectors, nearest: &mut Vec<(f32, u32)>, limit: usize, fill: bool) {
    let (mut taken, mut passed) = (Vec::with_capacity(limit), Vec::new());
    for &(away, other) in nearest.iter() {
        if taken.len() == limit {
            break;
        }
        let row = points.line_row(other as usize);
        // Not an iterator's `any`: the compiler may leave its closure outside the function that has AVX2.
        let mut spread = true;
        for &(_, chosen) in &taken {
            if distance_squared_inline(points.line_row(chosen as usize), row) < away {
                spread = false;
                break;
            }
        }
        if !spread {
            passed.push((away, other));
        } else {
            taken.push((away, other));
        }
    }
    let room = limit - taken.len();
    nearest.clear();
    nearest.append(&mut taken);
    if fill {
        nearest.extend(passed.into_iter().take(room));
    }
}

/// Makes every node reachable from the entry, and the entry from every node, with as few new links as it
/// finds: an unreachable node gets a link from the nearest reachable node it already points to, else from
/// the nearest of all.
fn connect(links: &mut [Vec<u32>], entry: u32, points: &Vectors) {
    if links.is_empty() {
        return;
    }
    reach_all(links, entry, points);
    let mut incoming = transposed(links);
    reach_all(&mut incoming, entry, points);
    let outgoing = transposed(&incoming);
    // Transposing sorts the lists; keep the nearest-first order of those that were there.
    for (old, mut new) in links.iter_mut().zip(outgoing) {
        new.retain(|other| !old.contains(other));
        old.extend(new);
    }
}

fn reach_all(links: &mut [Vec<u32>], entry: u32, points: &Vectors) {
    let mut reached = vec![false; links.len()];
    spread(links, entry, &mut reached);
    let distance = |a: u32, b: u32| distance_squared(points.line_row(a as usize), points.line_row(b as usize));
    let nearest = |node: u32, others: &mut dyn Iterator<Item = u32>| {
        others.min_by(|&a, &b| distance(node, a).total_cmp(&distance(node, b)))
    };
    loop {
        let mut progress = false;
        let mut left = None;
        for node in 0..links.len() as u32 {
            if reached[node as usize] {
                continue;
            }
            let own = &links[node as usize];
            match nearest(node, &mut own.iter().copied().filter(|&other| reached[other as usize])) {
                Some(from) => {
                    links[from as usize].push(node);
                    spread(links, node, &mut reached);
                    progress = true;
                }
                None => left = left.or(Some(node)),
            }
        }
        let Some(node) = left else { return };
        if !progress && !reached[node as usize] {
            let all = 0..links.len() as u32;
            let from = nearest(node, &mut all.filter(|&other| reached[other as usize])).expect("the entry is reached");
            links[from as usize].push(node);
            spread(links, node, &mut reached);
        }
    }
}

fn spread(links: &[Vec<u32>], from: u32, reached: &mut [bool]) {
    let mut open = vec![from];
    reached[from as usize] = true;
    while let Some(node) = open.pop() {
        for &other in &links[node as usize] {
            if !std::mem::replace(&mut reached[other as usize], true) {
                open.push(other);
            }
        }
    }
}

fn breadth_first(links: &[Vec<u32>], entry: u32) -> Vec<u32> {
    let mut seen = vec![false; links.len()];
    let mut order: Vec<u32> = (entry..links.len() as u32).take(1).collect();
    seen.iter_mut().skip(entry as usize).take(1).for_each(|first| *first = true);
    let mut at = 0;
    while let Some(&node) = order.get(at) {
        at += 1;
        for &other in &links[node as usize] {
            if !std::mem::replace(&mut seen[other as usize], true) {
                order.push(other);
            }
        }
    }
    order
}
