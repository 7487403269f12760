//! Figures for people, on standard output.

use crate::calls::say;
use crate::outcome::Outcome;
use crate::result::{Figure, Measured, Run, Server};

/// One load.
pub(crate) fn run(run: &Run) {
    let measured = &run.measured;
    let lag = &measured.lag;
    say(&format!(
        "{} arrivals for {:.1} s: {:.1} calls a second due, {:.1} answered",
        run.arrivals, measured.duration_s, measured.offered_per_s, measured.answered_per_s
    ));
    if run.arrivals == "closed" {
        say(
            "closed loop: these latencies are of calls that waited for each other, not of users who come when they come",
        );
    }
    say(&format!(
        "{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}   service: {:>7} {:>9}",
        "latency, ms", "calls", "p50", "p90", "p99", "p99.9", "max", "p50", "p99"
    ));
    let line = |name: &str, counts: u64, latency: &crate::result::Spread, service: &crate::result::Spread| {
        say(&format!(
            "{name:<16} {counts:>9} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}            {:>7.3} {:>9.3}",
            latency.at(50.0),
            latency.at(90.0),
            latency.at(99.0),
            latency.at(99.9),
            latency.max_ms,
            service.at(50.0),
            service.at(99.0),
        ));
    };
    for method in &measured.methods {
        line(&method.name, method.counts.total(), &method.latency, &method.service);
    }
    line("all", measured.counts.total(), &measured.latency, &measured.service);
    say(&outcomes(measured));
    say(&format!(
        "generator: sent p50 {:.3} ms, p99 {:.3} ms after the intended instant; {:.0} % of a core{}",
        lag.at(50.0),
        lag.at(99.0),
        run.generator_cpu_share * 100.0,
        run.stolen_share(0.0, measured.duration_s)
            .map_or(String::new(), |share| format!("; the host took {:.1} % of the machine", share * 100.0))
    ));
    server(&run.server);
    for (message, count) in &measured.messages {
        say(&format!("  {count} x {message}"));
    }
    for note in run.notes.iter().chain(&run.invalid).chain(&run.incomplete) {
        say(&format!("  note: {note}"));
    }
}

fn outcomes(measured: &Measured) -> String {
    let parts = Outcome::ALL.into_iter().zip(measured.counts.all());
    let mut text = parts.map(|(outcome, count)| format!("{} {count}", outcome.name())).collect::<Vec<_>>().join(", ");
    let share = measured.cached as f64 / (measured.counts.ok + measured.counts.degraded).max(1) as f64;
    text.push_str(&format!("; {:.0} % from the cache", share * 100.0));
    for (violation, count) in &measured.violations {
        text.push_str(&format!("; WRONG: {count} answers with {violation}"));
    }
    format!("outcomes: {text}")
}

fn server(server: &Server) {
    if let (Some(cpu), Some(cores)) = (server.cpu_us_per_request, server.cores_used) {
        let memory = server.memory.last().map_or(0.0, |sample| sample.1) / 1_048_576.0;
        let source = &server.source;
        say(&format!("server: {cpu:.1} CPU-us an answer, {cores:.2} cores, {memory:.1} MiB resident ({source})"));
    }
    if !server.stages.is_empty() {
        let mut stages: Vec<_> = server.stages.iter().collect();
        stages.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let told = stages.iter().map(|stage| format!("{} {:.3} ms", stage.name, stage.seconds / stage.count * 1_000.0));
        say(&format!("server's stages, mean: {}", told.collect::<Vec<_>>().join(", ")));
    }
}

/// One step of a search, as a line.
pub(crate) fn step(run: &Run, percentile: f64) {
    let measured = &run.measured;
    let verdict = match (&run.incomplete, &run.invalid, run.held) {
        (Some(_), _, _) => "incomplete",
        (_, Some(_), _) => "invalid",
        (_, _, Some(true)) => "holds",
        _ => "missed",
    };
    let notes: Vec<&str> = [run.why.as_str()]
        .into_iter()
        .chain(run.invalid.as_deref())
        .chain(run.notes.iter().map(String::as_str))
        .collect();
    let cpu = run.server.cpu_us_per_request.map_or(String::new(), |cpu| format!("{cpu:.0} CPU-us"));
    say(&format!(
        "{:>9.0}/s for {:>5.1} s: {:>9.1}/s answered, p50 {:>8.3}, p{percentile} {:>8.3} ms, {:>6.3} % failed {cpu:>12}  {verdict:<10} {}",
        run.rate_per_s,
        measured.duration_s,
        measured.answered_per_s,
        measured.latency.at(50.0),
        measured.latency.at(percentile),
        measured.counts.failed() as f64 / measured.counts.total().max(1) as f64 * 100.0,
        notes.into_iter().filter(|note| !note.is_empty()).collect::<Vec<_>>().join("; "),
    ));
}

/// Figures with their bounds.
pub(crate) fn figures(figures: &[Figure]) {
    for figure in figures {
        let held = if figure.held { "holds" } else { "MISSED" };
        say(&format!("{:<44} {:>22}   {held:<6} {}", figure.name, figure.value, figure.bound));
    }
}
