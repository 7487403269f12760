//! `marquee bundle list|verify|publish|fetch|activate|rollback|delete`: works on the registry and the artifacts, whether a server runs or
//! not. A running server follows the registry within a second; it verifies the bundle again before it swaps.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use marquee_engine::bundle::{Bundle, Manifest, OpenOptions};
use marquee_engine::index::Scratch;

use crate::artifacts::{Artifacts, Listed, Published};
use crate::bundles::Registry;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::Activations;

use super::{open_store, print, told};

/// Arguments of `marquee bundle`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Every bundle there is, newest first.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a bundle from an export and trained arrays; prints its version.
    Build(super::bundle_build::Args),
    /// Opens a bundle with every check there is; changes nothing.
    Verify {
        /// A version, or the path of a bundle's folder.
        bundle: PathBuf,
    },
    /// Measures how much of the exact answer the walk through each graph finds, at the configured width.
    Recall {
        /// The path of a bundle's folder.
        folder: PathBuf,
        /// Neighbours that are compared.
        #[arg(long, default_value_t = 100)]
        k: usize,
        /// Queries for each graph.
        #[arg(long, default_value_t = 500)]
        queries: usize,
    },
    /// Brings a bundle's folder to where bundles are kept (`artifacts.url`), after checking every file.
    Publish {
        /// The path of a bundle's folder.
        folder: PathBuf,
        /// Makes it the serving one, too.
        #[arg(long)]
        activate: bool,
    },
    /// Brings a bundle to this machine and prints its folder.
    Fetch {
        /// Its version.
        version: String,
    },
    /// Verifies a bundle and makes it the serving one.
    Activate {
        /// Its version.
        version: String,
    },
    /// Removes a bundle for ever; not the serving one nor the one before.
    Delete {
        /// Its version.
        version: String,
    },
    /// Goes back to the bundle that served before.
    Rollback,
}

/// Runs the command.
///
/// # Errors
/// The bundle cannot serve (the reason is in the error), or the store cannot be used.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    if let Command::Verify { bundle } = &args.command
        && bundle.components().count() > 1
    {
        return print(&verify_folder(bundle, config)?);
    }
    match args.command {
        Command::Build(args) => return super::bundle_build::run(config, args).await,
        Command::Recall { folder, k, queries } => return print(&recall(&folder, config, k, queries)?),
        _ => {}
    }
    let artifacts = super::open_artifacts(config).await?;
    match &args.command {
        Command::Publish { folder, activate: false } => return print(&publish(&*artifacts, folder).await?.1),
        Command::Fetch { version } => {
            return print(&artifacts.fetch(version).await.map_err(told)?.display().to_string());
        }
        _ => {}
    }
    let store = open_store(config).await?;
    let registry = Registry::new(config, artifacts, store.clone(), Clock::system());
    let done = with_registry(args.command, &registry).await;
    store.close().await;
    print(&done?)
}

async fn with_registry(command: Command, registry: &Registry) -> anyhow::Result<String> {
    match command {
        Command::List { json: as_json } => {
            let serving = registry.activations().await.map_err(told)?.serving;
            let listed = registry.list().await.map_err(told)?;
            if as_json { json(&listed, serving.as_deref()) } else { table(&listed, serving.as_deref()) }
        }
        Command::Build(_) | Command::Recall { .. } | Command::Fetch { .. } => {
            unreachable!("they need no registry and returned above")
        }
        Command::Verify { bundle } => {
            let opened = registry.open(&bundle.to_string_lossy()).await.map_err(told)?;
            Ok(verified(opened.manifest()))
        }
        Command::Publish { folder, .. } => {
            let (version, told) = publish(registry.artifacts(), &folder).await?;
            Ok(format!("{told}\n{}", activate(registry, &version).await?))
        }
        Command::Activate { version } => activate(registry, &version).await,
        Command::Rollback => {
            let before = registry.before().await;
            let (serving, previous) = registry.way_back().await.map_err(told)?;
            registry.open(&previous).await.map_err(told)?;
            Ok(activated(&registry.roll_back(&serving, &previous, &before).await.map_err(told)?))
        }
        Command::Delete { version } => {
            let now = registry.activations().await.map_err(told)?;
            let is_in_use = [&now.serving, &now.previous].into_iter().flatten().any(|used| *used == version);
            anyhow::ensure!(
                !is_in_use,
                "bundle {version} serves or is the one to go back to: activate another one first"
            );
            registry.artifacts().delete(&version).await.map_err(told)?;
            Ok(format!("deleted {version}"))
        }
    }
}

async fn activate(registry: &Registry, version: &str) -> anyhow::Result<String> {
    let before = registry.before().await;
    let bundle = registry.open(version).await.map_err(told)?;
    Ok(activated(&registry.activate(&bundle, &before).await.map_err(told)?))
}

/// The version, and what happened.
async fn publish(artifacts: &dyn Artifacts, folder: &Path) -> anyhow::Result<(String, String)> {
    let version = Manifest::read(folder)?.version;
    let told = match artifacts.publish(folder).await.map_err(told)? {
        Published::New => format!("published {version}"),
        Published::Already => format!("{version} is published already"),
    };
    Ok((version, told))
}

fn verify_folder(folder: &Path, config: &Config) -> anyhow::Result<String> {
    Ok(verified(Bundle::open(folder, &super::open_options(config))?.manifest()))
}

/// A table: recall of each graph's walk against the exact scan, and the inner products that each took. The factor
/// model is asked with the users' vectors, the others with their own.
fn recall(folder: &Path, config: &Config, k: usize, queries: usize) -> anyhow::Result<String> {
    let bundle = Bundle::open(folder, &OpenOptions { exact_below_items: 0, ..super::open_options(config) })?;
    let (users, ef) = (bundle.users().map(|users| &users.index), bundle.ef_search());
    let embedding = bundle.embedding().map(|embedding| &embedding.index);
    let content = bundle.content().map(|content| &content.index);
    let graphs = [("embedding", embedding, users), ("users", users, users), ("content", content, content)];
    let mut text = format!(
        "{:<12} {:>8} {:>11} {:>14} {:>14}\n",
        "graph",
        "vectors",
        format!("recall@{k}"),
        "walk: products",
        "scan: products"
    );
    for (name, index, of) in graphs {
        let (Some(index), Some(of)) = (index, of) else { continue };
        let (mut scratch, mut walked, mut exact) = (Scratch::new(), Vec::new(), Vec::new());
        let (mut found, mut wanted, mut by_walk, mut by_scan) = (0, 0, 0, 0);
        let step = (of.len() / queries.max(1)).max(1);
        for query in (0..of.len() as u32).step_by(step).take(queries) {
            let query = of.vector(query);
            index.search(query, k, ef, index.len(), |_| true, &mut scratch, &mut walked);
            by_walk += scratch.evaluations();
            index.search_exact(query, k, index.len(), |_| true, &mut scratch, &mut exact);
            by_scan += scratch.evaluations();
            // Equal scores are equally good.
            let least = exact.last().map_or(f32::INFINITY, |hit| hit.score);
            found += walked.iter().filter(|hit| hit.score >= least).count();
            wanted += exact.len();
        }
        let recall = found as f64 / wanted.max(1) as f64;
        writeln!(text, "{name:<12} {:>8} {recall:>11.4} {by_walk:>14} {by_scan:>14}", index.len())?;
    }
    Ok(text)
}

fn verified(manifest: &Manifest) -> String {
    let ranker = if manifest.ranker.is_some() { "a ranker" } else { "no ranker" };
    let (version, counts) = (&manifest.version, manifest.counts);
    format!("{version}: good, {} items, {} users, {ranker}", counts.items, counts.users)
}

fn activated(after: &Activations) -> String {
    let name = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
    let (serving, previous) = (name(&after.serving), name(&after.previous));
    format!("serving {serving}; before it {previous}\na running server takes it over within a second")
}

fn json(listed: &[Listed], serving: Option<&str>) -> anyhow::Result<String> {
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
    Ok(serde_json::to_string_pretty(&listed.iter().map(one).collect::<Vec<_>>())?)
}

fn table(listed: &[Listed], serving: Option<&str>) -> anyhow::Result<String> {
    if listed.is_empty() {
        return Ok("no bundles yet".to_owned());
    }
    let mut text = String::new();
    let width = listed.iter().map(|listed| listed.version.len()).max().unwrap_or(0).max(7);
    writeln!(text, "  {:width$}  {:>9}  {:>9}  {:>6}  {:>8}", "version", "items", "users", "ranker", "ndcg@10")?;
    for Listed { version, manifest } in listed {
        let mark = if serving == Some(version.as_str()) { '*' } else { ' ' };
        match manifest {
            Ok(manifest) => {
                let ranker = if manifest.ranker.is_some() { "yes" } else { "no" };
                let ndcg =
                    manifest.metrics.get("ndcg_at_10").map_or_else(|| "-".to_owned(), |ndcg| format!("{ndcg:.4}"));
                let (items, users) = (manifest.counts.items, manifest.counts.users);
                writeln!(text, "{mark} {version:width$}  {items:>9}  {users:>9}  {ranker:>6}  {ndcg:>8}")?;
            }
            Err(problem) => writeln!(text, "{mark} {version:width$}  cannot serve: {problem}")?,
        }
    }
    writeln!(text, "* serves")?;
    Ok(text)
}
