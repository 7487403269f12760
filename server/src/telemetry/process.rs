//! What the operating system says of this process, under the names that every Prometheus exporter uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// The process.
pub(super) struct Process {
    start_seconds: f64,
}

impl Process {
    /// From now on.
    pub(super) fn start() -> Process {
        Process { start_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) }
    }

    /// In the OpenMetrics text format, without an end. What the system does not tell has no line.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, suffix: &str, kind: &str, help: &str, value: f64| {
            text += &format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n{name}{suffix} {value}\n");
        };
        let cpu = cpu_seconds();
        add("process_cpu_seconds", "_total", "counter", "User and system CPU time", cpu);
        if let Some(bytes) = resident_bytes() {
            add("process_resident_memory_bytes", "", "gauge", "Resident memory", bytes);
        }
        add("process_start_time_seconds", "", "gauge", "When the process started, since the epoch", self.start_seconds);
        text
    }
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, which the call fills or leaves as it is.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn resident_bytes() -> Option<f64> {
    let pages: f64 = std::fs::read_to_string("/proc/self/statm").ok()?.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: asks for a number and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * page_bytes as f64)
}
