"""Item-item weights from who interacted with what: EASE (Steck 2019, "Embarrassingly Shallow Autoencoders").

With G = X'X + lambda I and P = G^-1, the weight from item i to item j is -P[i, j] / P[j, j], and 0 from an item to
itself. Serving sums the rows of the profile's items, weighted by recency.

The border: a dense inverse of n items holds 3 n^2 doubles at its peak (10 GB at 20,000 items) and takes n^3 steps.
Above `dense_items_max` items, each item's column is solved over its own `neighbourhood_items` most similar items
instead: the same regression with the other weights held at 0. It costs items x neighbourhood^3 and no n^2 memory.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from marquee_models import arrays, prepare
from marquee_models.arrays import F32, F64, I64, Links
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of the co-occurrence weights."""

    # lambda above: how much evidence a weight needs.
    regularization: float = 200.0
    # Items with fewer distinct users have no weights.
    users_min: int = 2
    # Entries kept in each row, largest first; only positive weights are kept.
    row_entries_max: int = 400
    # Up to this many items (with enough users) by dense inverse, above it by neighbourhoods.
    dense_items_max: int = 20_000
    # Size of a neighbourhood.
    neighbourhood_items: int = 300


def fit(prepared: Prepared, config: Config) -> Links:
    """The weights from each item row to others."""
    interactions = prepared.matrix()
    users_of = np.bincount(interactions.indices, minlength=prepared.items)
    kept = np.flatnonzero(users_of >= config.users_min).astype(np.int64)
    if len(kept) < 2:
        return arrays.links_of_sparse(sp.csr_matrix((prepared.items, prepared.items), dtype=np.float32), 1)
    matrix = interactions[:, kept]
    if len(kept) <= config.dense_items_max:
        weights = dense_weights(matrix, config.regularization)
        return arrays.links_of_dense(weights, kept, prepared.items, config.row_entries_max)
    sparse = neighbourhood_weights(matrix, config.regularization, config.neighbourhood_items)
    return arrays.links_of_sparse(_spread(sparse, kept, prepared.items), config.row_entries_max)


def dense_weights(matrix: sp.csr_matrix, regularization: float) -> F32:
    """EASE in closed form over all columns of `matrix`."""
    gram: F64 = (matrix.T @ matrix).toarray().astype(np.float64)
    diagonal = np.diag_indices_from(gram)
    gram[diagonal] += regularization
    factor = scipy.linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    inverse = scipy.linalg.cho_solve(factor, np.eye(len(gram)), overwrite_b=True, check_finite=False)
    inverse /= -np.diag(inverse).copy()
    inverse[diagonal] = 0.0
    weights: F32 = inverse.astype(np.float32)
    return weights


def neighbourhood_weights(matrix: sp.csr_matrix, regularization: float, neighbourhood_items: int) -> sp.csr_matrix:
    """EASE's regression for each column over its most similar columns (cosine) only."""
    columns = matrix.tocsc()
    count = columns.shape[1]
    norm = np.sqrt(np.maximum(np.diff(columns.indptr), 1)).astype(np.float32)
    rows: list[I64] = []
    values: list[F32] = []
    lengths: list[int] = []
    block = max(1, 64_000_000 // count)
    for start in range(0, count, block):
        shared: F32 = (matrix.T @ columns[:, start : start + block]).toarray().T
        for offset, counts in enumerate(shared):
            target = start + offset
            similarity = counts / norm
            similarity[target] = 0.0
            near = np.argsort(-similarity, kind="stable")[:neighbourhood_items]
            near = np.sort(near[similarity[near] > 0])
            if len(near):
                part = columns[:, near]
                gram = (part.T @ part).toarray().astype(np.float64)
                gram[np.diag_indices_from(gram)] += regularization
                solved = scipy.linalg.solve(gram, counts[near].astype(np.float64), assume_a="pos", check_finite=False)
                values.append(solved.astype(np.float32))
            rows.append(near)
            lengths.append(len(near))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    empty = np.zeros(0, np.float32)
    by_column = sp.csc_matrix((np.concatenate([empty, *values]), np.concatenate(rows), offsets), shape=(count, count))
    return by_column.tocsr()


def _spread(sparse: sp.csr_matrix, kept: I64, items: int) -> sp.csr_matrix:
    """From the numbering of kept items to that of all items."""
    entries = sparse.tocoo()
    return sp.csr_matrix((entries.data, (kept[entries.row], kept[entries.col])), shape=(items, items))


def write(prepared: Prepared, models: Path, config: Config) -> Links:
    """Fits, checks and writes `cooccurrence.safetensors`."""
    links = fit(prepared, config)
    path = models / "cooccurrence.safetensors"
    arrays.check_links(path, links, prepared.items, prepared.items, config.row_entries_max)
    arrays.save(path, links.arrays())
    return links


def main() -> None:
    """`python -m marquee_models.retrieval_ease PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    write(prepare.read(arguments.prepared), arguments.models, Config())


if __name__ == "__main__":
    main()
