//! Load tests of a running Marquee that can be trusted.
//!
//! Open loop: calls are sent when they are due, whatever the server does, and measured from that instant. `session`
//! makes a server ready to be loaded, `drive` loads it, `result` is what is kept, `report` draws it. `mix` and
//! `stream-events` are older and smaller: closed loops for tests of correctness.

mod calls;
mod check;
mod command;
mod compare;
mod drive;
mod echo;
mod exit;
mod floor;
mod ledger;
mod machine;
mod mix;
mod numbers;
mod outcome;
mod overload;
mod pacer;
mod profile;
mod report;
mod result;
mod run;
mod schedule;
mod scrape;
mod search;
mod session;
mod slo;
mod soak;
mod stream;
mod table;
mod traffic;
mod wire;
mod zipf;

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use marquee_loadtest::generate;
use tonic::transport::{Channel, Endpoint};

use exit::Problem;

#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
struct Cli {
    /// The public listener; for run, search and soak several times, once a process of an installation: calls take turns.
    #[arg(long, global = true, default_value = "http://127.0.0.1:50051")]
    address: Vec<String>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 held; 1 the SLO or a bound is missed; 3 invalid: the generator lagged; \
    4 incomplete: the server died, Ctrl-C or SIGTERM; 5 wrong answers; 64 bad input; 69 the server cannot be loaded.";

#[derive(Debug, Subcommand)]
enum Command {
    /// One load: a rate, a duration, a verdict.
    Run(run::Args),
    /// The highest rate at which the SLO holds.
    Search(search::Args),
    /// Several times the highest rate: what is still answered, how fast the rest is refused, how soon all is normal.
    Overload(overload::Args),
    /// A long load: memory, errors, latencies at the end beside those at the beginning.
    Soak(soak::Args),
    /// Two reports side by side, with what is noise.
    Compare(compare::Args),
    /// Draws reports: one HTML page, one SVG curve, no network.
    Report(report::Args),
    /// Recommend, with events between that the next Recommend must reflect.
    Mix(mix::Args),
    /// Streams events with ids made from a seed; notes what was acknowledged.
    StreamEvents(stream::StreamArgs),
    /// Reads the streamed events back: each acknowledged one must be there exactly once.
    VerifyEvents(stream::VerifyArgs),
    /// Makes a synthetic catalogue with users: files to import, trained models, feature rows.
    Generate(generate::Args),
    /// A bare server that answers every Recommend with one slate, or with what a key of Redis holds.
    Echo(echo::EchoArgs),
    /// Server CPU of a cached answer beside that of a bare server of the same slate.
    Floor(floor::FloorArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _closed = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    run(cli).unwrap_or_else(Problem::end)
}

fn run(cli: Cli) -> Result<ExitCode, Problem> {
    let all = cli.address.as_slice();
    let only = || match all {
        [address] => Ok(address.as_str()),
        _ => Err(Problem::usage(anyhow!("--address: several are for run, search and soak"))),
    };
    match cli.command {
        Command::Run(args) => alone(run::run(all, args)),
        Command::Search(args) => alone(search::run(all, args)),
        Command::Soak(args) => alone(soak::run(all, args)),
        Command::Overload(args) => alone(overload::run(only()?, args)),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Mix(args) => together(only()?, |channel| mix::run(channel, args)),
        Command::StreamEvents(args) => together(only()?, |channel| stream::run(channel, args)),
        Command::VerifyEvents(args) => together(only()?, |channel| stream::verify(channel, args)),
        Command::Generate(args) => ended(generate::run(&args, &mut |doing| calls::say(&format!("generate: {doing}")))),
        Command::Echo(args) => by_itself(echo::serve(args)),
        Command::Floor(args) => by_itself(floor::floor(args)),
    }
}

/// Everything of a load on this thread: no other thread to wait for, and one core that shows what it costs.
fn alone(command: impl Future<Output = Result<ExitCode, Problem>>) -> Result<ExitCode, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    tokio::task::LocalSet::new().block_on(&runtime, command)
}

fn together<F: Future<Output = anyhow::Result<()>>>(
    address: &str,
    command: impl FnOnce(Channel) -> F,
) -> Result<ExitCode, Problem> {
    by_itself(async { command(connect(address).await?).await })
}

fn by_itself(command: impl Future<Output = anyhow::Result<()>>) -> Result<ExitCode, Problem> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    ended(runtime.block_on(command))
}

fn ended(done: anyhow::Result<()>) -> Result<ExitCode, Problem> {
    if let Err(error) = done {
        calls::say(&format!("error: {error:#}"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("connecting to {address}"))
}
