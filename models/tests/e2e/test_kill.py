"""kill -9 in the middle of a stream of events: every acknowledged one is there, exactly once, resent or not."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.house import House, Server

EVENTS = int(os.environ.get("MARQUEE_KILL_EVENTS", "5000"))
USERS = 200


def _stream(house: House, address: str, acknowledged: Path, *options: str) -> list[str]:
    words = [str(house.binaries / "marquee-loadtest"), "--address", f"http://{address}", "stream-events"]
    words += ["--events", str(EVENTS), "--users", str(USERS), "--batch", "20", "--acknowledged", str(acknowledged)]
    return [*words, *options]


def _acknowledged(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_every_acknowledged_event_survives_a_kill_once(furnish: Callable[..., House], tmp_path: Path) -> None:
    house = furnish()
    acknowledged = tmp_path / "acknowledged"
    server = Server.start(house)
    with subprocess.Popen(_stream(house, server.public, acknowledged), stderr=subprocess.PIPE) as client:
        # In the middle: some are acknowledged, some are on their way.
        until = time.monotonic() + 120
        while _acknowledged(acknowledged) < EVENTS // 3:
            assert client.poll() is None, "everything was sent before the kill: send more"
            assert time.monotonic() < until
            time.sleep(0.001)
        server.kill()
        client.communicate(timeout=60)
    before = _acknowledged(acknowledged)
    assert EVENTS // 3 <= before < EVENTS, f"{before} of {EVENTS} were acknowledged before the kill"

    with house.server() as second:
        address = f"http://{second.public}"
        verify = ["--address", address, "verify-events", "--users", str(USERS), "--acknowledged", str(acknowledged)]
        print(house.run(*verify, program="marquee-loadtest"))
        # Everything again, acknowledged or not.
        subprocess.run(_stream(house, second.public, acknowledged), check=True, capture_output=True)
        print(house.run(*verify, "--expect", str(EVENTS), program="marquee-loadtest"))
    print(f"{EVENTS} events, killed after {before} acknowledgements: each is there once")
