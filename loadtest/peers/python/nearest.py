"""Nearest vectors by inner product: hnswlib for the timing, an exact scan for the comparison of slates.

The exact scan adds in the engine's order (sixteen running sums, then a fixed tree), so that equal scores are equal bits
on both sides and no rank differs by rounding. hnswlib filters in Python or not at all: so it is asked for as many more
rows as the user has seen, and those are dropped afterwards.
"""

from __future__ import annotations

from pathlib import Path

import hnswlib
import numpy as np

from catalogue import F32, I32

M = 16
EF_CONSTRUCTION = 200
EF_SEARCH = 300
LANES = 16
RECALL_MIN = 0.98
RECALL_AT = 100


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


# As Marquee's `ranking.exact_below_items`: so few vectors are scanned faster than a graph is walked.
EXACT_BELOW_ROWS = 20_000


class Nearest:
    """One set of vectors. `exact` scans; else the index is read from `file`, or built and kept there."""

    def __init__(self, vectors: F32, file: Path, *, exact: bool) -> None:
        self.vectors = vectors
        self.ef = EF_SEARCH
        self.exact = exact
        self._index = None if exact or len(vectors) < EXACT_BELOW_ROWS else self._open(file)

    def _open(self, file: Path) -> hnswlib.Index:
        rows, dims = self.vectors.shape
        index = hnswlib.Index(space="ip", dim=dims)
        if file.exists():
            index.load_index(str(file), max_elements=rows)
        else:
            index.init_index(max_elements=rows, M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
            index.add_items(self.vectors, np.arange(rows))
            file.parent.mkdir(parents=True, exist_ok=True)
            index.save_index(str(file))
        index.set_num_threads(1)
        index.set_ef(self.ef)
        return index

    def dots(self, rows: I32, queries: F32) -> F32:
        """[queries, rows]: inner products of these rows."""
        if self.exact:
            return np.stack([lane_dots(self.vectors[rows], query) for query in queries])
        products: F32 = queries @ self.vectors[rows].T
        return products

    def tune(self, queries: F32) -> float:
        """Raises ef until recall@100 over these queries is 0.98; answers the recall reached."""
        if self._index is None or not len(queries):
            return 1.0
        wanted = min(RECALL_AT, len(self.vectors))
        best = np.argpartition(queries @ self.vectors.T, -wanted, axis=1)[:, -wanted:]
        while True:
            self._index.set_ef(self.ef)
            found, _ = self._index.knn_query(queries, k=wanted)
            hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, best, strict=True))
            recall = hits / best.size
            if recall >= RECALL_MIN or self.ef >= 4 * EF_SEARCH:
                return recall
            self.ef += 50

    def search(self, query: F32, count: int) -> tuple[I32, F32]:
        """The best `count` rows, best first, ties by row, and their scores."""
        count = min(count, len(self.vectors))
        if self._index is not None:
            rows, distances = self._index.knn_query(query, k=count)
            return rows[0].astype(np.int32), np.float32(1.0) - distances[0]
        return top(lane_dots(self.vectors, query) if self.exact else self.vectors @ query, count)


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
