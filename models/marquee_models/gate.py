"""Whether a new bundle may serve: not when it is worse than the serving one beyond the margin, nor below the floors.

The serving bundle is compared on the new test period by its own backtest: the bundle of the same recipe that was fitted
on an earlier part of the log when it was evaluated. That one has not seen the period, so nothing leaks in its favour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from marquee_models import report
from marquee_models.report import BLEND, RANKED, Report


@dataclass(frozen=True)
class Config:
    """How much worse is still good enough."""

    # The ratio of NDCG@10 to the serving bundle's may fall to 1 - this.
    margin: float = 0.03


@dataclass(frozen=True)
class Verdict:
    """Whether it may serve, and why or why not, in plain words."""

    publish: bool
    reasons: list[str]


def judge(candidate: Report, serving: Report | None, config: Config) -> Verdict:
    """Compares on the same moments; `serving` is None when there is nothing to compare with."""
    mine = report.ours(candidate)
    score = _ndcg(candidate, mine)
    against: list[str] = []
    passed: list[str] = []

    def compare(name: str, theirs: float, least: float) -> None:
        ratio = score / theirs if theirs > 0 else float("inf")
        told = f"NDCG@10 {score:.4f} is {ratio:.3f} times {name} ({theirs:.4f}); at least {least:.3f} is asked for"
        (passed if ratio >= least else against).append(told)

    for name in ("popular", "popularity"):
        if name in candidate["lists"]:
            compare(f"that of {name}", _ndcg(candidate, name), 1.0)
    if mine == RANKED and BLEND in candidate["lists"]:
        compare("that of the blend without a ranker", _ndcg(candidate, BLEND), 1.0 - config.margin)
    if serving is not None:
        compare("that of the serving bundle's backtest", _ndcg(serving, report.ours(serving)), 1.0 - config.margin)
    else:
        passed.append("there is no serving bundle's backtest to compare with")
    return Verdict(not against, against or passed)


def _ndcg(found: Report, name: str) -> float:
    return float(found["lists"][name]["ndcg_at_10"])


def metrics(summary: dict[str, Any]) -> dict[str, float]:
    """The numbers that go into the bundle's manifest, flat."""
    mine, best = summary["ours"], summary["best_baseline"]
    found = {name: float(summary["lists"][mine][name]) for name in report.METRICS}
    for name, measured in summary["lists"].items():
        found[f"ndcg_at_10.{name}"] = float(measured["ndcg_at_10"])
    if best and best in summary["ratio_to"]:
        against = summary["ratio_to"][best]
        found |= {
            "ratio_to_best_baseline": against["value"],
            "ratio_to_best_baseline_low": against["low"],
            "ratio_to_best_baseline_high": against["high"],
        }
    for name, value in summary["recall_at_500"].items():
        found[f"recall_at_500.{name}"] = float(value)
    return {name: value for name, value in found.items() if math.isfinite(value)}
