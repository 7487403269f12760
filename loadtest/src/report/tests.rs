use std::time::Duration;

use super::*;
use crate::outcome::{Outcome, Sample, Tally};
use crate::result::{Baseline, FORMAT, Machine, Run, Setting, Stage, Verdict};
use crate::slo::Slo;
use crate::traffic::Kind;

/// A step of a search whose calls take so long.
fn step(rate: f64, micros: u64, held: bool, slo: &Slo) -> Run {
    let mut tally = Tally::new(Duration::from_secs(5), 5, Some(slo));
    for at in 0..(rate as u64 * 5) {
        let (due, latency) =
            (Duration::from_millis(at * 1_000 / rate as u64), Duration::from_micros(micros + at % 97 * 20));
        let outcome = if !held && at % 7 == 0 { Outcome::Shed } else { Outcome::Ok };
        tally.sent(Duration::from_micros(30));
        let kind = Kind::Recommend;
        tally.add(&Sample { kind, outcome, cached: false, violation: None, due, latency, service: latency });
    }
    let stage = Stage {
        name: "rank".to_owned(),
        count: 100.0,
        seconds: 0.2,
        p50_ms: 1.9,
        p99_ms: 3.0,
        buckets: vec![(0.002, 60.0), (0.005, 100.0)],
    };
    Run {
        arrivals: "poisson".to_owned(),
        rate_per_s: rate,
        measured: tally.finish(Duration::from_secs(5)),
        server: crate::result::Server {
            cpu_us_per_request: Some(1_400.0),
            memory: (0..20).map(|at| (f64::from(at), 3e8)).collect(),
            stages: vec![stage],
            ..Default::default()
        },
        incomplete: None,
        invalid: None,
        notes: Vec::new(),
        held: Some(held),
        why: if held { String::new() } else { "p99 is 40 ms, above 25 ms".to_owned() },
        generator_cpu_share: 0.1,
        stolen: vec![(0.0, 0.0), (5.0, 0.1)],
    }
}

fn report() -> Report {
    let slo: Slo = "p99=25ms".parse().unwrap();
    Report {
        format: FORMAT.to_owned(),
        what: "search".to_owned(),
        command: "marquee-loadtest search <&>".to_owned(),
        started_unix_s: 1_735_689_599,
        verdict: Verdict { status: "held".to_owned(), reasons: Vec::new() },
        setting: Setting {
            profile_name: "ranked".to_owned(),
            machine: Machine { cores: 2, ..Default::default() },
            ..Default::default()
        },
        slo: Some(slo),
        baseline: Baseline::default(),
        runs: vec![step(100.0, 3_000, true, &slo), step(400.0, 40_000, false, &slo), step(200.0, 6_000, true, &slo)],
        figures: Vec::new(),
        highest_per_s: Some(200.0),
    }
}

#[test]
fn a_page_needs_no_network_and_no_script() {
    let page = page(&[report()]).unwrap();
    for absent in ["http://", "https://", "<script", "url(", "NaN", "inf", "<&>"] {
        assert!(!page.contains(absent), "{absent} is in the page");
    }
    for wanted in [
        "latency from the intended instant, ms",
        "SLO: p99 within 25 ms",
        "holds up to 200 requests/s",
        "Every percentile",
        "Latencies over time",
        "Outcomes over time",
        "Where the server",
        "Memory over time",
        "null RPC",
        "gave 2.0 % of its processor time to others",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(wanted), "{wanted} is not in the page");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn the_curve_is_a_file_of_its_own_and_needs_two_rates() {
    let svg = curve(&[report()]).unwrap();
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.trim_end().ends_with("</svg>"));
    let mut alone = report();
    alone.runs.truncate(1);
    assert!(curve(&[alone]).is_none());
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    report().write(&path).unwrap();
    let read = Report::read(&path).unwrap();
    assert_eq!((read.runs.len(), read.highest_per_s, read.slo), (3, Some(200.0), report().slo));
    assert_eq!(
        read.runs[0].measured.latency.histogram().unwrap(),
        report().runs[0].measured.latency.histogram().unwrap()
    );
    std::fs::write(&path, "{\"format\":\"marquee-loadtest/0\"}").unwrap();
    let error = Report::read(&path).unwrap_err().to_string();
    assert!(error.contains("marquee-loadtest/0") && error.contains(FORMAT), "{error}");
}
