//! `make bench`, `bench-instructions`, `bench-whole`, `bench-growth`, `bench-memory`, `bench-server`, `bench-events`: docs/bench.md.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use marquee_loadtest::bench::{Bench, events, growth, print, server, stages};
use serde_json::{Value, json};

/// The server's: large pieces lie in huge pages with one and not with the other, and a request looks all over memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Cli {
    /// Folders that `make synthetic` made, by their names in `.marquee/synthetic`.
    states: Vec<String>,
    /// Users that are asked for.
    #[arg(long, default_value_t = 100)]
    people: usize,
    /// How often each is asked.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Count instructions with callgrind, too.
    #[arg(long)]
    instructions: bool,
    /// A request beside the sum of its parts.
    #[arg(long)]
    whole: bool,
    /// The last state beside the first.
    #[arg(long)]
    growth: bool,
    /// Start-up and memory of each state.
    #[arg(long)]
    memory: bool,
    /// A server's CPU a request beside the engine's. Needs the binary `marquee`.
    #[arg(long, value_name = "MARQUEE")]
    server: Option<PathBuf>,
    /// A server's CPU for a user's request after an event. Needs the binary `marquee`.
    #[arg(long, value_name = "MARQUEE")]
    events: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs under callgrind, for `--instructions`.
    #[arg(long, hide = true)]
    counted: bool,
    /// Opens this state and says what that took, for `--memory`.
    #[arg(long, hide = true)]
    opened: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(state) = &cli.opened {
        print(&growth::opened(state)?.to_string());
        return Ok(());
    }
    let states: Vec<PathBuf> = cli.states.iter().map(|name| state(name)).collect();
    let mut figures: Vec<Value> = Vec::new();
    if cli.memory {
        let names: Vec<String> = states.iter().map(|state| state.display().to_string()).collect();
        figures.extend(growth::sizes(&names)?);
    } else if cli.growth {
        let (first, last) = (states.first().context("no states")?, states.last().context("no states")?);
        let (mut small, mut large) = (Bench::open(first, cli.people)?, Bench::open(last, cli.people)?);
        figures.push(growth::compare(&mut small, &mut large, cli.rounds)?);
    } else if let Some(marquee) = &cli.events {
        for state in &states {
            figures.push(events::compare(state, marquee)?);
        }
    } else {
        for state in &states {
            let mut bench = Bench::open(state, cli.people)?;
            if cli.counted {
                bench.counted()?;
            } else if cli.whole {
                figures.push(bench.whole()?);
            } else if let Some(marquee) = &cli.server {
                figures.push(server::compare(&mut bench, state, marquee)?);
            } else {
                figures.push(table(cli, &mut bench, state)?);
            }
        }
    }
    if let Some(path) = &cli.json {
        std::fs::write(path, serde_json::to_vec_pretty(&json!(figures))?)?;
    }
    Ok(())
}

fn table(cli: &Cli, bench: &mut Bench, state: &std::path::Path) -> Result<Value> {
    let mut table = bench.table(cli.rounds)?;
    if cli.instructions {
        let name = state.file_name().context("a state has a name")?.to_string_lossy().into_owned();
        let folder = state.join("callgrind");
        table.instructions = stages::count(&["--counted".to_owned(), name], &folder)?;
    }
    table.print();
    Ok(table.json())
}

/// Whatever the folder that it runs in.
fn state(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.marquee/synthetic").join(name)
}
