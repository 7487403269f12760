"""Servers as child processes: started on free ports, asked for their CPU time, stopped by their id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

START_MAX_S = 180.0
STOP_MAX_S = 15.0
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process, and whatever it starts, until `stop`."""

    def __init__(self, command: list[str], port: int, log: Path, environment: dict[str, str] | None = None) -> None:
        self.port, self.log, self.command = port, log, command
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_MAX_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        shown = self.log.read_text(errors="replace")[-3_000:]
        raise SystemExit(f"{' '.join(self.command[:3])} did not start:\n{shown}")

    def cpu_s(self) -> float:
        """User and system time of the process and all its descendants, the ended ones included."""
        return sum(_cpu_ticks(process) for process in _tree(self._process.pid)) * TICK_S

    def stop(self) -> None:
        """Asks it to end; after a while it must."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_MAX_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()


def _tree(root: int) -> list[int]:
    found, at = [root], 0
    while at < len(found):
        for thread in Path(f"/proc/{found[at]}/task").glob("*/children"):
            try:
                found += [int(child) for child in thread.read_text().split()]
            except OSError:
                continue
        at += 1
    return found


def _cpu_ticks(process: int) -> int:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    # After the name, which may hold anything: utime, stime, and those of children that ended.
    return sum(map(int, stat.rsplit(")", 1)[1].split()[11:15]))
