//! `make bench-growth`: what a larger catalogue costs: CPU of a request and of each source, start-up, memory.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Bench, Meter, Spread, median, print, thread_cpu_ns};

/// What one size costs.
#[derive(Debug)]
pub struct Size {
    items: usize,
    users: usize,
    whole_us: f64,
    laps: Vec<(String, f64)>,
}

/// Asks two catalogues in turn, so that what disturbs the machine disturbs both; prints and answers the ratios.
///
/// # Errors
/// A slate was not ranked.
pub fn compare(small: &mut Bench, large: &mut Bench, rounds: usize) -> Result<Value> {
    let people = small.people.len().min(large.people.len());
    small.recommend(0);
    large.recommend(0);
    let mut sizes = Vec::new();
    let mut costs = [Vec::new(), Vec::new()];
    let mut laps: [std::collections::BTreeMap<String, Vec<f64>>; 2] = Default::default();
    for person in 0..people {
        let mut wholes = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (at, bench) in [&mut *small, &mut *large].into_iter().enumerate() {
                let began = thread_cpu_ns();
                let slate = bench.recommend(person);
                wholes[at].push((thread_cpu_ns() - began) as f64 / 1000.0);
                ensure!(slate.items.len() == bench.query.count, "user {person}: a short slate");
                let mut meter = Meter::cpu();
                bench.stages(person, &mut meter);
                bench.sources(person, &mut meter);
                for (name, ns) in meter.take() {
                    laps[at].entry(name).or_default().push(ns as f64 / 1000.0);
                }
            }
        }
        wholes.into_iter().zip(&mut costs).for_each(|(wholes, all)| all.push(median(wholes)));
    }
    for ((bench, cost), laps) in [&*small, &*large].into_iter().zip(costs).zip(laps) {
        let laps = laps.into_iter().map(|(name, us)| (name, Spread::of(us).median)).collect();
        let users = bench.engine.bundle().manifest().counts.users;
        sizes.push(Size { items: bench.items(), users, whole_us: median(cost), laps });
    }
    Ok(told(&sizes[0], &sizes[1], people))
}

fn told(small: &Size, large: &Size, people: usize) -> Value {
    let ratio = large.whole_us / small.whole_us;
    print(&format!(
        "microseconds of CPU, medians over {people} users      {:>9} {:>9}   ratio",
        small.items, large.items
    ));
    let row = |name: &str, a: f64, b: f64| print(&format!("  {name:<44} {a:>9.1} {b:>9.1} {:>7.2}", b / a.max(1e-9)));
    row("recommend", small.whole_us, large.whole_us);
    for (name, us) in &small.laps {
        let other = large.laps.iter().find(|(other, _)| other == name).map_or(0.0, |(_, us)| *us);
        row(name, *us, other);
    }
    json!({
        "small": {"items": small.items, "users": small.users, "recommend_us": small.whole_us},
        "large": {"items": large.items, "users": large.users, "recommend_us": large.whole_us},
        "ratio": ratio,
    })
}

/// Opens a state, answers once, and says how long that took and what memory is resident: run in a process of its own.
///
/// # Errors
/// It does not open.
pub fn opened(state: &Path) -> Result<Value> {
    let began = Instant::now();
    let bench = Bench::open(state, 1)?;
    let open_s = began.elapsed().as_secs_f64();
    let slate = bench.recommend(0);
    ensure!(slate.items.len() == bench.query.count, "a short slate");
    let counts = bench.engine.bundle().manifest().counts;
    let first_s = began.elapsed().as_secs_f64();
    let peak = status("VmHWM:")?;
    Ok(json!({
        "items": counts.items, "users": counts.users, "events": counts.events, "open_s": open_s, "first_answer_s": first_s,
        "resident_mb": status("VmRSS:")?, "peak_mb": peak,
    }))
}

fn status(key: &str) -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).context("no such line")?;
    let kb: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kb / 1000.0)
}

/// Opens each state in a process of its own and prints start-up and memory, with differences between sizes.
///
/// # Errors
/// One does not open.
pub fn sizes(states: &[String]) -> Result<Vec<Value>> {
    print("     items     users     events   open s  first answer s  resident MB   peak MB");
    let program = std::env::current_exe()?;
    let mut found: Vec<Value> = Vec::new();
    for state in states {
        let ran = Command::new(&program).args(["--opened", state]).output()?;
        ensure!(ran.status.success(), "{state}: {}", String::from_utf8_lossy(&ran.stderr));
        let one: Value = serde_json::from_slice(&ran.stdout).with_context(|| state.clone())?;
        let number = |key: &str| one[key].as_f64().unwrap_or(0.0);
        print(&format!(
            "{:>10} {:>9} {:>10} {:>8.2} {:>15.2} {:>12.0} {:>9.0}",
            number("items"),
            number("users"),
            number("events"),
            number("open_s"),
            number("first_answer_s"),
            number("resident_mb"),
            number("peak_mb"),
        ));
        found.push(one);
    }
    differences(&found);
    Ok(found)
}

/// Memory of a million more items or users, from every pair of states that differs in one of them alone (or in both).
fn differences(found: &[Value]) {
    let number = |one: &Value, key: &str| one[key].as_f64().unwrap_or(0.0);
    for (at, a) in found.iter().enumerate() {
        for b in &found[at + 1..] {
            let more = |key: &str| number(b, key) - number(a, key);
            let (items, users, mb) = (more("items"), more("users"), more("resident_mb"));
            let what = match (items == 0.0, users == 0.0) {
                (true, false) => format!("{:.0} MB a million users", mb / users * 1e6),
                (false, true) => format!("{:.0} MB a million items", mb / items * 1e6),
                (false, false) => {
                    format!("{:.0} MB a million items, with {:.2} users each", mb / items * 1e6, users / items)
                }
                (true, true) => continue,
            };
            print(&format!(
                "  from {} to {} items, {} to {} users: {what}",
                a["items"], b["items"], a["users"], b["users"]
            ));
        }
    }
}
