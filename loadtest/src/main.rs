//! One small client for tests of a running Marquee.
//!
//! A closed loop: each worker sends its next request when the last one is answered, so a slow server is asked less and
//! its latencies look better than a user's would. Fit for correctness runs; the open-loop tool comes with the load tests.

mod echo;
mod mix;
mod numbers;
mod report;
mod stream;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use marquee_loadtest::generate;
use tonic::transport::{Channel, Endpoint};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// The public listener.
    #[arg(long, global = true, default_value = "http://127.0.0.1:50051")]
    address: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Recommend, with events between that the next Recommend must reflect.
    Mix(mix::Args),
    /// Streams events with ids made from a seed; notes what was acknowledged.
    StreamEvents(stream::StreamArgs),
    /// Reads the streamed events back: each acknowledged one must be there exactly once.
    VerifyEvents(stream::VerifyArgs),
    /// Makes a synthetic catalogue with users: files to import, trained models, feature rows.
    Generate(generate::Args),
    /// A bare server that answers every Recommend with one slate.
    Echo(echo::EchoArgs),
    /// Server CPU of a cached answer beside that of a bare echo of the same slate.
    Floor(echo::FloorArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = tokio::runtime::Runtime::new().context("starting the runtime").and_then(|runtime| {
        runtime.block_on(async {
            let command = match cli.command {
                Command::Echo(args) => return echo::serve(args).await,
                Command::Floor(args) => return echo::floor(args).await,
                Command::Generate(args) => {
                    return generate::run(&args, &mut |doing| report::say(&format!("generate: {doing}")));
                }
                command => command,
            };
            let channel = connect(&cli.address).await?;
            match command {
                Command::Mix(args) => mix::run(channel, args).await,
                Command::StreamEvents(args) => stream::run(channel, args).await,
                Command::VerifyEvents(args) => stream::verify(channel, args).await,
                Command::Echo(_) | Command::Floor(_) | Command::Generate(_) => unreachable!("they are done"),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned())?.tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("connecting to {address}"))
}
