//! The processes that are measured: started on free ports, ended with their owner.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A process that is ended with its owner.
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) address: String,
    child: Child,
}

impl Process {
    /// A Marquee with nothing in it; `settings` are more of its config.
    pub(super) fn marquee(
        name: &'static str,
        binary: &Path,
        folder: &Folder,
        settings: &str,
    ) -> anyhow::Result<Process> {
        let config = folder.0.join("marquee.toml");
        let (admin, metrics) = (free_address()?, free_address()?);
        let shown = folder.0.display();
        std::fs::write(
            &config,
            format!(
                "{settings}[server]\nadmin_listen = \"{admin}\"\nmetrics_listen = \"{metrics}\"\n\
                 [store]\nurl = \"sqlite://{shown}/marquee.db\"\n[artifacts]\nurl = \"file://{shown}/bundles\"\n\
                 [events]\nquarantine_folder = \"{shown}/quarantine\"\n[log]\nlevel = \"error\"\n"
            ),
        )?;
        let address = free_address()?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(&config).arg("serve").env("MARQUEE_SERVER__LISTEN", address.to_string());
        Process::start(name, address, &mut command)
    }

    /// A bare server.
    pub(super) fn echo(name: &'static str, binary: &Path, words: &[&str]) -> anyhow::Result<Process> {
        let address = free_address()?;
        let mut command = Command::new(binary);
        command.arg("echo").args(words).args(["--listen", &address.to_string()]);
        Process::start(name, address, &mut command)
    }

    fn start(name: &'static str, address: SocketAddr, command: &mut Command) -> anyhow::Result<Process> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { name, address: format!("http://{address}"), child })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A folder that goes with its owner.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> anyhow::Result<Folder> {
        let folder = std::env::temp_dir().join(format!("marquee-floor-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// An address that is free now; taken a moment later by the process that gets it.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// CPU time of a process and all its threads, user and system, as the operating system counts it.
pub(super) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    /// What `getconf CLK_TCK` says on every Linux that this is run on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).context("reading /proc: Linux is needed")?;
    // The name in parentheses may hold spaces; user and system time are the fields 14 and 15.
    let (_, rest) = text.rsplit_once(')').context("/proc/PID/stat")?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}
