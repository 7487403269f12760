//! Processor time and memory of processes, and what machine this is; from /proc, empty elsewhere.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::result::{Machine, Server};
use crate::scrape::Scrape;

/// The unit of /proc/PID/stat: Linux shows hundredths of a second to all programs.
const TICKS_PER_S: f64 = 100.0;
const PAGE_BYTES: f64 = 4_096.0;
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Processor seconds and resident bytes of a process.
pub(crate) fn usage(pid: &str) -> Option<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may hold spaces and brackets; the third begins behind the last bracket.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<f64>().ok());
    Some(((number(14)? + number(15)?) / TICKS_PER_S, number(24)? * PAGE_BYTES))
}

/// Seconds for which each core of this machine, on average, wanted to run and its host ran others instead; since the
/// machine started. `None` where the system does not say.
fn stolen() -> Option<f64> {
    stolen_of(&fs::read_to_string("/proc/stat").ok()?)
}

/// Of a text like /proc/stat: the eighth number of the line of all cores is steal, see proc(5).
fn stolen_of(text: &str) -> Option<f64> {
    let ticks: f64 = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()?;
    let cores = text.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    (cores > 0).then(|| ticks / TICKS_PER_S / cores as f64)
}

/// The machine that this runs on.
pub(crate) fn machine() -> Machine {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let value = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value).trim().to_owned()
    };
    let memory_kib = value(&file("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    Machine {
        processor: value(&file("/proc/cpuinfo"), "model name"),
        cores: file("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        cores_allowed: value(&file("/proc/self/status"), "Cpus_allowed_list"),
        memory_gib: (memory_kib / 1_048_576.0_f64 * 10.0).round() / 10.0,
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

/// Where the server's processor time and memory are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    /// `--server-pid`
    pub(crate) pid: Option<u32>,
    /// `--metrics`
    pub(crate) metrics: Option<String>,
}

impl Watched {
    fn usage(&self) -> Option<(f64, f64)> {
        match (&self.pid, &self.metrics) {
            (Some(pid), _) => usage(&pid.to_string()),
            (None, Some(address)) => {
                let scrape = Scrape::read(address).ok()?;
                Some((scrape.cpu_seconds()?, scrape.resident_bytes()?))
            }
            (None, None) => None,
        }
    }
}

/// Readings, one a second: each with its seconds since the watch began.
#[derive(Debug, Default)]
struct Samples {
    /// Resident bytes.
    memory: Vec<(f64, f64)>,
    /// [`Run::stolen`](crate::result::Run::stolen)
    stolen: Vec<(f64, f64)>,
}

/// What was seen while a load ran.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) server: Server,
    /// [`Run::stolen`](crate::result::Run::stolen)
    pub(crate) stolen: Vec<(f64, f64)>,
}

/// Watches a server and this machine from a thread of its own, so that the generator is never late because of it.
pub(crate) struct Watch {
    watched: Watched,
    before: Option<Scrape>,
    cpu_before: Option<(f64, Instant)>,
    samples: Arc<Mutex<Samples>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// From now on.
    pub(crate) fn start(watched: &Watched) -> Watch {
        let (samples, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let before = watched.metrics.as_ref().and_then(|address| Scrape::read(address).ok());
        let first = watched.usage();
        let thread = (first.is_some() || stolen().is_some()).then(|| {
            let (watched, samples, stop) = (watched.clone(), samples.clone(), stop.clone());
            std::thread::spawn(move || sample(&watched, &samples, &stop))
        });
        let cpu_before = first.map(|(cpu, _)| (cpu, Instant::now()));
        Watch { watched: watched.clone(), before, cpu_before, samples, stop, thread }
    }

    /// What the server did since, to answer so many calls.
    pub(crate) fn finish(mut self, answered: u64) -> Seen {
        let cpu = self.cpu_before.zip(self.watched.usage());
        let (spent, wall) = match cpu {
            Some(((before, at), (after, _))) => (Some(after - before), at.elapsed().as_secs_f64()),
            None => (None, 0.0),
        };
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _sampler_ended = thread.join();
        }
        let source = match (&self.watched.pid, spent) {
            (_, None) => String::new(),
            (Some(_), _) => "/proc, of --server-pid".to_owned(),
            (None, _) => "process_* of --metrics".to_owned(),
        };
        let after = self.watched.metrics.as_ref().and_then(|address| Scrape::read(address).ok());
        let between = |family: &str| match (&self.before, &after) {
            (Some(before), Some(after)) => after.stages_since(before, family),
            _ => Vec::new(),
        };
        let samples = std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        let server = Server {
            source,
            cpu_us_per_request: spent.filter(|_| answered > 0).map(|spent| spent * 1e6 / answered as f64),
            cores_used: spent.map(|spent| spent / wall.max(f64::MIN_POSITIVE)),
            memory: samples.memory,
            stages: between("marquee_stage_seconds"),
            shed: between("marquee_shed_seconds").into_iter().next(),
        };
        Seen { server, stolen: samples.stolen }
    }
}

fn sample(watched: &Watched, samples: &Mutex<Samples>, stop: &AtomicBool) {
    let (started, stolen_before) = (Instant::now(), stolen());
    loop {
        // A last one when the load has ended: the last part of it is seen, too.
        let is_last = stop.load(Ordering::Relaxed);
        let memory = if is_last { None } else { watched.usage().map(|usage| usage.1) };
        let stolen = stolen();
        let at = started.elapsed().as_secs_f64();
        {
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
            samples.memory.extend(memory.map(|bytes| (at, bytes)));
            samples.stolen.extend(stolen.zip(stolen_before).map(|(now, before)| (at, now - before)));
        }
        if is_last {
            return;
        }
        std::thread::park_timeout(SAMPLE_EVERY);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_machine() {
        let (cpu, bytes) = usage("self").unwrap();
        assert!(cpu >= 0.0 && bytes > 100_000.0, "{cpu} {bytes}");
        assert!(machine().cores >= 1);
        assert_eq!(usage("4294967295"), None);
        assert!(stolen().unwrap() >= 0.0);
    }

    #[test]
    fn what_the_host_took_is_read_by_core() {
        let text = "cpu  1 2 3 4 5 6 7 300 9 10\ncpu0 1 2 3 4 5 6 7 100 9 10\ncpu1 0 0 0 0 0 0 0 200 0 0\nintr 5\n";
        assert_eq!(stolen_of(text), Some(1.5));
        for unknown in ["", "cpu  1 2 3 4 5 6 7\ncpu0 1\n", "cpu  1 2 3 4 5 6 7 300 9 10\n", "intr 5\n"] {
            assert_eq!(stolen_of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_watch_of_no_server_still_sees_the_machine() {
        let seen = Watch::start(&Watched::default()).finish(0);
        assert!(!seen.stolen.is_empty() && seen.server.memory.is_empty(), "{seen:?}");
    }
}
