//! The binary: parse, run, exit.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    marquee::commands::run(marquee::commands::Cli::parse())
}
