"""The load tester beside a fault: open loop, on all processes in turns, every answer checked."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Any

from tests.e2e import catalogue
from tests.e2e.estate import DEADLINE_S, Estate
from tests.e2e.spread import READY_S_MAX

RATE_PER_S = 20
# Longer than any fault: a signal ends it.
DURATION = "3600s"
# The last words before the first call of the load.
READY = "null RPC"
PROFILE = """
name = "faults"
[mix]
recommend = {recommend}
record_events = {record_events}
[users]
count = {users}
zipf = 0
cold_share = 0.2
[call]
count = 10
deadline_ms = {deadline_ms}
[connections]
count = 4
"""


class LoadTester:
    """Loads from the beginning to the end of the `with`; then there is a report."""

    def __init__(self, estate: Estate, name: str, *, writes: bool) -> None:
        folder = estate.folder / name
        folder.mkdir()
        self._profile, self._log = folder / "faults.toml", folder / "log"
        self._report, self._acknowledged = folder / "report.json", folder / "acknowledged"
        mix = {"recommend": 18, "record_events": 2} if writes else {"recommend": 1, "record_events": 0}
        deadline_ms = int(DEADLINE_S * 1_000)
        self._profile.write_text(PROFILE.format(**mix, users=catalogue.USERS, deadline_ms=deadline_ms), "utf-8")
        words = [str(estate.houses[0].binaries / "marquee-loadtest")]
        for process in estate.processes:
            words += ["--address", f"http://{process.public}"]
        words += ["run", "--profile", str(self._profile), "--rate", str(RATE_PER_S), "--arrivals", "constant"]
        words += ["--duration", DURATION, "--warm-up", "0s", "--slo", f"p99={deadline_ms}ms", "--error-rate", "0%"]
        self._words = [*words, "--json", str(self._report), "--acknowledged", str(self._acknowledged)]

    def __enter__(self) -> LoadTester:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log)
        until = time.monotonic() + READY_S_MAX
        while READY not in self.told():
            if self._process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                raise AssertionError(f"no load: {self.told()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(READY_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def told(self) -> str:
        """What it said."""
        return self._log.read_text(encoding="utf-8")

    def check(self, fault_s: float) -> str:
        """Nothing failed, nothing was wrong, 99 of 100 answers came in time; in words."""
        report: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        run = report["runs"][0]
        measured, counts = run["measured"], run["measured"]["counts"]
        assert run["incomplete"].startswith("interrupted after"), self.told()
        assert measured["violations"] == {}, self.told()
        bad = {how: counts[how] for how in ("shed", "deadline", "error", "dropped") if counts[how]}
        assert bad == {}, (bad, measured["messages"], self.told())
        assert run["held"] is True, run["why"]
        p99_ms = next(ms for at, ms in measured["latency"]["percentiles"] if at == 99.0)
        assert p99_ms <= DEADLINE_S * 1_000, self.told()
        calls = counts["ok"] + counts["degraded"]
        assert calls >= RATE_PER_S * fault_s, f"it did not load all the while: {calls} calls"
        return f"{calls} checked calls, {counts['degraded']} degraded, p99 {p99_ms:.0f} ms"

    def acknowledged(self) -> list[str]:
        """Ids of the events that were acknowledged to it."""
        return self._acknowledged.read_text(encoding="utf-8").split()
