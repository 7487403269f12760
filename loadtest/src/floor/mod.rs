//! The floor: what does a cached answer cost the server beside a bare tonic server that answers with the same slate?
//!
//! `floor` starts Marquee on made-up items and the bare servers (`echo`), asks them in turns with the same closed loop, and
//! compares the CPU time that the operating system counted for each process. A closed loop is right here: the figure is
//! work per request, not latency. Every answer is checked while it is measured.
//!
//! With `--redis` Marquee keeps no slates of its own, so that each comes from Redis, and the bare server answers each
//! call with one GET of the same answer; `shared` counts at the Redis that it was so.

mod processes;
mod shared;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use marquee_proto::v1;
use marquee_proto::v1::catalog_service_client::CatalogServiceClient;
use marquee_proto::v1::recommendation_service_client::RecommendationServiceClient;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::calls::say;
use crate::echo::{USERS, ask, connect};
use processes::{Folder, Process, cpu_seconds};
use shared::Shared;

/// Made-up items.
const ITEMS: usize = 500;
/// How long a slate may take to be in the cache.
const CACHED_MAX: Duration = Duration::from_secs(10);
/// Seconds for which each is asked before anything is counted.
const WARM_SECONDS: f64 = 0.5;
/// The largest ratios that are no failure, unless said otherwise.
const OWN_AT_MOST: f64 = 1.1;
const SHARED_AT_MOST: f64 = 1.3;

#[derive(Debug, clap::Args)]
pub(crate) struct FloorArgs {
    /// The server's binary; this binary's neighbour unless said otherwise.
    #[arg(long)]
    marquee: Option<PathBuf>,
    /// Rounds; in each all are asked, one after the other.
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
    /// The largest ratio of the cached answer to the first bare server that is no failure; 0 only prints.
    /// Unless said otherwise 1.1, with --redis 1.3.
    #[arg(long)]
    at_most: Option<f64>,
    /// Answers come from this Redis, which nobody else uses, and the bare server reads it, too.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// With --redis: the profile comes from there, too, in the same round trip.
    #[arg(long, requires = "redis")]
    profiles_too: bool,
}

/// One of those that are asked.
struct Target {
    process: Process,
    channels: Vec<Channel>,
    /// By visitor: the items that each answer must have, and what it lacks: there is no bundle, and that is all.
    slates: Vec<(Vec<v1::Result>, Option<v1::Degraded>)>,
    must_hit: bool,
    costs: Vec<f64>,
    rates: Vec<f64>,
}

/// Starts all, asks them in turns, prints the table.
pub(crate) async fn floor(args: FloorArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0.0 && args.connections > 0 && args.in_flight > 0, "nothing to measure");
    let folder = Folder::new()?;
    let mut shared = None;
    if let Some(url) = &args.redis {
        shared = Some(Shared::open(url, args.profiles_too).await?);
    }
    let own = std::env::current_exe()?;
    let binary = args.marquee.clone().unwrap_or_else(|| own.with_file_name("marquee"));
    let (name, cache) = match &shared {
        None => ("marquee, cached answer", "[cache]\nttl_ms = 3600000\nhard_ttl_ms = 3600000\n".to_owned()),
        Some(shared) => ("marquee, from Redis", shared.settings()),
    };
    let server = Process::marquee(name, &binary, &folder, &cache)?;
    let address = server.address.clone();
    let server = Target::new(server, &args, true).await?;
    fill(&server.channels[0]).await?;
    let answer = server.cached(0).await?;
    let mut targets = vec![server];
    match &mut shared {
        None => {
            for (name, mode) in [("echo of a message", "message"), ("echo of bytes", "bytes")] {
                let echo = Process::echo(name, &own, &["--slate-of", &address, "--mode", mode])?;
                targets.push(Target::new(echo, &args, false).await?);
            }
        }
        Some(shared) => {
            let key = shared.put(&answer.encode_to_vec()).await?;
            let echo = Process::echo("one GET", &own, &["--redis", shared.url(), &key])?;
            targets.push(Target::new(echo, &args, false).await?);
        }
    }
    learn(&mut targets).await?;
    say(&format!("{} items in the slate, {} bytes", answer.results.len(), answer.encoded_len()));
    for target in &targets {
        target.drive(&args, WARM_SECONDS).await?;
    }
    for _ in 0..args.rounds {
        for target in &mut targets {
            let counted = match &mut shared {
                Some(shared) => Some(shared.counts().await?),
                None => None,
            };
            let requests = target.measure(&args).await?;
            if let (Some(shared), Some(before)) = (&mut shared, counted) {
                shared.check(before, requests, target.must_hit).await?;
            }
        }
    }
    let at_most = args.at_most.unwrap_or(if shared.is_some() { SHARED_AT_MOST } else { OWN_AT_MOST });
    report(&targets, at_most)
}

fn report(targets: &[Target], at_most: f64) -> anyhow::Result<()> {
    let (server, bare) = targets.split_first().context("nothing was asked")?;
    say(&format!("{:<24} {:>14} {:>12} {:>22}", "", "CPU-us/request", "requests/s", "CPU-us of each round"));
    for target in targets {
        let rounds: Vec<String> = target.costs.iter().map(|cost| format!("{cost:.1}")).collect();
        let (cost, rate) = (median(target.costs.iter().copied()), median(target.rates.iter().copied()));
        say(&format!("{:<24} {cost:>14.2} {rate:>12.0} {:>22}", target.process.name, rounds.join(" ")));
    }
    let mut first = None;
    for other in bare {
        let ratio = median(server.costs.iter().zip(&other.costs).map(|(ours, bare)| ours / bare));
        say(&format!("{} / {}: {ratio:.3}", server.process.name, other.process.name));
        first = first.or(Some(ratio));
    }
    let ratio = first.context("there is nothing to compare with")?;
    ensure!(at_most <= 0.0 || ratio <= at_most, "the ratio {ratio:.3} is above {at_most}");
    Ok(())
}

impl Target {
    async fn new(process: Process, args: &FloorArgs, must_hit: bool) -> anyhow::Result<Target> {
        let mut channels = Vec::new();
        for _ in 0..args.connections {
            channels.push(connect(&process.address).await?);
        }
        Ok(Target { process, channels, slates: Vec::new(), must_hit, costs: Vec::new(), rates: Vec::new() })
    }

    /// The visitor's answer as soon as it is a repeated one.
    async fn cached(&self, visitor: u64) -> anyhow::Result<v1::RecommendResponse> {
        let mut client = RecommendationServiceClient::new(self.channels[0].clone());
        let started = Instant::now();
        loop {
            let answer = client.recommend(ask(visitor)).await?.into_inner();
            if !self.must_hit || answer.cache_status() == v1::CacheStatus::Hit {
                return Ok(answer);
            }
            ensure!(started.elapsed() < CACHED_MAX, "{} did not answer from its cache", self.process.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks for the time of a round and notes what that cost; gives the number of answers.
    async fn measure(&mut self, args: &FloorArgs) -> anyhow::Result<u64> {
        let (before, started) = (cpu_seconds(self.process.id())?, Instant::now());
        let requests = self.drive(args, args.seconds).await?;
        let spent = cpu_seconds(self.process.id())? - before;
        self.costs.push(spent * 1e6 / requests as f64);
        self.rates.push(requests as f64 / started.elapsed().as_secs_f64());
        Ok(requests)
    }

    /// Asks for so long; gives the number of answers, each of which was right.
    async fn drive(&self, args: &FloorArgs, seconds: f64) -> anyhow::Result<u64> {
        let (until, next) = (Instant::now() + Duration::from_secs_f64(seconds), Arc::new(AtomicU64::new(0)));
        let slates = Arc::new(self.slates.clone());
        let mut tasks = tokio::task::JoinSet::new();
        for channel in self.channels.iter().flat_map(|channel| std::iter::repeat_n(channel, args.in_flight)) {
            let (mut client, next) = (RecommendationServiceClient::new(channel.clone()), next.clone());
            let (slates, must_hit) = (slates.clone(), self.must_hit);
            tasks.spawn(async move {
                while Instant::now() < until {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let answer = client.recommend(ask(number)).await?.into_inner();
                    if must_hit && answer.cache_status() != v1::CacheStatus::Hit {
                        return Err(Status::data_loss("an answer was not from the cache"));
                    }
                    if (answer.results, answer.degraded) != slates[number as usize % USERS] {
                        return Err(Status::data_loss("another slate, or one that lacks something"));
                    }
                }
                Ok::<_, Status>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done?.with_context(|| self.process.name)?;
        }
        Ok(next.load(Ordering::Relaxed))
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

/// What each must answer to each visitor. All must give the first one the same items, and Marquee from its cache, or the
/// figures mean nothing.
async fn learn(targets: &mut [Target]) -> anyhow::Result<()> {
    for target in targets.iter_mut() {
        for visitor in 0..USERS as u64 {
            let v1::RecommendResponse { results, degraded, .. } = target.cached(visitor).await?;
            let lacks_more = degraded.iter().flat_map(|degraded| &degraded.parts).any(|part| part.what != "ranker");
            ensure!(!results.is_empty() && !lacks_more, "{}: an empty or poor slate", target.process.name);
            target.slates.push((results, degraded));
        }
    }
    ensure!(targets.windows(2).all(|pair| pair[0].slates[0] == pair[1].slates[0]), "the slates differ");
    Ok(())
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
