"""PostgreSQL, as a user without privileges, with fsync on: durability is tested."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from testkit import tools
from testkit.certificates import authority
from testkit.process import HOST, Server, run

USER = "marquee"
PASSWORD = "only-for-tests"
DATABASE = "marquee"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "fsync": "on",
    "log_min_messages": "warning",
}


class Postgres(Server):
    """One PostgreSQL server with a database in it."""

    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": sessions are ended, then it stops

    def __init__(self, folder: Path, *, outlives: bool = False) -> None:
        super().__init__(folder, outlives=outlives)
        self.drop_privileges()
        self._binaries = Path(tools.program("initdb")).resolve().parent

    @property
    def url(self) -> str:
        return f"postgres://{USER}:{PASSWORD}@{HOST}:{self.port}/{DATABASE}"

    @property
    def data(self) -> Path:
        """Its data folder."""
        return (self.elsewhere or self.folder) / "data"

    def prepare(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        password = self.data.with_name("password")
        password.write_text(PASSWORD + "\n", encoding="utf-8")
        if self.account:
            for path in (self.data, password):
                os.chown(path, self.account.uid, self.account.gid)
        words = [str(self._binaries / "initdb"), "--pgdata", str(self.data), "--username", USER, "--no-sync"]
        words += ["--auth", "scram-sha-256", "--pwfile", str(password), "--encoding", "UTF8", "--locale", "C"]
        run(words, self.account)
        password.unlink()

    def words(self) -> list[str]:
        words = [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        return words + [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]

    def is_ready(self) -> bool:
        """Answers a query; makes the database when it is not there yet."""
        if self.query("SELECT 1", "postgres") is None:
            return False
        if self.query("SELECT 1") is None:
            self.query(f"CREATE DATABASE {DATABASE}", "postgres")
        return self.query("SELECT 1") is not None

    def query(self, text: str, database: str = DATABASE) -> str | None:
        """What psql prints for it, without headings; None when it failed."""
        words = [str(self._binaries / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p", str(self.port)]
        words += ["-U", USER, "-d", database, "-c", text]
        environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGCONNECT_TIMEOUT": "5"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None


class PostgresTls(Postgres):
    """The same with TLS for those who ask for it. Its certificate is for `localhost`, as that of Redis."""

    @property
    def tls(self) -> Path:
        """Where its certificate and that of who signed it are: ca.pem, server.pem, server.key."""
        return self.data.with_name("tls")

    def prepare(self) -> None:
        super().prepare()
        shutil.rmtree(self.tls, ignore_errors=True)
        self.tls.mkdir()
        authority(self.tls)
        if self.account:
            for path in (self.tls, *self.tls.iterdir()):
                os.chown(path, self.account.uid, self.account.gid)

    def words(self) -> list[str]:
        files = {"ssl_cert_file": self.tls / "server.pem", "ssl_key_file": self.tls / "server.key"}
        return [
            *super().words(),
            "-c",
            "ssl=on",
            *(word for at in files.items() for word in ("-c", f"{at[0]}={at[1]}")),
        ]
