"""Are two answers the same slate?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import wire

SCORE_DIFFERENCE_MAX = 1e-4


@dataclass(frozen=True)
class Compared:
    """How many slates were compared, and how they differ."""

    predictor: str
    slates: int
    equal: int
    # The same scores at the same places within the bound, but items of equal score in another order.
    ties: int
    score_difference_max: float

    def is_equal(self) -> bool:
        """Nothing but ties may differ, and hardly ever."""
        return self.slates > 0 and self.equal + self.ties == self.slates and self.ties * 50 <= self.slates

    def line(self) -> str:
        """For people."""
        return (
            f"slates compared, {self.predictor}: {self.equal} of {self.slates} equal, {self.ties} with items of equal "
            f"score in another order; largest difference of a score {self.score_difference_max:.1e}"
        )


def slates(predictor: str, ours: list[wire.Answer], theirs: list[dict[str, Any]]) -> Compared:
    """Item by item; a slate that is degraded, empty or of another length equals none."""
    equal = ties = 0
    worst = 0.0
    for mine, other in zip(ours, theirs, strict=True):
        results = other["results"]
        if mine.degraded or not mine.items or len(mine.items) != len(results):
            continue
        apart = max(abs(a - b["score"]) for a, b in zip(mine.scores, results, strict=True))
        if apart > SCORE_DIFFERENCE_MAX:
            continue
        worst = max(worst, apart)
        if mine.items == [result["item_id"] for result in results]:
            equal += 1
        else:
            ties += 1
    return Compared(predictor, len(ours), equal, ties, worst)


def overlap(ours: list[wire.Answer], theirs: list[dict[str, Any]]) -> float:
    """Share of our items that are in the other slate too, over all slates."""
    common = sum(
        len(set(mine.items) & {result["item_id"] for result in other["results"]})
        for mine, other in zip(ours, theirs, strict=True)
    )
    return common / max(sum(len(mine.items) for mine in ours), 1)
