//! Where every reader pours its rows: checks them, counts them, keeps what is refused, writes the rest.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use marquee_engine::types::{Item, TimeMs};

use super::report::Report;
use crate::commands::{progress, told};
use crate::config::{Config, Limits};
use crate::error::Error;
use crate::events::check::{self, EventDraft};
use crate::events::quarantine::{Quarantine, Refused};
use crate::store::{Event, Outcome, Store, User, UserKey};

/// Rows in one call of the store.
const BATCH: usize = 5_000;

/// A kind of row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Item,
    User,
    Event,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    /// The file's name.
    pub(super) file: &'p str,
    /// One-based.
    pub(super) line: u64,
}

pub(super) struct Sink {
    limits: Limits,
    now_ms: TimeMs,
    events_max: usize,
    quarantine: Quarantine,
    items: Vec<Item>,
    users: Vec<User>,
    events: Vec<Event>,
    report: Report,
}

impl Sink {
    pub(super) fn new(config: &Config, quarantine: Quarantine, now_ms: TimeMs, events_max: usize) -> Sink {
        Sink {
            limits: config.limits.clone(),
            now_ms,
            events_max,
            quarantine,
            items: Vec::new(),
            users: Vec::new(),
            events: Vec::new(),
            report: Report::default(),
        }
    }

    /// Takes an item, or refuses it. `row` makes the text for the quarantine.
    pub(super) fn item(&mut self, place: Place<'_>, item: Item, row: impl FnOnce() -> String) -> Result<()> {
        match check::item(&item, &self.limits) {
            Ok(()) => {
                self.report.items.read += 1;
                self.items.push(item);
                Ok(())
            }
            Err(error) => self.refuse(What::Item, place, &error.to_string(), None, row()),
        }
    }

    /// Takes a user, or refuses it.
    pub(super) fn user(&mut self, place: Place<'_>, user: User, row: impl FnOnce() -> String) -> Result<()> {
        match check::user(&user, &self.limits) {
            Ok(()) => {
                self.report.users.read += 1;
                self.users.push(user);
                Ok(())
            }
            Err(error) => {
                let key = UserKey::user(&user.id);
                self.refuse(What::User, place, &error.to_string(), Some(key), row())
            }
        }
    }

    /// Takes an event, or refuses it.
    pub(super) fn event(&mut self, place: Place<'_>, draft: EventDraft, row: impl FnOnce() -> String) -> Result<()> {
        let who = check::who(&draft.user_id, &draft.anonymous_id, &self.limits).ok();
        match check::event(draft, self.now_ms, &self.limits) {
            Ok(event) => {
                if self.events.len() == self.events_max {
                    bail!("more than {} events: split the files by time, or raise --events-max", self.events_max);
                }
                self.report.events.read += 1;
                self.events.push(event);
                Ok(())
            }
            Err(error) => self.refuse(What::Event, place, &error.to_string(), who, row()),
        }
    }

    /// Refuses a row that could not even be read.
    pub(super) fn refuse(
        &mut self,
        what: What,
        place: Place<'_>,
        reason: &str,
        user: Option<UserKey>,
        row: String,
    ) -> Result<()> {
        let tally = self.report.tally(what);
        tally.read += 1;
        tally.refused += 1;
        // "must have at most 256 bytes, has 300": counted without the 300.
        let rule = reason.split(", has ").next().unwrap_or(reason);
        *self.report.reasons.entry(format!("{}: {rule}", place.file)).or_default() += 1;
        let refused = Refused { file: place.file.to_owned(), line: place.line, reason: reason.to_owned(), user, row };
        self.quarantine.keep(refused).context("writing the quarantine file")
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A sentence for the report.
    pub(super) fn note(&mut self, note: String) {
        self.report.notes.push(note);
    }

    /// Items taken so far, for readers that complete them from a second file.
    pub(super) fn items_mut(&mut self) -> &mut [Item] {
        &mut self.items
    }

    /// Writes everything: items, then users, then events in order of (time, event id).
    pub(super) async fn write(mut self, store: &dyn Store) -> Result<Report> {
        self.write_items(store).await?;
        self.write_users(store).await?;
        self.write_events(store).await?;
        self.report.quarantine = self.quarantine.finish().context("writing the quarantine file")?;
        Ok(self.report)
    }

    async fn write_items(&mut self, store: &dyn Store) -> Result<()> {
        let items = self.complete_items()?;
        let bar = progress(items.len() as u64, "items");
        for batch in items.chunks(BATCH) {
            // History has no moment of its first upsert: it stays unknown when the files do not say it.
            match store.upsert_items(batch.to_vec(), None, self.now_ms).await {
                Ok(done) => self.count(What::Item, done.changed, batch.len() - done.changed),
                Err(Error::FailedPrecondition(_)) => self.write_items_singly(store, batch).await?,
                Err(other) => return Err(told(other)).context("writing items"),
            }
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// What a second file added is checked too.
    fn complete_items(&mut self) -> Result<Vec<Item>> {
        let mut good = Vec::with_capacity(self.items.len());
        for item in std::mem::take(&mut self.items) {
            match check::item(&item, &self.limits) {
                Ok(()) => good.push(item),
                Err(error) => {
                    self.report.items.read -= 1;
                    let row = serde_json::to_string(&item)?;
                    self.refuse(What::Item, Place { file: "items", line: 0 }, &error.to_string(), None, row)?;
                }
            }
        }
        Ok(good)
    }

    /// One of them was deleted once: find out which.
    async fn write_items_singly(&mut self, store: &dyn Store, batch: &[Item]) -> Result<()> {
        for item in batch {
            match store.upsert_items(vec![item.clone()], None, self.now_ms).await {
                Ok(done) => self.count(What::Item, done.changed, 1 - done.changed),
                Err(Error::FailedPrecondition(_)) => {
                    self.report.items.read -= 1;
                    let place = Place { file: "items", line: 0 };
                    let row = serde_json::to_string(item)?;
                    self.refuse(What::Item, place, "id: was deleted, and ids are never reused", None, row)?;
                }
                Err(other) => return Err(told(other)).context("writing items"),
            }
        }
        Ok(())
    }

    async fn write_users(&mut self, store: &dyn Store) -> Result<()> {
        let users = std::mem::take(&mut self.users);
        for batch in users.chunks(BATCH) {
            let users = batch.to_vec();
            let new = store.upsert_users(users, self.now_ms).await.map_err(told).context("writing users")?;
            self.count(What::User, new, batch.len() - new);
        }
        Ok(())
    }

    async fn write_events(&mut self, store: &dyn Store) -> Result<()> {
        let mut events = std::mem::take(&mut self.events);
        events.sort_by(|a, b| (a.time_ms, &a.id).cmp(&(b.time_ms, &b.id)));
        self.report.events_of_unknown_items = unknown(store, &events).await?;
        let bar = progress(events.len() as u64, "events");
        let mut rest = events.into_iter();
        loop {
            let batch: Vec<Event> = rest.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let size = batch.len();
            let outcomes = store.append_events(batch, self.now_ms).await.map_err(told).context("writing events")?;
            let new = outcomes.iter().filter(|outcome| **outcome != Outcome::Duplicate).count();
            self.count(What::Event, new, size - new);
            bar.inc(size as u64);
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn count(&mut self, what: What, new: usize, known: usize) {
        let tally = self.report.tally(what);
        tally.new += new as u64;
        tally.known += known as u64;
    }
}

/// How many of the events are of items that are not in the catalogue.
async fn unknown(store: &dyn Store, events: &[Event]) -> Result<u64> {
    let ids: HashSet<&String> = events.iter().filter_map(|event| event.item.as_ref()).collect();
    let ids: Vec<String> = ids.into_iter().cloned().collect();
    let mut missing = HashSet::new();
    for batch in ids.chunks(BATCH) {
        let found = store.get_items(batch).await.map_err(told).context("reading items")?;
        missing.extend(batch.iter().zip(found).filter(|(_, item)| item.is_none()).map(|(id, _)| id));
    }
    Ok(events.iter().filter_map(|event| event.item.as_ref()).filter(|id| missing.contains(id)).count() as u64)
}
