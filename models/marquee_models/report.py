"""The one table: our ranked slate and blend beside the baselines, from what `marquee evaluate` measured.

Metrics come from Rust and are not computed again here. This module adds the intervals: a paired bootstrap over users of
the ratio between the ranked slate's mean NDCG@10 and a baseline's. The best baseline is the best on this very period,
which is the strictest choice.

The report of `marquee evaluate`:

    {"bundle": "...", "from_ms": 0, "until_ms": 0, "moments": 0, "users": 0,
     "lists": {"ranked": {"ndcg_at_10": 0.0, "recall_at_20": 0.0, "coverage": 0.0, "novelty": 0.0,
                          "per_user": {"ndcg_at_10": [...], "recall_at_20": [...]}}, ...},
     "recall_at_500": {"embedding": 0.0, ..., "union": 0.0}}
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from marquee_models import arrays
from marquee_models.arrays import F64

RANKED, BLEND = "ranked", "blend"
RESAMPLES = 10_000
METRICS = ("ndcg_at_10", "recall_at_20", "coverage", "novelty")

Report = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """Ratio of two means over the same users, with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def read(path: Path) -> Report:
    """A report of `marquee evaluate`, checked for what is used here."""
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    for name, measured in report["lists"].items():
        for metric in ("ndcg_at_10", "recall_at_20"):
            count = len(measured["per_user"][metric])
            arrays.require(count == report["users"], path, f"{name}.{metric}", f"has {count} users")
    return report


def ratio(ours: F64, theirs: F64, resamples: int = RESAMPLES, seed: int = 1) -> Ratio:
    """Paired bootstrap by user. Where the other mean is 0 in a resample, that resample counts as infinitely better."""
    users = len(ours)
    if users == 0 or theirs.mean() == 0:
        return Ratio(float("nan"), float("nan"), float("nan"))
    random = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    block = max(1, 4_000_000 // users)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        drawn = random.integers(0, users, size=(stop - start, users))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios[start:stop] = ours[drawn].mean(axis=1) / theirs[drawn].mean(axis=1)
    low, high = np.nanpercentile(ratios, [2.5, 97.5])
    return Ratio(float(ours.mean() / theirs.mean()), float(low), float(high))


def per_user(report: Report, name: str, metric: str = "ndcg_at_10") -> F64:
    """One number for each user, in an order common to all lists."""
    return np.asarray(report["lists"][name]["per_user"][metric], dtype=np.float64)


def ours(report: Report) -> str:
    """The list that stands for us: the ranked slate, or the blend of a bundle without a ranker."""
    return RANKED if RANKED in report["lists"] else BLEND


def baselines_of(report: Report) -> list[str]:
    """Names of the lists that are not ours."""
    return [name for name in report["lists"] if name not in (RANKED, BLEND)]


def best_baseline(report: Report) -> str | None:
    """The baseline of the highest NDCG@10, if there is any."""
    names = baselines_of(report)
    return max(names, key=lambda name: report["lists"][name]["ndcg_at_10"]) if names else None


def summarise(report: Report) -> dict[str, Any]:
    """What goes into the bundle's manifest: numbers without the arrays, and the ratios."""
    mine = ours(report)
    best = best_baseline(report)
    against = {
        name: vars(ratio(per_user(report, mine), per_user(report, name)))
        for name in report["lists"]
        if name != mine and report["lists"][name]["ndcg_at_10"] > 0
    }
    lists = {name: {metric: found[metric] for metric in METRICS} for name, found in report["lists"].items()}
    return {
        **{key: report[key] for key in ("from_ms", "until_ms", "moments", "users")},
        "lists": lists,
        "recall_at_500": report.get("recall_at_500", {}),
        "ours": mine,
        "best_baseline": best,
        "ratio_to": against,
    }


def markdown(summary: dict[str, Any]) -> str:
    """The table, best NDCG@10 last, ours in bold."""
    lines = [
        f"{summary['moments']:,} moments of {summary['users']:,} users; ratio: {summary['ours']} / that list, "
        "NDCG@10, with a 95 % interval (paired bootstrap by user).",
        "",
        "| list | NDCG@10 | recall@20 | coverage | novelty | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in sorted(summary["lists"].items(), key=lambda entry: entry[1]["ndcg_at_10"]):
        against = summary["ratio_to"].get(name)
        shown = str(Ratio(**against)) if against else ""
        label = f"**{name}**" if name in (RANKED, BLEND) else name
        label += " (best baseline)" if name == summary["best_baseline"] else ""
        numbers = " | ".join(f"{found[metric]:.4f}" for metric in METRICS[:2])
        lines.append(f"| {label} | {numbers} | {found['coverage']:.3f} | {found['novelty']:.2f} | {shown} |")
    if summary["recall_at_500"]:
        lines += ["", "| source | recall@500 |", "|---|---:|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in summary["recall_at_500"].items()]
    return "\n".join(lines) + "\n"


def rolling(summaries: list[dict[str, Any]]) -> str:
    """One line for each split, and the mean of the ratios to the best baseline."""
    lines = ["| until | users | best baseline | its NDCG@10 | ours | ratio |", "|---|---:|---|---:|---:|---:|"]
    ratios = []
    for found in summaries:
        best, mine = found["best_baseline"], found["ours"]
        against = Ratio(**found["ratio_to"][best])
        ratios.append(against.value)
        until = np.datetime64(found["until_ms"], "ms").astype("datetime64[D]")
        theirs, own = found["lists"][best]["ndcg_at_10"], found["lists"][mine]["ndcg_at_10"]
        lines.append(f"| {until} | {found['users']:,} | {best} | {theirs:.4f} | {own:.4f} | {against} |")
    lines.append(f"| mean of {len(ratios)} |  |  |  |  | {np.mean(ratios):.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """`python -m marquee_models.report REPORT.json ... [--json OUT]`: one table each, then the rolling table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, help="write the summaries there as well")
    arguments = parser.parse_args()
    summaries = [summarise(read(path)) for path in arguments.reports]
    for path, summary in zip(arguments.reports, summaries, strict=True):
        print(f"## {path}\n\n{markdown(summary)}")
    if len(summaries) > 1:
        print(f"## Rolling splits\n\n{rolling(summaries)}")
    if arguments.json:
        arrays.write_json(arguments.json, summaries)


if __name__ == "__main__":
    main()
