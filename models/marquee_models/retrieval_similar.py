"""Item-item similarity: the shrunk cosine of who interacted with both, the plainest neighbourhood there is.

Items i and j with n users each and c in common weigh c / (sqrt(n_i n_j) + shrinkage). For each item only
its nearest are kept, then turned into rows: row i lists the items that have i among their nearest.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from marquee_models import arrays, prepare
from marquee_models.arrays import F32, I64, Links
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of the similarity."""

    shrinkage: float = 10.0
    # Nearest items kept for each item.
    neighbours_max: int = 100
    # Items with fewer distinct users are near to none.
    users_min: int = 2
    # Entries kept in each row, largest first.
    row_entries_max: int = 400


def fit(prepared: Prepared, config: Config) -> Links:
    """The similarity from each item row to those it is near to."""
    matrix = prepared.matrix().tocsc()
    users_of: I64 = np.diff(matrix.indptr)
    matrix = matrix @ sp.diags((users_of >= config.users_min).astype(np.float32))
    matrix.eliminate_zeros()
    norm: F32 = np.sqrt(users_of.astype(np.float32))
    rows: list[I64] = []
    columns: list[I64] = []
    values: list[F32] = []
    block = max(1, 32_000_000 // max(prepared.items, 1))
    for start in range(0, prepared.items, block):
        shared: F32 = (matrix.T @ matrix[:, start : start + block]).toarray().T
        similarity: F32 = shared / (norm[start : start + block, None] * norm + np.float32(config.shrinkage))
        own = np.arange(len(similarity))
        similarity[own, start + own] = 0.0
        near = arrays.top_columns(similarity, min(config.neighbours_max, prepared.items))
        value = np.take_along_axis(similarity, near, axis=1)
        item, place = np.nonzero(value > 0)
        rows.append(near[item, place])
        columns.append(start + item)
        values.append(value[item, place])
    if not rows:
        return arrays.links_of_sparse(sp.csr_matrix((0, 0), dtype=np.float32), 1)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    nearest = sp.csr_matrix(entries, shape=(prepared.items, prepared.items))
    return arrays.links_of_sparse(nearest, config.row_entries_max)


def write(prepared: Prepared, models: Path, config: Config) -> Links:
    """Fits, checks and writes `similar.safetensors`."""
    links = fit(prepared, config)
    path = models / "similar.safetensors"
    arrays.check_links(path, links, prepared.items, prepared.items, config.row_entries_max)
    arrays.save(path, links.arrays())
    return links


def main() -> None:
    """`python -m marquee_models.retrieval_similar PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    write(prepare.read(arguments.prepared), arguments.models, Config())


if __name__ == "__main__":
    main()
