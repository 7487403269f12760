//! Bundles in a bucket: published by one machine, followed by another, served on while the bucket is gone. Against the
//! real S3 server that `make services` starts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use marquee::artifacts;
use marquee::commands::bundle::{Args, Command, run};
use marquee::config::Config;
use marquee::telemetry::Metrics;
use marquee_proto::v1;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Server, authorized, config, of, write_bundle};

/// A wire to the S3 server that can be cut and mended.
struct Wire {
    address: SocketAddr,
    is_whole: watch::Sender<bool>,
}

impl Wire {
    async fn to(server: String) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, (is_whole, seen)) = (listener.local_addr().unwrap(), watch::channel(true));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut seen, server) = (seen.clone(), server.clone());
                tokio::spawn(async move {
                    let carry = async {
                        let mut server = TcpStream::connect(server).await.unwrap();
                        let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    };
                    tokio::select! {
                        () = carry => (),
                        _ = seen.wait_for(|is_whole| !is_whole) => (),
                    }
                });
            }
        });
        Wire { address, is_whole }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `make test`, or start `make services` first"))
}

/// A machine of its own: its store, its cache, the same bucket.
fn machine(folder: &Path, url: &str) -> Config {
    let mut config = config(folder);
    config.artifacts.url = url.into();
    config.artifacts.cache_folder = folder.join("cache").display().to_string();
    config.artifacts.poll_ms = 100;
    config.artifacts.request_timeout_ms = 1_000;
    config
}

async fn publish(config: &Config, folder: &Path) {
    let command = Command::Publish { folder: folder.to_owned(), activate: true };
    run(config, Args { command }).await.unwrap();
}

/// Asks until that bundle answers; every answer on the way must be one.
async fn until_serving(server: &Server, version: &str) {
    for _ in 0..300 {
        if server.recommend(of("ann")).await.unwrap().bundle_version == version {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{version} was not taken over");
}

async fn notes(server: &Server) -> Vec<String> {
    server.admin().get_status(authorized(v1::GetStatusRequest {})).await.unwrap().into_inner().notes
}

#[tokio::test]
async fn a_bucket_s_bundles_are_followed_and_serve_on_without_it() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let endpoint = variable("AWS_ENDPOINT_URL");
    let wire = Wire::to(endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned()).await;
    let own = here.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
    let bucket = format!("{}/service-{}-{own}", variable("MARQUEE_TEST_S3"), std::process::id());
    let near = machine(here.path(), &format!("{bucket}?endpoint=http://{}", wire.address));
    let far = machine(there.path(), &bucket);

    // A new machine takes what is current.
    publish(&far, &write_bundle(there.path(), "one", &["a", "b"])).await;
    let server = Server::with(near.clone()).await;
    until_serving(&server, "one").await;

    // Another machine publishes; the running server swaps without being told.
    publish(&far, &write_bundle(there.path(), "second", &["a", "b", "c"])).await;
    until_serving(&server, "second").await;

    // Without the bucket it goes on, and back from the copies that it has.
    wire.is_whole.send_replace(false);
    let rolled = server.admin().rollback_bundle(authorized(v1::RollbackBundleRequest {})).await.unwrap().into_inner();
    assert_eq!((rolled.serving_version.as_str(), rolled.previous_version.as_str()), ("one", "second"));
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "one");
    let told = async {
        while !notes(&server).await.iter().any(|note| note.contains("the bucket of the artifacts does not answer")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    let absent = authorized(v1::ActivateBundleRequest { version: "third".to_owned() });
    assert_eq!(server.admin().activate_bundle(absent).await.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "one");

    // The bucket is back: it hears what serves by now, and the trouble is forgotten.
    wire.is_whole.send_replace(true);
    let artifacts = artifacts::open(&far, Arc::new(Metrics::new())).await.unwrap();
    let mended = async {
        loop {
            let pointer = artifacts.current().unwrap().read().await.unwrap().pointer.unwrap();
            let is_told = notes(&server).await.iter().any(|note| note.contains("the bucket of the artifacts"));
            if pointer.version == "one" && !is_told {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), mended).await.unwrap();
    server.stop().await;

    // The copy on this machine comes to harm: the next start notices and fetches it again.
    std::fs::write(here.path().join("cache/default/one/items.jsonl"), "garbage").unwrap();
    let server = Server::with(near).await;
    assert_eq!(server.recommend(of("ann")).await.unwrap().bundle_version, "one");
    server.stop().await;
}

/// What the binary says of a bucket with these variables over the environment; an empty one is none.
fn told(folder: &Path, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_marquee"));
    command.args(["bundle", "list"]).current_dir(folder);
    command.env("MARQUEE_ARTIFACTS__URL", format!("{}/credentials", variable("MARQUEE_TEST_S3")));
    for (name, value) in variables {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    let done = command.output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn bad_credentials_are_told_in_plain_words_and_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (key, secret) = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY");
    assert_eq!(told(folder.path(), &[]).0, Some(0));
    for (variables, words) in [
        (vec![(secret, "hush-hush")], "refuses the credentials"),
        (vec![(key, "nobody-of-ours")], "refuses the credentials"),
        (vec![(key, ""), (secret, "")], "there are no credentials"),
        (vec![(secret, "hush\nhush")], "AWS_SECRET_ACCESS_KEY holds what no credential can"),
        (vec![("AWS_REGION", "no region")], "AWS_REGION is no region's name"),
    ] {
        let (status, said) = told(folder.path(), &variables);
        assert_ne!(status, Some(0), "{variables:?}");
        assert!(said.contains("artifacts.url: ") && said.contains(words), "{variables:?}: {said}");
        assert!(!said.contains("hush") && !said.contains("panicked"), "{said}");
    }
}
