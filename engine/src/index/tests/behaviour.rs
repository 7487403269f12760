//! What every search promises, on small sets.

use proptest::prelude::*;

use super::super::build::{OWN_FROM_NODES, equal_rows, points};
use super::super::codes::{Codes, code_query};
use super::super::draft::Draft;
use super::super::grow;
use super::super::*;
use super::Random;

const PARAMS: BuildParams = BuildParams { m: 4, ef_construction: 20, threads: 1, seed: 3 };

fn vectors(data: &[f32], dims: usize) -> Vectors {
    Vectors::from_rows(data, dims).unwrap()
}

/// An index that always walks.
fn walking(vectors: &Vectors) -> Index {
    let graph = build(vectors, &PARAMS, |_| ()).unwrap();
    Index::new(vectors.clone(), Some(graph), 0).unwrap()
}

fn search(index: &Index, query: &[f32], k: usize, ef: usize, accept: impl Fn(u32) -> bool) -> Vec<Hit> {
    let mut out = Vec::new();
    index.search(query, k, ef, index.len(), accept, &mut Scratch::new(), &mut out);
    out
}

/// The definition: score all, sort, cut.
fn naive(vectors: &Vectors, query: &[f32], k: usize, accept: impl Fn(u32) -> bool) -> Vec<Hit> {
    let mut hits: Vec<Hit> = (0..vectors.len() as u32)
        .filter(|&row| accept(row))
        .map(|row| Hit { row, score: vectors.dot(row as usize, query) })
        .collect();
    hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.row.cmp(&b.row)));
    hits.truncate(k);
    hits
}

/// Scan, walk and scan without a graph all give the naive answer, to the bit, when `ef` covers every row.
#[track_caller]
fn check(data: &[f32], dims: usize, query: &[f32], k: usize, accept: impl Fn(u32) -> bool) {
    let vectors = vectors(data, dims);
    let expected = naive(&vectors, query, k, &accept);
    let walking = walking(&vectors);
    assert_eq!(search(&walking, query, k, vectors.len(), &accept), expected, "walk");
    let mut out = Vec::new();
    for hint in [0, vectors.len()] {
        walking.search_exact(query, k, hint, &accept, &mut Scratch::new(), &mut out);
        assert_eq!(out, expected, "scan in visiting order, hint {hint}");
    }
    for row in 0..vectors.len() {
        assert_eq!(walking.vector(row as u32), vectors.row(row));
    }
    let plain = Index::new(vectors, None, 0).unwrap();
    assert_eq!(search(&plain, query, k, 1, &accept), expected, "scan");
}

#[test]
fn many_rows_at_once_have_the_scores_of_each_alone_and_unknown_ones_none() {
    let (mut random, dims) = (Random(7), 19);
    let vectors = vectors(&random.normals(100 * dims), dims);
    let query = random.normals(dims);
    let rows: Vec<u32> = (0..130).rev().step_by(3).collect();
    for index in [walking(&vectors), Index::new(vectors.clone(), None, 0).unwrap()] {
        let mut scores = vec![0.0; rows.len()];
        index.dots(&rows, &query, &mut Scratch::new(), &mut scores);
        for (&row, score) in rows.iter().zip(scores) {
            let wanted = if row < 100 { index.dot(row, &query) } else { f32::NAN };
            assert_eq!(score.to_bits(), wanted.to_bits(), "row {row}");
        }
    }
}

#[test]
fn tiny_sets_are_searched_like_any_other() {
    check(&[], 2, &[1.0, 0.0], 3, |_| true);
    check(&[0.0, 0.0], 2, &[1.0, 0.0], 3, |_| true);
    check(&[1.0, 2.0, -3.0, 1.0], 2, &[1.0, 0.5], 3, |_| true);
    check(&[1.0, 2.0, -3.0, 1.0], 2, &[1.0, 0.5], 0, |_| true);
    check(&[1.0, 2.0, 0.0, 0.0, 5.0], 1, &[2.0], 100_000, |row| row != 0);
}

#[test]
fn rows_without_data_come_after_positive_and_before_negative_scores() {
    check(&[0.0, 1.0, 0.0, -1.0, 0.0, 2.0], 1, &[1.0], 6, |_| true);
    check(&[0.0; 300], 3, &[1.0, 0.0, 0.0], 5, |row| row > 50);
}

#[test]
fn equal_rows_are_one_node_and_all_are_found_lowest_first() {
    let data: Vec<f32> = (0..900).map(|i| [1.0, -0.0, 0.5][i % 3]).chain([3.0, 1.0, 1.0]).collect();
    assert_eq!(build(&vectors(&data, 3), &PARAMS, |_| ()).unwrap().nodes(), 2);
    check(&data, 3, &[1.0, 1.0, 0.0], 7, |_| true);
    check(&data, 3, &[1.0, 1.0, 0.0], 7, |row| row > 200);
}

/// The graph of our own builder, which `build` leaves to hnsw_rs for so few vectors.
fn own(vectors: &Vectors, params: &BuildParams) -> FrozenGraph {
    let groups = equal_rows(vectors);
    let points = points(vectors, &groups);
    grow::grow(&points, params, &mut |_| ()).finish(&points, &groups, params.m, params.threads)
}

#[test]
fn our_own_builder_makes_a_sound_graph_of_any_size() {
    for rows in [1, 2, 3, 7, 40, 900] {
        for threads in [1, 3] {
            let data: Vec<f32> = Random(rows).normals(3 * rows as usize).into_iter().chain([0.0; 30]).collect();
            let vectors = vectors(&data, 3);
            let graph = own(&vectors, &BuildParams { threads, ..PARAMS });
            let index = Index::new(vectors.clone(), Some(graph), 0).unwrap();
            let query = [1.0, -0.5, 0.25];
            let all = vectors.len();
            assert_eq!(search(&index, &query, all, all, |_| true), naive(&vectors, &query, all, |_| true));
        }
    }
}

#[test]
fn our_own_builder_is_the_same_every_time_on_one_thread_and_every_processor() {
    let vectors = vectors(&Random(2).normals(20 * 1_500), 20);
    let first = own(&vectors, &PARAMS);
    assert_eq!(first, own(&vectors, &PARAMS));
    let groups = equal_rows(&vectors);
    let points = points(&vectors, &groups);
    assert_eq!(first, grow::grow_portable(&points, &PARAMS).finish(&points, &groups, PARAMS.m, 3));
    assert_ne!(first, own(&vectors, &BuildParams { seed: 4, ..PARAMS }));
}

#[test]
fn small_sets_are_left_to_hnsw_rs() {
    let data = Random(2).normals(2 * OWN_FROM_NODES);
    let own = |data| own(&vectors(data, 2), &PARAMS);
    let built = |data| build(&vectors(data, 2), &PARAMS, |_| ()).unwrap();
    assert_eq!(built(&data), own(&data));
    let fewer = &data[2..];
    assert_ne!(built(fewer), own(fewer));
}

#[test]
fn islands_are_connected_in_both_directions() {
    let random = &mut Random(5);
    // Forty tight knots far apart: with so few links builders leave many of them alone.
    let centres: Vec<Vec<f32>> = (0..40).map(|_| random.normals(4)).collect();
    let data: Vec<f32> = (0..2_000)
        .flat_map(|row| centres[row / 50].iter().map(|x| x + 1e-4 * random.normal()).collect::<Vec<_>>())
        .collect();
    let vectors = vectors(&data, 4);
    let params = BuildParams { m: 2, ef_construction: 4, ..PARAMS };
    for graph in [build(&vectors, &params, |_| ()).unwrap(), own(&vectors, &params)] {
        let index = Index::new(vectors.clone(), Some(graph), 0).unwrap();
        for centre in &centres {
            assert_eq!(search(&index, centre, 2_000, 2_000, |_| true), naive(&vectors, centre, 2_000, |_| true));
        }
    }
}

#[test]
fn nothing_is_lost_when_every_link_is() {
    let vectors = vectors(&Random(1).normals(300), 3);
    let groups = equal_rows(&vectors);
    let graph = Draft::bare(groups.len()).finish(&points(&vectors, &groups), &groups, 4, 1);
    let index = Index::new(vectors, Some(graph), 0).unwrap();
    assert_eq!(search(&index, &[1.0, 1.0, 1.0], 100, 100, |_| true).len(), 100);
}

#[test]
fn a_query_without_direction_has_no_hits() {
    let index = walking(&vectors(&Random(1).normals(60), 3));
    for query in [&[0.0; 3][..], &[f32::NAN, 1.0, 1.0], &[f32::INFINITY, 1.0, 1.0], &[3e38; 3], &[1.0; 2], &[]] {
        assert_eq!(search(&index, query, 5, 10, |_| true), []);
    }
    assert_eq!(search(&index, &[1e-30, 0.0, 0.0], 5, 10, |_| true).len(), 5);
}

#[test]
fn vectors_that_cannot_be_scored_are_refused_by_row() {
    let message = |data: &[f32], dims| Vectors::from_rows(data, dims).unwrap_err().to_string();
    assert!(message(&[1.0, 2.0, f32::NAN, 4.0], 2).contains("row 1, column 0"));
    assert!(message(&[1.0, f32::NEG_INFINITY], 1).contains("row 1, column 0"));
    assert!(message(&[1.0, 3e38], 1).contains("row 1: norm"));
    assert!(message(&[1.0, 2.0, 3.0], 2).contains("whole rows"));
    assert!(message(&[], 0).contains("at least one number"));
    assert!(message(&[], DIMS_MAX + 1).contains("16385 numbers in a row, at most 16384"));
}

#[test]
fn parameters_outside_their_range_are_refused_by_name() {
    let vectors = vectors(&[1.0, 2.0], 1);
    for (params, field) in [
        (BuildParams { m: 1, ..PARAMS }, "m"),
        (BuildParams { m: 300, ..PARAMS }, "m"),
        (BuildParams { ef_construction: 0, ..PARAMS }, "ef_construction"),
        (BuildParams { threads: 0, ..PARAMS }, "threads"),
    ] {
        let Err(Error::Params { name, .. }) = build(&vectors, &params, |_| ()) else { panic!("accepted") };
        assert_eq!(name, field);
    }
}

#[test]
fn a_serial_build_is_the_same_every_time_and_a_parallel_one_is_sound() {
    let vectors = vectors(&Random(2).normals(8 * 1_500), 8);
    let mut last = 0;
    let first = build(&vectors, &PARAMS, |rows| last = rows).unwrap();
    assert_eq!(last, 1_500);
    assert_eq!(first, build(&vectors, &PARAMS, |_| ()).unwrap());
    let parallel = build(&vectors, &BuildParams { threads: 3, ..PARAMS }, |rows| last = rows).unwrap();
    assert_eq!(last, 1_500);
    Index::new(vectors, Some(parallel), 0).unwrap();
}

#[test]
fn a_graph_survives_its_arrays() {
    let graph = build(&vectors(&Random(2).normals(300), 3), &PARAMS, |_| ()).unwrap();
    let stored = graph.arrays().map(|(name, numbers)| (name, numbers.to_vec()));
    let get = |name: &str| stored.iter().find(|array| array.0 == name).map(|array| array.1.clone());
    assert_eq!(FrozenGraph::from_arrays(get).unwrap(), graph);
    let missing = FrozenGraph::from_arrays(|name| get(name).filter(|_| name != "links"));
    assert_eq!(missing.unwrap_err().to_string(), "graph array links: missing");
}

#[test]
fn a_graph_over_other_vectors_is_refused() {
    let graph = build(&vectors(&Random(2).normals(300), 3), &PARAMS, |_| ()).unwrap();
    assert!(Index::new(vectors(&Random(2).normals(303), 3), Some(graph), 0).is_err());
}

#[test]
fn two_threads_get_the_same_hits_and_a_used_scratch_changes_nothing() {
    let index = &walking(&vectors(&Random(2).normals(8 * 2_000), 8));
    let ask = || {
        let (mut scratch, mut out, mut all) = (Scratch::new(), Vec::new(), Vec::new());
        for i in 0..300 {
            index.search(&Random(i).normals(8), 10, 20, 2_000, |row| row % 3 > 0, &mut scratch, &mut out);
            all.extend_from_slice(&out);
        }
        all
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(ask);
        (ask(), other.join().unwrap())
    });
    assert_eq!(a, b);
    let fresh: Vec<Hit> =
        (0..300).flat_map(|i| search(index, &Random(i).normals(8), 10, 20, |row| row % 3 > 0)).collect();
    assert_eq!(a, fresh);
}

#[test]
fn few_accepted_rows_are_scanned_and_many_are_walked() {
    let vectors = vectors(&Random(2).normals(8 * 2_000), 8);
    let graph = build(&vectors, &PARAMS, |_| ()).unwrap();
    let index = Index::new(vectors, Some(graph), 100).unwrap();
    let (mut scratch, mut out) = (Scratch::new(), Vec::new());
    let mut evaluations = |hint, ef| {
        index.search(&[1.0; 8], 5, ef, hint, |row| row < 99, &mut scratch, &mut out);
        scratch.evaluations()
    };
    assert_eq!(evaluations(99, DEFAULT_EF_SEARCH), 99);
    assert!(evaluations(100, DEFAULT_EF_SEARCH) > 99);
    assert!(evaluations(34, DEFAULT_EF_SEARCH / 3) > 99, "a narrower walk is cheaper");
}

/// Small numbers, so that ties, zeros and equal rows are common.
fn numbers() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![-3_i8..=3, -100_i8..=100].prop_map(f32::from), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn scan_and_widest_walk_equal_the_definition(
        data in numbers(), query in prop::array::uniform3(-3_i8..=3), k in 0_usize..50, keep in 1_u32..5,
    ) {
        let whole = data.len() / 3 * 3;
        let query = query.map(f32::from);
        prop_assume!(query != [0.0; 3]);
        check(&data[..whole], 3, &query, k, |row| row % keep == 0);
    }

    #[test]
    fn a_walk_returns_accepted_rows_once_and_sorted(seed in any::<u64>(), k in 1_usize..30, keep in 1_u32..20) {
        let random = &mut Random(seed);
        let vectors = vectors(&random.normals(600), 3);
        let query = random.normals(3);
        let hits = search(&walking(&vectors), &query, k, k, |row| row % keep == 0);
        prop_assert_eq!(hits.len(), k.min(200_usize.div_ceil(keep as usize)));
        for hit in &hits {
            prop_assert_eq!(hit.row % keep, 0);
            prop_assert_eq!(hit.score.to_bits(), vectors.dot(hit.row as usize, &query).to_bits());
        }
        for pair in hits.windows(2) {
            let sorted = pair[0].score > pair[1].score || (pair[0].score == pair[1].score && pair[0].row < pair[1].row);
            prop_assert!(sorted);
        }
    }

    #[test]
    fn a_damaged_graph_is_refused_or_still_safe(
        array in 0_usize..5, at in any::<prop::sample::Index>(), bit in 0_u32..32, cut in any::<bool>(),
    ) {
        let vectors = vectors(&Random(4).normals(900), 3);
        let sound = build(&vectors, &PARAMS, |_| ()).unwrap();
        let mut arrays = sound.arrays().map(|(name, numbers)| (name, numbers.to_vec()));
        let numbers = &mut arrays[array].1;
        let at = at.index(numbers.len());
        if cut { numbers.truncate(at) } else { numbers[at] ^= 1 << bit }
        let graph = FrozenGraph::from_arrays(|name| {
            arrays.iter().find(|array| array.0 == name).map(|array| array.1.clone())
        });
        if let Ok(index) = Index::new(vectors, graph.ok(), 0) {
            prop_assert!(!cut);
            // A link that leads elsewhere is still a link: the widest walk finds everything.
            prop_assert_eq!(search(&index, &[1.0, 1.0, 1.0], 300, 300, |_| true).len(), 300);
        }
    }

    #[test]
    fn every_processor_path_walks_the_same_way(seed in any::<u64>(), dims in 1_usize..80, ef in 1_usize..40) {
        let random = &mut Random(seed);
        let index = walking(&vectors(&random.normals(dims * 200), dims));
        let query = random.normals(dims);
        let (mut scratch, mut out) = (Scratch::new(), Vec::new());
        index.search(&query, ef, ef, 200, |_| true, &mut scratch, &mut out);
        let evaluations = scratch.evaluations();
        let mut plain = Vec::new();
        index.walk_portable(&query, ef, ef, &mut scratch, &mut plain);
        prop_assert_eq!(out, plain);
        prop_assert_eq!(scratch.evaluations(), evaluations);
    }

    #[test]
    fn estimates_are_off_by_no_more_than_their_rounding(
        seed in any::<u64>(), dims in 1_usize..200, magnitude in -30_i32..17,
    ) {
        let random = &mut Random(seed);
        let scale = 10_f32.powi(magnitude);
        let rows: Vec<f32> = random.normals(dims * 3).iter().map(|x| x * scale).chain(vec![0.0; dims]).collect();
        let vectors = vectors(&rows, dims);
        let query = random.normals(dims);
        let codes = Codes::of(&vectors);
        let mut coded = Vec::new();
        code_query(&query, &mut coded);
        let sum = |row: &[f32]| row.iter().map(|x| f64::from(x.abs())).sum::<f64>();
        let largest = |row: &[f32]| row.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
        // What a number of the coded query is worth.
        let unit = largest(&query) / f64::from(*coded.iter().map(|x| x.abs()).max().as_ref().unwrap());
        for row in 0..4 {
            let numbers = vectors.row(row);
            let exact: f64 = numbers.iter().zip(&query).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            let estimate = f64::from(codes.estimate(row as u32, &coded)) * unit;
            let of_row = largest(numbers) / 254.0 * (sum(&query) + dims as f64 * unit);
            let of_query = unit / 2.0 * sum(numbers);
            let most = (of_row + of_query) * 1.001 + 1e-5 * exact.abs();
            prop_assert!((estimate - exact).abs() <= most, "{} for {}, at most {} off", estimate, exact, most);
        }
    }

    #[test]
    fn every_processor_path_gives_the_same_bits(seed in any::<u64>(), dims in 1_usize..80) {
        let random = &mut Random(seed);
        let vectors = vectors(&random.normals(dims * 4), dims);
        let query = random.normals(dims);
        let plain: Vec<Hit> = naive(&vectors, &query, 4, |_| true);
        prop_assert_eq!(search(&Index::new(vectors, None, 0).unwrap(), &query, 4, 4, |_| true), plain);
    }
}
