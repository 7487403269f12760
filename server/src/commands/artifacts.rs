//! `marquee artifacts put`: training rows and quarantine files go where bundles are kept, when that is a bucket.

use std::path::PathBuf;

use clap::Subcommand;

use super::{open_artifacts, print, told};
use crate::artifacts::Kind;
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keeps a file in the bucket of `artifacts.url`; where that is a folder, files stay where they are.
    Put {
        /// The file.
        file: PathBuf,
        /// What it is: decides under which prefix it goes, and with that how long it lives.
        kind: Kind,
        /// Its name there, `/` between parts; the same name again replaces it. Without it, the file's own name.
        #[arg(long)]
        name: Option<String>,
    },
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let Command::Put { file, kind, name } = args.command;
    let own = file.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = name.or(own).unwrap_or_default();
    match open_artifacts(config).await?.keep(kind, &name, &file).await.map_err(told)? {
        Some(place) => print(&place),
        None => print(&format!("{} stays where it is: artifacts.url is a folder", file.display())),
    }
}
