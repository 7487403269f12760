//! What every implementation of [`Artifacts`] does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use marquee_engine::bundle::{self, ArrayFiles, Bundle, OpenOptions, Parts};
use marquee_engine::index::BuildParams;
use marquee_engine::types::Item;
use marquee_engine::world::ItemStats;

use super::*;
use crate::testkit;

/// A bucket of its own for one test: a prefix that nobody else uses, and a cache of its own.
pub(crate) fn config(cache: &Path, endpoint: Option<&str>) -> Config {
    let mut config = Config::default();
    let url = format!("{}/{}", testkit::server("MARQUEE_TEST_S3"), testkit::unique("artifacts"));
    config.artifacts.url = match endpoint {
        Some(endpoint) => format!("{url}?endpoint={endpoint}").into(),
        None => url.into(),
    };
    config.artifacts.cache_folder = cache.display().to_string();
    config.artifacts.part_bytes = 5 * 1024 * 1024;
    config
}

pub(crate) async fn bucket(config: &Config) -> S3 {
    S3::open(config, Arc::new(Metrics::new())).await.unwrap()
}

/// Writes a bundle of so many items with titles of that length; gives its folder.
pub(crate) fn write_bundle(folder: &Path, version: &str, items: usize, title_bytes: usize) -> PathBuf {
    let item =
        |at: usize| Arc::new(Item { id: format!("i{at}").into(), title: "x".repeat(title_bytes), ..Item::default() });
    let items: Vec<Arc<Item>> = (0..items).map(item).collect();
    let stats = vec![ItemStats::default(); items.len()];
    let parts = Parts {
        version: version.to_owned(),
        created_ms: 1_700_000_000_000 + i64::try_from(version.len()).unwrap(),
        watermark: 0,
        until_ms: None,
        parent: None,
        items: &items,
        stats: &stats,
        surfaces: &[],
        users: &[],
        files: ArrayFiles { models: folder.join("no-models"), vocabulary: folder.join("no-vocabulary.jsonl") },
        metrics: BTreeMap::new(),
        no_ranker_because: None,
        graph: BuildParams::default(),
    };
    fs::create_dir_all(folder).unwrap();
    bundle::write(folder, &parts, |_| ()).unwrap();
    folder.join(version)
}

async fn conforms(artifacts: &dyn Artifacts) {
    let home = tempfile::tempdir().unwrap();
    assert!(artifacts.list().await.unwrap().is_empty());
    assert!(matches!(artifacts.fetch("absent").await, Err(Error::NotFound(_))));
    assert!(matches!(artifacts.delete("absent").await, Err(Error::NotFound(_))));
    assert!(matches!(artifacts.fetch("../x").await, Err(Error::InvalidArgument { .. })));

    // Published once, whole; again is no change; other content under its name is refused.
    let one = write_bundle(home.path(), "one", 3, 10);
    assert_eq!(artifacts.publish(&one).await.unwrap(), Published::New);
    assert_eq!(artifacts.publish(&one).await.unwrap(), Published::Already);
    let other = write_bundle(&home.path().join("other"), "one", 4, 10);
    assert!(matches!(artifacts.publish(&other).await, Err(Error::FailedPrecondition(_))));

    // A folder that is not what its manifest says is not published.
    let bad = write_bundle(home.path(), "flipped", 3, 10);
    flip(&bad.join("items.jsonl"));
    assert!(matches!(artifacts.publish(&bad).await, Err(Error::FailedPrecondition(_))));

    // Newest first, with manifests.
    let second = write_bundle(home.path(), "second", 5, 10);
    artifacts.publish(&second).await.unwrap();
    let listed = artifacts.list().await.unwrap();
    let seen: Vec<_> =
        listed.iter().map(|one| (one.version.as_str(), one.manifest.as_ref().unwrap().counts.items)).collect();
    assert_eq!(seen, [("second", 5), ("one", 3)]);

    // What is fetched opens, and is the same bytes; fetching it again gives the same folder.
    let folder = artifacts.fetch("one").await.unwrap();
    let bundle = Bundle::open(&folder, &OpenOptions::default()).unwrap();
    assert_eq!(bundle.manifest().counts.items, 3);
    for file in bundle.manifest().files.keys() {
        assert_eq!(fs::read(folder.join(file)).unwrap(), fs::read(one.join(file)).unwrap(), "{file}");
    }
    assert_eq!(artifacts.fetch("one").await.unwrap(), folder);
    assert!(!artifacts.drop_damaged("one").await.unwrap());

    artifacts.delete("second").await.unwrap();
    assert_eq!(artifacts.list().await.unwrap().len(), 1);
    // Its name is free again.
    let anew = write_bundle(&home.path().join("anew"), "second", 6, 10);
    assert_eq!(artifacts.publish(&anew).await.unwrap(), Published::New);
}

/// Changes one bit in the middle of a file.
pub(super) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_folder_conforms() {
    let home = tempfile::tempdir().unwrap();
    conforms(&Folder::new(home.path().join("bundles"))).await;
}

#[tokio::test]
async fn a_bucket_conforms() {
    let home = tempfile::tempdir().unwrap();
    conforms(&bucket(&config(home.path(), None)).await).await;
}
