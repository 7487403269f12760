//! `marquee export`: the arrays that training reads. What an event weighs and which words an item has is said here, in
//! Rust, and nowhere in Python.
//!
//! The folder is written beside itself and renamed into place, so that a half-written one is never read.

mod arrays;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use marquee_engine::types::{Item, Seq, TimeMs};

use super::{open_store, print, progress, told};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Event, Store, StoredEntry};
use arrays::{Events, Tokens};

/// Rows in one read of the store.
const PAGE: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder to write; replaced if it is an export already.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Only events before this moment (milliseconds since 1970).
    #[arg(long, value_name = "MS")]
    until: Option<TimeMs>,
    /// Only events from this moment on (milliseconds since 1970).
    #[arg(long, value_name = "MS")]
    from: Option<TimeMs>,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<()> {
    let store = open_store(config).await?;
    let read = read(&*store, args).await;
    store.close().await;
    let (items, events, watermark) = read?;
    let export = Events::new(&items, events, &config.events.policy);
    let beside = args.out.with_extension("partial");
    ensure!(
        !args.out.exists() || args.out.join("export.json").exists(),
        "{} exists and is not an export; choose another folder",
        args.out.display()
    );
    if beside.exists() {
        std::fs::remove_dir_all(&beside).with_context(|| format!("removing {}", beside.display()))?;
    }
    std::fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
    let summary = serde_json::json!({
        "items": items.len(),
        "users": export.users.len(),
        "events": export.len(),
        "from_ms": args.from,
        "until_ms": args.until,
        "watermark": watermark,
        "created_ms": Clock::system().now_ms(),
        "skipped_unknown_items": export.skipped_unknown_items,
    });
    write(&beside, &items, &export, &summary)?;
    if args.out.exists() {
        std::fs::remove_dir_all(&args.out).with_context(|| format!("replacing {}", args.out.display()))?;
    }
    std::fs::rename(&beside, &args.out).with_context(|| format!("renaming into {}", args.out.display()))?;
    print(&format!("wrote {}\n{}", args.out.display(), serde_json::to_string_pretty(&summary)?))
}

/// Items in order of id; events of the period in order of (time, event id); the log position that holds them.
async fn read(store: &dyn Store, args: &Args) -> Result<(Vec<Item>, Vec<Event>, Seq)> {
    let mut items: Vec<Item> = Vec::new();
    loop {
        let after = items.last().map(|item| item.id.clone());
        let page = store.list_items(after.as_deref(), PAGE).await.map_err(told).context("reading items")?;
        if page.is_empty() {
            break;
        }
        items.extend(page);
    }
    let end = store.log_end().await.map_err(told)?;
    let wanted = |time_ms: TimeMs| args.from.is_none_or(|from| from <= time_ms) && args.until.is_none_or(|until| time_ms < until);
    let bar = progress(end, "reading the log");
    let (mut events, mut seq): (Vec<Event>, Seq) = (Vec::new(), 0);
    while seq < end {
        let page = store.log_after(seq, PAGE).await.map_err(told).context("reading the log")?;
        let Some(last) = page.last() else { break };
        seq = last.seq;
        bar.set_position(seq);
        for row in page {
            if let StoredEntry::Event(event) = row.entry
                && wanted(event.time_ms)
            {
                events.push(event);
            }
        }
    }
    bar.finish_and_clear();
    events.sort_by(|a, b| (a.time_ms, &a.id).cmp(&(b.time_ms, &b.id)));
    Ok((items, events, seq))
}

fn write(folder: &Path, items: &[Item], events: &Events, summary: &serde_json::Value) -> Result<()> {
    json_lines(&folder.join("items.jsonl"), items)?;
    let users = events.users.iter().map(|user| serde_json::json!({ "id": user }));
    json_lines(&folder.join("users.jsonl"), &users.collect::<Vec<_>>())?;
    events.write(&folder.join("events.safetensors"))?;
    let tokens = Tokens::new(items);
    tokens.write(&folder.join("tokens.safetensors"))?;
    json_lines(&folder.join("vocabulary.jsonl"), &tokens.vocabulary)?;
    // Last: a folder with an export.json is whole.
    std::fs::write(folder.join("export.json"), serde_json::to_vec_pretty(summary)?).context("writing export.json")
}

fn json_lines<T: serde::Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let write = || -> Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for row in rows {
            serde_json::to_writer(&mut file, row)?;
            file.write_all(b"\n")?;
        }
        Ok(file.flush()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests;
