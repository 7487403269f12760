//! The registry and a real bucket.

use std::sync::Arc;

use sqlx::Connection;

use super::Registry;
use crate::artifacts::conformance::{bucket, config, write_bundle};
use crate::artifacts::{Artifacts, Current};
use crate::clock::Clock;
use crate::telemetry::Metrics;

const REFUSE: &str = "CREATE TRIGGER refuse_new BEFORE INSERT ON activations BEGIN SELECT RAISE(ABORT, 'full'); END; \
     CREATE TRIGGER refuse_old BEFORE UPDATE ON activations BEGIN SELECT RAISE(ABORT, 'full'); END";

#[tokio::test]
async fn a_pointer_is_followed_only_once_the_store_agrees() {
    let home = tempfile::tempdir().unwrap();
    let mut config = config(&home.path().join("cache"), None);
    config.store.url = format!("sqlite://{}/store.db", home.path().display()).into();
    let artifacts: Arc<dyn Artifacts> = Arc::new(bucket(&config).await);
    for version in ["one", "second"] {
        artifacts.publish(&write_bundle(home.path(), version, 3, 1)).await.unwrap();
    }
    let store = crate::store::open(&config, Arc::new(Metrics::new())).await.unwrap();
    let registry = Registry::new(&config, artifacts.clone(), store.clone(), Clock::fixed(7));
    let current: &Current = artifacts.current().unwrap();
    let followed = || current.followed().map(|pointer| pointer.version);
    let [one, second] = [registry.open("one").await.unwrap(), registry.open("second").await.unwrap()];
    registry.activate(&one, &registry.before().await).await.unwrap();
    assert_eq!(followed().as_deref(), Some("one"));
    registry.activate(&second, &registry.before().await).await.unwrap();

    // The bucket takes what the store does not: a look takes the pointer for new, as it is.
    let mut sql = sqlx::SqliteConnection::connect(config.store.url.expose()).await.unwrap();
    sqlx::raw_sql(REFUSE).execute(&mut sql).await.unwrap();
    registry.roll_back("second", "one", &registry.before().await).await.unwrap_err();
    assert_eq!(current.read().await.unwrap().pointer.unwrap().version, "one");
    assert_eq!(followed().as_deref(), Some("second"), "nothing was rolled back");
    registry.activate(&one, &registry.before().await).await.unwrap_err();
    assert_eq!(followed().as_deref(), Some("second"), "nothing was activated");
    current.write(&current.followed().unwrap(), &current.read().await.unwrap()).await.unwrap();
    registry.activate(&one, &registry.before().await).await.unwrap_err();
    assert_eq!(current.read().await.unwrap().pointer.unwrap().version, "one");
    assert_eq!(followed().as_deref(), Some("second"), "nothing was activated");
    store.close().await;
}
