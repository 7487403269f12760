//! How much of the exact answer does the walk find, and what does it cost?
//!
//! At full size (minutes; prints a table): `make bench-recall`, which sets MARQUEE_FULL_SIZE.

use std::time::Instant;

use hnsw_rs::hnsw::Neighbour;

use super::super::build::{equal_rows, points};
use super::super::*;
use super::super::{grow, reference};
use super::Random;

const DIMS: usize = 64;
const K: usize = 100;
const RECALL_MIN: f64 = 0.98;

/// One data set: clusters of 200 rows whose noise is as long as the centre, and queries of the same kind.
struct Case {
    name: &'static str,
    rows: usize,
    queries: usize,
    /// Of the lognormal norms; 0 for unit vectors.
    sigma: f32,
    threads: usize,
}

#[test]
fn the_walk_finds_98_percent_of_the_exact_answer() {
    check(&Case { name: "small", rows: 4_000, queries: 50, sigma: 0.0, threads: 1 });
}

#[test]
fn the_walk_finds_98_percent_when_few_vectors_are_long() {
    check(&Case { name: "small skewed", rows: 4_000, queries: 50, sigma: 1.0, threads: 1 });
}

#[test]
fn so_it_does_when_two_threads_build() {
    check(&Case { name: "clustered", rows: sized(100_000, 5_000), queries: sized(500, 50), sigma: 0.0, threads: 2 });
}

#[test]
fn so_it_does_on_skewed_norms_when_two_threads_build() {
    check(&Case { name: "skewed", rows: sized(30_000, 5_000), queries: sized(500, 50), sigma: 0.7, threads: 2 });
}

fn sized(full: usize, small: usize) -> usize {
    if std::env::var_os("MARQUEE_FULL_SIZE").is_some() { full } else { small }
}

#[track_caller]
fn check(case: &Case) {
    let (vectors, queries) = generate(case);
    let params = BuildParams { threads: case.threads, ..BuildParams::default() };
    let groups = equal_rows(&vectors);
    let points = points(&vectors, &groups);
    let start = Instant::now();
    let draft = grow::grow(&points, &params, &mut |_| ());
    let grow_s = start.elapsed().as_secs_f64();
    let graph = draft.finish(&points, &groups, params.m, params.threads);
    let total_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let reference = reference::grow(&points, &params, &mut |_| ());
    let their_s = start.elapsed().as_secs_f64();
    println!(
        "{}: {} x {DIMS}, M {}, efC {}, {} threads: built in {total_s:.1} s ({grow_s:.1} before links are chosen anew; \
        hnsw_rs {their_s:.1}), {:.1} links a node",
        case.name,
        case.rows,
        params.m,
        params.ef_construction,
        params.threads,
        graph.links.len() as f64 / case.rows as f64,
    );
    let theirs = reference::draft(&reference, points.len()).finish(&points, &groups, params.m, params.threads);
    let theirs = Index::new(vectors.clone(), Some(theirs), 0).unwrap();
    let index = Index::new(vectors, Some(graph), 0).unwrap();
    let mut scratch = Scratch::new();
    let mut out = Vec::new();
    let (exact_us, exact) = timed(&queries, |query| {
        index.search_exact(query, K, case.rows, |_| true, &mut scratch, &mut out);
        rows(&out)
    });
    println!("{:>18} {exact_us:8.0} us", "exact scan");
    for ef in [100, 200, DEFAULT_EF_SEARCH, 500] {
        let mut evaluations = 0;
        let (us, found) = timed(&queries, |query| {
            index.search(query, K, ef, case.rows, |_| true, &mut scratch, &mut out);
            evaluations += scratch.evaluations();
            rows(&out)
        });
        let recall = recall(&exact, &found);
        println!(
            "{:>18} {us:8.0} us, recall@{K} {recall:.4}, {:.1} times faster than the scan, {} inner products",
            format!("walk, ef {ef}"),
            exact_us / us,
            evaluations / queries.len() / REPEATS,
        );
        let (_, over_theirs) = timed(&queries, |query| {
            theirs.search(query, K, ef, case.rows, |_| true, &mut scratch, &mut out);
            rows(&out)
        });
        let over_theirs = self::recall(&exact, &over_theirs);
        println!("{:>18}             recall@{K} {over_theirs:.4} over the graph of hnsw_rs", "");
        assert!(recall > over_theirs - 0.005, "{}: hnsw_rs builds a better graph: {over_theirs} at ef {ef}", case.name);
        // hnsw_rs knows no inner product: comparable on unit vectors only.
        if case.sigma == 0.0 {
            let (their_us, theirs) = timed(&queries, |query| {
                reference.search(query, K, ef).iter().map(|hit: &Neighbour| groups[hit.d_id][0]).collect()
            });
            let theirs = self::recall(&exact, &theirs);
            println!(
                "{:>18} {their_us:8.0} us, recall@{K} {theirs:.4}, the walk is {:.1} times faster",
                format!("hnsw_rs, ef {ef}"),
                their_us / us,
            );
            assert!(recall > theirs - 0.01, "{}: the walk lost what hnsw_rs finds", case.name);
        }
        assert!(ef < DEFAULT_EF_SEARCH || recall >= RECALL_MIN, "{}: recall {recall} at ef {ef}", case.name);
    }
    if case.rows >= 100_000 {
        filters(&index, &queries);
    }
}

/// Where does a scan become cheaper than a walk?
fn filters(index: &Index, queries: &[Vec<f32>]) {
    let mut scratch = Scratch::new();
    let mut out = Vec::new();
    for percent in [50, 20, 10, 5, 2] {
        // Row numbers say nothing about clusters, so this is an independent filter.
        let accept = |row: u32| (row.wrapping_mul(0x9e37_79b9) >> 8) % 100 < percent;
        let accepted = index.len() * percent as usize / 100;
        let (exact_us, exact) = timed(queries, |query| {
            index.search_exact(query, K, accepted, accept, &mut scratch, &mut out);
            rows(&out)
        });
        let (us, found) = timed(queries, |query| {
            index.search(query, K, DEFAULT_EF_SEARCH, accepted, accept, &mut scratch, &mut out);
            rows(&out)
        });
        println!(
            "  {percent:2}% accepted: scan {exact_us:6.0} us, walk {us:6.0} us, recall@{K} {:.4}",
            recall(&exact, &found)
        );
    }
}

fn generate(case: &Case) -> (Vectors, Vec<Vec<f32>>) {
    let mut random = Random(7);
    let centres: Vec<Vec<f32>> = (0..case.rows / 200).map(|_| random.normals(DIMS)).collect();
    let unit = |random: &mut Random| {
        let centre = &centres[random.below(centres.len())];
        let row: Vec<f32> = centre.iter().map(|x| x + random.normal()).collect();
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(|x| x / norm).collect::<Vec<f32>>()
    };
    let mut data = Vec::with_capacity(case.rows * DIMS);
    for _ in 0..case.rows {
        let row = unit(&mut random);
        let norm = (case.sigma * random.normal()).exp();
        data.extend(row.iter().map(|x| x * norm));
    }
    let queries = (0..case.queries).map(|_| unit(&mut random)).collect();
    (Vectors::from_rows(&data, DIMS).unwrap(), queries)
}

const REPEATS: usize = 2;

/// Microseconds a query (the better of two rounds), and the rows found for each query.
fn timed(queries: &[Vec<f32>], mut search: impl FnMut(&[f32]) -> Vec<u32>) -> (f64, Vec<Vec<u32>>) {
    let mut best_us = f64::INFINITY;
    let mut found = Vec::new();
    for _ in 0..REPEATS {
        let start = Instant::now();
        found = queries.iter().map(|query| search(query)).collect();
        best_us = best_us.min(start.elapsed().as_secs_f64() * 1e6 / queries.len() as f64);
    }
    (best_us, found)
}

fn rows(hits: &[Hit]) -> Vec<u32> {
    hits.iter().map(|hit| hit.row).collect()
}

fn recall(exact: &[Vec<u32>], found: &[Vec<u32>]) -> f64 {
    let both = exact.iter().zip(found);
    let hits: usize = both.map(|(a, b)| a.iter().filter(|row| b.contains(row)).count()).sum();
    hits as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
}
