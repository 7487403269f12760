//! `make bench-server`: the CPU of a server for a ranked request, beside the engine's for the same one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use marquee_proto::v1::{RecommendRequest, RecommendResponse};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use super::whole::Parts;
use super::{Bench, median, print};
use crate::generate::END_MS;

/// Ranked requests of one run; the processor's clock ticks a hundred times a second.
const REQUESTS: usize = 1_000;
/// Runs, the parts and the server in turn; the median counts.
const RUNS: usize = 5;
/// Callers of a server that is busy.
const CALLERS: usize = 4;
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

/// Prints the server's CPU a request, the engine's, and the sum of the parts, and their ratios. The parts run in a loop; a server
/// that one caller asks waits between two requests, and one that several ask seldom does: both are measured.
///
/// # Errors
/// The server does not start, or answers otherwise than the engine does.
pub fn compare(bench: &mut Bench, state: &Path, marquee: &Path) -> Result<Value> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let users: Vec<String> =
        bench.people.iter().map(|person| person.user.as_deref().unwrap_or_default()).map(id).collect();
    let server = runtime.block_on(Server::start(state, marquee, &users[0], None))?;
    runtime.block_on(check(bench, &server, &users))?;
    let (mut parts, mut one, mut several) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        parts.push(bench.parts()?);
        // Who comes first finds caches that hold the parts' data.
        let callers = if run % 2 == 0 { [1, CALLERS] } else { [CALLERS, 1] };
        for callers in callers {
            let cost_us = runtime.block_on(cost_us(&server, &users, callers))?;
            if callers == 1 { one.push(cost_us) } else { several.push(cost_us) }
        }
    }
    let part = |which: fn(&Parts) -> f64| median(parts.iter().map(which));
    let (retrieval_us, model_us) = (part(|parts| parts.retrieval_us), part(|parts| parts.model_us));
    let (sum, server_us, busy_us) = (retrieval_us + model_us, median(one), median(several));
    print(&format!(
        "{} items, count {}, cache off, {REQUESTS} requests, median of {RUNS} in turn",
        bench.items(),
        super::COUNT
    ));
    print(&format!("  server, from its start to its first answer   {:>9.2} s", server.first_answer_s));
    print("                                              CPU us    / parts");
    let row = |name: &str, us: f64| print(&format!("  {name:<42} {us:>9.1} {:>9.3}", us / sum));
    row("server, a ranked request over gRPC", server_us);
    let timings_us = timings_us(marquee)?;
    let share = timings_us / server_us;
    print(&format!("    of it stage timings{:32.3}     {:.3} % of it", timings_us, share * 100.0));
    ensure!(share < TIMINGS_SHARE_MAX, "stage timings take {:.2} % of a ranked request", share * 100.0);
    row(&format!("server, {CALLERS} callers at once"), busy_us);
    row("engine, recommend alone", part(|parts| parts.whole_us));
    row("sources, what they share once", retrieval_us);
    row("  (each alone, added up)", part(|parts| parts.alone_us));
    row("model alone", model_us);
    row("parts: sources + model", sum);
    Ok(json!({
        "items": bench.items(), "server_us": server_us, "busy_us": busy_us, "timings_us": timings_us, "parts": parts,
        "ratio": server_us / sum, "busy_ratio": busy_us / sum,
    }))
}

/// Microseconds of CPU that taking and keeping the times of the stages costs a request, by the example `stage_cost` that is
/// built beside the server.
fn timings_us(marquee: &Path) -> Result<f64> {
    let example = marquee.with_file_name("examples").join("stage_cost");
    let output = Command::new(&example).output().with_context(|| example.display().to_string())?;
    let ns: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().context("stage_cost printed no number")?;
    Ok(ns / 1000.0)
}

/// The id of a user of the store, from the key that the engine knows.
fn id(key: &str) -> String {
    key.trim_start_matches("u:").to_owned()
}

/// A user's slate, neither degraded nor short.
async fn whole_slate(client: &mut RecommendationServiceClient<Channel>, user: &str) -> Result<RecommendResponse> {
    let slate = client.recommend(question(user)).await?.into_inner();
    ensure!(slate.results.len() == super::COUNT, "user {user}: {} items", slate.results.len());
    ensure!(slate.degraded.as_ref().is_none_or(|degraded| degraded.parts.is_empty()), "user {user}: degraded");
    Ok(slate)
}

/// Asks for everybody once, so that profiles are in memory; the slates must be the engine's.
async fn check(bench: &Bench, server: &Server, users: &[String]) -> Result<()> {
    let mut client = server.client().await?;
    let mut equal = 0;
    for (at, user) in users.iter().enumerate() {
        let slate = whole_slate(&mut client, user).await?;
        let ours = bench.recommend(at);
        equal +=
            usize::from(slate.results.iter().map(|item| &item.item_id).eq(ours.items.iter().map(|item| &*item.id)));
    }
    // Its clock is seconds later than the bench's: an item may have come of age meanwhile.
    ensure!(equal * 10 >= users.len() * 9, "{equal} of {} slates are the engine's", users.len());
    Ok(())
}

/// Microseconds of the server's CPU that a request takes when so many callers, each with a connection, wait for their answers.
async fn cost_us(server: &Server, users: &[String], callers: usize) -> Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..callers {
        clients.push(server.client().await?);
    }
    let before = server.cpu_us()?;
    let mut tasks = tokio::task::JoinSet::new();
    for (caller, mut client) in clients.into_iter().enumerate() {
        let users = users.to_vec();
        tasks.spawn(async move {
            for at in (caller..REQUESTS).step_by(callers) {
                whole_slate(&mut client, &users[at % users.len()]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((server.cpu_us()? - before) / REQUESTS as f64)
}
