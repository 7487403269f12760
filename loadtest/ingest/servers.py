"""The servers of a run: Kafka and PostgreSQL from the testkit, and Marquee in a namespace of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testkit import tools
from testkit.process import HOST
from testkit.servers.postgres import DATABASE, PASSWORD, USER, Postgres

START_S_MAX = 60.0
STOP_S_MAX = 30.0
# As a server that is meant for this would have it: the testkit's is tiny. COPY has the same one.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "2GB", "checkpoint_timeout": "15min"}
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
MIB = 1024.0


class Database(Postgres):
    """PostgreSQL with room for millions of rows."""

    def words(self) -> list[str]:
        return super().words() + [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]

    def psql(self, namespace: str, *words: str) -> tuple[list[str], dict[str, str]]:
        """The command of a psql in a schema, and its environment."""
        command = [tools.program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", HOST, "-p", str(self.port)]
        options = f'-c search_path="{namespace}" -c client_min_messages=warning'
        environment = {**os.environ, "PGPASSWORD": PASSWORD, "PGOPTIONS": options}
        return [*command, "-U", USER, "-d", DATABASE, *words], environment

    def ask(self, namespace: str, text: str) -> str:
        """What psql prints for a query that must succeed."""
        words, environment = self.psql(namespace, "-c", text)
        return subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Place:
    """What every Marquee of a run shares."""

    folder: Path
    binaries: Path
    store: str
    events: str

    def environment(self, namespace: str, **settings: str) -> dict[str, str]:
        """The whole configuration, and nothing of the caller's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
        return {
            **inherited,
            "MARQUEE_NAMESPACE": namespace,
            "MARQUEE_SERVER__LISTEN": f"{HOST}:0",
            "MARQUEE_SERVER__ADMIN_LISTEN": f"{HOST}:0",
            "MARQUEE_SERVER__METRICS_LISTEN": f"{HOST}:0",
            "MARQUEE_STORE__URL": self.store,
            "MARQUEE_ARTIFACTS__URL": f"file://{self.folder}/bundles",
            "MARQUEE_EVENTS__URL": self.events,
            "MARQUEE_EVENTS__CREATE_TOPIC": "true",
            "MARQUEE_EVENTS__QUARANTINE_FOLDER": f"{self.folder}/quarantine",
            "MARQUEE_LOG__JSON": "true",
            **settings,
        }

    def run(self, program: str, namespace: str, *words: str) -> str:
        """A command that must succeed; what it said."""
        command = [str(self.binaries / program), *words]
        environment = self.environment(namespace)
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{program} {words[0]}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout + done.stderr


@dataclass(frozen=True)
class Marquee:
    """One process that serves."""

    process: subprocess.Popen[bytes]
    public: str
    metrics: str

    def ingested(self) -> int:
        """Events that it took over into the store, as it says itself after the commit; fails when any was not taken."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10.0) as answer:
            text = answer.read().decode()
        counts = {
            name: int(count) for name, count in re.findall(r'^marquee_ingest_total\{\w+="(\w+)"\} (\d+)', text, re.M)
        }
        taken = counts.pop("ingested", 0)
        if any(counts.values()):
            raise SystemExit(f"records were not taken over: {counts}")
        return taken


@contextlib.contextmanager
def serve(place: Place, namespace: str, **settings: str) -> Iterator[Marquee]:
    """Starts one and waits until it answers; stopped by SIGTERM at the end, which must end it cleanly."""
    log = place.folder / f"{namespace}-{time.time_ns()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [place.binaries / "marquee", "serve"],
            env=place.environment(namespace, **settings),
            cwd=place.folder,
            stderr=file,
        )
    try:
        yield _listening(process, log)
        process.send_signal(signal.SIGTERM)
        if process.wait(STOP_S_MAX) != 0:
            raise SystemExit(f"marquee ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path) -> Marquee:
    until = time.monotonic() + START_S_MAX
    while time.monotonic() < until and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"listening"' in line and line.endswith("}"):
                entry = json.loads(line)
                found = entry.get("fields", entry)
                return Marquee(process, found["grpc"], found["metrics"])
        time.sleep(0.02)
    raise SystemExit(f"marquee did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")


def cpu_s(pid: int) -> float:
    """User and system time of a process, its children, and those of them that ended."""
    ticks = _ticks(pid, ended=True)
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            ticks += sum(_ticks(int(child), ended=False) for child in thread.read_text().split())
    return ticks * TICK_S


def _ticks(pid: int, *, ended: bool) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    # After the name, which may hold anything: utime, stime, and those of children that ended and were waited for.
    return sum(map(int, stat.rpartition(")")[2].split()[11 : 15 if ended else 13]))


def resident_mb(pid: int) -> float:
    """Anonymous resident memory: not the program's own pages, which come as they are touched."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"^RssAnon:\s+(\d+) kB", text, re.M)
    return int(found[1]) / MIB if found else 0.0
