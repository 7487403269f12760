"""A projection of content tokens (genres, people, tags, text) that puts similar items close: idf, then truncated SVD.

Which tokens an item has, and with which weight, is decided in Rust (`tokens.safetensors`), and so is an item's vector:
normalise(sum over its tokens of weight * idf[token] * projection[token]). A new item gets its vector the same way.

idf[t] = ln((1 + items) / (1 + items with t)) + 1. The projection holds the right singular vectors of the items' tf-idf
rows, each scaled to length 1.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from marquee_models import arrays
from marquee_models.arrays import F32, F64, Arrays


@dataclass(frozen=True)
class Config:
    """Settings of the content vectors."""

    dimensions: int = 64
    # Tokens of fewer items are left out (their projection is 0): they tie nothing together.
    items_min: int = 2
    seed: int = 1


@dataclass(frozen=True)
class Tokens:
    """Tokens of every item as a matrix items x tokens of weights."""

    matrix: sp.csr_matrix


def read_tokens(export: Path, items: int) -> Tokens:
    """What `marquee export` wrote."""
    path = export / "tokens.safetensors"
    found = arrays.load(path, {"offsets": "int64", "token": "uint32", "weight": "float32"})
    with (export / "vocabulary.jsonl").open(encoding="utf-8") as lines:
        vocabulary = sum(1 for _ in lines)
    offsets, token, weight = found["offsets"], found["token"], found["weight"]
    arrays.require(
        offsets.shape == (items + 1,), path, "offsets", f"has shape {offsets.shape}, expected ({items + 1},)"
    )
    arrays.require(bool((token < vocabulary).all()), path, "token", f"points beyond token {vocabulary - 1}")
    arrays.require(bool(np.isfinite(weight).all()), path, "weight", "holds a number that is not finite")
    matrix = sp.csr_matrix((weight, token.astype(np.int64), offsets), shape=(items, vocabulary))
    matrix.sum_duplicates()
    return Tokens(matrix)


def fit(tokens: Tokens, config: Config) -> Arrays:
    """`idf` [tokens] and `projection` [tokens, dimensions]; one dimension at least, even with nothing to fit."""
    items, vocabulary = tokens.matrix.shape
    items_of = np.bincount(tokens.matrix.indices, minlength=vocabulary)
    idf: F32 = (np.log((1.0 + items) / (1.0 + items_of)) + 1.0).astype(np.float32)
    used = np.flatnonzero(items_of >= config.items_min)
    weighted = (tokens.matrix @ sp.diags(idf.astype(np.float64)))[:, used].tocsr().astype(np.float64)
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = sp.diags(1.0 / np.maximum(length, 1e-12)) @ weighted
    vectors = _right_singular_vectors(weighted, config)
    projection = np.zeros((vocabulary, vectors.shape[1]), dtype=np.float32)
    projection[used] = vectors
    return {"idf": idf, "projection": projection}


def _right_singular_vectors(matrix: sp.csr_matrix, config: Config) -> F64:
    """Columns by descending singular value; signs fixed, so that two runs agree."""
    smaller = min(matrix.shape)
    count = min(config.dimensions, smaller)
    if count == 0:
        return np.zeros((matrix.shape[1], 1))
    if smaller <= max(256, 2 * count):
        vectors: F64 = np.linalg.svd(matrix.toarray(), full_matrices=False)[2][:count].T
    else:
        start = np.random.default_rng(config.seed).standard_normal(smaller)
        _, values, rows = scipy.sparse.linalg.svds(matrix, k=count, v0=start)
        vectors = rows[np.argsort(-values)].T
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)


def write(export: Path, items: int, models: Path, config: Config) -> Arrays | None:
    """Fits, checks and writes `content.safetensors`; no file when no item has any token."""
    tokens = read_tokens(export, items)
    if tokens.matrix.shape[1] == 0:
        return None
    fitted = fit(tokens, config)
    path = models / "content.safetensors"
    idf, projection = fitted["idf"], fitted["projection"]
    arrays.require(projection.shape[0] == len(idf), path, "projection", f"has shape {projection.shape}")
    arrays.save(path, fitted)
    return fitted


def main() -> None:
    """`python -m marquee_models.retrieval_content EXPORT MODELS`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("export", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    with (arguments.export / "items.jsonl").open(encoding="utf-8") as lines:
        items = sum(1 for _ in lines)
    write(arguments.export, items, arguments.models, Config())


if __name__ == "__main__":
    main()
