//! `marquee config check` and `marquee config show`.

use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Prints every problem and exits with status 64, or says that there is none.
    Check,
    /// Prints the configuration in force, defaults included, secrets left out.
    Show,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    match args.action {
        // A bad one never gets here.
        Action::Check => super::print("the configuration is good"),
        Action::Show => super::print(&toml::to_string_pretty(config)?),
    }
}
