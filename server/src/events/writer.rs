//! The one path of events: check, append, forget the cached profiles, then answer. Every way in uses it.

use std::sync::Arc;

use marquee_engine::types::Seq;

use super::check::{self, EventDraft};
use super::token;
use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::error::{Error, Result};
use crate::profile::Profiles;
use crate::store::{Outcome, Store};
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
    /// A log position that holds all of them, duplicates too.
    pub seq: Seq,
}

impl Written {
    /// What the caller gives to Recommend to read these writes.
    pub fn write_token(&self) -> String {
        token::encode(self.seq)
    }
}

/// The path. Share it by `Arc`.
pub struct EventWriter {
    store: Arc<dyn Store>,
    profiles: Arc<Profiles>,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Limits,
}

impl EventWriter {
    /// Puts it together.
    pub fn new(
        config: &Config,
        store: Arc<dyn Store>,
        profiles: Arc<Profiles>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> EventWriter {
        EventWriter { store, profiles, metrics, clock, limits: config.limits.clone() }
    }

    /// Writes the events that keep the rules. Bounded by `events_max_per_call` and by the store's queue.
    ///
    /// When it returns Ok, accepted events are on disk and the next profile that is read holds them.
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
        let outcomes = self.store.append_events(events, now_ms).await?;
        let (mut seq, mut accepted) = (0, 0);
        let mut changed = Vec::new();
        for (place, outcome) in places.into_iter().zip(outcomes) {
            if let Outcome::Accepted { seq: at, user } = outcome {
                results[place] = EventResult::Accepted;
                seq = seq.max(at);
                accepted += 1;
                changed.push(user);
            }
        }
        self.profiles.invalidate(&changed);
        let rejected = results.iter().filter(|result| matches!(result, EventResult::Rejected { .. })).count();
        self.metrics.events(accepted, results.len() - accepted - rejected, rejected);
        if accepted < results.len() - rejected || accepted == 0 {
            // Duplicates were written before: the log's end holds them.
            seq = seq.max(self.store.log_end().await?);
        }
        Ok(Written { results, seq })
    }
}
