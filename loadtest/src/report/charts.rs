//! The charts of a report.

use super::scale::{Scale, short};
use super::svg::{Axis, Chart};
use crate::outcome::Outcome;
use crate::result::{Report, Run, Spread};

/// Shades of the heatmap.
const SHADES: usize = 10;

/// Latency against load, over the steps of a search; `None` with fewer than two rates.
pub(super) fn curve(report: &Report) -> Option<Chart> {
    let percentile = report.slo.map_or(99.0, |slo| slo.percentile);
    let mut steps: Vec<&Run> = report.runs.iter().filter(|run| is_step(report, run)).collect();
    steps.sort_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    if steps.len() < 2 || steps[0].rate_per_s == steps[steps.len() - 1].rate_per_s {
        return None;
    }
    let limit_ms = report.slo.map(|slo| slo.limit_ms());
    let low = steps.iter().map(|run| run.measured.latency.at(50.0)).fold(f64::INFINITY, f64::min);
    let high = steps.iter().map(|run| run.measured.latency.at(percentile)).fold(limit_ms.unwrap_or(0.0), f64::max);
    let x = Axis::new(Scale::linear(steps[steps.len() - 1].rate_per_s * 1.02), "load, requests a second");
    let y = Axis::new(Scale::log(low, high), "latency from the intended instant, ms");
    let title = format!("Latency against load, profile \u{201c}{}\u{201d}", report.setting.profile_name);
    let mut chart = Chart::new(&title, 340.0, &x, &y);
    if let Some(slo) = report.slo {
        let name = format!("SLO: p{} within {} ms", slo.percentile, short(slo.limit_ms()));
        chart.limit(slo.limit_ms(), &name);
    }
    if let Some(highest) = report.highest_per_s {
        chart.mark(highest, &format!("holds up to {} requests/s", short(highest)));
    }
    for (class, at) in [("b", percentile), ("a", 50.0)] {
        chart.line(class, means(&steps, |run| run.measured.latency.at(at)));
        for run in &steps {
            let (rate, found) = (run.rate_per_s, run.measured.latency.at(at));
            let held = run.held.unwrap_or(true) && run.invalid.is_none() && run.incomplete.is_none();
            let answered = run.measured.answered_per_s;
            let told = format!(
                "{rate:.0}/s offered, {answered:.1}/s answered: p{at} {found:.2} ms{}{}",
                if held { "" } else { "; does not hold: " },
                run.why
            );
            chart.dot(class, rate, found, !held, &told);
        }
        chart.legend(class, &format!("p{at}"));
    }
    Some(chart)
}

/// Steps have a rate; what comes after the search of an overload is no step.
fn is_step(report: &Report, run: &Run) -> bool {
    run.rate_per_s > 0.0
        && (report.what != "overload"
            || report.highest_per_s.is_none_or(|rate| {
                let steps = report.runs.len().saturating_sub(2);
                report.runs[..steps].iter().any(|step| std::ptr::eq(step, run)) && rate > 0.0
            }))
}

/// One point a rate: of steps that were made again, the geometric mean.
fn means(steps: &[&Run], of: impl Fn(&Run) -> f64) -> Vec<(f64, f64)> {
    let alike = steps.chunk_by(|a, b| a.rate_per_s == b.rate_per_s);
    alike
        .map(|group| {
            let logs: f64 = group.iter().map(|run| of(run).max(1e-6).ln()).sum();
            (group[0].rate_per_s, (logs / group.len() as f64).exp())
        })
        .collect()
}

/// Every percentile: from the intended instant, from the moment of sending, of the null RPC.
pub(super) fn spectrum(report: &Report, run: &Run) -> Option<Chart> {
    let lines = [
        ("a", "latency, from the intended instant", &run.measured.latency),
        ("c", "service time, from sending", &run.measured.service),
        ("soft", "null RPC, alone", &report.baseline.latency),
    ];
    let points: Vec<_> =
        lines.iter().filter_map(|(class, name, spread)| Some((class, name, percentiles(spread)?))).collect();
    let all = || points.iter().flat_map(|(_, _, points)| points.iter());
    let (low, high) = (all().map(|p| p.1).fold(f64::INFINITY, f64::min), all().map(|p| p.1).fold(0.0, f64::max));
    let nines = all().map(|p| p.0).fold(1.0, f64::max).ceil();
    if !low.is_finite() || high <= 0.0 {
        return None;
    }
    let x = Axis { scale: Scale::Linear { from: 0.0, to: nines }, name: "percentile", label: nines_label };
    let y = Axis::new(Scale::log(low, high), "ms");
    let mut chart = Chart::new("Every percentile", 300.0, &x, &y);
    if let Some(slo) = report.slo.filter(|slo| slo.limit_ms() <= high * 1.5) {
        chart.limit(slo.limit_ms(), &format!("SLO: p{} within {} ms", slo.percentile, short(slo.limit_ms())));
    }
    for (class, name, points) in points.into_iter().rev() {
        chart.line(class, points);
        chart.legend(class, name);
    }
    Some(chart)
}

fn nines_label(nines: f64) -> String {
    if nines.fract() > 0.01 {
        return String::new();
    }
    match nines as u32 {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        nines => format!("99{}{} %", if nines > 2 { "." } else { "" }, "9".repeat(nines as usize - 2)),
    }
}

/// Percentile as a number of nines, and milliseconds.
fn percentiles(spread: &Spread) -> Option<Vec<(f64, f64)>> {
    let histogram = spread.histogram().ok().filter(|histogram| !histogram.is_empty())?;
    let last = (histogram.len() as f64).log10();
    let at = |nines: f64| (nines, histogram.value_at_quantile(1.0 - 10_f64.powf(-nines)) as f64 / 1_000.0);
    let steps = (last * 20.0).floor() as usize;
    Some((0..=steps).map(|step| at(step as f64 / 20.0)).chain([(last, histogram.max() as f64 / 1_000.0)]).collect())
}

/// Latency over time: how many calls in each shade of a column.
pub(super) fn heatmap(report: &Report, run: &Run) -> Option<Chart> {
    let windows = &run.measured.windows;
    let edge = |bin: f64| windows.bin_first_us / 1_000.0 * (bin / windows.bins_per_doubling).exp2();
    let bins = || windows.columns.iter().flat_map(|column| column.bins.iter());
    let (low, high) = (bins().map(|bin| bin.0).min()?, bins().map(|bin| bin.0).max()?);
    let seconds = windows.columns.len() as f64 * windows.width_s;
    let x = Axis::new(Scale::Linear { from: 0.0, to: seconds }, "seconds since the measuring began");
    let x = Axis { scale: time_scale(seconds), ..x };
    let y = Axis::new(Scale::log(edge(f64::from(low)), edge(f64::from(high) + 1.0)), "latency, ms");
    let mut chart = Chart::new("Latencies over time", 280.0, &x, &y);
    let most = f64::from(bins().map(|bin| bin.1).max()?);
    for shade in 1..=SHADES {
        // By the square root: a single slow call must be seen beside thousands.
        let is_shade = |count: u32| ((f64::from(count) / most).sqrt() * SHADES as f64).ceil() as usize == shade;
        let cells = windows.columns.iter().enumerate().flat_map(|(at, column)| {
            column.bins.iter().filter(|bin| is_shade(bin.1)).map(move |bin| (at as f64, f64::from(bin.0)))
        });
        let cells: Vec<[f64; 4]> = cells
            .map(|(at, bin)| [at * windows.width_s, (at + 1.0) * windows.width_s, edge(bin), edge(bin + 1.0)])
            .collect();
        chart.boxes("a", 0.12 + 0.88 * shade as f64 / SHADES as f64, cells);
    }
    if let Some(slo) = report.slo {
        chart.limit(slo.limit_ms(), "SLO");
    }
    Some(chart)
}

/// Ends where the measuring ended, not at a round number.
fn time_scale(seconds: f64) -> Scale {
    Scale::Linear { from: 0.0, to: seconds.max(1.0) }
}

/// How calls ended, over time.
pub(super) fn outcomes(run: &Run) -> Option<Chart> {
    let windows = &run.measured.windows;
    let most = windows.columns.iter().map(|column| column.counts.total()).max()? as f64 / windows.width_s;
    let seconds = windows.columns.len() as f64 * windows.width_s;
    let x = Axis::new(time_scale(seconds), "seconds since the measuring began");
    let y = Axis::new(Scale::linear(most), "calls a second");
    let mut chart = Chart::new("Outcomes over time", 240.0, &x, &y);
    for (number, outcome) in Outcome::ALL.into_iter().enumerate().rev() {
        let boxes = windows.columns.iter().enumerate().filter(|(_, column)| column.counts.all()[number] > 0);
        let boxes: Vec<[f64; 4]> = boxes
            .map(|(at, column)| {
                let all = column.counts.all();
                let below = all[..number].iter().sum::<u64>() as f64 / windows.width_s;
                let here = all[number] as f64 / windows.width_s;
                let (from, to) = (at as f64 * windows.width_s, (at as f64 + 0.88) * windows.width_s);
                [from, to, below, below + here]
            })
            .collect();
        let count = run.measured.counts.all()[number];
        if count > 0 {
            chart.boxes(outcome.name(), 1.0, boxes);
            chart.legend(outcome.name(), &format!("{} {}", outcome.name(), short(count as f64)));
        }
    }
    Some(chart)
}

/// Resident memory of the server over time.
pub(super) fn memory(run: &Run) -> Option<Chart> {
    let samples = &run.server.memory;
    if samples.len() < 5 {
        return None;
    }
    let mib = |bytes: f64| bytes / 1_048_576.0;
    let most = samples.iter().map(|sample| mib(sample.1)).fold(0.0, f64::max);
    let x = Axis::new(time_scale(samples[samples.len() - 1].0), "seconds since the measuring began");
    let y = Axis::new(Scale::linear(most * 1.05), "resident memory of the server, MiB");
    let mut chart = Chart::new("Memory over time", 200.0, &x, &y);
    let every = samples.len().div_ceil(400);
    chart.line("a", samples.iter().step_by(every).map(|(at, bytes)| (*at, mib(*bytes))));
    Some(chart)
}
