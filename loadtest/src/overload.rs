//! `marquee-loadtest overload`: several times the rate that a server can take. A good one answers as many as before,
//! refuses the rest at once, says that it is healthy, and is as ever when the load ends.

use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bytes::BytesMut;
use tonic::Code;

use crate::calls::say;
use crate::command::{self, Aim, Findings, Output, figure};
use crate::drive::Load;
use crate::exit::Problem;
use crate::result::{Figure, Run};
use crate::schedule::Arrivals;
use crate::search::{self, Steps};
use crate::session::{Session, Where};
use crate::slo::Slo;
use crate::table;
use crate::wire::{Connections, Picked, Target, call, frame};

/// After the load, for so long, a light one looks whether all is as ever.
const AFTER: Duration = Duration::from_secs(6);
/// Of the highest rate.
const AFTER_SHARE: f64 = 0.1;
const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// A health check that takes longer is a failed one, as an orchestrator would see it.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
const HEALTH: &str = "/grpc.health.v1.Health/Check";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    aim: Aim,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    steps: Steps,
    /// The highest rate at which the SLO holds; without it, it is searched first.
    #[arg(long, value_parser = command::rate)]
    rate: Option<f64>,
    /// So many times that rate.
    #[arg(long, default_value_t = 3.0)]
    times: f64,
    /// How long.
    #[arg(long, value_parser = command::time, default_value = "20s")]
    duration: Duration,
    /// Calls answered before their deadline, as a share of the highest rate, at least.
    #[arg(long, default_value = "80%", value_parser = crate::slo::share)]
    goodput_min: f64,
    /// Refusals take at most so long at p99, in the server.
    #[arg(long, value_parser = command::time, default_value = "5ms")]
    shed_max: Duration,
    /// All is normal so long after the load, at the latest.
    #[arg(long, value_parser = command::time, default_value = "2s")]
    normal_max: Duration,
}

/// What health checks said during the load.
#[derive(Debug, Default)]
struct Health {
    checks: u32,
    bad: u32,
    slowest: Duration,
}

impl Health {
    fn note(&mut self, is_serving: bool, took: Duration) {
        self.checks += 1;
        self.bad += u32::from(!is_serving);
        self.slowest = self.slowest.max(took);
    }
}

pub(crate) async fn run(address: &str, args: Args) -> Result<ExitCode, Problem> {
    let slo = args.aim.slo().ok_or_else(|| Problem::usage(anyhow!("--slo: must be given, e.g. --slo p99=25ms")))?;
    if args.place.metrics.is_none() {
        return Err(Problem::usage(anyhow!("--metrics: must be given: refusals are timed in the server")));
    }
    if !(1.0..=100.0).contains(&args.times) {
        return Err(Problem::usage(anyhow!("--times: must be from 1 to 100, not {}", args.times)));
    }
    let session = Session::open(&[address.to_owned()], &args.place, None).await?;
    session.introduce();
    let (mut runs, highest) = match args.rate {
        Some(rate) => (Vec::new(), Some(rate)),
        None => {
            let found = search::search(&session, &args.aim, &slo, &args.steps).await?;
            (found.runs, found.highest)
        }
    };
    let Some(highest) = highest else {
        let figures = vec![figure("highest rate that holds", "none", slo.to_string(), false)];
        let findings = Findings { what: "overload", slo: Some(slo), runs, figures, highest_per_s: None };
        return findings.conclude(&session, &args.output);
    };
    let rate = (highest * args.times).min(command::RATE_MAX);
    say(&format!("overload: {rate:.0}/s, {} times {highest:.0}/s, for {:?}", args.times, args.duration));
    let target = Target::parse(address, args.place.ca.as_deref()).map_err(Problem::usage)?;
    let health = Connections::open(vec![target], 1).await.map_err(Problem::Server)?;
    let (overload, after, health) = overload(&session, &args, &slo, highest, rate, health).await?;
    table::run(&overload);
    say(&format!("after the load, at {:.0}/s:", after.rate_per_s));
    table::run(&after);
    let figures = figures(&args, highest, &overload, &after, &health);
    table::figures(&figures);
    runs.extend([overload, after]);
    let findings = Findings { what: "overload", slo: Some(slo), runs, figures, highest_per_s: Some(highest) };
    findings.conclude(&session, &args.output)
}

/// The load with health checks beside it; a light one begins in the moment in which it ends.
async fn overload(
    session: &Session,
    args: &Args,
    slo: &Slo,
    highest: f64,
    rate: f64,
    connections: Connections,
) -> anyhow::Result<(Run, Run, Health)> {
    let heavy = Load {
        arrivals: Arrivals::Poisson,
        rate,
        duration: args.duration,
        warm_up: Duration::ZERO,
        closed: None,
        slo: Some(*slo),
        lag_max: args.aim.lag_max(),
        stop_early: false,
        blocks: 10,
        title: format!("overload {rate:.0}/s"),
    };
    let light =
        Load { rate: (highest * AFTER_SHARE).max(20.0), duration: AFTER, title: "after".to_owned(), ..heavy.clone() };
    let health = Rc::new(RefCell::new(Health::default()));
    let checks = tokio::task::spawn_local(watch_health(connections, health.clone()));
    let duration = args.duration;
    let (heavy, light) = tokio::join!(session.drive(&heavy), async {
        tokio::time::sleep(duration).await;
        session.drive(&light).await
    });
    checks.abort();
    let health = std::mem::take(&mut *health.borrow_mut());
    Ok((heavy?, light?, health))
}

async fn watch_health(connections: Connections, health: Rc<RefCell<Health>>) {
    loop {
        let started = Instant::now();
        let is_serving = match connections.pick() {
            Some(Picked { sender, server }) => {
                let body = frame::framed(&(), &mut BytesMut::new());
                let reply = call(sender, connections.head(server, HEALTH, HEALTH_TIMEOUT), body);
                let reply = tokio::time::timeout(HEALTH_TIMEOUT, reply).await;
                // HealthCheckResponse { status: SERVING = 1 }
                reply.is_ok_and(|reply| {
                    reply.code == Code::Ok && frame::messages(&reply.body).next() == Some(&[8, 1][..])
                })
            }
            None => false,
        };
        health.borrow_mut().note(is_serving, started.elapsed());
        tokio::time::sleep(HEALTH_EVERY).await;
    }
}

fn figures(args: &Args, highest: f64, overload: &Run, after: &Run, health: &Health) -> Vec<Figure> {
    let measured = &overload.measured;
    let share = measured.answered_per_s / highest;
    let within = measured.goodput_per_s / highest;
    let sent = measured.counts.total() - measured.counts.dropped;
    let dropped = measured.counts.dropped as f64 / measured.counts.total().max(1) as f64;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let mut figures = vec![
        figure(
            "goodput over the highest rate",
            percent(share),
            format!("at least {} (before the deadline)", percent(args.goodput_min)),
            share >= args.goodput_min,
        ),
        figure("of it, within the SLO's limit", percent(within), "no bound", true),
        figure("dropped by the generator", percent(dropped), "below 1 %: else it was no overload", dropped < 0.01),
    ];
    let shed_max_s = args.shed_max.as_secs_f64();
    figures.push(match &overload.server.shed {
        Some(shed) => {
            let share = shed.share_within(shed_max_s);
            let value =
                share.map_or("no bucket ends there".to_owned(), |share| format!("{:.2} % within", share * 100.0));
            let p99 = shed.p99_ms;
            let bound = format!("99 % within {:?} (p99 about {p99:.2} ms, of {:.0})", args.shed_max, shed.count);
            figure("time to a refusal, in the server", value, bound, share.is_some_and(|share| share >= 0.99))
        }
        None if measured.counts.shed == 0 => {
            let deadlines = percent(measured.counts.deadline as f64 / sent.max(1) as f64);
            figure("time to a refusal, in the server", "none was refused", format!("{deadlines} ran late"), false)
        }
        None => figure("time to a refusal, in the server", "unknown", "marquee_shed_seconds is not in /metrics", false),
    });
    let slowest = health.slowest.as_secs_f64() * 1_000.0;
    figures.push(figure(
        "health checks that failed",
        format!("{} of {}", health.bad, health.checks),
        format!("none (the slowest took {slowest:.0} ms)"),
        health.bad == 0 && health.checks > 0,
    ));
    // Seconds since the end of the load at which the last call was due that failed or was late.
    let normal_s = after.measured.last_bad_s.unwrap_or(0.0);
    let normal_max_s = args.normal_max.as_secs_f64();
    let bound = format!("at most {:?} after the load", args.normal_max);
    figures.push(figure("until all is normal", format!("{normal_s:.2} s"), bound, normal_s <= normal_max_s));
    figures
}
