//! The store itself as the log of events: an acknowledged event is in the store already.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::types::{Seq, TimeMs};

use super::{Appended, EventLog, Logged, Mark};
use crate::error::Result;
use crate::store::{Event, Outcome, Store};

/// `store://`
pub struct StoreLog {
    store: Arc<dyn Store>,
}

impl StoreLog {
    /// Over that store.
    pub fn new(store: Arc<dyn Store>) -> StoreLog {
        StoreLog { store }
    }
}

#[async_trait]
impl EventLog for StoreLog {
    async fn append(&self, events: Vec<Event>, now_ms: TimeMs) -> Result<Appended> {
        let mut seq = 0;
        let outcomes: Vec<Logged> = self
            .store
            .append_events(events, now_ms)
            .await?
            .into_iter()
            .map(|outcome| match outcome {
                Outcome::Accepted { seq: at, user } => {
                    seq = seq.max(at);
                    Logged::Accepted(Some(user))
                }
                Outcome::Duplicate | Outcome::Erased => Logged::Duplicate,
            })
            .collect();
        if seq == 0 || outcomes.contains(&Logged::Duplicate) {
            // Duplicates were written before: the log's end holds them.
            seq = seq.max(self.store.log_end().await?);
        }
        Ok(Appended { outcomes, mark: Mark::from(seq) })
    }

    async fn landed(&self, mark: &Mark) -> Option<Seq> {
        mark.shared.is_none().then_some(mark.seq)
    }

    async fn close(&self, _within: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;
    use crate::telemetry::Metrics;

    async fn ground() -> (tempfile::TempDir, conformance::Ground) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::config::Config::default();
        config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
        let store = crate::store::open(&config, Arc::new(Metrics::new())).await.unwrap();
        (folder, conformance::Ground { log: Arc::new(StoreLog::new(store.clone())), store })
    }

    conformance::suite!(ground);
}
