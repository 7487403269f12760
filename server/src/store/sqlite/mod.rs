//! The store in one SQLite file: one task writes, a few connections read.
//!
//! WAL, `synchronous=FULL`, one transaction for whatever waits (group commit, [`super::writer`]). Other processes may have the
//! file open too: `BEGIN IMMEDIATE` and the busy timeout keep them apart.

mod bundles;
mod catalog;
mod dump;
mod history;
mod ingested;
mod log;
mod people;
mod repeats;
mod session;
mod slates;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use marquee_engine::types::{Item, Seq, TimeMs};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};
use tokio::sync::watch;

use super::writer::Writer;
use super::{
    Activations, BundleRecord, Counts, Deleted, Erased, Event, EventCursor, History, Ingested, LogRow, Outcome, Pruned,
    Received, Repeat, SlateRecord, Step, Store, StoredEvent, Tombstone, Upserted, User, UserKey, UserSummary,
    schema_problem,
};
use crate::config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;
use session::Session;

/// A store in one SQLite file.
pub struct Sqlite {
    reading: SqliteConnectOptions,
    writing: SqliteConnectOptions,
    readers: SqlitePool,
    writer: Writer<SqliteConnection>,
}

impl Sqlite {
    /// Opens the file of `config.url`, makes it if it is missing, applies migrations.
    /// InvalidArgument `store.url` when it is no such file, cannot be made, or when a newer Marquee wrote it.
    pub async fn open(config: &config::Store, metrics: Arc<Metrics>) -> Result<Sqlite> {
        let path = path(config.url.expose())?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                Error::invalid("store.url", format!("the folder {} cannot be made: {error}", folder.display()))
            })?;
        }
        let options = SqliteConnectOptions::from_str("sqlite://")
            .map_err(failed("reading the store's URL"))?
            .in_memory(false)
            .shared_cache(false)
            .filename(&path)
            .busy_timeout(Duration::from_millis(config.busy_timeout_ms))
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-16384")
            // Rows on their way from the thread that reads: the histories of most users at once.
            .row_buffer_size(1_024)
            .disable_statement_logging();
        // Erased users' bytes are overwritten, not only unlinked.
        let writing = options.clone().create_if_missing(true).pragma("secure_delete", "on");
        let mut connection = writing.connect().await.map_err(opening)?;
        sqlx::migrate!("migrations/sqlite").run(&mut connection).await.map_err(schema_problem)?;
        let end = log::end(&mut connection).await?;
        let reading = options.pragma("query_only", "on");
        let readers = SqlitePoolOptions::new()
            .max_connections(config.read_connections_max)
            .acquire_timeout(Duration::from_millis(config.connection_wait_ms))
            .connect_with(reading.clone())
            .await
            .map_err(failed("opening the store for reading"))?;
        metrics.log_end.set(end as i64);
        let writer = Writer::start(Session { connection }, end, config, metrics);
        Ok(Sqlite { reading, writing, readers, writer })
    }

    /// A connection with one consistent view for several statements. Dropped, it ends the view.
    async fn view(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>> {
        self.readers.begin().await.map_err(failed("reading the store"))
    }
}

fn path(url: &str) -> Result<PathBuf> {
    match url.strip_prefix("sqlite://") {
        Some(path) if !path.is_empty() && !path.contains(":memory:") => Ok(Path::new(path).to_owned()),
        _ => Err(Error::invalid("store.url", "must be sqlite:// and the path of a file")),
    }
}

/// A file that is not there or no database is the configuration's fault; the rest goes the usual way.
fn opening(error: sqlx::Error) -> Error {
    let code = error.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        // SQLITE_PERM 3, READONLY 8, CORRUPT 11, CANTOPEN 14, NOTADB 26
        Some(3 | 8 | 11 | 14 | 26) => Error::invalid("store.url", format!("the file cannot be used: {error}")),
        _ => failed("opening the store")(error),
    }
}

/// Sorts a database error by what the caller can do; the details go to the log alone.
fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let down = match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
                true
            }
            // SQLITE_BUSY 5, LOCKED 6, IOERR 10, FULL 13, CANTOPEN 14; extended codes keep the primary one in the low byte.
            sqlx::Error::Database(database) => database
                .code()
                .and_then(|code| code.parse::<u32>().ok())
                .is_some_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14)),
            _ => false,
        };
        let detail = format!("{doing}: {error}");
        if down { Error::unavailable("the store is not available", detail) } else { Error::internal(doing, detail) }
    }
}

#[async_trait]
impl Store for Sqlite {
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
        ingested::of(&mut *self.view().await?, log).await
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
        catalog::get(&mut *self.view().await?, ids).await
    }

    async fn list_items(&self, after: Option<&str>, limit: usize) -> Result<Vec<Item>> {
        catalog::list(&mut *self.view().await?, after, limit).await
    }

    async fn upsert_users(&self, users: Vec<User>, now_ms: TimeMs) -> Result<usize> {
        let entries = users.len();
        self.writer.run(entries, people::UpsertUsers { users, now_ms }).await
    }

    async fn get_user(&self, key: &UserKey) -> Result<Option<UserSummary>> {
        people::get(&mut *self.view().await?, key).await
    }

    async fn list_users(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
        people::list(&mut *self.view().await?, after, limit).await
    }

    async fn list_events(&self, key: &UserKey, after: Option<&EventCursor>, limit: usize) -> Result<Vec<StoredEvent>> {
        history::list(&mut *self.view().await?, key, after, limit).await
    }

    async fn history(&self, key: &UserKey, up_to: Option<Seq>, skip: &[String], limit: usize) -> Result<History> {
        history::as_of(&mut *self.view().await?, key, up_to, skip, limit).await
    }

    async fn history_after(&self, key: &UserKey, after: Seq, skip: &[String], limit: usize) -> Result<Option<History>> {
        let mut reader = self.readers.acquire().await.map_err(failed("reading the store"))?;
        history::later(&mut reader, key, after, skip, limit).await
    }

    async fn resolve(&self, key: &UserKey) -> Result<UserKey> {
        if !key.is_anonymous() {
            return Ok(key.clone());
        }
        history::resolve(&mut *self.view().await?, key, None).await
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
        people::tombstones(&mut *self.view().await?).await
    }

    async fn log_after(&self, seq: Seq, limit: usize) -> Result<Vec<LogRow>> {
        log::after(&mut *self.view().await?, seq, limit).await
    }

    async fn log_end(&self) -> Result<Seq> {
        log::end(&mut *self.view().await?).await
    }

    fn commits(&self) -> watch::Receiver<Seq> {
        self.writer.commits()
    }

    async fn put_slates(&self, slates: Vec<SlateRecord>) -> Result<()> {
        let entries = slates.len();
        self.writer.run(entries, slates::Put { slates }).await
    }

    async fn put_repeats(&self, repeats: Vec<Repeat>) -> Result<()> {
        self.writer.run(1, repeats::Put { repeats }).await
    }

    async fn get_slate(&self, slate_id: &str) -> Result<Option<SlateRecord>> {
        let mut view = self.view().await?;
        match slates::ranked(&mut view, slate_id).await? {
            Some(slate) => Ok(Some(slate)),
            None => repeats::get(&mut view, slate_id).await,
        }
    }

    async fn slates_between(
        &self,
        from_ms: TimeMs,
        until_ms: TimeMs,
        after: Option<(TimeMs, String)>,
        limit: usize,
    ) -> Result<Vec<SlateRecord>> {
        slates::between(&mut *self.view().await?, from_ms..until_ms, after, limit).await
    }

    async fn register_bundle(&self, bundle: BundleRecord) -> Result<()> {
        self.writer.run(1, bundles::Register { bundle }).await
    }

    async fn list_bundles(&self) -> Result<Vec<BundleRecord>> {
        bundles::list(&mut *self.view().await?).await
    }

    async fn activations(&self) -> Result<Activations> {
        bundles::activations(&mut *self.view().await?).await
    }

    async fn activate_bundle(&self, version: &str, now_ms: TimeMs) -> Result<Activations> {
        self.writer.run(1, bundles::Activate { version: version.to_owned(), now_ms }).await
    }

    async fn roll_back_bundle(&self, serving: &str, now_ms: TimeMs) -> Result<Activations> {
        self.writer.run(1, bundles::RollBack { serving: serving.to_owned(), now_ms }).await
    }

    async fn counts(&self) -> Result<Counts> {
        people::counts(&mut *self.view().await?).await
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
        Ok(Box::new(dump::Dump::begin(&self.reading).await?))
    }

    async fn restore(&self) -> Result<Box<dyn super::dump::Restore>> {
        Ok(Box::new(dump::Restore::begin(&self.writing).await?))
    }

    async fn close(&self) {
        self.writer.stop().await;
        self.readers.close().await;
    }
}
