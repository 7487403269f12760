//! The connection to Redis: one server, the master that sentinels name, or a cluster.
//!
//! Whoever asks waits for one response timeout at most. After some failures in a row, or when the connection breaks, the
//! link is down: whoever asks then is told so at once. It comes back beside the answers ([`Link::tend`]), with pauses
//! that grow. Must not know what is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use tokio::sync::Notify;

use crate::breaker::jittered;
use crate::config::{Config, RedisUrl, Topology};
use crate::error::{Error, Result};
use crate::telemetry::Metrics;

/// Commands that wait to be put on the wire.
const PIPELINE_MAX_COMMANDS: usize = 1_024;
/// Pauses grow up to so many times the first one.
const PAUSE_TIMES_MAX: u32 = 8;

/// A link that may be down.
pub(super) struct Link {
    url: RedisUrl,
    certificates: Option<TlsCertificates>,
    connect_timeout: Duration,
    response_timeout: Duration,
    failures_max: u32,
    pause: Duration,
    connection: ArcSwapOption<Connection>,
    failures: AtomicU32,
    lost: Notify,
    metrics: Arc<Metrics>,
}

/// Not now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Down;

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects for the first time.
    pub(super) async fn open(config: &Config, metrics: Arc<Metrics>) -> Result<Link> {
        let cache = &config.cache;
        let url = RedisUrl::parse(&cache.url).map_err(|rule| Error::invalid("cache.url", rule))?;
        let certificates = match cache.tls_ca_path.as_str() {
            "" => None,
            path => Some(
                std::fs::read(path)
                    .map_err(|error| Error::invalid("cache.tls_ca_path", format!("{path} cannot be read: {error}")))?,
            ),
        };
        // One provider for all TLS clients of the process; whoever comes first installs it.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        let link = Link {
            certificates: certificates.map(|pem| TlsCertificates { client_tls: None, root_cert: Some(pem) }),
            connect_timeout: Duration::from_millis(cache.connect_timeout_ms),
            response_timeout: Duration::from_millis(cache.response_timeout_ms),
            failures_max: cache.breaker_failures,
            pause: Duration::from_millis(cache.breaker_open_ms),
            connection: ArcSwapOption::empty(),
            failures: AtomicU32::new(0),
            lost: Notify::new(),
            metrics,
            url,
        };
        let mut connection = link.connect().await.map_err(|error| link.refused(&error))?;
        // Only now is it known whether it lets us in: some servers say so with the first command.
        let ping = redis::cmd("PING");
        match tokio::time::timeout(link.connect_timeout, connection.ask(&ping)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(link.refused(&error)),
            Err(_) => return Err(link.refused(&timed_out())),
        }
        link.take(connection);
        Ok(link)
    }

    /// One command, one answer; at most until half of the time to `deadline` is over.
    pub(super) async fn ask(&self, what: &'static str, cmd: &Cmd, deadline: Option<Instant>) -> Result<Value, Down> {
        let held = self.connection.load_full().ok_or(Down)?;
        let mut connection = (*held).clone();
        self.timed(what, deadline, &held, connection.ask(cmd)).await
    }

    /// Several commands for one key, all or none.
    pub(super) async fn tell(&self, what: &'static str, pipeline: &Pipeline) -> Result<(), Down> {
        let held = self.connection.load_full().ok_or(Down)?;
        let mut connection = (*held).clone();
        self.timed(what, None, &held, connection.tell(pipeline)).await
    }

    async fn timed<T>(
        &self,
        what: &'static str,
        deadline: Option<Instant>,
        held: &Arc<Connection>,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, Down> {
        let started = Instant::now();
        let left = deadline.map(|deadline| deadline.saturating_duration_since(started) / 2);
        let patience = left.map_or(self.response_timeout, |left| left.min(self.response_timeout));
        let answer = tokio::time::timeout(patience, answer).await;
        self.metrics.redis_round_trip(what, started.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(value)) => {
                if self.failures.load(Ordering::Relaxed) != 0 {
                    self.failures.store(0, Ordering::Relaxed);
                }
                Ok(value)
            }
            Ok(Err(error)) => {
                self.failed(held, Some(&error));
                Err(Down)
            }
            // A caller in a hurry says nothing about Redis.
            Err(_) if patience < self.response_timeout => Err(Down),
            Err(_) => {
                self.failed(held, None);
                Err(Down)
            }
        }
    }

    /// `None`: no answer in time.
    fn failed(&self, held: &Arc<Connection>, error: Option<&RedisError>) {
        let kind = error.map_or("timeout", kind);
        self.metrics.redis_error(kind);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        match (kind, error) {
            // It only has no room for what is new.
            ("full", _) => {}
            ("connection" | "read_only", Some(error)) => self.lose(held, &error.to_string()),
            _ if failures >= self.failures_max => {
                let last = error.map_or_else(|| "no answer in time".to_owned(), ToString::to_string);
                self.lose(held, &last);
            }
            _ => tracing::debug!(kind, "redis failed once"),
        }
    }

    /// From now on nobody waits for it.
    fn lose(&self, held: &Arc<Connection>, why: &str) {
        let current = self.connection.compare_and_swap(held, None);
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, held)) {
            tracing::warn!(why, "redis is left alone; answers go on without it");
            self.metrics.redis_up.set(0);
            self.lost.notify_one();
        }
    }

    fn take(&self, connection: Connection) {
        self.failures.store(0, Ordering::Relaxed);
        self.connection.store(Some(Arc::new(connection)));
        self.metrics.redis_up.set(1);
    }

    /// Keeps the link: `poll` is called every so often while it is up, and once before it is taken up again.
    pub(super) async fn tend<F: Future<Output = ()>>(&self, every: Duration, poll: impl Fn() -> F) {
        let mut pause = self.pause;
        loop {
            if self.connection.load().is_some() {
                tokio::select! {
                    () = tokio::time::sleep(every) => poll().await,
                    () = self.lost.notified() => {}
                }
                continue;
            }
            tokio::time::sleep(jittered(pause)).await;
            match self.connect_and_try().await {
                Ok(connection) => {
                    tracing::info!("redis is back");
                    self.take(connection);
                    poll().await;
                    pause = self.pause;
                }
                Err(error) => {
                    self.metrics.redis_error("connection");
                    tracing::debug!(%error, "redis is not back yet");
                    pause = (pause * 2).min(self.pause * PAUSE_TIMES_MAX);
                }
            }
        }
    }

    /// Connecting alone proves little: it must answer as fast as answers need it.
    async fn connect_and_try(&self) -> RedisResult<Connection> {
        let mut connection = self.connect().await?;
        let ping = redis::cmd("PING");
        match tokio::time::timeout(self.response_timeout, connection.ask(&ping)).await {
            Ok(answer) => answer.map(|_| connection),
            Err(_) => Err(timed_out()),
        }
    }

    async fn connect(&self) -> RedisResult<Connection> {
        let connecting = async {
            match &self.url.topology {
                Topology::Standalone { database } => self.standalone(*database).await.map(Connection::One),
                Topology::Sentinel { master } => self.master(master).await.map(Connection::One),
                Topology::Cluster => self.cluster().await.map(Connection::Cluster),
            }
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connection) => connection,
            Err(_) => Err(timed_out()),
        }
    }

    async fn standalone(&self, database: i64) -> RedisResult<MultiplexedConnection> {
        let info = self.info(&self.url.hosts[0])?.set_tcp_settings(tcp());
        let login = info.redis_settings().clone().set_db(database);
        let info = info.set_redis_settings(login);
        let client = match &self.certificates {
            Some(certificates) if self.url.tls => Client::build_with_tls(info, certificates.clone())?,
            _ => Client::open(info)?,
        };
        client.get_multiplexed_async_connection_with_config(&self.connection_config()).await
    }

    async fn master(&self, name: &str) -> RedisResult<MultiplexedConnection> {
        let hosts = self.url.hosts.iter().map(|host| self.address(host));
        let mut builder = SentinelClientBuilder::new(hosts, name, SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(tcp());
        if self.url.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(certificates) = &self.certificates {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates.clone());
            }
        }
        let (login, sentinel) = (&self.url.login, &self.url.sentinel_login);
        if let Some(user) = &login.user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = &login.password {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(user) = &sentinel.user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = &sentinel.password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        builder.build()?.get_async_connection_with_config(&self.connection_config()).await
    }

    async fn cluster(&self) -> RedisResult<ClusterConnection> {
        let nodes = self.url.hosts.iter().map(|host| self.info(host)).collect::<RedisResult<Vec<_>>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(self.connect_timeout)
            .response_timeout(self.response_timeout)
            .overall_response_timeout(Some(self.response_timeout))
            .tcp_settings(tcp())
            // One for a slot that has moved; more is not worth waiting for.
            .retries(1);
        if self.url.tls {
            builder = builder.tls(TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates.as_ref().filter(|_| self.url.tls) {
            builder = builder.certs(certificates.clone());
        }
        builder.build()?.get_async_connection().await
    }

    fn connection_config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            // Ours is around it.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_MAX_COMMANDS)
    }

    fn info(&self, host: &(String, u16)) -> RedisResult<ConnectionInfo> {
        let mut login = RedisConnectionInfo::default();
        if let Some(user) = &self.url.login.user {
            login = login.set_username(user);
        }
        if let Some(password) = &self.url.login.password {
            login = login.set_password(password);
        }
        Ok(self.address(host).into_connection_info()?.set_redis_settings(login))
    }

    fn address(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        match self.url.tls {
            true => ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host.clone(), *port),
        }
    }

    /// What is wrong, for the operator who starts the server. What the client says holds no password.
    fn refused(&self, error: &RedisError) -> Error {
        let places = self.url.places();
        let rule = match (kind(error), crate::tls::complaint(&error.to_string())) {
            ("login", _) => format!("{places} refuses the user or the password of the URL, or needs one"),
            (_, Some(complaint)) => format!("TLS with {places} fails: {complaint}"),
            _ => format!("{places} cannot be used as the cache: {error}"),
        };
        Error::invalid("cache.url", rule)
    }
}

impl Connection {
    async fn ask(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let value = match self {
            Connection::One(connection) => connection.req_packed_command(cmd).await?,
            Connection::Cluster(connection) => connection.req_packed_command(cmd).await?,
        };
        value.extract_error()
    }

    async fn tell(&mut self, pipeline: &Pipeline) -> RedisResult<()> {
        match self {
            Connection::One(connection) => pipeline.query_async(connection).await,
            Connection::Cluster(connection) => pipeline.query_async(connection).await,
        }
    }
}

fn timed_out() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

/// Small commands go at once.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// The sort of failure, as the metric names it.
fn kind(error: &RedisError) -> &'static str {
    match (error.kind(), error.code()) {
        (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => "login",
        (_, Some("OOM")) => "full",
        (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => "read_only",
        // A transaction is refused as a whole; the usual reason is that there is no room.
        (ErrorKind::Server(ServerErrorKind::ExecAbort), _) => "full",
        _ if error.is_timeout() => "timeout",
        _ if error.is_io_error() || error.is_unrecoverable_error() || error.is_connection_dropped() => "connection",
        _ => "other",
    }
}
