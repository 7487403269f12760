//! A server of the test's own, which is killed with SIGKILL while it is written to, and started again.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

/// Made of the binaries of the tests' server, by its user: root may not.
struct Own {
    folder: tempfile::TempDir,
    bin: PathBuf,
    owner: (u32, u32),
    port: u16,
    running: Option<Child>,
}

impl Own {
    async fn make() -> Own {
        let mut sql = Schema::new().connect().await;
        let row = sqlx::query("SELECT setting, current_setting('data_directory') FROM pg_config WHERE name = 'BINDIR'")
            .fetch_one(&mut sql)
            .await
            .unwrap();
        let (bin, data): (String, String) = (row.get(0), row.get(1));
        let owner = std::fs::metadata(data).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let own = Own { folder, bin: bin.into(), owner: (owner.uid(), owner.gid()), port, running: None };
        let mut made = own.command("initdb");
        made.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "-D"]).arg(own.data());
        let made = made.stdout(Stdio::null()).status().unwrap();
        assert!(made.success());
        own
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(&self.bin).join(name));
        if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            command.gid(self.owner.1).uid(self.owner.0);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts it and waits until it answers. What is left of one that was killed may have to end first.
    async fn start(&mut self) {
        for _ in 0..100 {
            let mut command = self.command("postgres");
            command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-D"]).arg(self.data());
            let mut child = command.arg("-p").arg(self.port.to_string()).stdout(Stdio::null()).spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                let options: sqlx::postgres::PgConnectOptions = self.url().parse().unwrap();
                if sqlx::ConnectOptions::connect(&options).await.is_ok() {
                    self.running = Some(child);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the server does not start");
    }

    fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _gone_already = self
                .command("pg_ctl")
                .args(["stop", "-m", "immediate", "-D"])
                .arg(self.data())
                .stdout(Stdio::null())
                .status();
            let _gone_already = child.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_started_again_lost_nothing_and_is_used_again() {
    let mut own = Own::make().await;
    own.start().await;
    let mut config = Config::default();
    config.store.url = own.url().as_str().into();
    config.store.write_retry_ms = 200;
    config.store.write_queue_max_entries = 100;
    let store = Arc::new(Postgres::open(&config, Arc::new(Metrics::new())).await.unwrap());
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut refused = 0;
                for n in 0..150 {
                    let event = event(&format!("{writer}-{n}"));
                    loop {
                        match store.append_events(vec![event.clone()], 1).await {
                            Ok(_) => break,
                            Err(Error::Unavailable { .. } | Error::ResourceExhausted(_)) => refused += 1,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                refused
            })
        })
        .collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        own.kill();
        // Reads say so and do not wait for it, once it is known.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let read = store.log_end().await;
        assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
        own.start().await;
    }
    let mut refused = 0;
    for writer in writers {
        refused += writer.await.unwrap();
    }
    assert!(refused > 0, "no write met the server while it was down");
    let mut rows = store.log_after(0, 10_000).await;
    while rows.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        rows = store.log_after(0, 10_000).await;
    }
    let rows = rows.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    store.close().await;
}
