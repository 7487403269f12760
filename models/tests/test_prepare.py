"""What cleaning drops, and what it must leave alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from marquee_models import arrays, prepare
from marquee_models.arrays import Arrays
from tests.conftest import ITEMS, START_MS, checkerboard, write_export

HOUR_MS = prepare.HOUR_MS


def log(user: list[int], item: list[int], time_ms: list[int]) -> Arrays:
    count = len(user)
    return {
        "user": np.array(user, np.uint32),
        "item": np.array(item, np.uint32),
        "weight": np.ones(count, np.float32),
        "rating": np.full(count, np.nan, np.float32),
        "seen": np.ones(count, np.uint8),
        "interaction": np.ones(count, np.uint8),
        "time_ms": np.array(time_ms, np.int64),
    }


def check(tmp_path: Path, events: Arrays, expected: dict[str, int], config: prepare.Config | None = None) -> list[str]:
    """Runs the step; compares the counts that are not 0; answers the quarantined reasons."""
    order = np.argsort(events["time_ms"], kind="stable")
    export = write_export(tmp_path / "export", {name: array[order] for name, array in events.items()})
    counts = prepare.prepare(export, tmp_path / "out", config or prepare.Config())
    assert {name: count for name, count in counts.items() if count} == expected
    kept = prepare.read(tmp_path / "out")
    assert len(kept.user) + sum(expected.values()) == len(events["user"])
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert len(lines) == sum(expected.values())
    return [json.loads(line)["reason"] for line in lines]


def test_people_are_left_alone(tmp_path: Path) -> None:
    check(tmp_path, checkerboard(), {})


def test_somebody_who_rates_hundreds_within_a_minute_is_left_alone(tmp_path: Path) -> None:
    burst = log([3] * 700, [n % ITEMS for n in range(700)], [START_MS + n * 80 for n in range(700)])
    check(tmp_path, burst, {})


def test_a_row_that_repeats_in_every_column_is_dropped_once(tmp_path: Path) -> None:
    reasons = check(tmp_path, log([1, 1, 1], [2, 2, 3], [START_MS] * 3), {"duplicate": 1})
    assert reasons == ["duplicate"]


def test_wrong_clocks_are_dropped(tmp_path: Path) -> None:
    ahead = START_MS + 10 * 86_400_000
    check(
        tmp_path, log([1, 1, 1], [1, 2, 3], [1000, START_MS, ahead]), {"clock_too_early": 1, "clock_in_the_future": 1}
    )


def test_a_bot_goes_as_a_whole_and_its_neighbours_stay(tmp_path: Path) -> None:
    bot = [START_MS + n * 500 for n in range(4000)]
    events = log([5] * 4001 + [6], [n % ITEMS for n in range(4000)] + [0, 1], [*bot, START_MS - HOUR_MS, START_MS])
    check(tmp_path, events, {"bot_events_per_hour": 4001})


def test_who_never_sleeps_is_a_bot(tmp_path: Path) -> None:
    hours = 120
    events = log([5] * hours, [n % ITEMS for n in range(hours)], [START_MS - n * HOUR_MS for n in range(hours)])
    check(tmp_path, events, {"bot_never_sleeps": hours})


def test_a_loop_in_a_client_keeps_its_first_events(tmp_path: Path) -> None:
    events = log([5] * 150, [7] * 150, [START_MS + n for n in range(150)])
    check(tmp_path, events, {"repeated_too_often": 50})


def test_impossible_watch_times_are_dropped(tmp_path: Path) -> None:
    events = log([1, 1, 2], [1, 2, 3], [START_MS] * 3)
    events["watched_seconds"] = np.array([-1.0, 5400.0, 1e6], np.float32)
    check(tmp_path, events, {"impossible_watch_time": 2})


def test_an_export_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(arrays.BadArrays, match="points beyond row"):
        check(tmp_path, log([1], [ITEMS], [START_MS]), {})
