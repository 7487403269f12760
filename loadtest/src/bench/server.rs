//! `make bench-server`: the CPU of a server for a ranked request, beside the engine's for the same one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use marquee_proto::v1::RecommendRequest;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::{Bench, median, print};
use crate::generate::END_MS;

/// Ranked requests of one run; the processor's clock ticks a hundred times a second.
const REQUESTS: usize = 1_000;
/// Runs; the median counts.
const RUNS: usize = 3;
/// What stage timings may cost, as a share of a ranked request.
const TIMINGS_SHARE_MAX: f64 = 0.01;
/// Longest wait for a server.
const START_MAX: Duration = Duration::from_secs(120);

/// A server that ends with its value.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: String,
    /// From its start to its first answer.
    pub first_answer_s: f64,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Server {
    /// Starts `marquee serve` on a synthetic state, on free ports, with the cache and the slate log off, and waits for
    /// the first answer. `store` is a file that stands in for the state's.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(state: &Path, marquee: &Path, user: &str, store: Option<&Path>) -> Result<Server> {
        let port = || -> Result<u16> { Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()) };
        let (public, admin, metrics) = (port()?, port()?, port()?);
        // Its clock stands where the bench's does, however long ago the state was made.
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock before 1970")?.as_millis() as i64;
        let began = Instant::now();
        let mut command = Command::new(marquee);
        if let Some(store) = store {
            let store = std::path::absolute(store)?;
            command.env("MARQUEE_STORE__URL", format!("sqlite://{}", store.display()));
        }
        let child = command
            .arg("--config")
            .arg(state.join("marquee.toml"))
            .arg("serve")
            // The paths in the file are those of the repository's folder.
            .current_dir(state.join("../../.."))
            .env("MARQUEE_SERVER__LISTEN", format!("127.0.0.1:{public}"))
            .env("MARQUEE_SERVER__ADMIN_LISTEN", format!("127.0.0.1:{admin}"))
            .env("MARQUEE_SERVER__METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
            .env("MARQUEE_SERVER__CLOCK_OFFSET_MS", (END_MS - now_ms).to_string())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| marquee.display().to_string())?;
        let mut server = Server { child, address: format!("http://127.0.0.1:{public}"), first_answer_s: 0.0 };
        loop {
            if let Ok(mut client) = server.client().await
                && let Ok(slate) = client.recommend(question(user)).await
                && !slate.get_ref().results.is_empty()
            {
                server.first_answer_s = began.elapsed().as_secs_f64();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended: {status}");
            }
            ensure!(began.elapsed() < START_MAX, "no answer within {START_MAX:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn client(&self) -> Result<RecommendationServiceClient<Channel>> {
        Ok(RecommendationServiceClient::new(self.channel().await?))
    }

    /// A connection to it.
    pub(super) async fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.address.clone())?.tcp_nodelay(true);
        Ok(endpoint.connect().await?)
    }

    /// Microseconds of CPU that it has used, of all its threads.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit_once(')').context("a process has a name")?.1;
        let ticks: Vec<f64> = after.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // utime and stime, after ppid ... cmajflt; the state is a letter and was left out.
        let (user, system) = (ticks.get(10).context("no utime")?, ticks.get(11).context("no stime")?);
        Ok((user + system) * 1e6 / super::meter::ticks_per_second())
    }
}

pub(super) fn question(user: &str) -> RecommendRequest {
    RecommendRequest {
        user_id: user.to_owned(),
        surface: "home".to_owned(),
        count: super::COUNT as i32,
        ..RecommendRequest::default()
    }
}

/// Prints the server's CPU a request, the engine's, and the sum of the parts, and their ratios.
///
/// # Errors
/// The server does not start, or answers otherwise than the engine does.
pub fn compare(bench: &mut Bench, state: &Path, marquee: &Path) -> Result<Value> {
    let parts = bench.parts()?;
    let sum = parts.retrieval_us + parts.model_us;
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let (requests, first_answer_s) = runtime.block_on(measure(bench, state, marquee))?;
    let server_us = median(requests);
    print(&format!(
        "{} items, count {}, cache off, {REQUESTS} requests, median of {RUNS}",
        bench.items(),
        super::COUNT
    ));
    print(&format!("  server, from its start to its first answer   {first_answer_s:>9.2} s"));
    print("                                              CPU us    / parts");
    let row = |name: &str, us: f64| print(&format!("  {name:<42} {us:>9.1} {:>9.3}", us / sum));
    row("server, a ranked request over gRPC", server_us);
    let timings_us = timings_us(marquee)?;
    let share = timings_us / server_us;
    print(&format!("    of it stage timings{:32.3}     {:.3} % of it", timings_us, share * 100.0));
    ensure!(share < TIMINGS_SHARE_MAX, "stage timings take {:.2} % of a ranked request", share * 100.0);
    row("engine, recommend alone", parts.whole_us);
    row("sources, what they share once", parts.retrieval_us);
    row("  (each alone, added up)", parts.alone_us);
    row("model alone", parts.model_us);
    row("parts: sources + model", sum);
    Ok(
        json!({"items": bench.items(), "server_us": server_us, "timings_us": timings_us, "parts": parts, "ratio": server_us / sum}),
    )
}

/// Microseconds of CPU that taking and keeping the times of the stages costs a request, by the example `stage_cost` that is
/// built beside the server.
fn timings_us(marquee: &Path) -> Result<f64> {
    let example = marquee.with_file_name("examples").join("stage_cost");
    let output = Command::new(&example).output().with_context(|| example.display().to_string())?;
    let ns: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("stage_cost printed no number")?;
    Ok(ns / 1000.0)
}

async fn measure(bench: &Bench, state: &Path, marquee: &Path) -> Result<(Vec<f64>, f64)> {
    let id = |at: usize| bench.people[at].user.as_deref().unwrap_or_default().trim_start_matches("u:").to_owned();
    let users: Vec<String> = (0..bench.people.len()).map(id).collect();
    let server = Server::start(state, marquee, &users[0], None).await?;
    let mut client = server.client().await?;
    // Everybody once, so that profiles are in memory; the slates must be the engine's.
    let mut equal = 0;
    for (at, user) in users.iter().enumerate() {
        let slate = client.recommend(question(user)).await?.into_inner();
        ensure!(slate.degraded.is_none_or(|degraded| degraded.parts.is_empty()), "user {user}: degraded");
        let ours = bench.recommend(at);
        equal +=
            usize::from(slate.results.iter().map(|item| &item.item_id).eq(ours.items.iter().map(|item| &*item.id)));
    }
    // Its clock is seconds later than the bench's: an item may have come of age meanwhile.
    ensure!(equal * 10 >= users.len() * 9, "{equal} of {} slates are the engine's", users.len());
    let mut costs = Vec::new();
    for _ in 0..RUNS {
        let before = server.cpu_us()?;
        for at in 0..REQUESTS {
            let slate = client.recommend(question(&users[at % users.len()])).await?.into_inner();
            ensure!(slate.results.len() == super::COUNT, "{} items", slate.results.len());
        }
        costs.push((server.cpu_us()? - before) / REQUESTS as f64);
    }
    Ok((costs, server.first_answer_s))
}
