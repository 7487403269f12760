//! What answers right now: an engine and a world of the same bundle, swapped together.
//!
//! The world follows the log: it advances every tick when something was committed, and at once when a request waits
//! for a write. A request keeps what it started with, whatever is swapped meanwhile. Must not know what a request is.
//!
//! Each read begins with the last entry that was read before it. When the store has another one there, or none, it was
//! set back (a replica that lacked the last commits took over, a backup was restored): the world is built again from
//! the bundle, and what caches hold of the lost entries is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use marquee_engine::bundle::Bundle;
use marquee_engine::event::EventPolicy;
use marquee_engine::recommend::Engine;
use marquee_engine::types::{Seq, id_hash};
use marquee_engine::world::{World, WorldBuilder};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};

use crate::error::{Error, Result};
use crate::events::log::{EventLog, Mark};
use crate::events::log_entries;
use crate::profile::Profiles;
use crate::store::{LogRow, Store, StoredEntry};
use crate::telemetry::Metrics;

/// Log entries read at once.
const READ_MAX_ENTRIES: usize = 5_000;

/// One consistent state.
pub struct Serving {
    /// Ranks with one bundle.
    pub engine: Engine,
    /// The world of the same bundle.
    pub world: Arc<World>,
}

/// The state that serves, and what moves it.
pub struct Live {
    current: ArcSwap<Serving>,
    follower: Arc<Mutex<Follower>>,
    watermark: watch::Sender<Seq>,
    wanted: Notify,
    sources: Sources,
}

/// What the state is made from, and who else hears of the log.
#[derive(Clone)]
pub struct Sources {
    /// Holds the log.
    pub store: Arc<dyn Store>,
    /// Knows when an event that was acknowledged elsewhere is in the store.
    pub events: Arc<dyn EventLog>,
    /// What events mean.
    pub policy: Arc<EventPolicy>,
    /// Told of every entry: other processes write, too.
    pub profiles: Arc<Profiles>,
    /// Gauges of the state.
    pub metrics: Arc<Metrics>,
}

/// Reads the log into a world.
struct Follower {
    builder: WorldBuilder,
    /// Last log entry read; the builder's watermark may be ahead of it when its bundle was cut by time.
    position: Seq,
    /// Stands for the entry there; `None` before the first one was read.
    last: Option<u64>,
    /// The log was set back, and Redis could not be told yet.
    is_doubted: bool,
}

/// What a read of the log brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Brought {
    Nothing,
    Entries,
    /// It is not the log that was read so far.
    AnotherLog,
}

impl Follower {
    fn new(bundle: Arc<Bundle>) -> Follower {
        // A bundle that was cut by time lacks events that are older than its watermark: read them all again.
        let position = if bundle.manifest().until_ms.is_some() { 0 } else { bundle.manifest().watermark };
        Follower { builder: WorldBuilder::new(bundle), position, last: None, is_doubted: false }
    }

    /// Every write up to here counts. A bundle may know more than what was read: cut by time, or of a store set back since.
    fn reached(&self) -> Seq {
        self.builder.watermark().min(self.position)
    }
}

impl Live {
    /// Starts with that bundle and everything that the log holds by now.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn start(bundle: Arc<Bundle>, sources: Sources) -> Result<Arc<Live>> {
        let mut follower = Follower::new(bundle.clone());
        let engine = Engine::new(bundle);
        let current = Serving { engine: engine.clone(), world: Arc::new(follower.builder.snapshot()) };
        let follower = Arc::new(Mutex::new(follower));
        let guard = follower.clone().lock_owned().await;
        // Whoever hears of the log hears of all that is read from here on.
        sources.profiles.begin(guard.position);
        let (mut guard, brought) = advance(guard, &sources, |rows| sources.profiles.observe(rows)).await?;
        whole(brought)?;
        let (current, watermark) = (ArcSwap::from_pointee(current), watch::Sender::new(0));
        let live = Live { current, follower, watermark, wanted: Notify::new(), sources };
        live.publish(engine, &mut guard);
        drop(guard);
        Ok(Arc::new(live))
    }

    /// The present state.
    pub fn current(&self) -> Arc<Serving> {
        self.current.load_full()
    }

    /// Follows the log until the future is dropped.
    pub async fn follow(&self, tick: Duration) {
        let mut ticker = tokio::time::interval(tick);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_failing = false;
        loop {
            tokio::select! {
                _ = ticker.tick() => (),
                () = self.wanted.notified() => (),
            }
            match self.advance().await {
                Ok(()) => is_failing = false,
                Err(error) if is_failing => tracing::debug!(error = error.detail(), "the log still cannot be read"),
                Err(error) => {
                    is_failing = true;
                    tracing::warn!(error = error.detail(), "the log cannot be read; slates fall behind");
                }
            }
        }
    }

    /// Reads what is new in the log and publishes it.
    ///
    /// # Errors
    /// The log cannot be read; the state stays as it is.
    pub async fn advance(&self) -> Result<()> {
        let observe = |rows: &[LogRow]| self.sources.profiles.observe(rows);
        let follower = self.follower.clone().lock_owned().await;
        let (mut follower, mut brought) = advance(follower, &self.sources, observe).await?;
        if brought == Brought::AnotherLog {
            self.begin_anew(&mut follower).await?;
            (follower, brought) = advance(follower, &self.sources, observe).await?;
            // Twice in a row: the next call begins anew.
            whole(brought)?;
        }
        if follower.is_doubted {
            follower.is_doubted = !self.sources.profiles.trust(follower.position).await;
        }
        // Also what an earlier call applied before it failed, or began anew.
        let is_behind = follower.reached() != *self.watermark.borrow();
        if brought == Brought::Entries
            || is_behind
            || follower.builder.watermark() != self.current.load().world.watermark()
        {
            let engine = self.current.load().engine.clone();
            self.publish(engine, &mut follower);
        }
        Ok(())
    }

    /// Back to the bundle; the present state serves until the log is read again, and nothing counts as reached until then.
    async fn begin_anew(&self, follower: &mut Follower) -> Result<()> {
        let end = self.sources.store.log_end().await?;
        tracing::error!(
            position = follower.position,
            "the store was set back: it lacks entries of the log that were read before; everything is read again"
        );
        self.sources.metrics.log_set_back.inc();
        // It only rises while the log is read.
        self.sources.metrics.log_end.set(0);
        self.watermark.send_replace(0);
        self.sources.events.doubt();
        self.sources.profiles.doubt();
        let next = Follower::new(self.current.load().engine.bundle().clone());
        // A bundle that knows more than the store: what is written there from now on must be heard all the same.
        *follower = Follower { is_doubted: true, position: next.position.min(end), ..next };
        Ok(())
    }

    /// Waits until the state reflects that write, at most `wait`. Tells whether it does.
    pub async fn reach(&self, mark: &Mark, wait: Duration) -> bool {
        if mark.shared.is_none() {
            return self.reach_position(mark.seq, wait).await;
        }
        let started = Instant::now();
        match tokio::time::timeout(wait, self.sources.events.landed(mark)).await {
            Ok(Some(seq)) => self.reach_position(seq, wait.saturating_sub(started.elapsed())).await,
            Ok(None) | Err(_) => false,
        }
    }

    async fn reach_position(&self, seq: Seq, wait: Duration) -> bool {
        if *self.watermark.borrow() >= seq {
            return true;
        }
        let mut watermark = self.watermark.subscribe();
        self.wanted.notify_one();
        tokio::time::timeout(wait, watermark.wait_for(|reached| *reached >= seq)).await.is_ok()
    }

    /// Takes another bundle. Its world is built beside the serving one; then both are swapped at once.
    ///
    /// # Errors
    /// The log cannot be read, or the store is set back meanwhile; the old state keeps serving.
    pub async fn swap(&self, bundle: Arc<Bundle>) -> Result<()> {
        let next = Arc::new(Mutex::new(Follower::new(bundle.clone())));
        whole(advance(next.clone().lock_owned().await, &self.sources, |_| ()).await?.1)?;
        // Notices a store that was set back.
        self.advance().await?;
        let observe = |rows: &[LogRow]| self.sources.profiles.observe(rows);
        // The old one first, to where the new one is: what only the new one read, nobody else has heard of.
        let follower = self.follower.clone().lock_owned().await;
        let (mut follower, brought) = advance(follower, &self.sources, observe).await?;
        whole(brought)?;
        // What was committed meanwhile, so that the watermark never goes back.
        whole(advance(next.clone().lock_owned().await, &self.sources, observe).await?.1)?;
        let next = Arc::into_inner(next).expect("every guard is dropped").into_inner();
        *follower = Follower { is_doubted: follower.is_doubted, ..next };
        self.publish(Engine::new(bundle), &mut follower);
        Ok(())
    }

    /// The caller holds the follower, so that nothing older is published after something newer.
    fn publish(&self, engine: Engine, follower: &mut Follower) {
        let (world, reached) = (Arc::new(follower.builder.snapshot()), follower.reached());
        let watermark = world.watermark();
        self.sources.metrics.watermark.set(i64::try_from(watermark).unwrap_or(i64::MAX));
        self.sources.metrics.items.set(i64::try_from(world.len()).unwrap_or(i64::MAX));
        self.current.store(Arc::new(Serving { engine, world }));
        self.watermark.send_replace(reached);
    }
}

/// Nothing but the log that was read so far will do.
fn whole(brought: Brought) -> Result<()> {
    match brought {
        Brought::AnotherLog => Err(Error::unavailable("the store was set back just now; ask again", "another log")),
        Brought::Nothing | Brought::Entries => Ok(()),
    }
}

/// Stands for an entry. What merges change of it is left out.
fn trace(row: &LogRow) -> u64 {
    let (kind, id) = match &row.entry {
        StoredEntry::Event(event) => ("event", event.id.as_str()),
        StoredEntry::Upsert(item) => ("upsert", &*item.id),
        StoredEntry::Delete(item) => ("delete", &**item),
        StoredEntry::Merge { anonymous, .. } => ("merge", anonymous.as_str()),
        StoredEntry::Erasure(_) => ("erasure", ""),
    };
    id_hash(&format!("{} {kind} {id}", row.received_ms))
}

/// Takes the entry that was read last off the rows; tells whether they are of the same log.
fn goes_on(rows: &mut Vec<LogRow>, position: Seq, last: u64) -> bool {
    match rows.first() {
        Some(row) if row.seq <= position => {
            let is_same = row.seq == position && trace(row) == last;
            rows.remove(0);
            is_same
        }
        // It may have been erased since: an erasure comes behind it.
        _ => rows.iter().any(|row| matches!(row.entry, StoredEntry::Erasure(_))),
    }
}

/// Applies the log's new entries. The guard goes to the blocking threads and back.
async fn advance(
    mut follower: OwnedMutexGuard<Follower>,
    sources: &Sources,
    observe: impl Fn(&[LogRow]),
) -> Result<(OwnedMutexGuard<Follower>, Brought)> {
    let mut brought = Brought::Nothing;
    loop {
        let again = usize::from(follower.last.is_some());
        let from = follower.position - again as Seq;
        let mut rows = sources.store.log_after(from, READ_MAX_ENTRIES + again).await?;
        let is_last = rows.len() < READ_MAX_ENTRIES + again;
        if let Some(last) = follower.last
            && !goes_on(&mut rows, follower.position, last)
        {
            return Ok((follower, Brought::AnotherLog));
        }
        if let Some(newest) = rows.last() {
            brought = Brought::Entries;
            let newest = trace(newest);
            observe(&rows);
            let policy = sources.policy.clone();
            let apply = move || {
                for row in rows {
                    follower.position = row.seq;
                    for entry in log_entries(&row, &policy) {
                        follower.builder.apply(row.seq, &entry);
                    }
                    follower.builder.advance_to(row.seq);
                }
                follower.last = Some(newest);
                follower
            };
            follower =
                tokio::task::spawn_blocking(apply).await.map_err(|error| Error::internal("reading the log", error))?;
        }
        if is_last {
            return Ok((follower, brought));
        }
    }
}
