//! Bundles: activated, rolled back, refused with a reason while the old one keeps serving.

use std::fs;

use marquee_proto::v1;
use tonic::Code;

use crate::harness::{Server, TOKEN, authorized, ids, of, with_token, write_bundle};

async fn activate(server: &Server, version: &str) -> Result<v1::ActivateBundleResponse, tonic::Status> {
    let request = authorized(v1::ActivateBundleRequest { version: version.to_owned() });
    server.admin().activate_bundle(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_bundle_is_activated_and_rolled_back_under_the_same_server() {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), "one", &["a", "b"]);
    write_bundle(folder.path(), "second", &["a", "b", "c"]);
    let server = Server::start(&folder).await;
    assert_eq!(activate(&server, "one").await.unwrap().serving_version, "one");
    let slate = server.recommend(of("ann")).await.unwrap();
    assert_eq!((slate.bundle_version.as_str(), slate.results.len()), ("one", 2));
    let swapped = activate(&server, "second").await.unwrap();
    assert_eq!((swapped.serving_version.as_str(), swapped.previous_version.as_str()), ("second", "one"));
    assert_eq!(server.recommend(of("ann")).await.unwrap().results.len(), 3);

    let rolled = server.admin().rollback_bundle(authorized(v1::RollbackBundleRequest {})).await.unwrap().into_inner();
    assert_eq!((rolled.serving_version.as_str(), rolled.previous_version.as_str()), ("one", "second"));
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "one");
    let listed = server.admin().list_bundles(authorized(v1::ListBundlesRequest {})).await.unwrap().into_inner().bundles;
    let serving: Vec<(&str, bool)> = listed.iter().map(|bundle| (bundle.version.as_str(), bundle.serving)).collect();
    assert_eq!(serving, [("second", false), ("one", true)]);
    assert_eq!(listed[0].metrics["ndcg_at_10"], 0.1);
    let status = server.admin().get_status(authorized(v1::GetStatusRequest {})).await.unwrap().into_inner();
    assert!(status.notes.iter().any(|note| note.contains("0 positive events in the training window")), "{status:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_bad_bundle_never_serves_and_the_reason_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), "good", &["a", "b"]);
    let bad = write_bundle(folder.path(), "flipped", &["a", "b", "c"]);
    let items = bad.join("items.jsonl");
    let mut bytes = fs::read(&items).unwrap();
    bytes[10] ^= 1;
    fs::write(&items, bytes).unwrap();
    let server = Server::start(&folder).await;
    activate(&server, "good").await.unwrap();
    for (version, code) in [
        ("flipped", Code::FailedPrecondition),
        ("absent", Code::NotFound),
        ("../good", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        let status = activate(&server, version).await.unwrap_err();
        assert_eq!(status.code(), code, "{version}: {status:?}");
    }
    let status = activate(&server, "flipped").await.unwrap_err();
    assert!(status.message().contains("checksum"), "{status:?}");
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "good");
    let listed = server.admin().list_bundles(authorized(v1::ListBundlesRequest {})).await.unwrap().into_inner().bundles;
    let flipped = listed.iter().find(|bundle| bundle.version == "flipped").unwrap();
    assert!(flipped.problem.contains("checksum"), "{flipped:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_whose_bundle_broke_starts_with_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), "old", &["a", "b"]);
    let broken = write_bundle(folder.path(), "newer", &["a", "b", "c"]);
    let server = Server::start(&folder).await;
    activate(&server, "old").await.unwrap();
    activate(&server, "newer").await.unwrap();
    server.stop().await;
    fs::write(broken.join("items.jsonl"), "").unwrap();

    let server = Server::start(&folder).await;
    assert_eq!(ids(&server.recommend(of("ann")).await.unwrap().results).len(), 2);
    let status = server.admin().get_status(authorized(v1::GetStatusRequest {})).await.unwrap().into_inner();
    assert_eq!(status.bundle_version, "old");
    assert!(status.notes.iter().any(|note| note.contains("newer cannot serve")), "{status:?}");
    server.stop().await;

    fs::remove_dir_all(folder.path().join("bundles")).unwrap();
    let server = Server::start(&folder).await;
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "");
    server.stop().await;
}

#[tokio::test]
async fn what_another_process_activates_is_followed() {
    use marquee::commands::bundle::{Args, Command, run};
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), "one", &["a", "b"]);
    let server = Server::start(&folder).await;
    let command = Command::Activate { version: "one".to_owned() };
    run(&crate::harness::config(folder.path()), Args { command }).await.unwrap();
    for _ in 0..100 {
        if server.recommend(of("ann")).await.unwrap().bundle_version == "one" {
            return server.stop().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the activated bundle was not taken over");
}

#[tokio::test]
async fn the_admin_s_calls_need_the_admin_s_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder).await;
    let status = || v1::GetStatusRequest {};
    assert_eq!(server.admin().get_status(status()).await.unwrap_err().code(), Code::Unauthenticated);
    let wrong = with_token(status(), "wrong");
    assert_eq!(server.admin().get_status(wrong).await.unwrap_err().code(), Code::Unauthenticated);
    server.admin().get_status(with_token(status(), TOKEN)).await.unwrap();
    server.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::harness::config(folder.path());
    config.admin_token = None;
    let server = Server::with(config).await;
    let closed = server.admin().get_status(with_token(status(), "")).await.unwrap_err();
    assert_eq!(closed.code(), Code::PermissionDenied);
    assert!(closed.message().contains("MARQUEE_ADMIN_TOKEN"), "{closed:?}");
    server.stop().await;
}
