//! The store: items, users, one log of everything that happens, the slate log, the registry of bundles.
//!
//! A port: one trait, one conformance suite (`conformance.rs`) that every implementation passes. Must not know gRPC,
//! nor what an event is worth. What it promises: a write that was answered survives power loss, is seen by every later
//! read, and happened exactly once whatever was sent twice; ids are kept byte for byte.

mod columns;
#[cfg(test)]
pub(crate) mod conformance;
pub mod dump;
mod entry;
#[cfg(test)]
mod equal;
pub mod postgres;
pub mod sqlite;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use marquee_engine::types::{Item, Seq, TimeMs};
use sqlx::migrate::MigrateError;
use tokio::sync::watch;

pub use entry::*;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// Everything that is kept. Positions in the log rise by time of commit and are never reused.
#[async_trait]
pub trait Store: Send + Sync {
    /// Appends events: all or none, durable when it returns, one outcome for each in order. An id that is known, or
    /// that came earlier in the same call, is a duplicate whatever else it says. Events of a merged anonymous visitor
    /// go to the user.
    async fn append_events(&self, events: Vec<Event>, now_ms: TimeMs) -> Result<Vec<Outcome>>;

    /// Appends what a shared log of events holds, as [`Store::append_events`] does, and notes in the same transaction how
    /// far that log was taken over: with both or with neither. Positions never go back, so that two consumers that hold
    /// the same partition for a moment do no harm; nor do they go over a hole: in a store that was set back to before a
    /// step's `from`, the events are kept and the position stays. An event that was received before its user was erased is not kept
    /// ([`Outcome::Erased`]). Ids are remembered from now on, however long ago their events were received: a resend comes
    /// from now on, too.
    async fn append_ingested(&self, events: Vec<Received>, steps: Vec<Step>, now_ms: TimeMs) -> Result<Vec<Outcome>>;

    /// How far that shared log was taken over, by partition; empty for one that nothing was taken from.
    async fn ingested(&self, log: &str) -> Result<Vec<Ingested>>;

    /// Adds or replaces items: all or none. An item equal to the stored one gets no log entry. An item without
    /// `created_ms` keeps the one it has, else takes `created` (imports of history give `None`: not known).
    /// FailedPrecondition for an id that was deleted: ids are never reused.
    async fn upsert_items(&self, items: Vec<Item>, created: Option<TimeMs>, now_ms: TimeMs) -> Result<Upserted>;

    /// Deletes items for ever.
    async fn delete_items(&self, ids: Vec<String>, now_ms: TimeMs) -> Result<Deleted>;

    /// The items of these ids, in that order; `None` for unknown and deleted ones.
    async fn get_items(&self, ids: &[String]) -> Result<Vec<Option<Item>>>;

    /// Items in order of id (bytes), after `after`.
    async fn list_items(&self, after: Option<&str>, limit: usize) -> Result<Vec<Item>>;

    /// Adds or replaces users: all or none. Gives how many were new or differed.
    async fn upsert_users(&self, users: Vec<User>, now_ms: TimeMs) -> Result<usize>;

    /// What is known of a user; `None` for one who was neither upserted nor did anything.
    async fn get_user(&self, key: &UserKey) -> Result<Option<UserSummary>>;

    /// Users in order of id (bytes), after `after`.
    async fn list_users(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>>;

    /// A user's events, newest first by (time, event id, position), after `after`.
    async fn list_events(&self, key: &UserKey, after: Option<&EventCursor>, limit: usize) -> Result<Vec<StoredEvent>>;

    /// The newest `limit` events with an item, in order of (time, event id), as the log stood at `up_to` (`None`: now).
    /// Merges after `up_to` are not applied. `skip` names kinds to leave out.
    async fn history(&self, key: &UserKey, up_to: Option<Seq>, skip: &[String], limit: usize) -> Result<History>;

    /// What [`Store::history`] has now and had not when its version was `after`: events of later entries, and the version.
    /// `None` when that may not be all, or when it is `limit` entries or more: somebody was erased, or this key was merged.
    async fn history_after(&self, key: &UserKey, after: Seq, skip: &[String], limit: usize) -> Result<Option<History>>;

    /// Whom this key stands for: itself, or the user it was merged into.
    async fn resolve(&self, key: &UserKey) -> Result<UserKey>;

    /// Moves an anonymous visitor's events to a user, and later ones too; answers (events moved, log position).
    /// Merging again into another user sends only later events there: those moved before stay.
    async fn merge_users(&self, anonymous: &UserKey, user: &UserKey, now_ms: TimeMs) -> Result<(u64, Seq)>;

    /// Erases a user and every anonymous visitor merged into it: events, attributes, logged slates. Hashes of the
    /// event ids stay, so that a resend does not bring events back; a tombstone stays for loaded bundles.
    async fn forget(&self, key: &UserKey, now_ms: TimeMs) -> Result<Erased>;

    /// Every tombstone, oldest first.
    async fn tombstones(&self) -> Result<Vec<Tombstone>>;

    /// Log entries after `seq`, in order.
    async fn log_after(&self, seq: Seq, limit: usize) -> Result<Vec<LogRow>>;

    /// Position of the newest entry; 0 for an empty log.
    async fn log_end(&self) -> Result<Seq>;

    /// Announces the log's end after each commit of this process (other processes' commits show in `log_end`).
    fn commits(&self) -> watch::Receiver<Seq>;

    /// Keeps slates; one that is there already is left as it is.
    async fn put_slates(&self, slates: Vec<SlateRecord>) -> Result<()>;

    /// Keeps answers that repeat logged slates. What [`Store::get_slate`] says of one is what the slate that it repeats
    /// says, with its own id and moment; nothing once that is gone.
    async fn put_repeats(&self, repeats: Vec<Repeat>) -> Result<()>;

    /// A logged slate, or one that repeats it.
    async fn get_slate(&self, slate_id: &str) -> Result<Option<SlateRecord>>;

    /// Slates that were ranked with `from_ms <= now_ms < until_ms`, by (now, id), after `after`.
    async fn slates_between(
        &self,
        from_ms: TimeMs,
        until_ms: TimeMs,
        after: Option<(TimeMs, String)>,
        limit: usize,
    ) -> Result<Vec<SlateRecord>>;

    /// Registers a bundle; the same version again replaces its record.
    async fn register_bundle(&self, bundle: BundleRecord) -> Result<()>;

    /// Every registered bundle, newest first.
    async fn list_bundles(&self) -> Result<Vec<BundleRecord>>;

    /// Which bundle serves.
    async fn activations(&self) -> Result<Activations>;

    /// Makes a registered bundle the serving one. NotFound when it is not registered; no change when it serves already.
    async fn activate_bundle(&self, version: &str, now_ms: TimeMs) -> Result<Activations>;

    /// Goes back to the bundle before. FailedPrecondition when `serving` serves no more or when there is none before.
    async fn roll_back_bundle(&self, serving: &str, now_ms: TimeMs) -> Result<Activations>;

    /// What is in here.
    async fn counts(&self) -> Result<Counts>;

    /// Removes event ids that were appended, and slates answered, before these moments, in small transactions.
    async fn prune(&self, event_ids_before_ms: TimeMs, slates_before_ms: TimeMs) -> Result<Pruned>;

    /// Reads one moment of all there is, row by row.
    async fn dump(&self) -> Result<Box<dyn dump::Dump>>;

    /// Begins to fill this store with a dump. FailedPrecondition when it ever held anything.
    async fn restore(&self) -> Result<Box<dyn dump::Restore>>;

    /// Lets running writes end and closes. Later calls answer Unavailable.
    async fn close(&self);
}

/// Opens the store of the config's URL, with migrations applied. InvalidArgument `store.url` when it cannot be used.
pub async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<dyn Store>> {
    match config.store.url.scheme() {
        "sqlite" => Ok(Arc::new(sqlite::Sqlite::open(&config.store, metrics).await?)),
        "postgres" | "postgresql" => Ok(Arc::new(postgres::Postgres::open(config, metrics).await?)),
        _ => Err(Error::invalid("store.url", "must start with sqlite:// or postgres://")),
    }
}

/// What is wrong with a schema that this binary's migrations do not fit.
fn schema_problem(error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => Error::invalid(
            "store.url",
            format!(
                "the store has schema version {version}, which this binary does not know: a newer Marquee wrote it; run that version or a later one"
            ),
        ),
        MigrateError::VersionMismatch(version) => Error::invalid(
            "store.url",
            format!(
                "the store's schema version {version} differs from the one in this binary: a development build wrote it; import into a new store"
            ),
        ),
        other => Error::internal("migrating the store", other),
    }
}
