//! The one path of events: check, append to the log, forget the cached profiles, then answer. Every way in uses it.

use std::sync::Arc;

use super::check::{self, EventDraft};
use super::log::{Appended, EventLog, Logged, Mark};
use super::token;
use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::profile::Profiles;
use crate::telemetry::Metrics;

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventResult {
    /// Durable.
    Accepted,
    /// The id is known; nothing changed.
    Duplicate,
    /// It breaks a rule; the others of the call are not touched by that.
    Rejected {
        /// The field.
        field: String,
        /// The rule.
        rule: String,
    },
}

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// One for each event, in order.
    pub results: Vec<EventResult>,
    /// Holds all of them, duplicates too.
    pub mark: Mark,
}

impl Written {
    /// What the caller gives to Recommend to read these writes.
    pub fn write_token(&self) -> String {
        token::of(&self.mark)
    }
}

/// The path. Share it by `Arc`.
pub struct EventWriter {
    log: Arc<dyn EventLog>,
    profiles: Arc<Profiles>,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Limits,
}

impl EventWriter {
    /// Puts it together.
    pub fn new(
        config: &Config,
        log: Arc<dyn EventLog>,
        profiles: Arc<Profiles>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> EventWriter {
        EventWriter { log, profiles, metrics, clock, limits: config.limits.clone() }
    }

    /// Writes the events that keep the rules. Bounded by `events_max_per_call` and by the log's queue.
    ///
    /// When it returns Ok, accepted events are durable, and a profile that is read once the mark is reached holds them.
    /// Where the store is the log that is at once: the next profile that is read.
    pub async fn write(&self, drafts: Vec<EventDraft>) -> Result<Written> {
        if drafts.len() > self.limits.events_max_per_call {
            let rule = format!("at most {} events in one call, got {}", self.limits.events_max_per_call, drafts.len());
            return Err(Error::invalid("events", rule));
        }
        let now_ms = self.clock.now_ms();
        let mut results = Vec::with_capacity(drafts.len());
        let mut events = Vec::with_capacity(drafts.len());
        let mut places = Vec::with_capacity(drafts.len());
        for draft in drafts {
            match check::event(draft, now_ms, &self.limits) {
                Ok(event) => {
                    places.push(results.len());
                    events.push(event);
                    results.push(EventResult::Duplicate);
                }
                Err(Error::InvalidArgument { field, rule }) => results.push(EventResult::Rejected { field, rule }),
                Err(other) => return Err(other),
            }
        }
        let Appended { outcomes, mark } = self.log.append(events, now_ms).await?;
        let mut accepted = 0;
        let mut changed = Vec::new();
        for (place, outcome) in places.into_iter().zip(outcomes) {
            if let Logged::Accepted(user) = outcome {
                results[place] = EventResult::Accepted;
                accepted += 1;
                changed.extend(user);
            }
        }
        self.profiles.invalidate(&changed, mark.seq);
        let rejected = results.iter().filter(|result| matches!(result, EventResult::Rejected { .. })).count();
        self.metrics.events(accepted, results.len() - accepted - rejected, rejected);
        Ok(Written { results, mark })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::log::StoreLog;
    use crate::store::{Store, UserKey};

    struct Ground {
        _folder: tempfile::TempDir,
        writer: EventWriter,
        profiles: Arc<Profiles>,
        store: Arc<dyn Store>,
    }

    async fn ground() -> Ground {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.url = format!("sqlite://{}/store.db", folder.path().display()).into();
        config.limits.events_max_per_call = 3;
        let metrics = Arc::new(Metrics::new());
        let store = crate::store::open(&config, Arc::clone(&metrics)).await.unwrap();
        let profiles = Arc::new(Profiles::new(&config, Arc::clone(&store), Arc::clone(&metrics)));
        let clock = Clock::fixed(1_000_000);
        let log = Arc::new(StoreLog::new(Arc::clone(&store)));
        let writer = EventWriter::new(&config, log, Arc::clone(&profiles), metrics, clock);
        Ground { _folder: folder, writer, profiles, store }
    }

    fn like(id: &str, user: &str, item: &str) -> EventDraft {
        EventDraft {
            id: id.to_owned(),
            user_id: user.to_owned(),
            item_id: item.to_owned(),
            kind: "like".to_owned(),
            ..EventDraft::default()
        }
    }

    #[tokio::test]
    async fn good_events_are_written_beside_bad_ones() {
        let Ground { writer, .. } = &ground().await;
        let written =
            writer.write(vec![like("a", "ann", "i"), like("b", "ann", ""), like("a", "bob", "j")]).await.unwrap();
        assert_eq!(written.results[0], EventResult::Accepted);
        assert!(matches!(&written.results[1], EventResult::Rejected { field, .. } if field == "item_id"));
        assert_eq!(written.results[2], EventResult::Duplicate);
        assert_eq!(token::decode(&written.write_token()).unwrap(), Mark::from(1));
        let again = writer.write(vec![like("a", "ann", "i")]).await.unwrap();
        assert_eq!(
            (again.results[0].clone(), again.mark),
            (EventResult::Duplicate, Mark::from(1)),
            "the token holds the first write"
        );
        let nothing = writer.write(vec![like("", "ann", "i")]).await.unwrap();
        assert_eq!(nothing.mark, Mark::from(1));
    }

    #[tokio::test]
    async fn too_many_events_are_refused_as_a_whole() {
        let Ground { writer, store, .. } = &ground().await;
        let refused = writer.write((0..4).map(|n| like(&n.to_string(), "ann", "i")).collect()).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { field, .. }) if field == "events"));
        assert_eq!(store.log_end().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_answered_event_is_in_the_next_profile() {
        let Ground { writer, profiles, .. } = &ground().await;
        let ann = UserKey::user("ann");
        for n in 0..20_u64 {
            assert_eq!(profiles.get(&ann).await.unwrap().events.len() as u64, n);
            writer.write(vec![like(&n.to_string(), "ann", "i")]).await.unwrap();
            assert_eq!(profiles.get(&ann).await.unwrap().version, n + 1);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn readers_in_a_hurry_never_leave_an_old_profile_behind() {
        let ground = Arc::new(ground().await);
        let ann = UserKey::user("ann");
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (ground, ann) = (Arc::clone(&ground), ann.clone());
                tokio::spawn(async move {
                    for _ in 0..200 {
                        ground.profiles.get(&ann).await.unwrap();
                    }
                })
            })
            .collect();
        for n in 0..50_u64 {
            let written = ground.writer.write(vec![like(&n.to_string(), "ann", "i")]).await.unwrap();
            assert!(ground.profiles.get(&ann).await.unwrap().version >= written.mark.seq);
        }
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
