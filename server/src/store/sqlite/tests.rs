//! The suite on real files, and what only a file can show.

use marquee_engine::event::EventKind;
use sqlx::Connection;
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::store::conformance;

fn config(folder: &TempDir) -> config::Store {
    config::Store {
        url: format!("sqlite://{}/deep/store.db", folder.path().display()).into(),
        ..config::Store::default()
    }
}

async fn reopen(folder: &TempDir) -> Arc<dyn Store> {
    crate::store::open(&Config { store: config(folder), ..Config::default() }, Arc::new(Metrics::new())).await.unwrap()
}

async fn open() -> (TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().unwrap();
    let store = reopen(&folder).await;
    (folder, store)
}

conformance::suite!(open);

fn event(id: &str) -> Event {
    Event::new(id, UserKey::user("ann"), EventKind::Like, Some("i"), 1)
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (folder, store) = open().await;
    store.append_events(vec![event("1"), event("2")], 1).await.unwrap();
    store.forget(&UserKey::user("ann"), 2).await.unwrap();
    store.close().await;
    let store = reopen(&folder).await;
    assert_eq!(store.log_end().await.unwrap(), 3, "erased positions are not reused");
    assert_eq!(store.append_events(vec![event("1")], 3).await.unwrap(), [Outcome::Duplicate]);
    assert_eq!(*store.commits().borrow(), 3);
    store.close().await;
}

#[tokio::test]
async fn a_second_process_may_write_too() {
    let (folder, store) = open().await;
    let other = reopen(&folder).await;
    for n in 0..20 {
        let (a, b) = (format!("a{n}"), format!("b{n}"));
        let (first, second) = tokio::join!(
            store.append_events(vec![event(&a), event("same")], 1),
            other.append_events(vec![event(&b)], 1)
        );
        first.unwrap();
        second.unwrap();
    }
    assert_eq!(store.log_end().await.unwrap(), 41);
    assert_eq!(other.counts().await.unwrap().events, 41);
    store.close().await;
    other.close().await;
}

async fn connect(path: &Path) -> sqlx::SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_plain_words() {
    let (folder, store) = open().await;
    store.close().await;
    let path = path(config(&folder).url.expose()).unwrap();
    let mut connection = connect(&path).await;
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', 1, x'00', 0)")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let refused = Sqlite::open(&config(&folder), Arc::new(Metrics::new())).await.map(|_| ()).unwrap_err();
    assert!(matches!(&refused, Error::InvalidArgument { field, rule } if field == "store.url" && rule.contains("999")));
}

#[tokio::test]
async fn erased_bytes_are_gone_from_the_files() {
    let (folder, store) = open().await;
    let secret = "a-very-private-person";
    let mut private = event("1");
    private.user = UserKey::user(secret);
    store.append_events(vec![private], 1).await.unwrap();
    store.forget(&UserKey::user(secret), 2).await.unwrap();
    let files = std::fs::read_dir(folder.path().join("deep")).unwrap();
    for file in files {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
    store.close().await;
}

#[tokio::test]
async fn a_full_queue_refuses_after_the_wait() {
    let folder = tempfile::tempdir().unwrap();
    let config = config::Store { write_queue_max_entries: 1, write_wait_ms: 1, ..config(&folder) };
    let store = Arc::new(Sqlite::open(&config, Arc::new(Metrics::new())).await.unwrap());
    let path = path(config.url.expose()).unwrap();
    let mut other = connect(&path).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let stuck = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.append_events(vec![event("1")], 1).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let refused = store.append_events(vec![event("2")], 1).await;
    assert!(matches!(refused, Err(Error::ResourceExhausted(_))), "{refused:?}");
    drop(lock);
    other.close().await.unwrap();
    assert!(matches!(stuck.await.unwrap().unwrap()[..], [Outcome::Accepted { .. }]));
    store.close().await;
}
