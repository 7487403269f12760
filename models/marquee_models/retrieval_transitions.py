"""Item-item weights from what follows what: within the next `window_items` items of a user, weighted 1/distance.

Row i is divided by (its sum + shrinkage), so that rows of little evidence weigh little. Events at the same moment keep
the log's order. Serving sums the rows of the newest items of the profile, weighted by recency.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from marquee_models import arrays, prepare
from marquee_models.arrays import I64, U32, Bools, Links
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of the transition weights."""

    # How far ahead "next" reaches, in items.
    window_items: int = 7
    # Added to each row's sum.
    shrinkage: float = 30.0
    # Only what is liked counts as following.
    liked_only: bool = False
    # Entries kept in each row, largest first.
    row_entries_max: int = 200


# By the name of the file.
MATRICES = {
    "transitions": Config(),
    "transitions_wide": Config(window_items=30, shrinkage=100.0),
    "transitions_liked": Config(window_items=20, shrinkage=30.0, liked_only=True),
}


def sequences(prepared: Prepared) -> tuple[U32, U32, Bools]:
    """Users, items, and whether liked, of all interactions by user in the log's order; immediate repeats count once."""
    keep = np.flatnonzero(prepared.interaction)
    order = keep[np.argsort(prepared.user[keep], kind="stable")]
    user, item = prepared.user[order], prepared.item[order]
    fresh = np.ones(len(user), dtype=bool)
    fresh[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    liked = prepared.weight[order] > 0
    return user[fresh], item[fresh], liked[fresh]


def fit(prepared: Prepared, config: Config) -> Links:
    """The weights from each item row to those that follow it."""
    user, item, liked = sequences(prepared)
    shape = (prepared.items, prepared.items)
    counts = sp.csr_matrix(shape, dtype=np.float64)
    for distance in range(1, config.window_items + 1):
        before: U32 = item[:-distance]
        after: U32 = item[distance:]
        keep = (user[:-distance] == user[distance:]) & (before != after)
        if config.liked_only:
            keep &= liked[distance:]
        weights = np.full(int(keep.sum()), 1.0 / distance)
        counts = counts + sp.csr_matrix((weights, (before[keep], after[keep])), shape=shape)
    total = np.asarray(counts.sum(axis=1)).ravel()
    entries_of_row: I64 = np.diff(counts.indptr)
    counts.data /= np.repeat(total + config.shrinkage, entries_of_row)
    return arrays.links_of_sparse(counts, config.row_entries_max)


def write(prepared: Prepared, models: Path, config: Config, name: str = "transitions") -> Links:
    """Fits, checks and writes `NAME.safetensors`."""
    links = fit(prepared, config)
    path = models / f"{name}.safetensors"
    arrays.check_links(path, links, prepared.items, prepared.items, config.row_entries_max)
    arrays.save(path, links.arrays())
    return links


def main() -> None:
    """`python -m marquee_models.retrieval_transitions PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    for name, config in MATRICES.items():
        write(prepare.read(arguments.prepared), arguments.models, config, name)


if __name__ == "__main__":
    main()
