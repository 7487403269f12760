//! How the program ends: one exit code for each way.

use std::process::ExitCode;

use crate::calls::say;
use crate::result::{Report, Verdict};

/// Nothing was loaded.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The input is wrong; every problem, a line each.
    Usage(Vec<String>),
    /// The server cannot be loaded.
    Server(anyhow::Error),
    /// Something else.
    Other(anyhow::Error),
}

impl Problem {
    /// Wrong input.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Problem {
        Problem::Usage(vec![format!("{:#}", error.into())])
    }

    /// Says what is wrong.
    pub(crate) fn end(self) -> ExitCode {
        let (code, lines) = match self {
            Problem::Usage(lines) => (64, lines),
            Problem::Server(error) => (69, vec![format!("{error:#}")]),
            Problem::Other(error) => (70, vec![format!("{error:#}")]),
        };
        for line in lines {
            let _closed = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("error: {line}\n"));
        }
        ExitCode::from(code)
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Problem {
        Problem::Other(error)
    }
}

impl Verdict {
    /// The worst of its runs and figures: what was not whole cannot be valid, what is not valid cannot hold.
    pub(crate) fn of(report: &Report) -> Verdict {
        let mut reasons: [Vec<String>; 4] = Default::default();
        for run in &report.runs {
            // Steps of a search are there to miss it.
            let is_step = report.what != "run" && report.what != "soak";
            let at = if report.runs.len() > 1 { format!("at {:.0}/s: ", run.rate_per_s) } else { String::new() };
            reasons[0].extend(run.incomplete.iter().map(|why| format!("{at}{why}")));
            reasons[1].extend(run.invalid.iter().filter(|_| !is_step).map(|why| format!("{at}{why}")));
            let wrong = run.measured.violations.iter();
            reasons[2].extend(wrong.map(|(violation, count)| format!("{at}{count} answers with {violation}")));
            if !is_step && run.held == Some(false) {
                reasons[3].push(format!("{at}{}", run.why));
            }
        }
        let missed = report.figures.iter().filter(|figure| !figure.held);
        reasons[3].extend(missed.map(|figure| format!("{}: {}, bound {}", figure.name, figure.value, figure.bound)));
        let names = ["incomplete", "invalid", "wrong answers", "slo missed"];
        let worst = reasons.iter().position(|why| !why.is_empty());
        let status = worst.map_or("held", |at| names[at]).to_owned();
        Verdict { status, reasons: reasons.into_iter().flatten().collect() }
    }

    /// Its exit code.
    pub(crate) fn code(&self) -> u8 {
        match self.status.as_str() {
            "held" => 0,
            "slo missed" => 1,
            "invalid" => 3,
            "incomplete" => 4,
            _ => 5,
        }
    }

    /// Says it.
    pub(crate) fn tell(&self) {
        say(&format!("verdict: {}", self.status));
        for reason in &self.reasons {
            say(&format!("  {reason}"));
        }
    }
}
