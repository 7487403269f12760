"""What each user liked lately, for the source `user_neighbours`: distinct positive items, newest first.

An item counts by the user's latest weighted opinion of it: liked first and disliked later is not liked. Its weight is
that opinion's times exp(-place / decay_items), the newest at place 0; serving uses it as it is.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from marquee_models import arrays, prepare
from marquee_models.arrays import Arrays
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of the lists of likes."""

    # Items kept for each user.
    user_items_max: int = 100
    # An older like counts less: by 1/e for every so many newer ones.
    decay_items: float = 50.0


def fit(prepared: Prepared, config: Config) -> Arrays:
    """CSR by user row: `offsets`, `item`, `weight`, `time_ms`; newest first."""
    opinions = np.flatnonzero(prepared.interaction & (prepared.weight != 0))[::-1]  # newest first
    pair = prepared.user[opinions].astype(np.int64) * prepared.items + prepared.item[opinions]
    _, latest = np.unique(pair, return_index=True)
    newest_first = opinions[np.sort(latest)]
    liked = newest_first[prepared.weight[newest_first] > 0]
    rows = liked[np.argsort(prepared.user[liked], kind="stable")]
    user = prepared.user[rows]
    place = np.arange(len(rows)) - np.searchsorted(user, user, side="left")
    rows, place = rows[place < config.user_items_max], place[place < config.user_items_max]
    recency = np.exp(-place / config.decay_items).astype(np.float32)
    counts = np.bincount(prepared.user[rows], minlength=prepared.users)
    return {
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "item": prepared.item[rows],
        "weight": prepared.weight[rows] * recency,
        "time_ms": prepared.time_ms[rows],
    }


def write(prepared: Prepared, models: Path, config: Config) -> Arrays:
    """Fits, checks and writes `likes.safetensors`."""
    likes = fit(prepared, config)
    path = models / "likes.safetensors"
    offsets, time_ms = likes["offsets"], likes["time_ms"]
    arrays.require(offsets.shape == (prepared.users + 1,), path, "offsets", f"has shape {offsets.shape}")
    arrays.require(
        bool((np.diff(offsets) <= config.user_items_max).all()), path, "offsets", "has a row that is too long"
    )
    arrays.require(bool((likes["item"] < prepared.items).all()), path, "item", "points beyond the last item")
    user = np.repeat(np.arange(prepared.users), np.diff(offsets))
    same_user = user[1:] == user[:-1]
    arrays.require(bool((np.diff(time_ms)[same_user] <= 0).all()), path, "time_ms", "is not newest first")
    arrays.save(path, likes)
    return likes


def main() -> None:
    """`python -m marquee_models.retrieval_likes PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    write(prepare.read(arguments.prepared), arguments.models, Config())


if __name__ == "__main__":
    main()
