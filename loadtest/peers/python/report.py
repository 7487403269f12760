"""The table and the JSON of `bench.py`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compare import Compared
from load import Outcome

# Issue 3, "It must show", 2.
RATIOS_MIN = {"peer, onnxruntime": 5.0, "peer, xgboost": 3.0}


@dataclass(frozen=True)
class Run:
    """One repetition."""

    outcome: Outcome
    server_cpu_s: float
    redis_cpu_s: float

    def figures(self) -> dict[str, float]:
        """All figures of it, units last."""
        requests = max(self.outcome.requests, 1)
        return {
            "server_cpu_us": self.server_cpu_s / requests * 1e6,
            "redis_cpu_us": self.redis_cpu_s / requests * 1e6,
            "generator_cpu_us": self.outcome.generator_cpu_s / requests * 1e6,
            "requests_per_s": requests / self.outcome.seconds,
            "p50_ms": self.outcome.percentile_ms(50),
            "p99_ms": self.outcome.percentile_ms(99),
            "requests": float(self.outcome.requests),
            "answer_bytes": self.outcome.bytes_each,
        }


@dataclass
class Row:
    """One server at one kind of answer."""

    kind: str
    name: str
    runs: list[dict[str, float]] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """One more repetition."""
        self.runs.append(run.figures())

    def median(self, figure: str) -> float:
        """Over the repetitions."""
        return statistics.median(run[figure] for run in self.runs)


@dataclass(frozen=True)
class Result:
    """All of it."""

    compared: list[Compared]
    rows: list[Row]
    about: dict[str, Any]
    # How the peer searches each set of vectors, and what the slates have in common as they are timed.
    searches: dict[str, str]
    items_in_common: float

    def ratio(self, row: Row) -> float:
        """Server CPU over that of Marquee at the same kind of answer."""
        (base,) = (each for each in self.rows if each.kind == row.kind and each.name == "Marquee")
        return row.median("server_cpu_us") / base.median("server_cpu_us")

    def table(self) -> str:
        """For people."""
        about = ", ".join(f"{name} {value}" for name, value in self.about.items())
        head = ("answer", "server", "CPU us", "times ours", "Redis us", "req/s", "p50 ms", "p99 ms", "generator us")
        lines = ["", about, "{:7} {:22} {:>9} {:>10} {:>8} {:>7} {:>7} {:>7} {:>12}".format(*head)]
        for row in self.rows:
            lines.append(
                f"{row.kind:7} {row.name:22} {row.median('server_cpu_us'):9.1f} {self.ratio(row):10.2f} "
                f"{row.median('redis_cpu_us'):8.1f} {row.median('requests_per_s'):7.0f} {row.median('p50_ms'):7.2f} "
                f"{row.median('p99_ms'):7.2f} {row.median('generator_cpu_us'):12.1f}"
            )
        for row in self.rows:
            if row.kind == "ranked" and row.name in RATIOS_MIN:
                least, found = RATIOS_MIN[row.name], self.ratio(row)
                said = "reached" if found >= least else "NOT REACHED"
                lines.append(f"ranked, {row.name}: {found:.2f} times our CPU; at least {least:.0f} is wanted: {said}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For programs: every repetition."""
        rows = [{**dataclasses.asdict(row), "times_ours": self.ratio(row)} for row in self.rows]
        return {
            "about": self.about,
            "compared": [dataclasses.asdict(each) for each in self.compared],
            "searches": self.searches,
            "items_in_common": self.items_in_common,
            "rows": rows,
        }


def about(bundle: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and on what."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return {
        "bundle": manifest["version"],
        "items": manifest["counts"]["items"],
        "known users": manifest["counts"]["users"],
        "columns": len(manifest["columns"]),
        "users asked for": asked.users,
        "items of a slate": asked.count,
        "connections": asked.connections,
        "seconds": asked.seconds,
        "repetitions": asked.repetitions,
        "cores": os.cpu_count(),
        "Python": platform.python_version(),
    }
