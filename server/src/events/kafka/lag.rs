//! How far the log is ahead of the store, over the partitions of this process: a gauge, looked at beside the thread that
//! takes events over, which must not wait for brokers that are slow to say.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::producer::Producer as _;
use tokio::time::MissedTickBehavior;

use super::assign::Positions;
use super::producer::Producer;
use crate::telemetry::Metrics;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// For one look, and for one partition of it.
const LOOK_MAX: Duration = Duration::from_secs(1);
const PARTITION_MAX: Duration = Duration::from_millis(250);

/// What is looked at, and where it shows.
pub(super) struct Watched {
    pub(super) topic: String,
    pub(super) producer: Arc<Producer>,
    pub(super) positions: Arc<Mutex<Positions>>,
    pub(super) metrics: Arc<Metrics>,
}

/// Looks now and then, one look at a time, until the future is dropped.
pub(super) async fn watch(watched: Watched) {
    let watched = Arc::new(watched);
    let mut ticker = tokio::time::interval(EVERY);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticker.tick().await;
        let looking = watched.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || looking.look()).await {
            tracing::error!(%error, "the look at the event log's lag failed");
        }
    }
}

impl Watched {
    /// The last known value stays when a broker does not say in time.
    fn look(&self) {
        let Some(client) = self.producer.client() else { return };
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let until = Instant::now() + LOOK_MAX;
        let mut lag = 0;
        for (partition, next) in positions {
            let left = until.saturating_duration_since(Instant::now()).min(PARTITION_MAX);
            match client.client().fetch_watermarks(&self.topic, partition, left) {
                Ok((low, high)) => lag += (high - next.unwrap_or(low).max(low)).max(0),
                Err(_) => return,
            }
        }
        self.metrics.ingest_lag.set(lag);
    }
}
