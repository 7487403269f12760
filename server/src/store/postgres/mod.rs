//! The store in a schema of a PostgreSQL database: one task of each process writes, a few connections read.
//!
//! One transaction for whatever waits (group commit, [`super::writer`]); the row `log_end` is locked first, so that one
//! transaction of all processes writes at a time and positions rise by time of commit. Reads are one statement each: it
//! sees one moment, and costs one round trip. Must not know of the other implementation.

mod bundles;
mod catalog;
mod dump;
mod fields;
mod history;
mod ingested;
mod log;
mod migrate;
mod months;
mod people;
mod readers;
mod session;
mod slates;
#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use marquee_engine::types::{Item, Seq, TimeMs};
use tokio::sync::watch;

use super::writer::Writer;
use super::{
    Activations, BundleRecord, Counts, Deleted, Erased, Event, EventCursor, History, Ingested, LogRow, Outcome, Pruned,
    Received, Repeat, SlateRecord, Step, Store, StoredEvent, Tombstone, Upserted, User, UserKey, UserSummary,
};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;
use readers::Readers;
use session::{Live, Server, Session};

/// A store in a PostgreSQL schema.
pub struct Postgres {
    server: Server,
    readers: Readers,
    writer: Writer<Live>,
    metrics: Arc<Metrics>,
}

impl Postgres {
    /// Connects, makes the schema of `config.namespace` if it is missing, applies migrations. InvalidArgument
    /// `store.url` when the server cannot be used, or when a newer Marquee wrote the schema.
    pub async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Postgres> {
        let server = Server::new(config)?;
        migrate::run(&server).await?;
        let mut sql = server.connect().await.map_err(server.opening())?;
        let end = log::end(&mut sql).await?;
        metrics.log_end.set(end as i64);
        let readers = Readers::new(server.clone(), config.store.read_connections_max);
        let session = Session::new(server.clone(), sql, Arc::clone(&metrics));
        let writer = Writer::start(session, end, &config.store, Arc::clone(&metrics));
        Ok(Postgres { server, readers, writer, metrics })
    }
}

/// The pause before a read is tried on another connection.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Runs a read, again on other connections while those that it gets turn out to be dead (a server that restarted leaves
/// a pool of them), within `store.connection_wait_ms`.
macro_rules! read {
    ($store:expr, |$view:ident| $read:expr) => {{
        let until = Instant::now() + $store.server.read_wait;
        loop {
            let mut $view = $store.readers.take().await?;
            let done = tokio::time::timeout($store.server.answer_wait(), $read).await;
            match $view.settle(done) {
                // A server that answers every statement with a failure must not be met by a storm of connections.
                Err(Error::Unavailable { .. }) if Instant::now() < until => tokio::time::sleep(READ_AGAIN_AFTER).await,
                done => break done,
            }
        }
    }};
}

#[async_trait]
impl Store for Postgres {
    async fn append_events(&self, events: Vec<Event>, now_ms: TimeMs) -> Result<Vec<Outcome>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let entries = events.len();
        self.writer.run(entries, log::Append { events, now_ms }).await
    }

    async fn append_ingested(&self, events: Vec<Received>, steps: Vec<Step>, now_ms: TimeMs) -> Result<Vec<Outcome>> {
        let entries = events.len();
        self.writer.run(entries, ingested::Append { events, steps, now_ms }).await
    }

    async fn ingested(&self, log: &str) -> Result<Vec<Ingested>> {
        read!(self, |view| ingested::of(&mut view, log))
    }

    async fn upsert_items(&self, items: Vec<Item>, created: Option<TimeMs>, now_ms: TimeMs) -> Result<Upserted> {
        let entries = items.len();
        self.writer.run(entries, catalog::UpsertItems { items, created, now_ms }).await
    }

    async fn delete_items(&self, ids: Vec<String>, now_ms: TimeMs) -> Result<Deleted> {
        let entries = ids.len();
        self.writer.run(entries, catalog::DeleteItems { ids, now_ms }).await
    }

    async fn get_items(&self, ids: &[String]) -> Result<Vec<Option<Item>>> {
        read!(self, |view| catalog::get(&mut view, ids))
    }

    async fn list_items(&self, after: Option<&str>, limit: usize) -> Result<Vec<Item>> {
        read!(self, |view| catalog::list(&mut view, after, limit))
    }

    async fn upsert_users(&self, users: Vec<User>, now_ms: TimeMs) -> Result<usize> {
        let entries = users.len();
        self.writer.run(entries, people::UpsertUsers { users, now_ms }).await
    }

    async fn get_user(&self, key: &UserKey) -> Result<Option<UserSummary>> {
        read!(self, |view| people::get(&mut view, key))
    }

    async fn list_users(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
        read!(self, |view| people::list(&mut view, after, limit))
    }

    async fn list_events(&self, key: &UserKey, after: Option<&EventCursor>, limit: usize) -> Result<Vec<StoredEvent>> {
        read!(self, |view| history::list(&mut view, key, after, limit))
    }

    async fn history(&self, key: &UserKey, up_to: Option<Seq>, skip: &[String], limit: usize) -> Result<History> {
        read!(self, |view| history::as_of(&mut view, key, up_to, skip, limit))
    }

    async fn history_after(&self, key: &UserKey, after: Seq, skip: &[String], limit: usize) -> Result<Option<History>> {
        read!(self, |view| history::later(&mut view, key, after, skip, limit))
    }

    async fn resolve(&self, key: &UserKey) -> Result<UserKey> {
        if !key.is_anonymous() {
            return Ok(key.clone());
        }
        read!(self, |view| history::resolve(&mut view, key))
    }

    async fn merge_users(&self, anonymous: &UserKey, user: &UserKey, now_ms: TimeMs) -> Result<(u64, Seq)> {
        if !anonymous.is_anonymous() || user.is_anonymous() {
            return Err(Error::invalid("anonymous_id", "only an anonymous visitor merges into a known user"));
        }
        self.writer.run(1, people::Merge { anonymous: anonymous.clone(), user: user.clone(), now_ms }).await
    }

    async fn forget(&self, key: &UserKey, now_ms: TimeMs) -> Result<Erased> {
        self.writer.run(1, people::Forget { key: key.clone(), now_ms }).await
    }

    async fn tombstones(&self) -> Result<Vec<Tombstone>> {
        read!(self, |view| people::tombstones(&mut view))
    }

    async fn log_after(&self, seq: Seq, limit: usize) -> Result<Vec<LogRow>> {
        let rows = read!(self, |view| log::after(&mut view, seq, limit))?;
        if let Some(last) = rows.last() {
            // Other processes write too.
            self.metrics.log_end.set(self.metrics.log_end.get().max(last.seq as i64));
        }
        Ok(rows)
    }

    async fn log_end(&self) -> Result<Seq> {
        read!(self, |view| log::end(&mut view))
    }

    fn commits(&self) -> watch::Receiver<Seq> {
        self.writer.commits()
    }

    async fn put_slates(&self, slates: Vec<SlateRecord>) -> Result<()> {
        let entries = slates.len();
        self.writer.run(entries, slates::Put { slates }).await
    }

    async fn put_repeats(&self, repeats: Vec<Repeat>) -> Result<()> {
        self.writer.run(1, slates::PutRepeats { repeats }).await
    }

    async fn get_slate(&self, slate_id: &str) -> Result<Option<SlateRecord>> {
        read!(self, |view| slates::get(&mut view, slate_id))
    }

    async fn slates_between(
        &self,
        from_ms: TimeMs,
        until_ms: TimeMs,
        after: Option<(TimeMs, String)>,
        limit: usize,
    ) -> Result<Vec<SlateRecord>> {
        read!(self, |view| slates::between(&mut view, from_ms..until_ms, after.as_ref(), limit))
    }

    async fn register_bundle(&self, bundle: BundleRecord) -> Result<()> {
        self.writer.run(1, bundles::Register { bundle }).await
    }

    async fn list_bundles(&self) -> Result<Vec<BundleRecord>> {
        read!(self, |view| bundles::list(&mut view))
    }

    async fn activations(&self) -> Result<Activations> {
        read!(self, |view| bundles::activations(&mut view))
    }

    async fn activate_bundle(&self, version: &str, now_ms: TimeMs) -> Result<Activations> {
        self.writer.run(1, bundles::Activate { version: version.to_owned(), now_ms }).await
    }

    async fn roll_back_bundle(&self, serving: &str, now_ms: TimeMs) -> Result<Activations> {
        self.writer.run(1, bundles::RollBack { serving: serving.to_owned(), now_ms }).await
    }

    async fn counts(&self) -> Result<Counts> {
        read!(self, |view| people::counts(&mut view))
    }

    async fn prune(&self, event_ids_before_ms: TimeMs, slates_before_ms: TimeMs) -> Result<Pruned> {
        let mut total = Pruned::default();
        loop {
            let removed = self.writer.run(1, slates::Prune { event_ids_before_ms, slates_before_ms }).await?;
            total.event_ids += removed.event_ids;
            total.slates += removed.slates;
            total.repeats += removed.repeats;
            if removed == Pruned::default() {
                return Ok(total);
            }
        }
    }

    async fn dump(&self) -> Result<Box<dyn super::dump::Dump>> {
        Ok(Box::new(dump::Dump::begin(&self.server).await?))
    }

    async fn restore(&self) -> Result<Box<dyn super::dump::Restore>> {
        Ok(Box::new(dump::Restore::begin(&self.server).await?))
    }

    async fn close(&self) {
        self.writer.stop().await;
        self.readers.close().await;
    }
}
