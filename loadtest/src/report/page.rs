//! The page: what was found first, how it was found after it.

use std::fmt::Write;

use super::charts;
use super::scale::short;
use super::svg::{STYLE, escape};
use crate::result::{Report, Run, Spread};

const PAGE_STYLE: &str = include_str!("page.css");

/// One page of all reports.
///
/// # Errors
/// Never while writing to memory works.
pub(crate) fn page(reports: &[Report]) -> anyhow::Result<String> {
    let mut page = String::new();
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Marquee load report</title>\n\
         <style>\n{STYLE}{PAGE_STYLE}</style>\n<main>\n"
    )?;
    for report in reports {
        one(&mut page, report)?;
    }
    page.push_str("</main>\n</html>\n");
    Ok(page)
}

type Written = Result<(), std::fmt::Error>;

fn one(page: &mut String, report: &Report) -> Written {
    let Some(run) = main_run(report) else { return head(page, report) };
    head(page, report)?;
    tiles(page, report, run)?;
    figures(page, report)?;
    if let Some(chart) = charts::curve(report) {
        section(
            page,
            "Latency against load",
            "Each pair of points is a step of the search at one rate; hollow ones do not hold. Calls are sent when they are due, however slow the answers are, and measured from that instant.",
        )?;
        page.push_str(&chart.inline());
        steps(page, report)?;
    }
    let about = about(report, run);
    if let Some(chart) = charts::spectrum(report, run) {
        section(page, "Every percentile", &about)?;
        page.push_str(&chart.inline());
        methods(page, run)?;
    }
    if let Some(chart) = charts::heatmap(report, run) {
        section(page, "Latencies over time", &format!("{about} The darker, the more calls took so long."))?;
        page.push_str(&chart.inline());
    }
    if let Some(chart) = charts::outcomes(run) {
        section(page, "Outcomes over time", &about)?;
        page.push_str(&chart.inline());
        messages(page, run)?;
    }
    stages(page, run)?;
    if let Some(chart) = charts::memory(run) {
        section(page, "Memory over time", &format!("{about} Read each second from {}.", run.server.source))?;
        page.push_str(&chart.inline());
    }
    generator(page, report, run)?;
    setting(page, report)
}

/// The run that the page is mostly about: of a search, the last one at the highest rate that held.
fn main_run(report: &Report) -> Option<&Run> {
    let held = |run: &&Run| Some(run.rate_per_s) == report.highest_per_s && run.held == Some(true);
    match report.what.as_str() {
        "search" => report.runs.iter().rev().find(held).or(report.runs.last()),
        "overload" => report.runs.iter().rev().nth(1).or(report.runs.last()),
        _ => report.runs.last(),
    }
}

fn about(report: &Report, run: &Run) -> String {
    let measured = &run.measured;
    let rate = if run.rate_per_s > 0.0 { format!("{} requests/s", short(run.rate_per_s)) } else { String::new() };
    match report.what.as_str() {
        "search" => format!("The last step at {rate}, {:.0} s.", measured.duration_s),
        "overload" => format!("The overload: {rate} for {:.0} s.", measured.duration_s),
        _ => format!("{} arrivals, {rate} for {:.0} s.", run.arrivals, measured.duration_s),
    }
}

fn head(page: &mut String, report: &Report) -> Written {
    let verdict = &report.verdict;
    let class = if verdict.status == "held" { "" } else { " bad" };
    let what = match report.what.as_str() {
        "search" => "The highest rate that holds",
        "overload" => "Overload",
        "soak" => "A long load",
        _ => "A load",
    };
    let (status, setting) = (escape(&verdict.status), &report.setting);
    write!(page, "<header><h1>{what}<span class=\"verdict{class}\">{status}</span></h1>\n<p class=\"soft\">")?;
    let date = date(report.started_unix_s);
    writeln!(page, "Marquee, profile \u{201c}{}\u{201d}, {date}</p></header>", escape(&setting.profile_name))?;
    if !verdict.reasons.is_empty() {
        page.push_str("<ul>");
        for reason in &verdict.reasons {
            write!(page, "<li>{}</li>", escape(reason))?;
        }
        page.push_str("</ul>\n");
    }
    Ok(())
}

fn tiles(page: &mut String, report: &Report, run: &Run) -> Written {
    let (measured, base) = (&run.measured, &report.baseline.latency);
    let percentile = report.slo.map_or(99.0, |slo| slo.percentile);
    let mut tiles = Vec::new();
    if let Some(highest) = report.highest_per_s {
        tiles.push((short(highest), "requests/s hold the SLO".to_owned()));
    } else {
        tiles.push((short(measured.answered_per_s), "answers a second".to_owned()));
    }
    for at in [50.0, percentile] {
        tiles.push((format!("{} ms", short(measured.latency.at(at))), format!("p{at} from the intended instant")));
    }
    if let Some(cpu) = run.server.cpu_us_per_request {
        tiles.push((format!("{} \u{b5}s", short(cpu)), "server processor time an answer".to_owned()));
    }
    tiles.push((format!("{} ms", short(base.at(50.0))), format!("p50 of the null RPC (p99 {})", short(base.at(99.0)))));
    page.push_str("<div class=\"tiles\">");
    for (value, name) in tiles {
        write!(page, "<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(&value), escape(&name))?;
    }
    page.push_str("</div>\n");
    Ok(())
}

fn section(page: &mut String, title: &str, text: &str) -> Written {
    writeln!(page, "<h2>{}</h2>\n<p class=\"soft\">{}</p>", escape(title), escape(text))
}

fn figures(page: &mut String, report: &Report) -> Written {
    if report.figures.is_empty() || report.what == "search" {
        return Ok(());
    }
    page.push_str("<table><tr><th>figure</th><th>value</th><th class=\"text\">bound</th><th></th></tr>");
    for figure in &report.figures {
        let (name, value, bound) = (escape(&figure.name), escape(&figure.value), escape(&figure.bound));
        let held = if figure.held { "<td>holds</td>" } else { "<td class=\"bad\">missed</td>" };
        write!(page, "<tr><td>{name}</td><td>{value}</td><td class=\"text\">{bound}</td>{held}</tr>")?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn steps(page: &mut String, report: &Report) -> Written {
    let percentile = report.slo.map_or(99.0, |slo| slo.percentile);
    write!(
        page,
        "<div class=\"scroll\"><table><tr><th>offered/s</th><th>answered/s</th><th>seconds</th><th>p50 ms</th>\
         <th>p{percentile} ms</th><th>failed</th><th>CPU-\u{b5}s</th><th class=\"text\">verdict</th></tr>"
    )?;
    for run in &report.runs {
        let measured = &run.measured;
        let (row, verdict) = match (&run.incomplete, &run.invalid, run.held) {
            (Some(why), _, _) => ("off", format!("incomplete: {why}")),
            (_, Some(why), _) => ("off", format!("invalid: {why}")),
            (_, _, Some(false)) => ("off", run.why.clone()),
            _ => ("", "holds".to_owned()),
        };
        let notes = run.notes.iter().map(|note| format!("; {note}")).collect::<String>();
        let failed = measured.counts.failed() as f64 / measured.counts.total().max(1) as f64 * 100.0;
        let cpu = run.server.cpu_us_per_request.map_or(String::new(), short);
        write!(
            page,
            "<tr class=\"{row}\"><td>{:.0}</td><td>{:.1}</td><td>{:.1}</td><td>{}</td><td>{}</td><td>{} %</td>\
             <td>{cpu}</td><td class=\"text\">{}</td></tr>",
            run.rate_per_s,
            measured.answered_per_s,
            measured.duration_s,
            short(measured.latency.at(50.0)),
            short(measured.latency.at(percentile)),
            short(failed),
            escape(&format!("{verdict}{notes}")),
        )?;
    }
    page.push_str("</table></div>\n");
    Ok(())
}

fn methods(page: &mut String, run: &Run) -> Written {
    page.push_str(
        "<div class=\"scroll\"><table><tr><th>ms</th><th>calls</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>max</th><th>service p50</th><th>p99</th></tr>",
    );
    let measured = &run.measured;
    let lines = measured.methods.iter().map(|m| (m.name.as_str(), m.counts.total(), &m.latency, &m.service));
    for (name, calls, latency, service) in
        lines.chain([("all", measured.counts.total(), &measured.latency, &measured.service)])
    {
        write!(page, "<tr><td>{}</td><td>{calls}</td>", escape(name))?;
        for value in [50.0, 90.0, 99.0, 99.9].map(|at| latency.at(at)).into_iter().chain([latency.max_ms]) {
            write!(page, "<td>{}</td>", short(value))?;
        }
        write!(page, "<td>{}</td><td>{}</td></tr>", short(service.at(50.0)), short(service.at(99.0)))?;
    }
    page.push_str("</table></div>\n");
    Ok(())
}

fn messages(page: &mut String, run: &Run) -> Written {
    let measured = &run.measured;
    let wrong = measured.violations.iter().map(|(name, count)| format!("{count} answers with {name}"));
    let told = measured.messages.iter().map(|(message, count)| format!("{count} x {message}"));
    let all: Vec<String> = wrong.chain(told).collect();
    if all.is_empty() {
        return Ok(());
    }
    page.push_str("<ul>");
    for line in all {
        write!(page, "<li>{}</li>", escape(&line))?;
    }
    page.push_str("</ul>\n");
    Ok(())
}

fn stages(page: &mut String, run: &Run) -> Written {
    let mut stages: Vec<_> = run.server.stages.iter().collect();
    if stages.is_empty() {
        return Ok(());
    }
    stages.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let (whole, most) = (stages.iter().map(|stage| stage.seconds).sum::<f64>(), stages[0].seconds);
    let text = "Time of each stage as the server measured it, from its metrics before and after. \
                Percentiles are read off its histogram's buckets.";
    section(page, "Where the server's time went", text)?;
    page.push_str(
        "<table><tr><th>stage</th><th class=\"text\"></th><th>share</th><th>mean ms</th><th>p50</th><th>p99</th></tr>",
    );
    for stage in stages {
        write!(
            page,
            "<tr><td>{}</td><td class=\"wide\"><span class=\"bar\" style=\"width:{:.1}%\"></span></td><td>{:.1} %</td>\
             <td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&stage.name),
            stage.seconds / most * 100.0,
            stage.seconds / whole * 100.0,
            short(stage.seconds / stage.count * 1_000.0),
            short(stage.p50_ms),
            short(stage.p99_ms),
        )?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn generator(page: &mut String, report: &Report, run: &Run) -> Written {
    let lag: &Spread = &run.measured.lag;
    let text = "What the generator and the network add. A run whose calls were sent too late is invalid; see docs/loadtest.md.";
    section(page, "Whether to believe it", text)?;
    let base = &report.baseline;
    write!(
        page,
        "<table><tr><th>ms</th><th>calls</th><th>p50</th><th>p99</th><th>max</th></tr>\
         <tr><td>sent after the intended instant</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\
         <tr><td>null RPC ({}), one after the other</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr></table>\n\
         <p class=\"soft\">The generator used {:.0} % of a core.{} Answers were checked while it loaded: {} of {} were wrong.</p>\n",
        lag.count,
        short(lag.at(50.0)),
        short(lag.at(99.0)),
        short(lag.max_ms),
        escape(&base.method),
        base.latency.count,
        short(base.latency.at(50.0)),
        short(base.latency.at(99.0)),
        short(base.latency.max_ms),
        run.generator_cpu_share * 100.0,
        run.stolen_share(0.0, run.measured.duration_s).map_or(String::new(), |share| format!(
            " The host of this machine gave {:.1} % of its processor time to others (steal).",
            share * 100.0
        )),
        run.measured.violations.values().sum::<u64>(),
        run.measured.counts.ok + run.measured.counts.degraded,
    )
}

fn setting(page: &mut String, report: &Report) -> Written {
    let (setting, machine) = (&report.setting, &report.setting.machine);
    section(page, "How it was made", "")?;
    let mut rows = vec![
        ("command", format!("<code>{}</code>", escape(&report.command))),
        ("server", format!("{}, bundle {}", escape(&setting.address), escape(&setting.bundle_version))),
        (
            "users and items",
            format!("{} users ({}), {} items", setting.users, escape(&setting.users_known), setting.items),
        ),
        (
            "machine",
            format!(
                "{}, {} cores, {} GiB, Linux {}",
                escape(&machine.processor),
                machine.cores,
                machine.memory_gib,
                escape(&machine.kernel)
            ),
        ),
        (
            "generator",
            format!("marquee-loadtest {}, on cores {}", escape(&setting.tool_version), escape(&machine.cores_allowed)),
        ),
    ];
    rows.extend(setting.labels.iter().map(|(name, text)| (name.as_str(), escape(text))));
    page.push_str("<table>");
    for (name, text) in rows {
        write!(page, "<tr><td>{}</td><td class=\"text\">{text}</td></tr>", escape(name))?;
    }
    writeln!(
        page,
        "</table>\n<details><summary class=\"soft\">The profile</summary><pre>{}</pre></details>",
        escape(setting.profile.trim())
    )
}

/// The day in UTC (Howard Hinnant's algorithm for civil dates).
fn date(unix_s: u64) -> String {
    let days = (unix_s / 86_400) as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (unix_s / 3_600 % 24, unix_s / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_400 + 3_660), "2000-02-29 01:01 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59 UTC");
    }
}
