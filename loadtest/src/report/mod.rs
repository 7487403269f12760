//! Draws reports: one HTML page without scripts and without a network, and the curve as an SVG of its own.

mod charts;
mod page;
mod scale;
mod svg;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::command;
use crate::exit::Problem;
use crate::result::Report;

pub(crate) use page::page;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Reports that --json wrote.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    /// The page.
    #[arg(long)]
    out: Option<PathBuf>,
    /// The curve of throughput and latency of the first report that has one.
    #[arg(long)]
    svg: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode, Problem> {
    if args.out.is_none() && args.svg.is_none() {
        return Err(Problem::usage(anyhow::anyhow!("--out: must be given, or --svg")));
    }
    let reports = args.reports.iter().map(|path| Report::read(path)).collect::<anyhow::Result<Vec<Report>>>();
    let reports = reports.map_err(Problem::usage)?;
    if let Some(path) = &args.out {
        command::write(path, &page(&reports)?)?;
    }
    if let Some(path) = &args.svg {
        command::write(path, &curve(&reports).context("--svg: no report has runs at several rates")?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The curve as a file of its own, light or dark as its reader likes.
pub(crate) fn curve(reports: &[Report]) -> Option<String> {
    reports.iter().find_map(charts::curve).map(|chart| chart.standalone())
}

#[cfg(test)]
mod tests;
