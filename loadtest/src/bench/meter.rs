//! What a stage costs: CPU time of this thread, or instructions as callgrind counts them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// Takes laps: each ends where it is called and began where the one before ended.
#[derive(Debug)]
pub struct Meter {
    last_ns: u64,
    laps: Vec<(String, u64)>,
    counts: bool,
}

impl Meter {
    /// Of CPU time in nanoseconds.
    pub fn cpu() -> Meter {
        Meter { last_ns: thread_cpu_ns(), laps: Vec::new(), counts: false }
    }

    /// Of instructions: only under callgrind, which writes a file at the end of each lap; see [`read_counts`].
    pub fn instructions() -> Meter {
        Meter { last_ns: 0, laps: Vec::new(), counts: true }
    }

    /// What came before belongs to no lap.
    pub fn skip(&mut self) {
        if self.counts {
            callgrind(ZERO_STATS, 0);
        } else {
            self.last_ns = thread_cpu_ns();
        }
    }

    /// Ends a lap.
    pub fn lap(&mut self, name: &str) {
        if self.counts {
            let ended = format!("{name}\0");
            callgrind(DUMP_STATS_AT, ended.as_ptr() as u64);
            callgrind(ZERO_STATS, 0);
        } else {
            let now_ns = thread_cpu_ns();
            self.laps.push((name.to_owned(), now_ns - self.last_ns));
            self.last_ns = thread_cpu_ns();
        }
    }

    /// The laps so far, by name in the order of their ends; nanoseconds.
    pub fn take(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.laps)
    }
}

/// CPU time of this thread.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and `time` is ours to be written.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "every thread has a clock");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Ticks of the process clock in a second.
pub(super) fn ticks_per_second() -> f64 {
    // SAFETY: it reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

/// Callgrind's client requests, as `valgrind/callgrind.h` numbers them.
const CALLGRIND: u64 = ((b'C' as u64) << 24) | ((b'T' as u64) << 16);
const ZERO_STATS: u64 = CALLGRIND + 1;
const DUMP_STATS_AT: u64 = CALLGRIND + 3;
const START_INSTRUMENTATION: u64 = CALLGRIND + 4;
const STOP_INSTRUMENTATION: u64 = CALLGRIND + 5;

/// From here on callgrind counts (when started with `--instr-atstart=no`), or no longer.
pub fn count_instructions(on: bool) {
    callgrind(if on { START_INSTRUMENTATION } else { STOP_INSTRUMENTATION }, 0);
}

/// Asks valgrind for something; without valgrind the sequence does nothing.
#[cfg(target_arch = "x86_64")]
fn callgrind(request: u64, argument: u64) {
    let arguments = [request, argument, 0, 0, 0, 0];
    // SAFETY: the magic sequence of valgrind.h for x86-64: rotations that add up to nothing, and an exchange of rbx with
    // itself. Valgrind reads `arguments` and sets rdx; a processor changes nothing but the flags.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") arguments.as_ptr(), inout("rdx") 0_u64 => _, inout("rdi") 0_u64 => _,
        );
    }
}

/// Instructions are counted on x86-64 only.
#[cfg(not(target_arch = "x86_64"))]
fn callgrind(_request: u64, _argument: u64) {}

/// Instructions by lap, from the files `callgrind.out.*` of a folder, in the order in which they were written: each
/// lap's name with the count of every time that it was taken.
///
/// # Errors
/// A file cannot be read, or holds no total.
pub fn read_counts(folder: &Path) -> Result<BTreeMap<String, Vec<u64>>> {
    let mut counts: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let Some(name) = value("desc: Trigger: Client Request:") else { continue };
        let total = value("totals:").or_else(|| value("summary:"));
        let total = total.and_then(|total| total.parse().ok());
        let total = total.with_context(|| format!("{}: no total", path.display()))?;
        counts.entry(name.to_owned()).or_default().push(total);
    }
    Ok(counts)
}
