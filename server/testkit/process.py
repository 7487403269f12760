"""Processes on this machine: started, frozen, killed, and found again by what a crashed run left behind.

Everything goes by process id together with the moment that the process was born, so that an id which the system gave to
somebody else meanwhile is never hit.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Below the range from which systems take the ports of outgoing connections: a port stays free while its server is down.
PORTS = range(20_000, 32_000)
START_S_MAX = 60.0
STOP_S_MAX = 8.0
KILL_S_MAX = 10.0


class Unready(Exception):
    """A server cannot be had; the words are for people."""


@dataclass(frozen=True)
class Mark:
    """What is needed to find a process again, and what to remove after it."""

    name: str
    pid: int
    born: str
    signal: int
    folder: str


@dataclass(frozen=True)
class Account:
    """A user without privileges."""

    uid: int
    gid: int


def born(pid: int) -> str | None:
    """When the process was born; None when it is gone."""
    try:
        if sys.platform == "linux":
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
        told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return told.stdout.strip() or None
    except (FileNotFoundError, ProcessLookupError):
        return None


def end(mark: Mark) -> None:
    """Stops a process by its signal, then by SIGKILL when that was not enough, and removes its folder outside ours."""
    for number, seconds in ((mark.signal, STOP_S_MAX), (signal.SIGKILL, KILL_S_MAX)):
        if born(mark.pid) != mark.born:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(mark.pid, number)
            os.kill(mark.pid, signal.SIGCONT)
        until = time.monotonic() + seconds
        while born(mark.pid) == mark.born and time.monotonic() < until:
            time.sleep(0.02)
    if mark.folder:
        shutil.rmtree(mark.folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, all different."""
    held: list[socket.socket] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError):
            held.append(socket.create_server((HOST, port), reuse_port=False))
        if len(held) == count:
            break
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    if len(ports) < count:
        raise Unready(f"there are no {count} free ports from {PORTS.start} to {PORTS.stop}")
    return ports


def unprivileged() -> Account | None:
    """Whom servers that refuse root run as; None when we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return Account(found.pw_uid, found.pw_gid)
    raise Unready("there is no user `postgres` or `nobody` to run PostgreSQL as: it refuses root")


def run(words: list[str], account: Account | None = None) -> str:
    """A command that must succeed; what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd="/", **_as(account))
    if done.returncode != 0:
        raise Unready(f"{' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return str(done.stdout)


def _as(account: Account | None) -> dict[str, Any]:
    return {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}


def wait_until(holds: Callable[[], bool], what: str, seconds: float = START_S_MAX) -> None:
    """Waits, a bounded time."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise Unready(f"{what} within {seconds:.0f} s")
        time.sleep(0.05)


@functools.cache
def _tied() -> list[str]:
    """What before a command makes it die with the thread that started it; nothing where the system cannot do that."""
    words = ["setpriv", "--pdeathsig", "KILL"]
    can = shutil.which("setpriv") and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    return words if can else []


class Server(ABC):
    """One server in a folder. Its port stays the same over restarts.

    `outlives` says that it goes on when this process ends; otherwise it dies with it, however that ends.
    """

    name: str
    stop_signal: signal.Signals = signal.SIGTERM

    def __init__(self, folder: Path, *, outlives: bool = False) -> None:
        self.folder = folder
        self.outlives = outlives
        self.account: Account | None = None
        self.elsewhere: Path | None = None
        self.port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """What goes into a Marquee config."""

    @abstractmethod
    def prepare(self) -> None:
        """Makes its files, once."""

    @abstractmethod
    def words(self) -> list[str]:
        """The command that runs it in the foreground."""

    @abstractmethod
    def is_ready(self) -> bool:
        """It answers as its clients need it."""

    def spawn(self) -> Mark:
        """Starts the process and does not wait for it. In the main thread: one that dies takes its children along."""
        log = self.folder / f"{self.name}.log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*([] if self.outlives else _tied()), *self.words()],
                cwd=self.elsewhere or self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                **_as(self.account),
            )
        pid = self._process.pid
        return Mark(self.name, pid, born(pid) or "", self.stop_signal, str(self.elsewhere or ""))

    def wait_ready(self) -> None:
        """Waits until it answers."""

        def holds() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise Unready(f"{self.name} ended with {self._process.returncode}:\n{self.log()[-4000:]}")
            return self.is_ready()

        try:
            wait_until(holds, f"{self.name} did not answer")
        except Unready as error:
            raise Unready(f"{error}\n{self.log()[-4000:]}") from None

    def wait_ready_or_again(self, note: Callable[[Mark], None] = lambda mark: None) -> None:
        """As `wait_ready`, but one that ended by itself gets a second try, which `note` is told: Kafka did so once in
        ten starts, without a word."""
        try:
            self.wait_ready()
        except Unready:
            if self._process is None or self._process.poll() is None:
                raise
            note(self.spawn())
            self.wait_ready()

    def start(self) -> None:
        """Starts it and waits until it answers."""
        self.prepare()
        self.spawn()
        self.wait_ready_or_again()

    def restart(self) -> None:
        """Starts it again after a stop or a kill, on the same port and the same data."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        self.spawn()
        self.wait_ready()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process that we started."""
        assert self._process is not None, f"{self.name} was not started"
        if self._process.poll() is None:
            self._process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, the kernel still takes bytes, nothing is answered."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT"""
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL"""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(KILL_S_MAX)

    def stop(self) -> None:
        """Its stop signal, then SIGKILL."""
        if self._process is None or self._process.poll() is not None:
            return
        self.signal(self.stop_signal)
        self.thaw()
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()

    def close(self) -> None:
        """Stops it and removes what it has outside its folder."""
        self.stop()
        if self.elsewhere is not None:
            shutil.rmtree(self.elsewhere, ignore_errors=True)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self) -> str:
        """What it wrote."""
        path = self.folder / f"{self.name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def drop_privileges(self) -> None:
        """From now on it runs as somebody else where we are root, in a folder which that user can reach."""
        self.account = unprivileged()
        if self.account is None:
            return
        self.folder.chmod(0o755)
        try:
            run(["test", "-x", str(self.folder.resolve())], self.account)
        except Unready:
            self.elsewhere = Path(tempfile.mkdtemp(prefix="marquee-"))
            os.chown(self.elsewhere, self.account.uid, self.account.gid)
