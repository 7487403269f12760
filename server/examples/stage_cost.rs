//! What a request's stage timings cost: the clock is read and every stage's histogram is written as for a ranked answer,
//! and nothing else is done. Prints nanoseconds of this thread's CPU a request; `marquee-bench --server` sets it beside
//! the whole request.

use std::time::{Duration, Instant};

use marquee::telemetry::Metrics;
use marquee_engine::Stage;

/// Requests of one turn.
const REQUESTS: u32 = 100_000;
/// Turns; the median counts.
const TURNS: usize = 5;
/// The server's own stages, around those of the engine.
const AROUND: [&str; 5] = ["decode", "situation", "queue", "encode", "record"];

fn main() {
    let metrics = Metrics::new();
    let mut costs: Vec<f64> = (0..TURNS).map(|_| turn(&metrics)).collect();
    costs.sort_by(f64::total_cmp);
    let Some(median) = costs.get(TURNS / 2) else { return };
    // The figure is what this program is for.
    #[expect(clippy::print_stdout, reason = "its output is its result")]
    {
        println!("{median:.1}");
    }
}

fn turn(metrics: &Metrics) -> f64 {
    let began = cpu_ns();
    for _ in 0..REQUESTS {
        let mut times: Vec<(Stage, Duration)> = Vec::with_capacity(Stage::ALL.len());
        let mut last = Instant::now();
        for stage in Stage::ALL {
            let now = Instant::now();
            times.push((stage, now - last));
            last = now;
        }
        for (stage, time) in std::hint::black_box(&times) {
            metrics.stage(stage.name(), time.as_secs_f64());
        }
        for stage in AROUND {
            metrics.stage(stage, last.elapsed().as_secs_f64());
        }
    }
    (cpu_ns() - began) as f64 / f64::from(REQUESTS)
}

/// CPU time of this thread.
fn cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` is ours to be written.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every thread has a clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
