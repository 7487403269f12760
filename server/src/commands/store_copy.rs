//! `marquee store dump|restore`: everything that a store holds, to a file and from one. How a team moves from SQLite to
//! PostgreSQL and back with nothing lost.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use indicatif::ProgressBar;

use super::{open_store, print, told};
use crate::config::Config;
use crate::store::Store;
use crate::store::dump::{self, Summary};

/// Bytes that are read or written at once.
const BUFFER_BYTES: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Writes one moment of everything in the store, JSON line by JSON line, with counts and a checksum at the end. The
    /// same content is the same bytes, whichever store holds it. A server may run meanwhile.
    Dump {
        /// The file to write; it must not exist. `-` is standard output.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Fills the store from a dump. The store must be empty and nothing else may use it; what is not a whole dump leaves
    /// it empty.
    Restore {
        /// The file to read; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub(super) async fn run(config: &Config, args: Args) -> Result<()> {
    let store = open_store(config).await?;
    let done = match &args.action {
        Action::Dump { file } => dump(&*store, file).await,
        Action::Restore { file } => restore(&*store, file).await,
    };
    store.close().await;
    let told = done?;
    match args.action {
        // Standard output is the dump's.
        Action::Dump { file } if is_standard(&file) => {
            std::io::stderr().write_all(told.as_bytes()).context("writing to standard error")
        }
        _ => print(&told),
    }
}

async fn dump(store: &dyn Store, file: &Path) -> Result<String> {
    ensure!(is_standard(file) || !file.exists(), "{} exists already; choose another file", file.display());
    let mut dump = store.dump().await.map_err(told)?;
    let bar = rows_bar("dumping");
    let progress = |rows| bar.set_position(rows);
    let summary = if is_standard(file) {
        dump::write(&mut *dump, &mut BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout()), &progress).await?
    } else {
        // Under its own name only when it is whole.
        let beside = PathBuf::from(format!("{}.partial", file.display()));
        let made = File::create(&beside).with_context(|| format!("making {}", beside.display()))?;
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, made);
        let written = dump::write(&mut *dump, &mut out, &progress).await;
        let kept = match written {
            Ok(summary) => out
                .get_ref()
                .sync_all()
                .and_then(|()| std::fs::rename(&beside, file))
                .map(|()| summary)
                .map_err(dump::Problem::from),
            Err(problem) => Err(problem),
        };
        if kept.is_err() {
            let _gone_already = std::fs::remove_file(&beside);
        }
        kept.with_context(|| format!("writing {}", file.display()))?
    };
    bar.finish_and_clear();
    table("dumped", &summary)
}

async fn restore(store: &dyn Store, file: &Path) -> Result<String> {
    let restore = store.restore().await.map_err(told)?;
    let bar = rows_bar("restoring");
    let progress = |rows| bar.set_position(rows);
    let read = if is_standard(file) {
        let mut input = BufReader::with_capacity(BUFFER_BYTES, std::io::stdin());
        dump::read(restore, &mut input, &progress).await
    } else {
        let opened = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        dump::read(restore, &mut BufReader::with_capacity(BUFFER_BYTES, opened), &progress).await
    };
    bar.finish_and_clear();
    let summary = read.with_context(|| format!("restoring from {}; nothing was kept", file.display()))?;
    table("restored", &summary)
}

fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

/// Rows so far: how many there will be is not known before they are read.
fn rows_bar(doing: &'static str) -> ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg:>16} {spinner} {human_pos} rows {per_sec}");
    let bar = ProgressBar::no_length().with_message(doing);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn table(done: &str, summary: &Summary) -> Result<String> {
    let mut text = String::new();
    for (name, rows) in &summary.rows {
        writeln!(text, "{done} {name:<12} {rows:>12}")?;
    }
    writeln!(text, "sha256 {}", summary.sha256)?;
    Ok(text)
}
