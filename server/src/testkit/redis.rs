//! A Redis of one test's own, to be stopped, frozen and killed. The others' servers stay as they are.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// Tries of a server that starts, a twentieth of a second each.
const TRIES: usize = 400;

/// The server; dropping it kills it.
pub(crate) struct PrivateRedis {
    child: Child,
    port: u16,
    folder: TempDir,
    settings: String,
}

impl PrivateRedis {
    /// Starts it on a free port and waits until it answers.
    pub(crate) fn start() -> PrivateRedis {
        PrivateRedis::with("save \"\"")
    }

    /// The same with these lines in its configuration; a sentinel if they speak of one.
    pub(crate) fn with(settings: &str) -> PrivateRedis {
        let (folder, settings) = (tempfile::tempdir().unwrap(), settings.to_owned());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let child = spawn(port, &folder, &settings);
        let redis = PrivateRedis { child, port, folder, settings };
        redis.wait();
        redis
    }

    /// Where it listens, on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// One command without spaces in its words; gives the first line of the answer.
    pub(crate) fn command(&self, words: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("{words}\r\n").as_bytes())?;
        let mut answer = [0; 256];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or_default().to_owned())
    }

    /// It takes connections, and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// It goes on.
    pub(crate) fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// It is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// It is there again, on the same port, with nothing in it.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.folder, &self.settings);
        self.wait();
    }

    fn wait(&self) {
        for _ in 0..TRIES {
            if self.command("PING").is_ok_and(|answer| answer == "+PONG") {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not answer on port {}", self.port);
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: a system call with numbers only; the process is our child and was not waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }
}

impl Drop for PrivateRedis {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, settings: &str) -> Child {
    let path = folder.path().join("redis.conf");
    let place = folder.path().display();
    std::fs::write(&path, format!("port {port}\nbind 127.0.0.1\ndir {place}\n{settings}\n")).unwrap();
    let mut command = Command::new("redis-server");
    command.arg(path).args(settings.contains("sentinel").then_some("--sentinel")).stdout(Stdio::null());
    command.spawn().expect("redis-server is on PATH: `make test` sees to that")
}
