//! What a bucket does beyond the port's suite: parts, resumption, damage, races, bad input. Against a real S3 server.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use marquee_engine::bundle::{Bundle, OpenOptions};
use object_store::{ObjectStoreExt, PutPayload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::artifacts::conformance::{bucket, config, flip, write_bundle};

/// Larger than one part.
const LARGE: (usize, usize) = (7_000, 1_000);

/// Carries bytes to the S3 server, and cuts every connection once `left` bytes came back from it: a wire that breaks, no
/// server of its own.
async fn relay(left: Arc<AtomicI64>) -> String {
    let to = std::env::var("AWS_ENDPOINT_URL").unwrap();
    let to = to.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, left) = (TcpStream::connect(&to).await.unwrap(), left.clone());
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let there = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let mut piece = vec![0; 16 * 1024];
                while let Ok(count @ 1..) = from_server.read(&mut piece).await {
                    let count_i64 = i64::try_from(count).unwrap();
                    if left.fetch_sub(count_i64, Ordering::Relaxed) < count_i64 {
                        break;
                    }
                    if to_client.write_all(&piece[..count]).await.is_err() {
                        break;
                    }
                }
                there.abort();
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_large_file_goes_in_parts_and_comes_in_ranges() {
    let home = tempfile::tempdir().unwrap();
    let s3 = bucket(&config(home.path(), None)).await;
    let folder = write_bundle(&home.path().join("made"), "large", LARGE.0, LARGE.1);
    s3.publish(&folder).await.unwrap();
    let fetched = s3.fetch("large").await.unwrap();
    Bundle::open(&fetched, &OpenOptions::default()).unwrap();
    assert_eq!(fs::read(fetched.join("items.jsonl")).unwrap(), fs::read(folder.join("items.jsonl")).unwrap());
}

#[tokio::test]
async fn a_fetch_that_is_cut_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(&home.path().join("cache"), None);
    let folder = write_bundle(&home.path().join("made"), "large", LARGE.0, LARGE.1);
    bucket(&config).await.publish(&folder).await.unwrap();
    let size = i64::try_from(fs::metadata(folder.join("items.jsonl")).unwrap().len()).unwrap();

    // The wire carries less than half of it, then nothing more: the fetch fails, and what came stays.
    let left = Arc::new(AtomicI64::new(size / 2));
    let endpoint = relay(left.clone()).await;
    config.artifacts.url = format!("{}?endpoint={endpoint}", config.artifacts.url.expose()).into();
    config.artifacts.attempts_max = 2;
    config.artifacts.request_timeout_ms = 3_000;
    let s3 = bucket(&config).await;
    let failed = s3.fetch("large").await.unwrap_err();
    assert!(matches!(failed, Error::Unavailable { .. }), "{failed:?}");
    let partial = home.path().join("cache/default/.partial-large/items.jsonl");
    let came = i64::try_from(fs::metadata(&partial).unwrap().len()).unwrap();
    assert!(came > size / 4 && came < size, "{came} of {size} came");

    // The wire is whole again: only the rest comes.
    let budget = size * 10;
    left.store(budget, Ordering::Relaxed);
    let fetched = s3.fetch("large").await.unwrap();
    let carried = budget - left.load(Ordering::Relaxed);
    assert!(carried < size - came + size / 10, "{carried} bytes came for the rest of {} bytes", size - came);
    Bundle::open(&fetched, &OpenOptions::default()).unwrap();
}

#[tokio::test]
async fn damage_on_this_machine_is_found_and_mended() {
    let home = tempfile::tempdir().unwrap();
    let s3 = bucket(&config(&home.path().join("cache"), None)).await;
    s3.publish(&write_bundle(&home.path().join("made"), "one", 50, 10)).await.unwrap();
    let folder = s3.fetch("one").await.unwrap();
    for file in ["items.jsonl", "manifest.json"] {
        flip(&folder.join(file));
        assert!(Bundle::open(&folder, &OpenOptions::default()).is_err(), "{file}");
        assert!(s3.drop_damaged("one").await.unwrap(), "{file}");
        let again = s3.fetch("one").await.unwrap();
        Bundle::open(&again, &OpenOptions::default()).unwrap();
    }
    // What a crash left half written is no hindrance.
    fs::rename(&folder, home.path().join("cache/default/.partial-one")).unwrap();
    flip(&home.path().join("cache/default/.partial-one/items.jsonl"));
    Bundle::open(&s3.fetch("one").await.unwrap(), &OpenOptions::default()).unwrap();
}

#[tokio::test]
async fn damage_in_the_bucket_is_never_served() {
    let home = tempfile::tempdir().unwrap();
    let s3 = bucket(&config(&home.path().join("cache"), None)).await;
    let folder = write_bundle(&home.path().join("made"), "one", 50, 10);
    s3.publish(&folder).await.unwrap();
    flip(&folder.join("items.jsonl"));
    let flipped = PutPayload::from(fs::read(folder.join("items.jsonl")).unwrap());
    s3.bucket.put(&s3.bundle("one").join("items.jsonl"), flipped).await.unwrap();
    let refused = s3.fetch("one").await.unwrap_err();
    assert!(matches!(&refused, Error::FailedPrecondition(why) if why.contains("items.jsonl")), "{refused:?}");
    assert!(!home.path().join("cache/default/one").exists());
}

#[tokio::test]
async fn a_publication_that_was_cut_goes_on_and_is_not_there_before() {
    let home = tempfile::tempdir().unwrap();
    let s3 = bucket(&config(&home.path().join("cache"), None)).await;
    let folder = write_bundle(&home.path().join("made"), "one", 50, 10);
    s3.publish(&folder).await.unwrap();
    s3.bucket.delete(&s3.bundle("one").join("manifest.json")).await.unwrap();
    assert!(s3.list().await.unwrap().is_empty(), "without a manifest it is not there");
    let sent = s3.metrics.artifacts_bytes.get();
    assert_eq!(s3.publish(&folder).await.unwrap(), Published::New);
    assert_eq!(s3.metrics.artifacts_bytes.get(), sent, "files that are there are not sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_publish_one_content_wins_whole() {
    let home = tempfile::tempdir().unwrap();
    let config = config(&home.path().join("cache"), None);
    let mut running = JoinSet::new();
    for writer in 0..8 {
        let (s3, folder) = (bucket(&config).await, home.path().join(format!("made-{writer}")));
        running.spawn(async move { s3.publish(&write_bundle(&folder, "one", 10 + writer, 10)).await });
    }
    let outcomes = running.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    let folder = bucket(&config).await.fetch("one").await.unwrap();
    Bundle::open(&folder, &OpenOptions::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_activate_one_wins_and_the_others_hear_whose_it_is() {
    let home = tempfile::tempdir().unwrap();
    let config = config(&home.path().join("cache"), None);
    for round in 0..10 {
        let before = bucket(&config).await.current.read().await.unwrap();
        let mut running = JoinSet::new();
        for writer in 0..8 {
            let (s3, before) = (bucket(&config).await, before.clone());
            let next = Pointer { version: format!("r{round}-w{writer}"), activated_ms: round };
            running.spawn(async move { s3.current.write(&next, &before).await.map(|()| next.version) });
        }
        let (won, lost): (Vec<_>, Vec<_>) = running.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{won:?} {lost:?}");
        let winner = won[0].clone().unwrap();
        let now = bucket(&config).await.current.read().await.unwrap().pointer.unwrap();
        assert_eq!(now.version, winner);
        for refused in lost {
            assert!(matches!(&refused, Err(Error::FailedPrecondition(why)) if why.contains(&winner)), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn copies_beyond_the_bound_go_and_those_in_use_stay() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(&home.path().join("cache"), None);
    config.artifacts.cache_max_bundles = 3;
    let s3 = bucket(&config).await;
    for version in ["a", "b", "c", "d", "e"] {
        s3.publish(&write_bundle(&home.path().join("made"), version, 3, 10)).await.unwrap();
        s3.fetch(version).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    s3.tidy(&["a".to_owned(), "b".to_owned()]).await.unwrap();
    let has = |version: &str| home.path().join("cache/default").join(version).exists();
    assert_eq!(["a", "b", "c", "d", "e"].map(has), [true, true, false, false, true]);
}

#[tokio::test]
async fn what_is_wrong_with_a_bucket_is_told_in_plain_words() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), None);
    config.artifacts.request_timeout_ms = 2_000;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = silent.local_addr().unwrap();
    let secure =
        format!("s3://any?endpoint=https://{}", std::env::var("AWS_ENDPOINT_URL").unwrap().replace("http://", ""));
    for (url, told) in [
        ("s3://no-such-bucket-of-ours/x".to_owned(), "no bucket `no-such-bucket-of-ours`"),
        (format!("s3://any?endpoint=http://{nobody}"), "does not answer"),
        ("s3://any?endpoint=http://127.0.0.1:1".to_owned(), "does not answer"),
        (secure, "TLS"),
        ("s3://any?endpoint=nonsense".to_owned(), "no http:// or https:// URL"),
        ("s3://any bucket".to_owned(), "is no bucket's name"),
        ("s3://any?color=red".to_owned(), "`color` is no option"),
    ] {
        config.artifacts.url = url.as_str().into();
        let error = S3::open(&config, Arc::new(Metrics::new())).await.err().unwrap();
        let shown = error.to_string();
        assert!(matches!(&error, Error::InvalidArgument { field, .. } if field == "artifacts.url"), "{url}: {error:?}");
        assert!(shown.contains(told), "{url}: {shown}");
        assert!(!shown.contains(&std::env::var("AWS_SECRET_ACCESS_KEY").unwrap()));
    }
}

#[tokio::test]
async fn other_files_are_kept_under_their_kind() {
    let home = tempfile::tempdir().unwrap();
    let s3 = bucket(&config(home.path(), None)).await;
    let file = home.path().join("rows.safetensors");
    fs::write(&file, "rows").unwrap();
    let place = s3.keep(Kind::Training, "v1/rows.safetensors", &file).await.unwrap().unwrap();
    assert!(place.ends_with("/default/training/v1/rows.safetensors"), "{place}");
    let at = s3.root.clone().join("training").join("v1").join("rows.safetensors");
    assert_eq!(s3.bucket.get(&at).await.unwrap().bytes().await.unwrap(), "rows");
    for bad in ["", "../x", "a//b", ".hidden", "a b"] {
        assert!(matches!(s3.keep(Kind::Quarantine, bad, &file).await, Err(Error::InvalidArgument { .. })), "{bad}");
    }
}
