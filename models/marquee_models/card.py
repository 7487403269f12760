"""The model card: what is in a bundle, what it was fitted on, how good it is, and what it must not be used for."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from marquee_models import report

LIBRARIES = ("numpy", "scipy", "xgboost-cpu", "implicit", "onnx", "safetensors")


def libraries() -> dict[str, str]:
    """Versions of what the models were fitted with."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


@dataclass(frozen=True)
class Facts:
    """What the card tells."""

    prepared: dict[str, Any]
    until_ms: int | None
    last_event_ms: int
    summary: dict[str, Any] | None
    ranker: dict[str, Any] | None
    no_ranker_because: str | None
    timings: dict[str, float]


def day(time_ms: int) -> str:
    """A UTC date."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")


def markdown(facts: Facts) -> str:
    """The card."""
    data = facts.prepared
    dropped = {name: count for name, count in data["dropped"].items() if count}
    lines = [
        "# Model card",
        "",
        "Two-stage recommendation: retrieval models find candidates, a LambdaMART ranker orders them.",
        "",
        "## Data",
        "",
        f"- {data['events']:,} events of {data['users']:,} users with {data['items']:,} items, "
        f"up to {day(facts.last_event_ms)}.",
        f"- Dropped while cleaning: {', '.join(f'{count:,} {name}' for name, count in dropped.items()) or 'nothing'} "
        f"(of {data['events_in']:,}).",
        "",
        "## How good",
        "",
    ]
    if facts.summary:
        lines += [
            "Measured with the same recipe fitted on the log up to "
            f"{day(facts.summary['from_ms'])}, on what users did from then to {day(facts.summary['until_ms'])}. "
            "Whole catalogue, seen items left out. Settings were chosen before that period.",
            "",
            report.markdown(facts.summary),
        ]
    else:
        lines += ["Not measured: this bundle is a step of a backtest.", ""]
    lines += ["## Ranker", ""]
    if facts.ranker:
        ranker = facts.ranker
        lines += [
            f"{ranker['trees']} trees on {ranker['rows']:,} rows of {ranker['moments']:,} moments "
            f"({ranker['positives']:,} positive rows). NDCG@10 on its newest moments, over retrieved candidates: "
            f"{ranker['validation_ndcg_at_10']:.4f}. "
            f"Largest difference between XGBoost and ONNX: {ranker['onnx_difference_max']:.1e}.",
            "",
            "| feature | share of the gain |",
            "|---|---:|",
        ]
        lines += [f"| {name} | {share:.3f} |" for name, share in list(ranker["importance"].items())[:20]]
        lines.append("")
    else:
        lines += [facts.no_ranker_because or "None: the blend of the sources orders the slate.", ""]
    lines += [
        "## Limits",
        "",
        "- It repeats what its users did, their biases included; popular items get more than their share.",
        "- Users and items without events are served by content, popularity and freshness alone.",
        "- Offline numbers say which of two models orders the past better, not what users will do with a slate.",
        "- Derived from its training data: the data's licence applies to this bundle.",
        "",
        "## Fitted with",
        "",
        ", ".join(f"{name} {number}" for name, number in libraries().items()) + ".",
        "",
        "| step | seconds |",
        "|---|---:|",
    ]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in facts.timings.items()]
    return "\n".join(lines) + "\n"
