"""Skew: feature rows logged while serving equal those that replay rebuilds for the same moments, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.e2e import catalogue
from tests.e2e.house import House

REQUESTS = int(os.environ.get("MARQUEE_SKEW_REQUESTS", "100"))


def test_served_rows_equal_replayed_rows(furnish: Callable[..., House], tmp_path: Path) -> None:
    house = furnish(MARQUEE_SLATE_LOG__SAMPLE_ROWS="1.0", MARQUEE_SLATE_LOG__QUEUE_MAX_SLATES="100000")
    users = tmp_path / "users"
    users.write_text("".join(f"u{user}\n" for user in range(catalogue.USERS)), encoding="utf-8")
    with house.server() as server:
        # Events come between the requests, of the same users, so that worlds and profiles move under the slates.
        mix = ["--requests", REQUESTS, "--concurrency", 4, "--users", users, "--events-share", "0.5", "--bypass-cache"]
        print(house.run("--address", f"http://{server.public}", "mix", *mix, program="marquee-loadtest"))
    print(house.run("skew", "--at-least", REQUESTS))
