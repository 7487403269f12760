//! Connections to the server: what each is told when it opens, the writer's transactions, and what an error means.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use marquee_engine::types::Seq;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::log;
use super::months::Months;
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::ids::Ids;
use crate::store::writer::{self, Batch, Tx};
use crate::telemetry::Metrics;
use crate::tls;

/// Waits between attempts double from the first to the last of these, less up to half at random.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A batch is some statements: it may take so many times `store.statement_timeout_ms` before it is committed.
const STATEMENTS_IN_BATCH: u32 = 3;
/// Answers of a server that lives come within this, whatever it was asked: its own timeout strikes first.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Where the server is and how it is talked to.
#[derive(Clone)]
pub(super) struct Server {
    options: PgConnectOptions,
    /// Set on each connection.
    settings: Arc<str>,
    pub(super) schema: Arc<str>,
    pub(super) connect: Duration,
    pub(super) read_wait: Duration,
    pub(super) statement: Duration,
    pub(super) retry: Duration,
}

impl Server {
    /// Reads the URL; connects to nothing.
    pub(super) fn new(config: &Config) -> Result<Server> {
        let config::Store { url, connect_timeout_ms, connection_wait_ms, statement_timeout_ms, write_retry_ms, .. } =
            &config.store;
        // What sqlx would say of an URL may repeat parts of it.
        let options = PgConnectOptions::from_str(url.expose()).map_err(|_| {
            Error::invalid(
                "store.url",
                "must be postgres://USER@HOST:PORT/DATABASE, special characters as %XX; see docs/operations.md",
            )
        })?;
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(&format!("marquee {}", config.namespace)),
        };
        let timeout = statement_timeout_ms;
        let settings = format!(
            "SET search_path = \"{}\"; SET synchronous_commit = on; SET default_transaction_isolation = 'read committed'; \
             SET statement_timeout = {timeout}; SET idle_in_transaction_session_timeout = {timeout}; \
             SET tcp_user_timeout = {timeout}; SET jit = off; SET client_min_messages = warning",
            config.namespace
        );
        let [connect, read_wait, statement, retry] =
            [connect_timeout_ms, connection_wait_ms, statement_timeout_ms, write_retry_ms]
                .map(|ms| Duration::from_millis(*ms));
        Ok(Server {
            options: options.disable_statement_logging(),
            settings: settings.into(),
            schema: config.namespace.as_str().into(),
            connect,
            read_wait,
            statement,
            retry,
        })
    }

    /// A connection that is ready for use.
    pub(super) async fn connect(&self) -> sqlx::Result<PgConnection> {
        let connect = async {
            let mut sql = self.options.connect().await?;
            sqlx::raw_sql(AssertSqlSafe(Arc::clone(&self.settings))).execute(&mut sql).await?;
            Ok(sql)
        };
        tokio::time::timeout(self.connect, connect).await.unwrap_or_else(|_| {
            let message = "no answer within store.connect_timeout_ms";
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, message)))
        })
    }

    /// A connection on which a statement may take any time: for migrations, dumps and restores.
    pub(super) async fn connect_for_long(&self) -> sqlx::Result<PgConnection> {
        let mut sql = self.connect().await?;
        sqlx::raw_sql("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
            .execute(&mut sql)
            .await?;
        Ok(sql)
    }

    /// A connection that cannot write.
    pub(super) async fn connect_to_read(&self) -> sqlx::Result<PgConnection> {
        let mut sql = self.connect().await?;
        sqlx::raw_sql("SET default_transaction_read_only = on").execute(&mut sql).await?;
        Ok(sql)
    }

    /// How long this side waits for an answer: a server that lives gives up before.
    pub(super) fn answer_wait(&self) -> Duration {
        self.statement + ANSWER_MARGIN
    }

    /// What is wrong with the config when the server cannot be used at all, in words that hold no secret.
    pub(super) fn opening(&self) -> impl Fn(sqlx::Error) -> Error {
        let (host, port, user) = (self.options.get_host(), self.options.get_port(), self.options.get_username());
        let place = match self.options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{host}:{port}"),
        };
        let user = user.to_owned();
        let database = self.options.get_database().unwrap_or(&user).to_owned();
        move |error| {
            let complaint = tls::complaint(&error.to_string());
            let rule = match &error {
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) if complaint.is_some() => {
                    format!("TLS with {place} fails: {}", complaint.unwrap_or_default())
                }
                sqlx::Error::Io(error) => format!("{place} cannot be reached: {error}"),
                sqlx::Error::Tls(error) => format!("TLS with {place} failed: {error}"),
                sqlx::Error::Database(error) => match error.code().as_deref() {
                    Some("28P01" | "28000") => format!("{place} refuses user {user:?}: {}", error.message()),
                    Some("3D000") => format!("{place} has no database {database:?}"),
                    Some("42501") => format!("user {user:?} lacks a permission: {}", error.message()),
                    _ => format!("{place}: {}", error.message()),
                },
                error => format!("{place}: {error}"),
            };
            Error::invalid("store.url", rule)
        }
    }
}

/// What becomes of a batch that failed.
enum Failure {
    /// Nothing was written and it may do better in a moment.
    Again(Error),
    /// Nothing was written, or nobody knows.
    Final(Error),
}

/// A connection with what is known of the log's partitions.
pub(super) struct Live {
    pub(super) sql: PgConnection,
    pub(super) months: Months,
}

/// The writer's side of the server: connects again when the connection is lost.
pub(super) struct Session {
    server: Server,
    live: Option<Live>,
    answer_wait: Duration,
    ids: Ids,
    metrics: Arc<Metrics>,
}

impl Session {
    pub(super) fn new(server: Server, sql: PgConnection, metrics: Arc<Metrics>) -> Session {
        let answer_wait = server.answer_wait();
        Session { server, live: Some(Live { sql, months: Months::default() }), answer_wait, ids: Ids::new(), metrics }
    }

    /// One attempt. The connection is kept only when it worked: what a failure leaves behind is of no use.
    async fn attempt(&mut self, batch: &mut Batch<Live>) -> Result<Seq, Failure> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => {
                let sql = self.server.connect().await.map_err(|error| Failure::Again(failed("connecting")(error)))?;
                Live { sql, months: Months::default() }
            }
        };
        let applied = tokio::time::timeout(self.answer_wait * STATEMENTS_IN_BATCH, apply(&mut live, batch)).await;
        let end = match applied {
            Ok(Ok(end)) => end,
            // Anything that is not a fault of ours: lost connections, deadlocks, a full disk, too many connections.
            Ok(Err(error @ Error::Unavailable { .. })) => return Err(Failure::Again(error)),
            Ok(Err(error)) => return Err(Failure::Final(error)),
            Err(_) => return Err(Failure::Again(no_answer())),
        };
        match tokio::time::timeout(self.answer_wait, commit(&mut live.sql, end)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_rolled_back(&error) => return Err(Failure::Again(failed("committing")(error))),
            Ok(Err(error)) => return Err(Failure::Final(unknown(error))),
            Err(_) => return Err(Failure::Final(unknown("no answer in time"))),
        }
        live.months.committed();
        self.live = Some(live);
        Ok(end)
    }

    fn pause(&self, attempt: u32) -> Duration {
        let whole = PAUSE_MIN.saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX);
        whole - whole.mul_f64((self.ids.seed() >> 11) as f64 / (1_u64 << 54) as f64)
    }
}

#[async_trait]
impl writer::Session for Session {
    type Connection = Live;

    async fn commit(&mut self, batch: &mut Batch<Live>) -> Result<Seq> {
        let until = Instant::now() + self.server.retry;
        let mut attempts = 0;
        loop {
            match self.attempt(batch).await {
                Ok(end) => return Ok(end),
                Err(Failure::Again(error)) if Instant::now() < until => {
                    tracing::warn!(error = error.detail(), "a batch is written again");
                    self.metrics.store_retries.inc();
                    tokio::time::sleep(self.pause(attempts)).await;
                    attempts += 1;
                }
                Err(Failure::Again(error) | Failure::Final(error)) => return Err(error),
            }
        }
    }

    async fn close(self) {
        let Some(live) = self.live else { return };
        if let Ok(Err(error)) = tokio::time::timeout(self.answer_wait, live.sql.close()).await {
            tracing::warn!(%error, "closing the store");
        }
    }
}

/// Locks the log's end, which keeps other writers out, and writes. Each statement sees what they committed before.
async fn apply(live: &mut Live, batch: &mut Batch<Live>) -> Result<Seq> {
    let end = log::lock(&mut live.sql).await?;
    let mut tx = Tx::new(live, end);
    batch.apply(&mut tx).await?;
    Ok(tx.end())
}

async fn commit(sql: &mut PgConnection, end: Seq) -> sqlx::Result<()> {
    let sql_text = format!("UPDATE log_end SET seq = {end} WHERE seq <> {end}; COMMIT");
    sqlx::raw_sql(AssertSqlSafe(sql_text)).execute(sql).await.map(|_| ())
}

/// Whether the server itself said that it did not commit. Not said by one that was told to stop meanwhile.
fn is_rolled_back(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    code.is_some_and(|code| ["40", "53", "55"].iter().any(|class| code.starts_with(class)) || code == "57014")
}

fn unknown(detail: impl std::fmt::Display) -> Error {
    let detail = format!("committing: {detail}; whether it was written is not known");
    Error::unavailable("the store did not confirm the write", detail)
}

/// The server, or the way to it, hangs.
pub(super) fn no_answer() -> Error {
    Error::unavailable("the store is not available", "no answer within store.statement_timeout_ms")
}

/// Sorts a database error by what the caller can do; the details go to the log alone.
pub(super) fn failed(doing: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |error| {
        let down = match &error {
            sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => true,
            sqlx::Error::Database(database) => database.code().is_some_and(|code| is_down(&code)),
            _ => false,
        };
        let detail = format!("{doing}: {error}");
        if down { Error::unavailable("the store is not available", detail) } else { Error::internal(doing, detail) }
    }
}

/// Codes of a server that cannot do it now: connection lost, rolled back in favour of others, out of disk, memory or
/// connections, lock not to be had, told to stop or cancelled, disk errors, read-only (a standby), and a password that
/// is refused while it serves.
fn is_down(code: &str) -> bool {
    const CLASSES: [&str; 7] = ["08", "28", "40", "53", "55", "57", "58"];
    CLASSES.iter().any(|class| code.starts_with(class)) || matches!(code, "25006" | "25P03" | "3D000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_bounds() {
        let mut config = Config::default();
        config.store.url = "postgres://ann:hush@127.0.0.1:1/x".into();
        let server = Server::new(&config).unwrap();
        let session = Session {
            answer_wait: server.answer_wait(),
            server,
            live: None,
            ids: Ids::new(),
            metrics: Arc::new(Metrics::new()),
        };
        for attempt in 0..100 {
            let whole = PAUSE_MIN.saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX);
            let pause = session.pause(attempt);
            assert!(whole / 2 <= pause && pause <= whole, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn an_url_that_cannot_be_read_is_not_repeated() {
        let mut config = Config::default();
        config.store.url = "postgres://ann:hush@host:notaport/x".into();
        let refused = Server::new(&config).map(|_| ()).unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidArgument { field, rule } if field == "store.url" && !rule.contains("hush"))
        );
    }

    #[test]
    fn codes_are_sorted_by_what_a_caller_can_do() {
        for code in ["08006", "40001", "40P01", "53100", "53300", "57P01", "57014", "25006", "55P03"] {
            assert!(is_down(code), "{code}");
        }
        for code in ["23505", "42601", "22021", "42P01"] {
            assert!(!is_down(code), "{code}");
        }
    }
}
