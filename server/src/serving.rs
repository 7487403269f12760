//! What answers right now: an engine and a world of the same bundle, swapped together.
//!
//! The world follows the log: it advances every tick when something was committed, and at once when a request waits
//! for a write. A request keeps what it started with, whatever is swapped meanwhile. Must not know what a request is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use marquee_engine::bundle::Bundle;
use marquee_engine::event::EventPolicy;
use marquee_engine::recommend::Engine;
use marquee_engine::types::Seq;
use marquee_engine::world::{World, WorldBuilder};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};

use crate::error::{Error, Result};
use crate::events::log::{EventLog, Mark};
use crate::events::log_entries;
use crate::profile::Profiles;
use crate::store::{LogRow, Store};
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
}

impl Follower {
    fn new(bundle: Arc<Bundle>) -> Follower {
        // A bundle that was cut by time lacks events that are older than its watermark: read them all again.
        let position = if bundle.manifest().until_ms.is_some() { 0 } else { bundle.manifest().watermark };
        Follower { builder: WorldBuilder::new(bundle), position }
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
        let mut guard = advance(guard, &sources, |rows| sources.profiles.observe(rows)).await?.0;
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
        let follower = self.follower.clone().lock_owned().await;
        let (mut follower, is_changed) =
            advance(follower, &self.sources, |rows| self.sources.profiles.observe(rows)).await?;
        // Also what an earlier call applied before it failed.
        if is_changed || follower.builder.watermark() > self.current.load().world.watermark() {
            let engine = self.current.load().engine.clone();
            self.publish(engine, &mut follower);
        }
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
        if self.current.load().world.watermark() >= seq {
            return true;
        }
        let mut watermark = self.watermark.subscribe();
        self.wanted.notify_one();
        tokio::time::timeout(wait, watermark.wait_for(|reached| *reached >= seq)).await.is_ok()
    }

    /// Takes another bundle. Its world is built beside the serving one; then both are swapped at once.
    ///
    /// # Errors
    /// The log cannot be read; the old state keeps serving.
    pub async fn swap(&self, bundle: Arc<Bundle>) -> Result<()> {
        let next = Arc::new(Mutex::new(Follower::new(bundle.clone())));
        drop(advance(next.clone().lock_owned().await, &self.sources, |_| ()).await?);
        let observe = |rows: &[LogRow]| self.sources.profiles.observe(rows);
        // The old one first, to where the new one is: what only the new one read, nobody else has heard of.
        let follower = self.follower.clone().lock_owned().await;
        let (mut follower, _) = advance(follower, &self.sources, observe).await?;
        // What was committed meanwhile, so that the watermark never goes back.
        drop(advance(next.clone().lock_owned().await, &self.sources, observe).await?);
        let next = Arc::into_inner(next).expect("every guard is dropped").into_inner();
        *follower = next;
        self.publish(Engine::new(bundle), &mut follower);
        Ok(())
    }

    /// The caller holds the follower, so that nothing older is published after something newer.
    fn publish(&self, engine: Engine, follower: &mut Follower) {
        let world = Arc::new(follower.builder.snapshot());
        let watermark = world.watermark();
        self.sources.metrics.watermark.set(i64::try_from(watermark).unwrap_or(i64::MAX));
        self.sources.metrics.items.set(i64::try_from(world.len()).unwrap_or(i64::MAX));
        self.current.store(Arc::new(Serving { engine, world }));
        self.watermark.send_replace(watermark);
    }
}

/// Applies the log's new entries; tells whether there were any. The guard goes to the blocking threads and back.
async fn advance(
    mut follower: OwnedMutexGuard<Follower>,
    sources: &Sources,
    observe: impl Fn(&[LogRow]),
) -> Result<(OwnedMutexGuard<Follower>, bool)> {
    let mut is_changed = false;
    loop {
        let rows = sources.store.log_after(follower.position, READ_MAX_ENTRIES).await?;
        let is_last = rows.len() < READ_MAX_ENTRIES;
        if !rows.is_empty() {
            is_changed = true;
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
                follower
            };
            follower =
                tokio::task::spawn_blocking(apply).await.map_err(|error| Error::internal("reading the log", error))?;
        }
        if is_last {
            return Ok((follower, is_changed));
        }
    }
}
