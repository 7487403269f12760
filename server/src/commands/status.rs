//! `marquee status`: the store and the bundles, read from the files, and what a running server says of itself.

use std::fmt::Write as _;

use anyhow::Result;

use super::{open_store, print, told};
use crate::config::Config;
use crate::rpc;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<()> {
    let store = open_store(config).await?;
    let counts = store.counts().await.map_err(told)?;
    let activations = store.activations().await.map_err(told)?;
    let bundles = store.list_bundles().await.map_err(told)?;
    let end = store.log_end().await.map_err(told)?;
    store.close().await;
    if args.json {
        let status = serde_json::json!({
            "store": config.store.url,
            "counts": counts,
            "log_end": end,
            "serving_bundle": activations.serving,
            "previous_bundle": activations.previous,
            "bundles": bundles.iter().map(|bundle| &bundle.version).collect::<Vec<_>>(),
        });
        return print(&serde_json::to_string_pretty(&status)?);
    }
    let mut text = String::new();
    writeln!(text, "store                    {}", config.store.url)?;
    writeln!(text, "items                    {}", counts.items)?;
    writeln!(text, "users with attributes    {}", counts.users)?;
    writeln!(text, "events                   {}", counts.events)?;
    writeln!(text, "events of unknown items  {}", counts.events_of_unknown_items)?;
    writeln!(text, "logged slates            {}", counts.slates)?;
    writeln!(text, "log end                  {end}")?;
    writeln!(text, "bundles                  {}", bundles.len())?;
    writeln!(
        text,
        "serving bundle           {}",
        activations.serving.as_deref().unwrap_or("none: popular and fresh items answer")
    )?;
    let address = config.server.admin_listen;
    match rpc::client::status(address, config.admin_token.as_ref()).await {
        Ok(lines) => {
            writeln!(text, "server                   {address}")?;
            lines.iter().try_for_each(|line| writeln!(text, "  {line}"))?;
        }
        Err(error) => writeln!(text, "server                   {address}: {error}")?,
    }
    print(&text)
}
