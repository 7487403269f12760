"""Factors of users and items by implicit-feedback ALS (Hu, Koren, Volinsky 2008), fitted by the library `implicit`.

The convention, which serving folds a profile in by as well: for a user with items p of preference weight w > 0, and
Y the item factors,

    u = (Y'Y + sum over p of alpha w y y' + regularization * I)^-1  sum over p of alpha w y

which is the objective of confidence 1 + alpha w for items in p and 1 for all others, up to a common factor of
alpha / (1 + alpha) on u while all w are 1, as they are in training. The regularization is not scaled by counts.
`implicit` solves by a few conjugate-gradient steps, items last; so one exact half step for the users follows, and
every user factor in the file is exactly what folding in its profile gives.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from implicit.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from marquee_models import arrays, prepare
from marquee_models.arrays import F32, F64, Arrays
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Config:
    """Settings of the factors."""

    factors: int = 64
    alpha: float = 5.0
    regularization: float = 5.0
    iterations: int = 15
    # True: w = 1 for positive items only. False: w = 1 for every item of an interaction.
    positive_only: bool = False
    seed: int = 1
    threads: int = 2

    def metadata(self) -> dict[str, str]:
        """What serving must know to fold in alike."""
        return {
            "alpha": repr(float(self.alpha)),
            "regularization": repr(float(self.regularization)),
            "weighting": "positive" if self.positive_only else "interaction",
        }


def fit(prepared: Prepared, config: Config) -> Arrays:
    """`items` and `users`, one row each. An item or user without interactions has the zero vector."""
    preference = prepared.matrix(positive=config.positive_only)
    factors = min(config.factors, max(1, min(preference.shape)))
    if preference.nnz == 0:
        empty = np.zeros((prepared.items, factors), np.float32)
        return {"items": empty, "users": np.zeros((prepared.users, factors), np.float32)}
    confidence = preference.copy()
    confidence.data = 1.0 + np.float32(config.alpha) * confidence.data
    # implicit runs threads of its own over users; BLAS must not run more inside each.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=config.regularization,
            alpha=1.0,  # the matrix holds the confidences already
            iterations=config.iterations,
            random_state=config.seed,
            num_threads=config.threads,
        )
        model.fit(confidence, show_progress=False)
    items: F32 = np.asarray(model.item_factors, dtype=np.float32)
    items[np.bincount(preference.indices, minlength=prepared.items) == 0] = 0.0
    return {"items": items, "users": fold_in(items, preference, config.alpha, config.regularization)}


def fold_in(items: F32, weights: sp.csr_matrix, alpha: float, regularization: float) -> F32:
    """User factors for the rows of `weights` (positive entries: the w of the convention) by the convention above."""
    y: F64 = items.astype(np.float64)
    size = y.shape[1]
    gram = y.T @ y + regularization * np.eye(size)
    users = np.zeros((weights.shape[0], size), dtype=np.float32)
    block = 1024
    for start in range(0, weights.shape[0], block):
        stop = min(start + block, weights.shape[0])
        left = np.repeat(gram[None], stop - start, axis=0)
        right = np.zeros((stop - start, size))
        for row in range(start, stop):
            entries = slice(weights.indptr[row], weights.indptr[row + 1])
            known = y[weights.indices[entries]]
            extra = alpha * weights.data[entries].astype(np.float64)
            left[row - start] += known.T @ (known * extra[:, None])
            right[row - start] = extra @ known
        users[start:stop] = np.linalg.solve(left, right[..., None])[..., 0]
    return users


def write(prepared: Prepared, models: Path, config: Config) -> Arrays:
    """Fits, checks and writes `embedding.safetensors`."""
    factors = fit(prepared, config)
    path = models / "embedding.safetensors"
    items, users = factors["items"], factors["users"]
    arrays.require(items.shape[0] == prepared.items, path, "items", f"has {items.shape[0]} rows")
    arrays.require(users.shape == (prepared.users, items.shape[1]), path, "users", f"has shape {users.shape}")
    arrays.save(path, factors, config.metadata())
    return factors


def main() -> None:
    """`python -m marquee_models.retrieval_ials PREPARED MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("prepared", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    write(prepare.read(arguments.prepared), arguments.models, Config())


if __name__ == "__main__":
    main()
