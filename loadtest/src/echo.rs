//! The floor: what does a cached answer cost the server beside a bare tonic echo of the same slate?
//!
//! `echo` serves one slate, taken from a running Marquee, in one of two ways: from a message that is encoded on each
//! call, or as bytes that are encoded already. `floor` starts Marquee on made-up items and both echoes, asks the three
//! in turns with the same closed loop, and compares the CPU time that the operating system counted for each process.
//! A closed loop is right here: the figure is work per request, not latency.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use marquee_proto::v1::catalog_service_client::CatalogServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use marquee_proto::{Encoded, encoded, v1};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::report::say;

/// As Marquee sets them (`server/src/rpc/mod.rs`): the comparison is of what happens behind the transport.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const STREAMS_MAX: u32 = 1_024;
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a process may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(30);
/// Made-up items, and visitors that ask.
const ITEMS: usize = 500;
const USERS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// The slate is a message, encoded on each call.
    Message,
    /// The slate is bytes.
    Bytes,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// The Marquee whose slate is repeated.
    #[arg(long)]
    slate_of: String,
    #[arg(long, value_enum)]
    mode: Mode,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FloorArgs {
    /// The server's binary; this binary's neighbour unless said otherwise.
    #[arg(long)]
    marquee: Option<PathBuf>,
    /// Rounds; in each all three are asked, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each of them in a round.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests in flight on one connection.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// The largest ratio of the cached answer to the echo of a message that is no failure; 0 only prints.
    #[arg(long, default_value_t = 1.1)]
    at_most: f64,
}

/// Answers every Recommend with the same message.
struct OfMessage(v1::RecommendResponse);

/// Answers every Recommend with the same bytes.
struct OfBytes(Encoded);

macro_rules! echo {
    ($echo:ty, $service:path, $answer:ty, $batch:ty) => {
        #[tonic::async_trait]
        impl $service for $echo {
            async fn recommend(&self, _: Request<v1::RecommendRequest>) -> Result<Response<$answer>, Status> {
                Ok(Response::new(self.0.clone()))
            }

            type RecommendBatchStream = ReceiverStream<Result<$batch, Status>>;

            async fn recommend_batch(
                &self,
                _: Request<v1::RecommendBatchRequest>,
            ) -> Result<Response<Self::RecommendBatchStream>, Status> {
                Err(Status::unimplemented("an echo"))
            }

            async fn similar_items(
                &self,
                _: Request<v1::SimilarItemsRequest>,
            ) -> Result<Response<v1::SimilarItemsResponse>, Status> {
                Err(Status::unimplemented("an echo"))
            }

            async fn rank_items(
                &self,
                _: Request<v1::RankItemsRequest>,
            ) -> Result<Response<v1::RankItemsResponse>, Status> {
                Err(Status::unimplemented("an echo"))
            }
        }
    };
}

echo!(
    OfMessage,
    v1::recommendation_service_server::RecommendationService,
    v1::RecommendResponse,
    v1::RecommendBatchResponse
);
echo!(OfBytes, encoded::recommendation_service_server::RecommendationService, Encoded, Encoded);

/// Serves the echo until the process is ended.
pub(crate) async fn serve(args: EchoArgs) -> anyhow::Result<()> {
    let slate = RecommendationServiceClient::new(connect(&args.slate_of).await?).recommend(ask(0)).await?.into_inner();
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
    let incoming = TcpIncoming::from(TcpListener::bind(args.listen).await?).with_nodelay(Some(true));
    let router = match args.mode {
        Mode::Message => {
            server.add_service(v1::recommendation_service_server::RecommendationServiceServer::new(OfMessage(slate)))
        }
        Mode::Bytes => server.add_service(encoded::recommendation_service_server::RecommendationServiceServer::new(
            OfBytes(slate.encode_to_vec().into()),
        )),
    };
    Ok(router.serve_with_incoming(incoming).await?)
}

/// A process that is ended with its owner.
struct Process {
    name: &'static str,
    child: Child,
    address: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts all three, asks them in turns, prints the table.
pub(crate) async fn floor(args: FloorArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0.0 && args.connections > 0 && args.in_flight > 0, "nothing to measure");
    let folder = Folder(std::env::temp_dir().join(format!("marquee-floor-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let own = std::env::current_exe()?;
    let marquee = args.marquee.clone().unwrap_or_else(|| own.with_file_name("marquee"));
    let server = start_marquee(&marquee, &folder.0)?;
    fill(&connect(&server.address).await?).await?;
    let echo = |name, mode: &str| {
        start(name, Command::new(&own).args(["echo", "--slate-of", &server.address, "--mode", mode]))
    };
    let echoes = [echo("echo of a message", "message")?, echo("echo of bytes", "bytes")?];
    let [message, bytes] = echoes;
    let targets = [server, message, bytes];
    let mut channels = Vec::new();
    for target in &targets {
        let mut own = Vec::new();
        for _ in 0..args.connections {
            own.push(connect(&target.address).await?);
        }
        channels.push(own);
    }
    check(&channels).await?;
    for own in &channels {
        drive(own, &args, 0.5).await?;
    }
    let mut costs = vec![Vec::new(); targets.len()];
    let mut rates = costs.clone();
    for _ in 0..args.rounds {
        for (at, target) in targets.iter().enumerate() {
            let (before, started) = (cpu_seconds(target.child.id())?, Instant::now());
            let requests = drive(&channels[at], &args, args.seconds).await?;
            let spent = cpu_seconds(target.child.id())? - before;
            costs[at].push(spent * 1e6 / requests as f64);
            rates[at].push(requests as f64 / started.elapsed().as_secs_f64());
        }
    }
    report(&targets, &costs, &rates, args.at_most)
}

fn report(targets: &[Process], costs: &[Vec<f64>], rates: &[Vec<f64>], at_most: f64) -> anyhow::Result<()> {
    let of = |at: usize| median(costs[at].iter().copied());
    let ratio = |base: usize| median(costs[0].iter().zip(&costs[base]).map(|(ours, echo)| ours / echo));
    say(&format!("{:<24} {:>14} {:>12} {:>22}", "", "CPU-us/request", "requests/s", "CPU-us of each round"));
    for (at, target) in targets.iter().enumerate() {
        let rounds: Vec<String> = costs[at].iter().map(|cost| format!("{cost:.1}")).collect();
        let rate = median(rates[at].iter().copied());
        say(&format!("{:<24} {:>14.2} {rate:>12.0} {:>22}", target.name, of(at), rounds.join(" ")));
    }
    let (message, bytes) = (ratio(1), ratio(2));
    say(&format!("cached answer / echo of a message: {message:.3}\ncached answer / echo of bytes:     {bytes:.3}"));
    ensure!(at_most <= 0.0 || message <= at_most, "the ratio {message:.3} is above {at_most}");
    Ok(())
}

fn start_marquee(binary: &Path, folder: &Path) -> anyhow::Result<Process> {
    let config = folder.join("marquee.toml");
    let (admin, metrics) = (free_address()?, free_address()?);
    let shown = folder.display();
    std::fs::write(
        &config,
        format!(
            "[server]\nadmin_listen = \"{admin}\"\nmetrics_listen = \"{metrics}\"\n\
             [store]\nurl = \"sqlite://{shown}/marquee.db\"\n[artifacts]\nurl = \"file://{shown}/bundles\"\n\
             [cache]\nttl_ms = 3600000\n[events]\nquarantine_folder = \"{shown}/quarantine\"\n[log]\nlevel = \"error\"\n"
        ),
    )?;
    let address = free_address()?;
    let mut command = Command::new(binary);
    command.arg("--config").arg(&config).arg("serve").env("MARQUEE_SERVER__LISTEN", address.to_string());
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {}", binary.display()))?;
    Ok(Process { name: "marquee, cached answer", child, address: format!("http://{address}") })
}

fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Process> {
    let address = free_address()?;
    let child = command.args(["--listen", &address.to_string()]).stdin(Stdio::null()).spawn().context("an echo")?;
    Ok(Process { name, child, address: format!("http://{address}") })
}

/// An address that is free now; taken a moment later by the process that gets it.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let started = Instant::now();
    loop {
        match Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true).connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) if started.elapsed() > START_MAX => {
                return Err(error).context(format!("connecting to {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// New items, which a visitor of whom nothing is known is shown.
async fn fill(channel: &Channel) -> anyhow::Result<()> {
    let item = |at: usize| v1::Item {
        id: format!("floor-item-{at:08}"),
        title: format!("Item {at}"),
        genres: vec![["drama", "comedy", "crime"][at % 3].to_owned()],
        ..Default::default()
    };
    let request = v1::UpsertItemsRequest { items: (0..ITEMS).map(item).collect() };
    let token = CatalogServiceClient::new(channel.clone()).upsert_items(request).await?.into_inner().write_token;
    for user in 0..USERS as u64 {
        let request = v1::RecommendRequest { write_token: token.clone(), ..ask(user) };
        RecommendationServiceClient::new(channel.clone()).recommend(request).await?;
    }
    Ok(())
}

fn ask(number: u64) -> v1::RecommendRequest {
    let user_id = format!("floor-user-{:04}", number % USERS as u64);
    v1::RecommendRequest { user_id, surface: "home".to_owned(), ..Default::default() }
}

/// All three must give the same items, and Marquee from its cache, or the figures mean nothing.
async fn check(channels: &[Vec<Channel>]) -> anyhow::Result<()> {
    let mut slates = Vec::new();
    for (at, own) in channels.iter().enumerate() {
        let mut client = RecommendationServiceClient::new(own[0].clone());
        client.recommend(ask(0)).await?;
        let answer = client.recommend(ask(0)).await?.into_inner();
        ensure!(at > 0 || answer.cache_status() == v1::CacheStatus::Hit, "Marquee did not answer from its cache");
        ensure!(!answer.results.is_empty(), "an empty slate");
        slates.push(answer.results);
    }
    ensure!(slates.windows(2).all(|pair| pair[0] == pair[1]), "the slates differ");
    say(&format!("{} items in the slate", slates[0].len()));
    Ok(())
}

/// Asks for so long; gives the number of answers.
async fn drive(channels: &[Channel], args: &FloorArgs, seconds: f64) -> anyhow::Result<u64> {
    let (until, next) = (Instant::now() + Duration::from_secs_f64(seconds), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for channel in channels.iter().flat_map(|channel| std::iter::repeat_n(channel, args.in_flight)) {
        let (mut client, next) = (RecommendationServiceClient::new(channel.clone()), next.clone());
        tasks.spawn(async move {
            while Instant::now() < until {
                client.recommend(ask(next.fetch_add(1, Ordering::Relaxed))).await?;
            }
            Ok::<_, Status>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(next.load(Ordering::Relaxed))
}

/// CPU time of a process and all its threads, user and system, as the operating system counts it.
fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    /// What `getconf CLK_TCK` says on every Linux that this is run on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).context("reading /proc: Linux is needed")?;
    // The name in parentheses may hold spaces; user and system time are the fields 14 and 15.
    let (_, rest) = text.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
