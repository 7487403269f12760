//! Puts the server together: the only file that names concrete parts.
//!
//! [`App::build`] opens and starts everything but the listeners; [`App::run`] serves until it is told to stop, then
//! drains. Listeners and the stop signal are arguments, so that a test binds port 0.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::answer::{Desk, Flights};
use crate::artifacts::{self, Artifacts};
use crate::bundles::{self, Bundles, First, Registry};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::compute::Pool;
use crate::config::{Config, Problems};
use crate::error::Error;
use crate::events;
use crate::events::log::EventLog;
use crate::events::writer::EventWriter;
use crate::ids::Ids;
use crate::profile::Profiles;
use crate::rpc::{self, Gate};
use crate::serving::{Live, Sources};
use crate::slate_log::SlateLog;
use crate::store::{self, Store};
use crate::telemetry::{self, Metrics};

/// How often what is older than its retention is removed.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: i64 = 86_400_000;

/// The sockets of one server.
pub struct Listeners {
    /// For applications.
    pub public: TcpListener,
    /// For operators.
    pub admin: TcpListener,
    /// For scrapers.
    pub metrics: TcpListener,
}

impl Listeners {
    /// Binds what the config says.
    ///
    /// # Errors
    /// An address is taken or not ours.
    pub async fn bind(config: &Config) -> anyhow::Result<Listeners> {
        let bind = async |key: &str, address| {
            TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))
        };
        let server = &config.server;
        Ok(Listeners {
            public: bind("server.listen", server.listen).await?,
            admin: bind("server.admin_listen", server.admin_listen).await?,
            metrics: bind("server.metrics_listen", server.metrics_listen).await?,
        })
    }
}

/// A server that is ready to serve.
pub struct App {
    /// The configuration it was built from.
    pub config: Arc<Config>,
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    parts: rpc::Parts,
    events: Arc<dyn EventLog>,
    slate_writer: JoinHandle<()>,
    stopping: watch::Sender<bool>,
}

impl App {
    /// Opens every port and the serving bundle and catches up with the log. A bundle that cannot serve is no error: the one
    /// before it serves, or none.
    ///
    /// # Errors
    /// [`Problems`] when servers of the config cannot be used, all of them; the log cannot be read.
    pub async fn build(config: Config, clock: Clock) -> anyhow::Result<App> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new());
        let Opened { store, cache, events, artifacts } = open(&config, &metrics, &clock).await?;
        let cache = Arc::new(cache);
        let profiles = Arc::new(Profiles::new(&config, store.clone(), metrics.clone()).over(cache.clone()));
        let writer = EventWriter::new(&config, events.clone(), profiles.clone(), metrics.clone(), clock.clone());
        let registry = Registry::new(&config, artifacts, store.clone(), clock.clone());
        let First { bundle, problems, followed } = bundles::first(&registry).await;
        let sources = Sources {
            store: store.clone(),
            events: events.clone(),
            policy: Arc::new(config.events.policy.clone()),
            profiles: profiles.clone(),
            metrics: metrics.clone(),
        };
        let live = Live::start(Arc::new(bundle), sources).await.map_err(|error| anyhow::anyhow!(error.detail()))?;
        let (slate_log, slate_writer) = SlateLog::start(&config.slate_log, store.clone(), metrics.clone());
        let started_ms = clock.now_ms();
        let desk = Desk {
            pool: Pool::new(&config.server, metrics.clone())?,
            cache,
            flights: Flights::default(),
            refreshes: Arc::new(Semaphore::new(config.cache.refresh_max_requests)),
            config: config.clone(),
            live: live.clone(),
            ids: Ids::new(),
            metrics: metrics.clone(),
            profiles,
            slate_log,
            clock,
        };
        let (stopping, heard) = watch::channel(false);
        let parts = rpc::Parts {
            desk: Arc::new(desk),
            writer: Arc::new(writer),
            bundles: Arc::new(Bundles::new(registry, live, metrics.clone(), (problems, followed))),
            store: store.clone(),
            started_ms,
            stopping: heard,
        };
        Ok(App { config, store, metrics, parts, events, slate_writer, stopping })
    }

    /// Serves until `stop` ends; then finishes what runs, at most `server.drain_ms`, and closes the store.
    ///
    /// # Errors
    /// A listener fails, or the TLS files cannot be used.
    pub async fn run(self, listeners: Listeners, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let App { config, store, metrics, parts, events, slate_writer, stopping } = self;
        let server = &config.server;
        let gate = Gate::new(server, metrics.clone());
        let services = rpc::services(parts.clone()).await?;
        let mut background = JoinSet::new();
        let (live, tick) = (parts.desk.live.clone(), Duration::from_millis(config.ranking.world_tick_ms));
        background.spawn(async move { live.follow(tick).await });
        let bundles = parts.bundles.clone();
        background.spawn(async move { bundles.follow().await });
        let bundles = parts.bundles.clone();
        background.spawn(async move { bundles.follow_current().await });
        background.spawn(prune(store.clone(), config.clone(), parts.desk.clock.clone()));
        background.spawn(telemetry::run(listeners.metrics, metrics, std::future::pending()));

        let mut servers = JoinSet::new();
        for (listener, routes) in [(listeners.public, services.public), (listeners.admin, services.admin)] {
            let (gate, config, mut heard) = (gate.clone(), config.clone(), stopping.subscribe());
            let stop = async move {
                let _ = heard.wait_for(|stopping| *stopping).await;
            };
            servers.spawn(async move { rpc::serve(listener, routes, gate, &config, stop).await });
        }
        let outcome = tokio::select! {
            () = stop => Ok(()),
            Some(ended) = servers.join_next() => ended.map_err(anyhow::Error::from).and_then(|result| result),
        };
        tracing::info!(drain_ms = server.drain_ms, "stopping: finishing what runs");
        services.health.stop().await;
        tokio::time::sleep(Duration::from_millis(server.drain_notice_ms)).await;
        stopping.send_replace(true);
        services.health.end().await;
        let ended = async { while servers.join_next().await.is_some() {} };
        // A connection that never sends its preface would hold this for ever.
        let idle = gate.drained(Duration::from_millis(server.drain_quiet_ms));
        tokio::select! {
            () = ended => (),
            () = idle => tracing::info!("no call runs: the connections that are still open are cut"),
            () = tokio::time::sleep(Duration::from_millis(server.drain_ms)) => {
                tracing::warn!("some calls did not end in time and are cut");
            }
        }
        servers.shutdown().await;
        background.shutdown().await;
        events.close(Duration::from_millis(server.drain_ms)).await;
        // A store that hangs must not hold the process: what the slate log loses then, it would lose anyway.
        let flush = parts.desk.slate_log.flush();
        if tokio::time::timeout(Duration::from_millis(server.drain_ms), flush).await.is_err() {
            tracing::warn!("the slate log could not be written in time");
        }
        slate_writer.abort();
        if tokio::time::timeout(Duration::from_millis(server.drain_ms), store.close()).await.is_err() {
            tracing::warn!("the store did not take what waited in time; nothing of it was acknowledged");
        }
        outcome
    }
}

/// The ports, open.
struct Opened {
    store: Arc<dyn Store>,
    cache: Cache,
    events: Arc<dyn EventLog>,
    artifacts: Arc<dyn Artifacts>,
}

/// Opens every server that the config names, all at once, so that one run reports everything that is wrong with them.
async fn open(config: &Config, metrics: &Arc<Metrics>, clock: &Clock) -> anyhow::Result<Opened> {
    let (store, cache, events, artifacts) = tokio::join!(
        store::open(config, metrics.clone()),
        Cache::open(config, metrics.clone()),
        events::log::check(config),
        artifacts::open(config, metrics.clone()),
    );
    let wrong = [store.as_ref().err(), cache.as_ref().err(), events.as_ref().err(), artifacts.as_ref().err()];
    let wrong: Vec<String> = wrong.into_iter().flatten().map(Error::detail).collect();
    if !wrong.is_empty() {
        return Err(Problems(wrong).into());
    }
    let told = |error: Error| Problems(vec![error.detail()]);
    let (store, cache, artifacts) = (store.map_err(told)?, cache.map_err(told)?, artifacts.map_err(told)?);
    let events = events::log::open(config, store.clone(), metrics.clone(), clock.clone()).await.map_err(told)?;
    Ok(Opened { store, cache, events, artifacts })
}

/// Removes what is older than its retention, now and then every hour.
async fn prune(store: Arc<dyn Store>, config: Arc<Config>, clock: Clock) {
    let mut ticker = tokio::time::interval(PRUNE_EVERY);
    loop {
        ticker.tick().await;
        let before = |days: u32| clock.now_ms() - i64::from(days) * DAY_MS;
        let (event_ids, slates) = (before(config.store.dedup_retention_days), before(config.slate_log.retention_days));
        match store.prune(event_ids, slates).await {
            Ok(pruned) => tracing::debug!(event_ids = pruned.event_ids, slates = pruned.slates, "pruned"),
            Err(error) => tracing::warn!(error = error.detail(), "pruning failed; it is tried again in an hour"),
        }
    }
}
