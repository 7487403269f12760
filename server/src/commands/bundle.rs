//! `marquee bundle list|verify|activate|rollback`: works on the registry and the artifacts, whether a server runs or
//! not. A running server follows the registry within a second; it verifies the bundle again before it swaps.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use marquee_engine::bundle::{Bundle, Manifest, OpenOptions};

use crate::bundles::{Listed, Registry};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::Error;
use crate::store::{self, Activations};
use crate::telemetry::Metrics;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every bundle in the artifacts' folder, newest first.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Opens a bundle with every check there is; changes nothing.
    Verify {
        /// A version in the artifacts' folder, or the path of a bundle's folder.
        bundle: PathBuf,
    },
    /// Verifies a bundle and makes it the serving one.
    Activate {
        /// A version in the artifacts' folder.
        version: String,
    },
    /// Goes back to the bundle that served before.
    Rollback,
}

/// Runs the command; prints to `out`.
///
/// # Errors
/// The bundle cannot serve (the reason is in the error), or the store cannot be used.
pub async fn run(command: Command, config: &Config, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    if let Command::Verify { bundle } = &command
        && bundle.components().count() > 1
    {
        return verify_folder(bundle, config, out);
    }
    let store = store::open(&config.store, Arc::new(Metrics::new())).await.map_err(told)?;
    let registry = Registry::new(config, store.clone(), Clock::system())?;
    let done = with_registry(command, &registry, out).await;
    store.close().await;
    done
}

async fn with_registry(command: Command, registry: &Registry, out: &mut (impl Write + Send)) -> anyhow::Result<()> {
    match command {
        Command::List { json } => {
            let serving = registry.activations().await.map_err(told)?.serving;
            let listed = registry.list();
            if json { print_json(&listed, serving.as_deref(), out) } else { print_table(&listed, serving.as_deref(), out) }
        }
        Command::Verify { bundle } => {
            let opened = registry.open(&bundle.to_string_lossy()).await.map_err(told)?;
            print_verified(opened.manifest(), out)
        }
        Command::Activate { version } => {
            let bundle = registry.open(&version).await.map_err(told)?;
            print_activations(&registry.activate(&bundle).await.map_err(told)?, out)
        }
        Command::Rollback => print_activations(&registry.roll_back().await.map_err(told)?.1, out),
    }
}

fn verify_folder(folder: &Path, config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let options = OpenOptions { exact_below_items: config.ranking.exact_below_items, ef_search: config.ranking.ef_search };
    print_verified(Bundle::open(folder, &options)?.manifest(), out)
}

fn print_verified(manifest: &Manifest, out: &mut impl Write) -> anyhow::Result<()> {
    let ranker = if manifest.ranker.is_some() { "a ranker" } else { "no ranker" };
    let (version, counts) = (&manifest.version, manifest.counts);
    writeln!(out, "{version}: good, {} items, {} users, {ranker}", counts.items, counts.users)?;
    Ok(())
}

fn print_activations(after: &Activations, out: &mut impl Write) -> anyhow::Result<()> {
    let name = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
    writeln!(out, "serving {}; before it {}", name(&after.serving), name(&after.previous))?;
    writeln!(out, "a running server takes it over within a second")?;
    Ok(())
}

fn print_json(listed: &[Listed], serving: Option<&str>, out: &mut impl Write) -> anyhow::Result<()> {
    let one = |listed: &Listed| {
        let manifest = listed.manifest.as_ref().ok();
        serde_json::json!({
            "version": listed.version,
            "serving": serving == Some(listed.version.as_str()),
            "created_ms": manifest.map(|manifest| manifest.created_ms),
            "parent": manifest.and_then(|manifest| manifest.parent.clone()),
            "items": manifest.map(|manifest| manifest.counts.items),
            "users": manifest.map(|manifest| manifest.counts.users),
            "has_ranker": manifest.is_some_and(|manifest| manifest.ranker.is_some()),
            "metrics": manifest.map(|manifest| &manifest.metrics),
            "problem": listed.manifest.as_ref().err(),
        })
    };
    let all: Vec<_> = listed.iter().map(one).collect();
    writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
    Ok(())
}

fn print_table(listed: &[Listed], serving: Option<&str>, out: &mut impl Write) -> anyhow::Result<()> {
    if listed.is_empty() {
        writeln!(out, "no bundles yet")?;
        return Ok(());
    }
    let width = listed.iter().map(|listed| listed.version.len()).max().unwrap_or(0).max(7);
    writeln!(out, "  {:width$}  {:>9}  {:>9}  {:>6}  {:>8}", "version", "items", "users", "ranker", "ndcg@10")?;
    for Listed { version, manifest } in listed {
        let mark = if serving == Some(version.as_str()) { '*' } else { ' ' };
        match manifest {
            Ok(manifest) => {
                let ranker = if manifest.ranker.is_some() { "yes" } else { "no" };
                let ndcg = manifest.metrics.get("ndcg_at_10").map_or_else(|| "-".to_owned(), |ndcg| format!("{ndcg:.4}"));
                let counts = manifest.counts;
                writeln!(out, "{mark} {version:width$}  {:>9}  {:>9}  {ranker:>6}  {ndcg:>8}", counts.items, counts.users)?;
            }
            Err(problem) => writeln!(out, "{mark} {version:width$}  cannot serve: {problem}")?,
        }
    }
    writeln!(out, "* serves")?;
    Ok(())
}

/// A command's user is an operator: the details are theirs.
#[allow(clippy::needless_pass_by_value)]
fn told(error: Error) -> anyhow::Error {
    anyhow::anyhow!(error.detail())
}
