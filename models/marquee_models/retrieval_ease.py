"""Item-item weights from who interacted with what: EASE (Steck 2019, "Embarrassingly Shallow Autoencoders").

With X users x items (1 where they interacted), Y the targets, P = (X'X + lambda I)^-1 and M = P X'Y, the weight from
item i to item j is M[i, j] - P[i, j] M[j, j] / P[j, j], which is 0 from an item to itself: the ridge regression of each
item's target on all other items. `cooccurrence` has Y = X (then the weight is -P[i, j] / P[j, j]); in
`cooccurrence_liked` Y holds positive interactions only. Serving sums the rows of the profile's items, weighted by
recency. Only the largest positive weights of a row are kept, which costs nothing: on ML-100K's validation period
NDCG@10 is 0.1334 with all weights, 0.1351 with the largest 200 of each row (lambda 1000, recency exp(-position/5)).

The border: a dense inverse of n items holds two to three n x n matrices of doubles (10 GB at 20,000 items) and
takes n^3 steps. Above `dense_items_max` items, each item is regressed on its own `neighbourhood_items` most similar
items alone: the same regression with the other weights held at 0, in no n x n memory. Its quality is the same: 0.1357
against 0.1334 dense on ML-100K with 300 neighbours, 0.1305 with 100.
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
    regularization: float = 1000.0
    # Targets are positive interactions only.
    liked_only: bool = False
    # Items with fewer distinct users have no weights.
    users_min: int = 2
    # Entries kept in each row, largest first.
    row_entries_max: int = 200
    # Up to this many items (with enough users) by dense inverse, above it by neighbourhoods.
    dense_items_max: int = 20_000
    # Size of a neighbourhood.
    neighbourhood_items: int = 300


# By the name of the file.
MATRICES = {"cooccurrence": Config(), "cooccurrence_liked": Config(liked_only=True)}


def fit(prepared: Prepared, config: Config) -> Links:
    """The weights from each item row to others."""
    interactions = prepared.matrix()
    kept = kept_items(interactions, config.users_min)
    if len(kept) < 2:
        return arrays.links_of_sparse(sp.csr_matrix((prepared.items, prepared.items), dtype=np.float32), 1)
    matrix = interactions[:, kept]
    targets = prepared.matrix(positive=True)[:, kept] if config.liked_only else matrix
    if len(kept) <= config.dense_items_max:
        weights = dense_weights(matrix, targets, config.regularization)
        return arrays.links_of_dense(weights, kept, prepared.items, config.row_entries_max)
    sparse = neighbourhood_weights(matrix, targets, config.regularization, config.neighbourhood_items)
    return arrays.links_of_sparse(_spread(sparse, kept, prepared.items), config.row_entries_max)


def kept_items(interactions: sp.csr_matrix, users_min: int) -> I64:
    """Columns with enough users."""
    users_of = np.bincount(interactions.indices, minlength=interactions.shape[1])
    return np.flatnonzero(users_of >= users_min).astype(np.int64)


def dense_weights(matrix: sp.csr_matrix, targets: sp.csr_matrix, regularization: float) -> F32:
    """The regression in closed form over all columns of `matrix`."""
    gram: F64 = (matrix.T @ matrix).toarray().astype(np.float64)
    diagonal = np.diag_indices_from(gram)
    gram[diagonal] += regularization
    inverse = _inverse(gram)
    own = np.diag(inverse).copy()
    if targets is matrix:
        weights = inverse / -own
    else:
        weights = inverse @ (matrix.T @ targets).toarray().astype(np.float64)
        weights -= inverse * (np.diag(weights) / own)
    weights[diagonal] = 0.0
    return weights.astype(np.float32)


def _inverse(positive_definite: F64) -> F64:
    # LAPACK's potrf and potri in place: n^3 steps, 2.3 times fewer than solving for the unit matrix.
    factor, wrong = scipy.linalg.lapack.dpotrf(positive_definite.T, lower=True, overwrite_a=True, clean=False)
    inverse: F64
    inverse, wrong_too = scipy.linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
    if wrong or wrong_too:
        raise ValueError("the Gram matrix is not positive definite: regularization must be above 0")
    for row in range(1, len(inverse)):
        inverse[:row, row] = inverse[row, :row]
    return inverse


def neighbourhood_weights(
    matrix: sp.csr_matrix, targets: sp.csr_matrix, regularization: float, neighbourhood_items: int
) -> sp.csr_matrix:
    """The regression for each column of `targets` over its most similar columns of `matrix` (cosine) only."""
    columns = matrix.tocsc()
    wanted = targets.tocsc()
    count = columns.shape[1]
    norm = np.sqrt(np.maximum(np.diff(columns.indptr), 1)).astype(np.float32)
    rows: list[I64] = []
    values: list[F32] = []
    lengths: list[int] = []
    block = max(1, 64_000_000 // count)
    for start in range(0, count, block):
        shared: F32 = (matrix.T @ wanted[:, start : start + block]).toarray().T
        for offset, counts in enumerate(shared):
            similarity = counts / norm
            similarity[start + offset] = 0.0
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


def write(prepared: Prepared, models: Path, config: Config, name: str = "cooccurrence") -> Links:
    """Fits, checks and writes `NAME.safetensors`."""
    links = fit(prepared, config)
    path = models / f"{name}.safetensors"
    arrays.check_links(path, links, prepared.items, prepared.items, config.row_entries_max)
    arrays.save(path, links.arrays())
    return links


def main() -> None:
    """`python -m marquee_models.retrieval_ease PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    for name, config in MATRICES.items():
        write(prepare.read(arguments.prepared), arguments.models, config, name)


if __name__ == "__main__":
    main()
