//! Everything that a load needs, made ready and tried once: connections, ids, the null RPC, one call of each kind.
//!
//! What is wrong with the input or the server is found here, before a load begins.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use marquee_proto::v1;
use prost::Message;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

use crate::calls::say;
use crate::check::{Checker, Memory, Verdict};
use crate::exit::Problem;
use crate::ledger::Ledger;
use crate::machine::{self, Watched};
use crate::profile::{Ids, Profile};
use crate::result::{Baseline, Setting, Spread};
use crate::scrape::Scrape;
use crate::traffic::{Column, Kind, Log, Names, Shot, Source, Traffic};
use crate::wire::{Connections, OPEN_TIMEOUT, Picked, Reply, Target, call, frame};

const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Of the null RPC: so many calls or so long, whichever ends first.
const BASELINE_CALLS: u64 = 1_000;
const BASELINE_TIME: Duration = Duration::from_secs(2);
/// Users that are looked up to see whether the server knows those that the profile draws.
const USERS_LOOKED_UP: usize = 20;

/// Which server, and with what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Where {
    /// The server's certificate authority, PEM, for https://.
    #[arg(long)]
    pub(crate) ca: Option<PathBuf>,
    /// What is asked: a TOML file, see loadtest/profiles.
    #[arg(long)]
    pub(crate) profile: PathBuf,
    /// HOST:PORT of the server's /metrics: stages, memory and processor time come from there.
    #[arg(long)]
    pub(crate) metrics: Option<String>,
    /// The server's process on this machine: processor time and memory come from /proc.
    #[arg(long)]
    pub(crate) server_pid: Option<u32>,
    /// NAME=TEXT for the report, e.g. server=0.2.0; may be repeated.
    #[arg(long, value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// The same seed asks the same, at the same instants.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Ids of the events that were acknowledged, a line each, to be looked for in the store.
    #[arg(long)]
    pub(crate) acknowledged: Option<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    parts
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .ok_or_else(|| format!("must be NAME=TEXT, not \"{text}\""))
}

/// What all calls share.
pub(crate) struct Shared {
    pub(crate) connections: Connections,
    /// By server and kind.
    pub(crate) heads: Vec<[http::Request<()>; Kind::ALL.len()]>,
    pub(crate) deadline: Duration,
    pub(crate) in_flight_max: usize,
    pub(crate) in_flight: Cell<usize>,
    pub(crate) checker: RefCell<Checker>,
    pub(crate) memory: RefCell<Memory>,
    pub(crate) traffic: RefCell<Traffic>,
    /// `--acknowledged`
    pub(crate) ledger: RefCell<Option<Ledger>>,
    /// Ctrl-C was pressed, or SIGTERM came.
    pub(crate) interrupted: Cell<bool>,
}

impl Shared {
    /// Events that were acknowledged.
    pub(crate) fn note(&self, shot: &Shot, verdict: &Verdict) {
        if let (Some(ledger), None) = (&mut *self.ledger.borrow_mut(), verdict.violation) {
            ledger.note(&shot.event_ids);
        }
    }
}

/// A server that is ready to be loaded.
pub(crate) struct Session {
    pub(crate) shared: Rc<Shared>,
    pub(crate) watched: Watched,
    pub(crate) setting: Setting,
    pub(crate) baseline: Baseline,
    pub(crate) log: Option<Rc<Log>>,
    pub(crate) seed: u64,
}

/// Where calls go; every address at least once, each once.
fn targets(addresses: &[String], authority: Option<&Path>) -> Result<Vec<Target>, Problem> {
    let different: BTreeSet<&String> = addresses.iter().collect();
    if different.len() < addresses.len() {
        return Err(Problem::usage(anyhow!("--address: an address is given twice")));
    }
    addresses.iter().map(|address| Target::parse(address, authority)).collect::<Result<_, _>>().map_err(Problem::usage)
}

impl Session {
    /// Opens the connections, reads ids, measures the null RPC, tries each kind of call once. Must run in a `LocalSet`.
    ///
    /// # Errors
    /// Bad input, or a server that cannot be loaded: with the flag or key, and the rule.
    pub(crate) async fn open(addresses: &[String], given: &Where, replay: Option<Log>) -> Result<Session, Problem> {
        let profile = Profile::read(&given.profile).map_err(Problem::Usage)?;
        let targets = targets(addresses, given.ca.as_deref())?;
        let ledger = given.acknowledged.as_deref().map(Ledger::create).transpose().map_err(Problem::usage)?;
        if let Some(metrics) = &given.metrics {
            Scrape::read(metrics).map_err(Problem::Server)?;
        }
        if let Some(pid) = given.server_pid {
            machine::usage(&pid.to_string())
                .ok_or_else(|| Problem::usage(anyhow!("--server-pid: there is no process {pid} in /proc")))?;
        }
        let connections = Connections::open(targets, profile.connections).await.map_err(Problem::Server)?;
        let address = addresses.join(", ");
        let baseline = baseline(&connections, &address).await.map_err(Problem::Server)?;
        let (users, items) = match &replay {
            Some(log) => (Source::Listed(log.users.clone()), Source::Listed(log.items.clone())),
            None => ids(&profile, &connections).await?,
        };
        let users = Names::new(users, profile.users.zipf, given.seed);
        let items = Names::new(items, profile.items.zipf, given.seed ^ 1);
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let mut setting = Setting {
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: given.label.iter().cloned().collect(),
            address,
            profile_name: profile.name.clone(),
            profile: profile.text.clone(),
            users: users.len(),
            items: items.len(),
            machine: machine::machine(),
            ..Setting::default()
        };
        let traffic =
            Traffic::new(&profile, users, items, &format!("load-{run}"), given.seed, connections.servers() > 1);
        let deadline = profile.call.deadline;
        let shared = Rc::new(Shared {
            heads: (0..connections.servers())
                .map(|server| Kind::ALL.map(|kind| connections.head(server, kind.path(), deadline)))
                .collect(),
            connections,
            deadline,
            in_flight_max: profile.in_flight_max,
            in_flight: Cell::new(0),
            checker: RefCell::default(),
            memory: RefCell::default(),
            traffic: RefCell::new(traffic),
            ledger: RefCell::new(ledger),
            interrupted: Cell::new(false),
        });
        setting.bundle_version = try_each(&shared, &profile).await.map_err(Problem::Server)?;
        setting.users_known = users_known(&shared).await;
        tokio::task::spawn_local(listen_for_interrupt(shared.clone()));
        let watched = Watched { pid: given.server_pid, metrics: given.metrics.clone() };
        Ok(Session { shared, watched, setting, baseline, log: replay.map(Rc::new), seed: given.seed })
    }

    /// Says what is about to be loaded.
    pub(crate) fn introduce(&self) {
        let Setting { address, bundle_version, profile_name, users, items, users_known, .. } = &self.setting;
        let bundle = if bundle_version.is_empty() { "no bundle" } else { bundle_version };
        say(&format!("{address}, {bundle}; profile {profile_name}: {users} users ({users_known}), {items} items"));
        let latency = &self.baseline.latency;
        let (method, count, p50, p99) = (&self.baseline.method, latency.count, latency.at(50.0), latency.at(99.0));
        say(&format!("null RPC ({method}, one after the other): {count} calls, p50 {p50:.3} ms, p99 {p99:.3} ms"));
    }
}

/// The first Ctrl-C or SIGTERM ends the load and reports what was measured; the second one ends the program.
async fn listen_for_interrupt(shared: Rc<Shared>) {
    let mut terminate = signal(SignalKind::terminate()).ok();
    loop {
        let terminated = async {
            match &mut terminate {
                Some(signal) => signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => if pressed.is_err() { return },
            _ = terminated => {}
        }
        if shared.interrupted.replace(true) {
            std::process::exit(130);
        }
    }
}

/// One unary call outside of the load.
async fn ask(connections: &Connections, path: &str, message: &impl Message) -> anyhow::Result<Reply> {
    let Picked { sender, server } = connections.pick().context("all connections are lost")?;
    let body = frame::framed(message, &mut BytesMut::new());
    let reply = call(sender, connections.head(server, path, OPEN_TIMEOUT), body);
    let reply = tokio::time::timeout(OPEN_TIMEOUT, reply).await;
    reply.with_context(|| format!("no answer to {path} within {} s", OPEN_TIMEOUT.as_secs()))
}

fn decoded<T: Message + Default>(body: &Bytes) -> anyhow::Result<T> {
    let message = frame::messages(body).next().context("an answer without a message")?;
    Ok(T::decode(message)?)
}

/// The null RPC: what network, HTTP/2 and runtimes cost with no work behind them.
async fn baseline(connections: &Connections, address: &str) -> anyhow::Result<Baseline> {
    // The empty message asks for the health of the server as a whole.
    let first = ask(connections, HEALTH, &()).await.with_context(|| format!("--address: {address}: is it gRPC?"))?;
    match first.code {
        Code::Ok | Code::Unimplemented => {}
        Code::Unavailable | Code::Unknown => bail!("--address: {address} does not answer gRPC ({})", first.told()),
        _ => bail!("--address: {address}: its health check answers {}", first.told()),
    }
    let mut histogram = Histogram::<u64>::new(3)?;
    histogram.auto(true);
    let started = Instant::now();
    while histogram.len() < BASELINE_CALLS && started.elapsed() < BASELINE_TIME {
        let sent = Instant::now();
        ask(connections, HEALTH, &()).await?;
        histogram += (sent.elapsed().as_micros() as u64).max(1);
    }
    let unknown = if first.code == Code::Unimplemented { ", which it does not have" } else { "" };
    Ok(Baseline { method: format!("health check{unknown}"), latency: Spread::of(&histogram) })
}

async fn ids(profile: &Profile, connections: &Connections) -> Result<(Source, Source), Problem> {
    let users = Source::read(&profile.users.ids, profile.users.count, Column::Users);
    let users = users.context("users").map_err(Problem::usage)?;
    let items = match &profile.items.ids {
        Ids::Server => listed(connections, profile.items.count).await.map_err(Problem::Server)?,
        other => Source::read(other, profile.items.count, Column::Items).context("items").map_err(Problem::usage)?,
    };
    Ok((users, items))
}

async fn listed(connections: &Connections, count: usize) -> anyhow::Result<Source> {
    const LIST: &str = "/marquee.v1.CatalogService/ListItems";
    let (mut ids, mut page_token) = (Vec::<Box<str>>::new(), String::new());
    loop {
        let request = v1::ListItemsRequest { page_size: 1_000, page_token };
        let reply = ask(connections, LIST, &request).await?;
        ensure!(reply.code == Code::Ok, "items.from = \"server\": ListItems answers {}", reply.told());
        let page: v1::ListItemsResponse = decoded(&reply.body)?;
        ids.extend(page.items.into_iter().map(|item| item.id.into_boxed_str()));
        page_token = page.next_page_token;
        if page_token.is_empty() || ids.len() >= count {
            ids.truncate(count);
            ensure!(!ids.is_empty(), "items.from = \"server\": its catalogue is empty");
            return Ok(Source::Listed(ids));
        }
    }
}

/// One call of each kind; the bundle that answers. A busy server may refuse: that is what a load is there to show.
async fn try_each(shared: &Rc<Shared>, profile: &Profile) -> anyhow::Result<String> {
    let mut bundle = String::new();
    for kind in profile.kinds() {
        let shot = shared.traffic.borrow_mut().shot(kind, &shared.memory.borrow(), None);
        let Picked { sender, server } = shared.connections.pick().context("all connections are lost")?;
        let reply = call(sender, shared.connections.head(server, kind.path(), OPEN_TIMEOUT), shot.body.clone());
        let late = || format!("no answer to {} within {} s", kind.key(), OPEN_TIMEOUT.as_secs());
        let reply = tokio::time::timeout(OPEN_TIMEOUT, reply).await.with_context(late)?;
        match reply.code {
            Code::Ok => {}
            Code::ResourceExhausted | Code::DeadlineExceeded => continue,
            _ => bail!("mix.{}: the server answers {}", kind.key(), reply.told()),
        }
        let messages = frame::messages(&reply.body);
        let verdict = shared.checker.borrow_mut().check(kind, &shot.expect, messages, &mut shared.memory.borrow_mut());
        shared.note(&shot, &verdict);
        if kind == Kind::Recommend {
            bundle = decoded::<v1::RecommendResponse>(&reply.body)?.bundle_version;
        }
    }
    Ok(bundle)
}

/// Whether the server knows the users that the profile draws: strangers are ranked with less work.
async fn users_known(shared: &Rc<Shared>) -> String {
    const GET: &str = "/marquee.v1.UserService/GetUser";
    let drawn: BTreeSet<String> = shared.traffic.borrow_mut().sample_users(USERS_LOOKED_UP).into_iter().collect();
    let (mut known, count) = (0, drawn.len());
    for user_id in drawn {
        let request = v1::GetUserRequest { user_id, ..Default::default() };
        match ask(&shared.connections, GET, &request).await {
            Ok(reply) if reply.code == Code::Ok => known += 1,
            Ok(reply) if reply.code == Code::NotFound => {}
            _ => return "the server was not asked about them".to_owned(),
        }
    }
    format!("of {count} drawn, the server knows {known}")
}
