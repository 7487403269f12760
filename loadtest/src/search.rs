//! `marquee-loadtest search`: the highest rate at which an SLO holds. Doubles until it does not, then bisects.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;

use crate::calls::say;
use crate::command::{self, Aim, Findings, Output, RATE_MAX};
use crate::drive::Load;
use crate::exit::Problem;
use crate::result::{Run, Verdict};
use crate::schedule::Arrivals;
use crate::session::{Session, Where};
use crate::slo::Slo;
use crate::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(flatten)]
    pub(crate) aim: Aim,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) steps: Steps,
}

/// How a search goes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Steps {
    /// The first rate.
    #[arg(long, value_parser = command::rate, default_value = "100")]
    pub(crate) from_rate: f64,
    /// A step lasts at least so long.
    #[arg(long, value_parser = command::time, default_value = "5s")]
    pub(crate) step_min: Duration,
    /// And at most so long, even if the percentile would need more calls; then the report says so.
    #[arg(long, value_parser = command::time, default_value = "60s")]
    pub(crate) step_max: Duration,
    /// The rate that holds and the one that does not lie so close together at the end.
    #[arg(long, default_value = "5%", value_parser = crate::slo::share)]
    pub(crate) precision: f64,
}

/// A search that has not ended by then will not.
const STEPS_MAX: usize = 40;

/// Which rate to try next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bracket {
    from: f64,
    precision: f64,
    /// The highest that held.
    held: Option<f64>,
    /// The lowest that did not.
    missed: Option<f64>,
}

impl Bracket {
    pub(crate) fn new(from: f64, precision: f64) -> Bracket {
        Bracket { from, precision: precision.max(0.001), held: None, missed: None }
    }

    /// The next rate; `None` when the answer is known as closely as was asked for.
    pub(crate) fn next(&self) -> Option<f64> {
        match (self.held, self.missed) {
            (None, None) => Some(self.from),
            (Some(held), None) => Some((held * 2.0).min(RATE_MAX)).filter(|next| *next > held),
            (None, Some(missed)) => Some(missed / 2.0).filter(|next| *next >= 0.5),
            (Some(held), Some(missed)) => Some((held * missed).sqrt()).filter(|_| missed / held > 1.0 + self.precision),
        }
    }

    /// What came of it. A rate that held below one that did not, and the other way round, is noise: the later one counts.
    pub(crate) fn learn(&mut self, rate: f64, held: bool) {
        if held {
            self.held = Some(self.held.map_or(rate, |known| known.max(rate)));
            self.missed = self.missed.filter(|missed| *missed > rate);
        } else {
            self.missed = Some(self.missed.map_or(rate, |known| known.min(rate)));
            self.held = self.held.filter(|held| *held < rate);
        }
    }
}

/// What a search found.
pub(crate) struct Found {
    pub(crate) runs: Vec<Run>,
    pub(crate) highest: Option<f64>,
    /// The lowest rate that did not hold was not shown to be the server's limit.
    pub(crate) invalid: Option<String>,
}

pub(crate) async fn run(addresses: &[String], args: Args) -> Result<ExitCode, Problem> {
    let slo = args.aim.slo().ok_or_else(|| Problem::usage(anyhow!("--slo: must be given, e.g. --slo p99=25ms")))?;
    let session = Session::open(addresses, &args.place, None).await?;
    session.introduce();
    let found = search(&session, &args.aim, &slo, &args.steps).await?;
    let figures = vec![command::figure(
        "highest rate that holds",
        found.highest.map_or("none".to_owned(), |rate| format!("{rate:.0} requests/s")),
        slo.to_string(),
        found.highest.is_some(),
    )];
    table::figures(&figures);
    let Found { runs, highest, invalid } = found;
    let findings = Findings { what: "search", slo: Some(slo), runs, figures, highest_per_s: highest };
    let mut report = findings.report(&session);
    report.verdict = Verdict::of(&report);
    if let Some(why) = invalid.filter(|_| report.verdict.status != "incomplete") {
        report.verdict = Verdict { status: "invalid".to_owned(), reasons: vec![why] };
    }
    command::finish(report, &args.output)
}

/// Brackets, bisects, and tries what was found once more.
pub(crate) async fn search(session: &Session, aim: &Aim, slo: &Slo, steps: &Steps) -> Result<Found, Problem> {
    say(&format!("searching the highest rate with {slo}; at least {:.0} calls a step", slo.samples_min()));
    let mut bracket = Bracket::new(steps.from_rate, steps.precision);
    let (mut runs, mut invalid, mut confirmed): (Vec<Run>, Option<(f64, String)>, Option<f64>) = Default::default();
    while let Some(rate) = bracket.next().or_else(|| bracket.held.filter(|held| confirmed != Some(*held))) {
        if runs.len() >= STEPS_MAX {
            say("too many steps: this machine is too restless for this precision");
            break;
        }
        let is_again = bracket.next().is_none();
        let wanted = Duration::from_secs_f64((slo.samples_min() * 1.1 / rate).min(1e6));
        let load = Load {
            arrivals: Arrivals::Poisson,
            rate,
            duration: wanted.max(steps.step_min).min(steps.step_max),
            warm_up: Duration::from_secs(1),
            closed: None,
            slo: Some(*slo),
            lag_max: aim.lag_max(),
            stop_early: true,
            blocks: 10,
            title: format!("{rate:.0}/s"),
        };
        // A step that misses is made once more: what holds is not to depend on one hiccup of the machine. Nor on one
        // lucky step: what was found is tried again at the end.
        let mut held = false;
        for _ in 0..2 {
            let run = session.drive(&load).await?;
            table::step(&run, slo.percentile);
            held = run.held == Some(true) && run.invalid.is_none();
            if let Some(why) = &run.invalid {
                invalid = Some((rate, why.clone()));
            }
            runs.push(run);
            if held || session.shared.interrupted.get() {
                break;
            }
            // What waited is gone before the next step begins.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        if runs.last().is_some_and(|run| run.incomplete.is_some()) {
            break;
        }
        bracket.learn(rate, held);
        if held && is_again {
            confirmed = Some(rate);
        }
    }
    let invalid = invalid.filter(|(rate, _)| bracket.missed == Some(*rate));
    let invalid = invalid.map(|(rate, why)| format!("{rate:.0}/s was not the server's limit: {why}"));
    Ok(Found { highest: bracket.held, runs, invalid })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a server that holds up to `limit`; answers what was found and in how many steps.
    fn find(limit: f64, from: f64) -> (Option<f64>, usize) {
        let mut bracket = Bracket::new(from, 0.05);
        let mut steps = 0;
        while let Some(rate) = bracket.next() {
            steps += 1;
            assert!(steps < 60, "{bracket:?}");
            bracket.learn(rate, rate <= limit);
        }
        (bracket.held, steps)
    }

    #[test]
    fn it_finds_the_limit_from_below_and_from_above() {
        for (limit, from) in [(777.0, 100.0), (777.0, 10_000.0), (3.0, 100.0), (250_000.0, 100.0)] {
            let (found, steps) = find(limit, from);
            let found = found.unwrap();
            assert!(found <= limit && found * 1.05 >= limit, "{found} of {limit}");
            assert!(steps < 20, "{steps} steps from {from} to {limit}");
        }
    }

    #[test]
    fn it_ends_without_an_answer_when_nothing_holds_and_at_the_highest_rate_there_is() {
        assert_eq!(find(0.0, 100.0).0, None);
        assert_eq!(find(f64::INFINITY, 100.0).0, Some(RATE_MAX));
    }

    #[test]
    fn a_rate_that_held_once_and_missed_later_is_not_the_answer() {
        let mut bracket = Bracket::new(100.0, 0.05);
        bracket.learn(100.0, true);
        bracket.learn(103.0, false);
        assert_eq!(bracket.next(), None);
        bracket.learn(100.0, false);
        assert_eq!((bracket.held, bracket.next()), (None, Some(50.0)));
    }
}
