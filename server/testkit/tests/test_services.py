"""Servers come up, are told, freeze, die and come back; what a run leaves behind is found and ended."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testkit import services
from testkit.process import Mark, Unready, born, end, free_ports
from testkit.servers.postgres import Postgres
from testkit.servers.redis import Redis, command
from testkit.servers.s3 import BUCKET, S3

SERVER = Path(__file__).resolve().parents[2]
BARE = {name: value for name, value in os.environ.items() if not name.startswith("MARQUEE_TEST_")}


def _testkit(*words: object) -> subprocess.CompletedProcess[str]:
    said = [sys.executable, "-m", "testkit", *map(str, words)]
    return subprocess.run(said, cwd=SERVER, env=BARE, capture_output=True, text=True, check=False)


def _exports(text: str) -> dict[str, str]:
    words = [shlex.split(line) for line in text.splitlines()]
    assert all(len(each) == 2 and each[0] == "export" for each in words), text
    return dict(each[1].split("=", 1) for each in words)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_a_set_goes_on_until_it_is_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    started = _testkit("start", "--folder", folder, "--only", "redis,redis-cluster")
    assert started.returncode == 0, started.stderr
    try:
        told = _exports(started.stdout)
        assert set(told) == {"MARQUEE_TEST_REDIS", "MARQUEE_TEST_REDIS_CLUSTER"}
        assert command(_port(told["MARQUEE_TEST_REDIS"]), "PING") == "PONG"
        info = str(command(_port(told["MARQUEE_TEST_REDIS_CLUSTER"]), "CLUSTER", "INFO"))
        assert "cluster_state:ok" in info and "cluster_size:3" in info, info
        again = _testkit("start", "--folder", folder, "--only", "redis,redis-cluster")
        assert again.stdout == started.stdout, "a set that runs is told, not doubled"
        assert _testkit("status", "--folder", folder).stdout.count(" runs\n") == 4
        marks = services.marks(folder)
    finally:
        stopped = _testkit("stop", "--folder", folder)
    assert "4 processes" in stopped.stderr and not folder.exists()
    assert all(born(mark.pid) != mark.born for mark in marks)
    assert _testkit("status", "--folder", folder).returncode == 1


def test_a_set_of_which_one_died_is_started_anew(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    try:
        first = _exports(_testkit("start", "--folder", folder, "--only", "redis").stdout)
        os.kill(services.marks(folder)[0].pid, signal.SIGKILL)
        second = _exports(_testkit("start", "--folder", folder, "--only", "redis").stdout)
        assert second != first and command(_port(second["MARQUEE_TEST_REDIS"]), "PING") == "PONG"
    finally:
        _testkit("stop", "--folder", folder)


def test_a_command_runs_beside_its_servers_and_its_status_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(services, "PLACE", tmp_path)
    for name in [name for name in os.environ if name.startswith("MARQUEE_TEST_")]:
        monkeypatch.delenv(name)
    kept = tmp_path / "kept"
    words = ["sh", "-c", f'echo "$MARQUEE_TEST_REDIS" > {kept}; exit 7']
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        assert services.run(words, only=["redis"]) == 7
        url = kept.read_text(encoding="utf-8").strip()
        with pytest.raises(ConnectionRefusedError):
            command(_port(url), "PING")
        assert not list(tmp_path.glob("run-*"))
        # What the environment names is used, and stays.
        monkeypatch.setenv("MARQUEE_TEST_REDIS", "redis://of-somebody-else")
        assert services.run(words, only=["redis"]) == 7
        assert kept.read_text(encoding="utf-8").strip() == "redis://of-somebody-else"
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_what_a_killed_run_left_is_swept_and_a_living_run_is_not(tmp_path: Path) -> None:
    left, living = tmp_path / "run-left", tmp_path / "run-living"
    try:
        for folder in (left, living):
            assert _testkit("start", "--folder", folder, "--only", "redis").returncode == 0
        dead, alive = services.marks(left)[0], services.marks(living)[0]
        with services.locked(living / services.LOCK) as ours:
            assert ours
            services.sweep(tmp_path)
            assert born(dead.pid) != dead.born and not left.exists()
            assert born(alive.pid) == alive.born
    finally:
        services.stop(left)
        services.stop(living)


def test_a_private_server_dies_with_its_test(tmp_path: Path) -> None:
    code = "import sys,time,pathlib; from testkit.servers.redis import Redis\n"
    code += f"server = Redis(pathlib.Path({str(tmp_path)!r})); server.start(); print(server.port, flush=True)\n"
    code += "time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=SERVER, stdout=subprocess.PIPE, text=True) as test:
        assert test.stdout
        port = int(test.stdout.readline())
        assert command(port, "PING") == "PONG"
        test.kill()
    until = time.monotonic() + 10
    with pytest.raises(ConnectionError):
        while time.monotonic() < until:
            command(port, "PING")
            time.sleep(0.02)


def test_an_id_that_somebody_else_has_now_is_not_hit() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        end(Mark("gone", other.pid, "another moment", signal.SIGTERM, ""))
        assert other.poll() is None
        other.kill()


def test_a_frozen_server_takes_bytes_and_answers_after_the_thaw(tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        assert isinstance(server, Redis)
        server.freeze()
        with pytest.raises(TimeoutError):
            server.command("PING")
        server.thaw()
        assert server.command("PING") == "PONG"
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.command("PING")
        server.restart()
        assert server.command("PING") == "PONG"


def test_postgres_keeps_what_it_acknowledged_over_a_kill(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres") as server:
        assert isinstance(server, Postgres)
        assert server.query("SHOW fsync; SHOW synchronous_commit") == "on\non"
        assert server.query("CREATE TABLE kept (n int); INSERT INTO kept SELECT generate_series(1, 1000)") == ""
        server.kill()
        assert server.query("SELECT 1") is None
        server.restart()
        assert server.query("SELECT count(*) FROM kept") == "1000"


def test_s3_takes_its_keys_alone_and_keeps_objects_over_a_kill(tmp_path: Path) -> None:
    with S3(tmp_path / "s3") as server:
        assert isinstance(server, S3)
        assert server.ask("PUT", f"/{BUCKET}/a") == 200
        with pytest.raises(Unready, match="no such service"):
            services.Set(tmp_path / "other", ["redis", "s4"])
        server.kill()
        server.restart()
        assert server.ask("HEAD", f"/{BUCKET}/a") == 200
        assert server.ask("HEAD", f"/{BUCKET}/b") == 404


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(50))) == 50
