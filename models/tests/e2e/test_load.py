"""The load tester against a real server: what it finds, what it refuses, and that a frozen server is seen."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import catalogue
from tests.e2e.house import House, Server

FROZEN_S = 1.0
PROFILE = f"""
name = "test"
[mix]
recommend = 8
similar = 2
rank = 1
record_events = 3
recommend_batch = 1
[users]
count = {catalogue.USERS}
cold_share = 0.1
[call]
count = 5
deadline_ms = 5000
batch_requests = 3
rank_items = 10
"""


def _words(house: House, server: Server, profile: Path, command: str, *options: object) -> list[str]:
    words = [house.binaries / "marquee-loadtest", "--address", f"http://{server.public}", command]
    return [*map(str, words), "--profile", str(profile), *map(str, options)]


def _report(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "test.toml"
    path.write_text(PROFILE, encoding="utf-8")
    return path


def _percentile(report: dict[str, Any], percentile: float) -> float:
    found: list[tuple[float, float]] = report["runs"][0]["measured"]["latency"]["percentiles"]
    return next(ms for at, ms in found if at == percentile)


def test_a_mixed_load_is_answered_checked_and_reported(
    furnish: Callable[..., House], profile: Path, tmp_path: Path
) -> None:
    house = furnish()
    files = [tmp_path / name for name in ("a.json", "a.html")]
    with house.server() as server:
        options = ["--rate", 60, "--duration", "4s", "--warm-up", "1s", "--metrics", server.metrics]
        options += ["--server-pid", server.process.pid, "--json", files[0], "--out", files[1]]
        # What it says of a busy machine (invalid) is not what is tested here.
        done = subprocess.run(
            _words(house, server, profile, "run", *options), capture_output=True, text=True, check=False
        )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    report = _report(files[0])
    run = report["runs"][0]
    measured, counts = run["measured"], run["measured"]["counts"]
    assert measured["violations"] == {} and counts["error"] == 0, (done.stdout, measured["messages"])
    assert {method["name"] for method in measured["methods"]} == {
        "recommend", "similar", "rank", "record_events", "recommend_batch",
    }  # fmt: skip
    assert sum(counts.values()) > 100 and measured["cached"] < counts["ok"]
    assert report["baseline"]["latency"]["count"] > 10 and report["setting"]["bundle_version"] == house.serving()
    assert {stage["name"] for stage in run["server"]["stages"]} >= {"rank"}, run["server"]
    assert run["server"]["cpu_us_per_request"] > 0
    words = report["setting"]["users_known"].split()
    assert words[1] == words[-1], "the server knows every user that was drawn"
    page = files[1].read_text(encoding="utf-8")
    assert "Every percentile" in page and "http-equiv" not in page and "<script" not in page
    told = house.run("compare", files[0], files[0], program="marquee-loadtest")
    assert "1.000" in told and "could be chance" in told, told


def test_a_frozen_second_is_seen_and_a_closed_loop_would_hide_it(
    furnish: Callable[..., House], profile: Path, tmp_path: Path
) -> None:
    house = furnish()
    with house.server() as server:

        def freeze_during(name: str, *options: object) -> dict[str, Any]:
            path = tmp_path / name
            words = _words(
                house, server, profile, "run", *options, "--duration", "6s", "--warm-up", "1s", "--json", path
            )
            with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
                time.sleep(4.0)
                server.process.send_signal(signal.SIGSTOP)
                time.sleep(FROZEN_S)
                server.process.send_signal(signal.SIGCONT)
                load.wait(timeout=60)
            return _report(path)

        open_loop = freeze_during("open.json", "--rate", 100)
        closed = freeze_during("closed.json", "--closed", 1)
    # A sixth of the calls was due in that second; half of them waited for longer than half of it.
    assert _percentile(open_loop, 99.0) >= 500.0 * FROZEN_S, open_loop["runs"][0]["measured"]["latency"]
    assert open_loop["runs"][0]["measured"]["latency"]["max_ms"] >= 900.0 * FROZEN_S
    # The one caller of the closed loop waited once, and did not ask meanwhile.
    slow = closed["runs"][0]["measured"]["latency"]
    assert slow["max_ms"] >= 900.0 * FROZEN_S > _percentile(closed, 99.0), slow


def test_a_server_that_dies_leaves_an_incomplete_report(
    furnish: Callable[..., House], profile: Path, tmp_path: Path
) -> None:
    house = furnish()
    server = Server.start(house)
    path = tmp_path / "cut.json"
    words = _words(house, server, profile, "run", "--rate", 50, "--duration", "60s", "--warm-up", "0s", "--json", path)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
        time.sleep(3.0)
        server.kill()
        told, _ = load.communicate(timeout=40)
    assert load.returncode == 4, told
    report = _report(path)
    assert report["verdict"]["status"] == "incomplete" and report["runs"][0]["measured"]["counts"]["ok"] > 0, told
    assert "the server was lost" in told and report["runs"][0]["measured"]["counts"]["error"] > 0, told


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_it_measured(
    how: signal.Signals, furnish: Callable[..., House], profile: Path, tmp_path: Path
) -> None:
    house = furnish()
    path = tmp_path / "cut.json"
    with house.server() as server:
        words = _words(
            house, server, profile, "run", "--rate", 50, "--duration", "60s", "--warm-up", "0s", "--json", path
        )
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as load:
            time.sleep(3.0)
            load.send_signal(how)
            told, _ = load.communicate(timeout=40)
    assert load.returncode == 4 and "interrupted after" in told, told
    assert _report(path)["runs"][0]["measured"]["counts"]["ok"] > 0


def test_an_slo_that_cannot_hold_gates_a_pipeline(furnish: Callable[..., House], profile: Path, tmp_path: Path) -> None:
    house = furnish()
    path = tmp_path / "missed.json"
    with house.server() as server:
        options = ["--rate", 50, "--duration", "3s", "--slo", "p50=1us", "--json", path]
        done = subprocess.run(
            _words(house, server, profile, "run", *options), capture_output=True, text=True, check=False
        )
    assert done.returncode == 1, done.stdout + done.stderr
    assert _report(path)["verdict"]["status"] == "slo missed"


def test_a_search_ends_with_a_rate_and_a_curve(furnish: Callable[..., House], profile: Path, tmp_path: Path) -> None:
    house = furnish()
    files = [tmp_path / name for name in ("search.json", "curve.svg")]
    with house.server() as server:
        # So lenient that this test does not depend on how fast the machine is; a deadline of five seconds ends it.
        options = ["--slo", "p50=4s", "--error-rate", "90%", "--from-rate", 20, "--step-min", "1s", "--step-max", "1s"]
        options += ["--precision", "90%", "--json", files[0], "--svg", files[1]]
        words = _words(house, server, profile, "search", *options)
        load = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        # Some steps are enough: interrupted, it still writes what it has.
        time.sleep(8.0)
        load.send_signal(signal.SIGINT)
        told, _ = load.communicate(timeout=60)
    assert load.returncode in (0, 3, 4), told
    report = _report(files[0])
    assert len(report["runs"]) >= 2 and report["highest_per_s"] >= 20, told
    assert files[1].read_text(encoding="utf-8").startswith("<svg")


def test_bad_input_is_told_with_the_flag_or_key(furnish: Callable[..., House], profile: Path, tmp_path: Path) -> None:
    house = furnish()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[mix]\nrecomend = 1\n[call]\ndeadline = 3\n", encoding="utf-8")
    with house.server() as server:

        def told(*words: object) -> tuple[int, str]:
            done = house.try_run(*words, program="marquee-loadtest")
            return done.returncode, done.stderr

        here = ("--address", f"http://{server.public}", "run", "--profile")
        code, why = told(*here, wrong, "--rate", 5)
        assert code == 64 and "mix.recomend: no such key" in why and "call.deadline: no such key" in why, why
        for rate in (0, 10_000_000):
            code, why = told(*here, profile, "--rate", rate)
            assert code == 64 and "--rate" in why and "from 0.1 to 1000000" in why, why
        code, why = told("--address", f"http://{server.metrics}", "run", "--profile", profile, "--rate", 5)
        assert code == 69 and "does not answer gRPC" in why, why
        code, why = told("--address", f"http://{server.admin}", "run", "--profile", profile, "--rate", 5)
        assert code == 69 and "UNIMPLEMENTED" in why, why
        code, why = told(*here, profile, "--rate", 5, "--metrics", server.public)
        assert code == 69 and "--metrics" in why, why
        gone = server.public
    code, why = told("--address", f"http://{gone}", "run", "--profile", profile, "--rate", 5)
    assert code == 69 and "cannot be reached" in why, why


def test_a_recorded_log_is_replayed_with_its_own_timing(
    furnish: Callable[..., House], profile: Path, tmp_path: Path
) -> None:
    house = furnish()
    path = tmp_path / "replay.json"
    events = house.folder / "events.csv"
    rows = "".join(f"u{at % 9},i{at % 30},rating,4,{1_000 * at}\n" for at in range(200))
    events.write_text("user_id,item_id,type,value,time_ms\n" + rows, encoding="utf-8")
    with house.server() as server:
        options = ["--replay", events, "--speed", 50, "--json", path]
        done = subprocess.run(
            _words(house, server, profile, "run", *options), capture_output=True, text=True, check=False
        )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    run = _report(path)["runs"][0]
    assert run["arrivals"] == "replay" and sum(run["measured"]["counts"].values()) == len(rows.splitlines())
    assert run["measured"]["violations"] == {}, done.stdout
