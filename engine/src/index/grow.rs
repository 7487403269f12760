//! Our own builder of HNSW graphs: algorithms 1, 2 and 4 of Malkov and Yashunin (2018), on several threads at once.
//!
//! The lists of links have a fixed room in flat arrays of atomic numbers. A walk reads them without a lock: whatever
//! it meets is the number of a node, at worst one of a moment ago. Who changes a list holds the lock of its node.

use std::sync::Mutex;
use std::sync::atomic::{
    AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};

use super::beam::Beam;
use super::build::{BuildParams, insert_all, random, shuffled};
use super::draft::{Draft, nearer, spread_out_inline};
use super::graph::LEVELS_MAX;
use super::vectors::{Vectors, distance_squared_inline};

/// Locks for all nodes: far more than threads, so that two rarely wait for one.
const LOCKS: usize = 4096;

/// Grows the graph over `points`, of which there is at least one. On one thread always the same.
pub(super) fn grow(points: &Vectors, params: &BuildParams, progress: &mut impl FnMut(usize)) -> Draft {
    let graph = Growing::new(points, params);
    let mut order = shuffled(points.len(), params.seed);
    // The entry is there from the first insertion on.
    let first = order.iter().position(|&node| node == graph.entry).unwrap_or(0);
    order.swap(0, first);
    insert_all(&order, params.threads, Walker::default, |walker, node| graph.insert(node, walker), progress);
    graph.draft()
}

/// As [`grow`] on one thread, in plain code whatever the processor.
#[cfg(test)]
pub(super) fn grow_portable(points: &Vectors, params: &BuildParams) -> Draft {
    let graph = Growing::new(points, params);
    let mut order = shuffled(points.len(), params.seed);
    let first = order.iter().position(|&node| node == graph.entry).unwrap_or(0);
    order.swap(0, first);
    insert_all(&order, 1, Walker::default, |walker, node| graph.insert_inline(node, walker), &mut |_| ());
    graph.draft()
}

struct Growing<'p> {
    points: &'p Vectors,
    params: &'p BuildParams,
    /// The highest level of each node.
    top: Vec<u8>,
    entry: u32,
    /// Level 0: the list of each node.
    ground: Lists,
    /// The levels above: the lists of a node, from level 1 on, lie together from `upper_first[node]` on.
    upper: Lists,
    upper_first: Vec<u32>,
    locks: Vec<Mutex<()>>,
}

/// What a thread needs while it inserts.
#[derive(Default)]
struct Walker {
    visited: Vec<u8>,
    epoch: u8,
    beam: Beam,
    nodes: Vec<u32>,
    nearest: Vec<(f32, u32)>,
}

impl<'p> Growing<'p> {
    fn new(points: &'p Vectors, params: &'p BuildParams) -> Self {
        let nodes = points.len();
        // Of its own seed: the order of insertion must not say who is on top.
        let mut state = !params.seed;
        let mut top = vec![0_u8; nodes];
        for level in &mut top {
            while usize::from(*level) < LEVELS_MAX - 1 && random(&mut state).is_multiple_of(params.m as u64) {
                *level += 1;
            }
        }
        let (mut lists, mut upper_first) = (0, Vec::with_capacity(nodes));
        for &level in &top {
            upper_first.push(lists);
            lists += u32::from(level);
        }
        let highest = top.iter().copied().max().unwrap_or(0);
        Self {
            points,
            params,
            entry: top.iter().position(|&level| level == highest).unwrap_or(0) as u32,
            top,
            ground: Lists::new(nodes, 2 * params.m),
            upper: Lists::new(lists as usize, params.m),
            upper_first,
            locks: (0..LOCKS.min(nodes)).map(|_| Mutex::new(())).collect(),
        }
    }

    /// Links `node` to what is there.
    fn insert(&self, node: u32, walker: &mut Walker) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2(graph: &Growing<'_>, node: u32, walker: &mut Walker) {
                graph.insert_inline(node, walker);
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature was just detected.
                return unsafe { avx2(self, node, walker) };
            }
        }
        self.insert_inline(node, walker);
    }

    #[inline(always)]
    fn insert_inline(&self, node: u32, walker: &mut Walker) {
        if node == self.entry {
            return;
        }
        let top = usize::from(self.top[node as usize]);
        let query = self.points.line_row(node as usize);
        let mut start = (self.distance(self.entry, query), self.entry);
        for level in (1..=usize::from(self.top[self.entry as usize])).rev() {
            if level > top {
                start = self.descend(query, start, level, walker);
            }
        }
        for level in (0..=top).rev() {
            self.walk(query, start, level, walker);
            let mut nearest = std::mem::take(&mut walker.nearest);
            nearest.clear();
            nearest
                .extend(walker.beam.iter().map(|(score, other)| (-score, other)).filter(|&(_, other)| other != node));
            start = nearest.first().copied().unwrap_or(start);
            spread_out_inline(self.points, &mut nearest, self.params.m, true);
            for &(away, other) in &nearest {
                self.link(node, other, away, level);
                self.link(other, node, away, level);
            }
            walker.nearest = nearest;
        }
    }

    /// The nearest to `query` of what a greedy walk on `level` meets.
    #[inline(always)]
    fn descend(&self, query: &[f32], start: (f32, u32), level: usize, walker: &mut Walker) -> (f32, u32) {
        let mut nearest = start;
        loop {
            walker.nodes.clear();
            walker.nodes.extend(self.links(nearest.1, level));
            let before = nearest.1;
            for &other in &walker.nodes {
                let away = self.distance(other, query);
                if away < nearest.0 {
                    nearest = (away, other);
                }
            }
            if nearest.1 == before {
                return nearest;
            }
        }
    }

    /// Leaves in the beam the nodes of `level` that are nearest to `query`.
    #[inline(always)]
    fn walk(&self, query: &[f32], start: (f32, u32), level: usize, walker: &mut Walker) {
        let Walker { visited, epoch, beam, nodes, .. } = walker;
        visited.resize(self.points.len(), 0);
        *epoch = epoch.wrapping_add(1);
        if *epoch == 0 {
            visited.fill(0);
            *epoch = 1;
        }
        beam.clear(self.params.ef_construction);
        beam.offer(-start.0, start.1, true);
        visited[start.1 as usize] = *epoch;
        while let Some((_, node)) = beam.best_open() {
            beam.close();
            nodes.clear();
            for other in self.links(node, level) {
                let mark = &mut visited[other as usize];
                if *mark != *epoch {
                    *mark = *epoch;
                    nodes.push(other);
                    self.points.prefetch(other as usize);
                }
            }
            let mut worst = beam.worst();
            for &other in nodes.iter() {
                let away = self.distance(other, query);
                if -away > worst {
                    beam.offer(-away, other, true);
                    worst = beam.worst();
                }
            }
        }
    }

    /// Adds `other` to the links of `node`; when the list is full, the better spread ones stay.
    #[inline(always)]
    fn link(&self, node: u32, other: u32, away: f32, level: usize) {
        let lock = &self.locks[node as usize % self.locks.len()];
        let _held = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (lists, list) = self.list(node, level);
        if lists.ids(list).any(|known| known == other) || lists.push(list, other, away) {
            return;
        }
        let mut all: Vec<(f32, u32)> = lists.entries(list).chain([(away, other)]).collect();
        all.sort_unstable_by(nearer);
        spread_out_inline(self.points, &mut all, lists.kept, true);
        lists.set(list, &all);
    }

    #[inline(always)]
    fn list(&self, node: u32, level: usize) -> (&Lists, usize) {
        match level {
            0 => (&self.ground, node as usize),
            _ => (&self.upper, self.upper_first[node as usize] as usize + level - 1),
        }
    }

    #[inline(always)]
    fn links(&self, node: u32, level: usize) -> impl Iterator<Item = u32> {
        let (lists, list) = self.list(node, level);
        lists.ids(list)
    }

    #[inline(always)]
    fn distance(&self, node: u32, query: &[f32]) -> f32 {
        distance_squared_inline(self.points.line_row(node as usize), query)
    }

    fn draft(self) -> Draft {
        let top: Vec<usize> = self.top.iter().map(|&level| usize::from(level)).collect();
        let highest = top[self.entry as usize];
        let links = |level: usize| {
            let of = |node: u32| {
                let reaches = top[node as usize] >= level;
                if reaches { self.links(node, level).collect() } else { Vec::new() }
            };
            (0..top.len() as u32).map(of).collect()
        };
        let levels = (0..=highest).map(links).collect();
        Draft { entry: self.entry, levels, top }
    }
}

/// Lists of links, each with the same room: nodes, and how far away they are.
struct Lists {
    /// For each list its length, then its nodes.
    ids: Vec<AtomicU32>,
    /// The bits of the distances. Read by who holds the lock only.
    aways: Vec<AtomicU32>,
    room: usize,
    /// How many stay when a list is full: less than the room, so that this is not so at every new link.
    kept: usize,
}

impl Lists {
    fn new(lists: usize, kept: usize) -> Self {
        let room = kept + kept / 2;
        let zeros = |count| std::iter::repeat_with(|| AtomicU32::new(0)).take(count).collect();
        Self { ids: zeros(lists * (room + 1)), aways: zeros(lists * room), room, kept }
    }

    #[inline(always)]
    fn slots(&self, list: usize) -> (&AtomicU32, &[AtomicU32]) {
        let slots = &self.ids[list * (self.room + 1)..(list + 1) * (self.room + 1)];
        (&slots[0], &slots[1..])
    }

    #[inline(always)]
    fn ids(&self, list: usize) -> impl Iterator<Item = u32> {
        let (len, slots) = self.slots(list);
        // Release and acquire: slots below the length have been written.
        slots[..len.load(Acquire) as usize].iter().map(|id| id.load(Relaxed))
    }

    #[inline(always)]
    fn entries(&self, list: usize) -> impl Iterator<Item = (f32, u32)> {
        let aways = &self.aways[list * self.room..];
        aways.iter().map(|bits| f32::from_bits(bits.load(Relaxed))).zip(self.ids(list))
    }

    /// False when there is no room.
    #[inline(always)]
    fn push(&self, list: usize, id: u32, away: f32) -> bool {
        let (len, slots) = self.slots(list);
        let at = len.load(Relaxed) as usize;
        let Some(slot) = slots.get(at) else { return false };
        slot.store(id, Relaxed);
        self.aways[list * self.room + at].store(away.to_bits(), Relaxed);
        len.store(at as u32 + 1, Release);
        true
    }

    fn set(&self, list: usize, entries: &[(f32, u32)]) {
        let (len, slots) = self.slots(list);
        for (at, (&(away, id), slot)) in entries.iter().zip(slots).enumerate() {
            slot.store(id, Relaxed);
            self.aways[list * self.room + at].store(away.to_bits(), Relaxed);
        }
        len.store(entries.len() as u32, Release);
    }
}
