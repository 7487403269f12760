"""Nearest vectors by inner product: hnswlib for the timing, an exact scan for the comparison of slates.

The exact scan adds in the engine's order (sixteen running sums, then a fixed tree), so that equal scores are equal bits
on both sides and no rank differs by rounding. hnswlib filters in Python or not at all: so it is asked for as many more
rows as the user has seen, and those are dropped afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np

from catalogue import F32, I32

M = 16
EF_CONSTRUCTION = 200
EF_FIRST = 300
EF_STEP = 100
EF_MAX = 1_500
LANES = 16
RECALL_MIN = 0.98
RECALL_AT = 100
# As many as a request asks for, about: the ranks and what was seen.
TYPICAL_COUNT = 400
# As Marquee's `ranking.exact_below_items`: so few vectors are scanned faster than a graph is walked.
EXACT_BELOW_ROWS = 20_000


def lane_dots(vectors: F32, query: F32) -> F32:
    """Inner products with the bits of the engine's."""
    products = vectors * query
    sums = np.zeros((len(products), LANES), dtype=np.float32)
    for start in range(0, products.shape[1], LANES):
        part = products[:, start : start + LANES]
        sums[:, : part.shape[1]] += part
    width = LANES // 2
    while width:
        sums = sums[:, :width] + sums[:, width : 2 * width]
        width //= 2
    return sums[:, 0]


@dataclass(frozen=True)
class Choice:
    """How one set of vectors is searched: the index's ef, or 0 for a scan; and why, for people."""

    ef: int
    said: str


class Nearest:
    """One set of vectors; `index` is None for a scan, `engine_order` a scan whose sums have the engine's bits.

    Inner products of vectors of different length become distances by one more number a vector (the reduction of
    Bachrach et al. 2014), which hnswlib finds better than its own inner products.
    """

    def __init__(self, vectors: F32, index: hnswlib.Index | None, *, engine_order: bool = False) -> None:
        self.vectors, self.index, self.exact = vectors, index, engine_order
        squares = np.einsum("ij,ij->i", vectors, vectors)
        self.longest = float(squares.max(initial=0.0))
        self.is_unit = is_unit(squares)

    def _lifted(self, queries: F32) -> F32:
        return queries if self.is_unit else np.pad(queries, ((0, 0), (0, 1)))

    def dots(self, rows: I32, queries: F32) -> F32:
        """[queries, rows]: inner products of these rows."""
        if self.exact:
            return np.stack([lane_dots(self.vectors.take(rows, axis=0), query) for query in queries])
        products: F32 = queries @ self.vectors.take(rows, axis=0).T
        return products

    def search(self, queries: F32, count: int) -> list[tuple[I32, F32]]:
        """For each query the best `count` rows, best first, and their scores; all queries in one call."""
        count = min(count, len(self.vectors))
        if self.index is not None:
            found, distances = self.index.knn_query(self._lifted(queries), k=count)
            if self.is_unit:
                scores = 1.0 - distances
            else:
                scores = (np.einsum("ij,ij->i", queries, queries)[:, None] + self.longest - distances) / 2.0
            return [(rows.astype(np.int32), each) for rows, each in zip(found, scores, strict=True)]
        if self.exact:
            return [top(lane_dots(self.vectors, query), count) for query in queries]
        return [top(scores, count) for scores in queries @ self.vectors.T]


def top(scores: F32, count: int) -> tuple[I32, F32]:
    """The `count` largest, largest first, ties by position."""
    places, kept = None, scores
    if count < len(scores):
        parted = scores.copy()
        parted.partition(len(scores) - count)
        places = (scores >= parted[len(scores) - count]).nonzero()[0]
        kept = scores[places]
    order = (-kept).argsort(kind="stable")[:count]
    return (order if places is None else places[order]).astype(np.int32), kept[order]


def is_unit(squares: F32) -> bool:
    """Whether all vectors have length 1, but for those that are zero."""
    return bool(np.abs(squares[squares > 0] - 1.0).max(initial=0.0) < 1e-3)


def index_of(vectors: F32, file: Path) -> hnswlib.Index:
    """The index kept in the file; built, on all cores, when there is none."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    unit = is_unit(squares)
    index = hnswlib.Index(space="ip" if unit else "l2", dim=vectors.shape[1] + (0 if unit else 1))
    if file.exists():
        index.load_index(str(file), max_elements=len(vectors))
    else:
        index.init_index(max_elements=len(vectors), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
        lift = np.sqrt(np.maximum(squares.max() - squares, 0.0))[:, None]
        index.add_items(vectors if unit else np.hstack([vectors, lift]), np.arange(len(vectors)))
        file.parent.mkdir(parents=True, exist_ok=True)
        index.save_index(str(file))
    index.set_num_threads(1)
    return index


def choose(vectors: F32, file: Path, queries: F32) -> Choice:
    """The least ef with recall@100 of 0.98 over these queries; a scan where that is cheaper or none does."""
    if len(vectors) < EXACT_BELOW_ROWS:
        return Choice(0, "exact scan of few vectors")
    index = index_of(vectors, file)
    best = np.argpartition(queries @ vectors.T, -RECALL_AT, axis=1)[:, -RECALL_AT:]
    walk, scan = Nearest(vectors, index), Nearest(vectors, None)
    ef, recall = EF_FIRST - EF_STEP, 0.0
    while recall < RECALL_MIN and ef < EF_MAX:
        ef += EF_STEP
        index.set_ef(ef)
        found = [rows for rows, _ in walk.search(queries, RECALL_AT)]
        recall = sum(len(np.intersect1d(a, b)) for a, b in zip(found, best, strict=True)) / best.size
    walked, scanned = cost_us(walk, queries), cost_us(scan, queries)
    about = f"hnswlib at ef {ef}: recall@{RECALL_AT} {recall:.3f}, {walked:.0f} us; exact scan: {scanned:.0f} us"
    return Choice(ef if recall >= RECALL_MIN and walked < scanned else 0, about)


def cost_us(nearest: Nearest, queries: F32) -> float:
    """CPU time of one query, asked in pairs as requests ask."""
    began = time.process_time()
    for at in range(0, len(queries) - 1, 2):
        nearest.search(queries[at : at + 2], TYPICAL_COUNT)
    return (time.process_time() - began) / len(queries) * 1e6
