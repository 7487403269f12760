"""An installation of its own for a test: binary, config, store and server in one folder, on ports that were free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.client import Service, connect

TOKEN = "only-for-this-test"
START_S_MAX = 60.0


@dataclass(frozen=True)
class House:
    """Where everything of one installation is."""

    folder: Path
    binaries: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The configuration, by environment variables alone, and nothing of the caller's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_")}
        return {
            **inherited,
            "MARQUEE_ADMIN_TOKEN": TOKEN,
            "MARQUEE_SERVER__LISTEN": "127.0.0.1:0",
            "MARQUEE_SERVER__ADMIN_LISTEN": "127.0.0.1:0",
            "MARQUEE_SERVER__METRICS_LISTEN": "127.0.0.1:0",
            "MARQUEE_STORE__URL": f"sqlite://{self.folder}/marquee.db",
            "MARQUEE_ARTIFACTS__URL": f"file://{self.folder}/bundles",
            "MARQUEE_EVENTS__QUARANTINE_FOLDER": str(self.folder / "quarantine"),
            "MARQUEE_LOG__JSON": "true",
            "MARQUEE_LOG__LEVEL": "info",
            **self.settings,
        }

    def try_run(self, *command: object, program: str = "marquee") -> subprocess.CompletedProcess[str]:
        """A command of a binary; both outputs are kept."""
        words = [str(self.binaries / program), *map(str, command)]
        return subprocess.run(
            words, env=self.environment(), cwd=self.folder, capture_output=True, text=True, check=False
        )

    def run(self, *command: object, program: str = "marquee") -> str:
        """A command that must succeed; what it printed."""
        done = self.try_run(*command, program=program)
        assert done.returncode == 0, f"{program} {command}: {done.returncode}\n{done.stdout}\n{done.stderr[-4000:]}"
        return done.stdout

    def bundles(self) -> list[dict[str, Any]]:
        """`marquee bundle list --json`"""
        found: list[dict[str, Any]] = json.loads(self.run("bundle", "list", "--json"))
        return found

    def serving(self) -> str:
        """The version that the registry says serves."""
        return next(str(bundle["version"]) for bundle in self.bundles() if bundle["serving"])

    @contextmanager
    def server(self, start_s_max: float = START_S_MAX) -> Iterator[Server]:
        """A running server; stopped by SIGTERM at the end, which must end it cleanly."""
        running = Server.start(self, start_s_max)
        try:
            yield running
        except BaseException:
            running.kill()
            raise
        running.stop()


@dataclass
class Server:
    """A server process and where it listens."""

    process: subprocess.Popen[bytes]
    log: Path
    public: str
    admin: str
    metrics: str

    @staticmethod
    def start(house: House, start_s_max: float = START_S_MAX) -> Server:
        """Starts one and waits for its addresses, which it logs when it answers."""
        log = house.folder / f"server-{time.time_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [house.binaries / "marquee", "serve"], env=house.environment(), cwd=house.folder, stderr=file
            )
        until = time.monotonic() + start_s_max
        while time.monotonic() < until:
            for line in log.read_text(encoding="utf-8").splitlines():
                if '"listening"' in line:
                    entry = json.loads(line)
                    found = entry.get("fields", entry)
                    return Server(process, log, found["grpc"], found["admin"], found["metrics"])
            assert process.poll() is None, f"the server ended:\n{log.read_text(encoding='utf-8')[-4000:]}"
            time.sleep(0.05)
        process.kill()
        raise AssertionError(f"the server did not start within {start_s_max:.0f} s")

    def service(self, name: str) -> Service:
        """A client of a public service."""
        return Service(connect(self.public), name)

    def admin_service(self) -> Service:
        """A client of AdminService, with the token."""
        return Service(connect(self.admin), "AdminService", [("authorization", f"Bearer {TOKEN}")])

    def kill(self) -> None:
        """kill -9: no chance to write anything."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; the server must end by itself, with status 0."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=30)
        assert status == 0, f"status {status}:\n{self.log.read_text(encoding='utf-8')[-4000:]}"
