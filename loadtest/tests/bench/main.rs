//! The benchmarks at the size of a test: the same code, the same checks, a few hundred items.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod ranker;

use std::path::Path;
use std::sync::Arc;

use marquee_engine::bundle::{Bundle, OpenOptions};
use marquee_engine::index::BuildParams;
use marquee_loadtest::bench::{Bench, growth};
use marquee_loadtest::generate::Synthetic;

/// A generated catalogue as a bundle; below `exact_below_items` items it is scanned.
fn bench(folder: &Path, items: usize, exact_below_items: usize) -> Bench {
    let made = Synthetic::new(items, 120, 5);
    let models = folder.join(format!("models-{items}"));
    made.write_models(&models, &mut |_| {}).unwrap();
    ranker::write(&models);
    made.write_bundle(&models, folder, &format!("small-{items}"), BuildParams::default()).unwrap();
    let options = OpenOptions { exact_below_items, ..OpenOptions::default() };
    let bundle = Bundle::open(&folder.join(format!("small-{items}")), &options).unwrap();
    Bench::new(Arc::new(bundle), &made.members(), 12).unwrap()
}

#[test]
fn every_measured_result_holds_when_vectors_are_scanned_and_when_graphs_are_walked() {
    let folder = tempfile::tempdir().unwrap();
    let mut scanned = bench(folder.path(), 400, usize::MAX).table(1).unwrap();
    scanned.instructions.clear();
    let rows: Vec<&str> = scanned.cpu_us.iter().map(|(name, _)| name.as_str()).collect();
    for wanted in ["index:embedding", "source:fresh", "stage:features", "ranker", "recommend"] {
        assert!(rows.contains(&wanted), "{wanted} is not among {rows:?}");
    }
    let walked = bench(folder.path(), 401, 0).table(1).unwrap();
    assert_eq!(walked.cpu_us.len(), scanned.cpu_us.len());
    assert!(walked.verified.iter().any(|(row, told)| row == "index:users" && told.contains("recall@100")));
}

#[test]
fn a_whole_request_is_measured_beside_its_parts_and_sizes_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (mut small, mut large) = (bench(folder.path(), 300, 0), bench(folder.path(), 600, 0));
    let parts = small.parts().unwrap();
    assert!(parts.whole_us > 0.0 && parts.retrieval_us > 0.0 && parts.model_us > 0.0);
    let told = growth::compare(&mut small, &mut large, 1).unwrap();
    assert_eq!((&told["small"]["items"], &told["large"]["items"]), (&300.into(), &600.into()));
}

#[test]
fn a_result_that_is_wrong_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = bench(folder.path(), 300, 0);
    // More than there are: so sources give the whole request other hits than they gave alone.
    bench.query.count = 1_000;
    let error = bench.table(1).unwrap_err();
    assert!(format!("{error:#}").contains("the whole request used other hits"), "{error:#}");
}
