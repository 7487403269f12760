//! Readiness in plain words: what a server or a store lacks, and what that means for its answers.

use marquee_engine::types::Seq;

use crate::config::Config;
use crate::serving::Serving;

/// One sentence for each thing that an operator should know.
pub fn notes(serving: &Serving, log_end: Seq, ingest_lag: i64, config: &Config) -> Vec<String> {
    let bundle = serving.engine.bundle();
    let manifest = bundle.manifest();
    let mut notes = Vec::new();
    if manifest.version.is_empty() {
        notes.push("no bundle yet: popular and new items are answered; build and activate one".to_owned());
    } else if bundle.ranker().is_none() {
        let why = manifest.no_ranker_because.as_deref().unwrap_or("the bundle holds none");
        notes.push(format!("no ranker: {why}; the blend score orders"));
    }
    if serving.world.is_empty() {
        notes.push("the catalogue is empty: every slate is empty; upsert or import items".to_owned());
    }
    let lag = log_end.saturating_sub(serving.world.watermark());
    if lag > 0 {
        notes.push(format!("slates are {lag} log entries behind"));
    }
    if ingest_lag > 0 {
        notes.push(format!("the store is {ingest_lag} events behind the event log, in the partitions of this process"));
    }
    if config.events.url.scheme() == "kafka" && !config.events.ingest {
        notes.push("events.ingest is off: other processes take the event log over".to_owned());
    }
    if config.admin_token.is_none() {
        notes.push("no MARQUEE_ADMIN_TOKEN: AdminService, ForgetUser and DeleteItems are closed".to_owned());
    }
    notes
}
