"""The whole set: started side by side, written down so that it is found again, told as environment variables."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from testkit import tools
from testkit.process import Mark, Server, Unready, born, end
from testkit.servers import redis
from testkit.servers.kafka import Kafka
from testkit.servers.postgres import Postgres
from testkit.servers.s3 import S3

ALL = tuple(tools.NEEDS)
PLACE = tools.ROOT / ".marquee" / "services"
MARKS = "processes.jsonl"
EXPORTS = "exports.json"
LOCK = "lock"


class Set:
    """The servers of one folder."""

    def __init__(self, folder: Path, only: Sequence[str] = ALL, *, outlives: bool = False) -> None:
        unknown = sorted(set(only) - set(ALL))
        if unknown:
            raise Unready(f"no such service: {', '.join(unknown)}; there are {', '.join(ALL)}")
        tools.ensure(only)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._noting = threading.Lock()
        self.by_name: dict[str, list[Server]] = {}
        for name in only:
            self.by_name[name] = _make(name, folder / name, outlives)

    def servers(self) -> list[Server]:
        """All of them, in the order in which they start."""
        return [server for servers in self.by_name.values() for server in servers]

    def start(self) -> dict[str, str]:
        """Starts all and waits until each answers; the environment for tests. If one fails, all are stopped."""
        try:
            with ThreadPoolExecutor(len(self.servers())) as pool:
                list(pool.map(lambda server: server.prepare(), self.servers()))
                for server in self.servers():
                    self._note(server.spawn())
                list(pool.map(lambda server: server.wait_ready_or_again(self._note), self.servers()))
            if nodes := [server for server in self.by_name.get("redis-cluster", []) if isinstance(server, redis.Redis)]:
                redis.join(nodes)
            found = self.environment()
            (self.folder / EXPORTS).write_text(json.dumps(found), encoding="utf-8")
            return found
        except BaseException:
            self.stop()
            raise

    def _note(self, mark: Mark) -> None:
        """Writes down what was started, so that it is found again; what ended and is tried again is left out."""
        with self._noting:
            noted = [other for other in marks(self.folder) if born(other.pid) == other.born]
            text = "".join(json.dumps(asdict(each)) + "\n" for each in [*noted, mark])
            fresh = self.folder / f"{MARKS}.new"
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self.folder / MARKS)

    def environment(self) -> dict[str, str]:
        """Where they are, as tests are told."""
        found: dict[str, str] = {}
        for name, servers in self.by_name.items():
            last = servers[-1]
            variable = "MARQUEE_TEST_" + name.upper().replace("-", "_")
            found[variable] = last.url
            if name == "redis-cluster":
                found[variable] = redis.cluster_url([node for node in servers if isinstance(node, redis.Redis)])
            if isinstance(last, redis.RedisTls):
                found["MARQUEE_TEST_TLS_CA"] = str(last.authority)
            if isinstance(last, S3):
                found.update(last.environment())
        return found

    def stop(self) -> None:
        """Stops all, side by side, and removes the folder."""
        with ThreadPoolExecutor(len(self.servers())) as pool:
            list(pool.map(lambda server: server.close(), self.servers()))
        shutil.rmtree(self.folder, ignore_errors=True)


def _make(name: str, folder: Path, outlives: bool) -> list[Server]:
    match name:
        case "postgres":
            return [Postgres(folder, outlives=outlives)]
        case "redis":
            return [redis.Redis(folder, outlives=outlives)]
        case "redis-tls":
            return [redis.RedisTls(folder, outlives=outlives)]
        case "redis-cluster":
            return [*redis.cluster(folder, outlives=outlives)]
        case "redis-sentinel":
            return [*redis.sentinel(folder, outlives=outlives)]
        case "kafka":
            return [Kafka(folder, outlives=outlives)]
        case _:
            return [S3(folder, outlives=outlives)]


def marks(folder: Path) -> list[Mark]:
    """What was started in a folder."""
    path = folder / MARKS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Mark(**json.loads(line)) for line in lines if line.endswith("}")]


def stop(folder: Path) -> int:
    """Stops what was started in a folder and still runs, and removes it; how many processes that were."""
    found = marks(folder)
    running = sum(born(mark.pid) == mark.born for mark in found)
    if found:
        with ThreadPoolExecutor(len(found)) as pool:
            list(pool.map(end, found))
    shutil.rmtree(folder, ignore_errors=True)
    return running


def running(folder: Path) -> dict[str, str] | None:
    """The environment of a set that runs as a whole; None when there is none."""
    path, found = folder / EXPORTS, marks(folder)
    if not path.exists() or not all(born(mark.pid) == mark.born for mark in found):
        return None
    told: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return told


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock while it lasts, if nobody else does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def sweep(place: Path = PLACE) -> None:
    """Stops what runs that ended badly have left: their locks are free."""
    for folder in sorted(place.glob("run-*")):
        with locked(folder / LOCK) as ours:
            if ours:
                stop(folder)


def wanted(environment: dict[str, str]) -> list[str]:
    """The services that nobody has named in the environment yet."""
    return [name for name in ALL if "MARQUEE_TEST_" + name.upper().replace("-", "_") not in environment]


def run(words: Sequence[str], only: Sequence[str] = ALL) -> int:
    """Runs a command beside the servers and stops them whatever happens; the command's status."""
    sweep()
    PLACE.mkdir(parents=True, exist_ok=True)
    missing = [name for name in wanted(dict(os.environ)) if name in only]
    if not missing:
        return subprocess.run(words, check=False).returncode
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=PLACE))
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _leave)
    with locked(folder / LOCK):
        services = Set(folder, missing)
        told = services.start()
        print(f"testkit: {', '.join(missing)} started", file=sys.stderr)
        try:
            with subprocess.Popen(words, env={**os.environ, **told}) as child:
                try:
                    return child.wait()
                except BaseException:
                    child.terminate()
                    child.wait()
                    raise
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            services.stop()


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
