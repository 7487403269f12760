//! A graph grown by hnsw_rs: slow, the same every time on one thread, and what our own builder is measured by.

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use super::build::{BuildParams, insert_all, shuffled};
use super::draft::Draft;
use super::graph::LEVELS_MAX;
use super::vectors::{Vectors, distance_squared};

/// Squared Euclidean distance: never negative (which hnsw_rs asserts), exact for near twins, no square root.
pub(super) struct Squared;

impl Distance<f32> for Squared {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        distance_squared(a, b)
    }
}

pub(super) type Grown = Hnsw<'static, f32, Squared>;

pub(super) fn grow(points: &Vectors, params: &BuildParams, progress: &mut impl FnMut(usize)) -> Grown {
    let mut hnsw = Hnsw::new(params.m, points.len(), LEVELS_MAX, params.ef_construction, Squared);
    // Without it, vectors of very different lengths end with five links each.
    hnsw.set_keeping_pruned(true);
    let order = shuffled(points.len(), params.seed);
    let insert = |(): &mut (), node: u32| hnsw.insert((points.line_row(node as usize), node as usize));
    insert_all(&order, params.threads, || (), insert, progress);
    hnsw
}

/// The links of `hnsw`, which holds `nodes` points.
pub(super) fn draft(hnsw: &Grown, nodes: usize) -> Draft {
    let mut top = vec![0; nodes];
    let points: Vec<_> = hnsw.get_point_indexation().into_iter().collect();
    for point in &points {
        top[point.get_origin_id()] = usize::from(point.get_point_id().0);
    }
    let highest = top.iter().copied().max().unwrap_or(0);
    let mut levels = vec![vec![Vec::new(); nodes]; highest + 1];
    for point in &points {
        let node = point.get_origin_id();
        for (level, neighbours) in point.get_neighborhood_id().iter().enumerate() {
            // hnsw_rs also keeps links to and from nodes that do not reach the level.
            if level > top[node] {
                break;
            }
            levels[level][node] = neighbours
                .iter()
                .map(|neighbour| neighbour.d_id)
                .filter(|&other| other != node && top[other] >= level)
                .map(|other| other as u32)
                .collect();
        }
    }
    let entry = top.iter().position(|&level| level == highest).unwrap_or(0) as u32;
    Draft { top, entry, levels }
}
