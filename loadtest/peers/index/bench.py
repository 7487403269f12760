"""Our index, hnswlib and usearch on the same vectors in one run: build, search at equal recall, memory, filters.

Clustered unit vectors from a seed; inner product for all three. Each library's `ef` is the least at which
recall@100 reaches the target, found by the same bisection; then the libraries take turns, one thread each, and the
median of the rounds counts. Times are what the thread or process used of the processor, so other work on the machine
disturbs them little. Asserts that recall holds and that no filter is slower than an exact scan.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import numpy as np
import usearch.index
from safetensors.numpy import save_file

DIMS = 64
K = 100
ROWS_A_CLUSTER = 200
M, EF_CONSTRUCTION, THREADS = 16, 200, 2
RECALL_MIN = 0.98
FILTERS_PERCENT = (50.0, 10.0, 1.0, 0.1)

Array = np.ndarray


@dataclass(frozen=True)
class Peer:
    """A built index: `search(ef)` gives CPU microseconds a query, and the rows found."""

    name: str
    build_wall_s: float
    build_cpu_s: float
    memory_bytes: int
    search: Callable[[int], tuple[float, Array]]


class Ours:
    """The example `index_peer`, asked line by line."""

    def __init__(self, binary: str, arrays: Path, folder: Path) -> None:
        self.process = subprocess.Popen([binary, arrays], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.found = folder / "found"
        self.without_graph_bytes = 0

    def ask(self, line: str) -> list[float]:
        assert self.process.stdin and self.process.stdout
        print(line, file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise SystemExit(f"index_peer left at: {line}")
        return [float(word) for word in reply.split()]

    def search(self, how: str, ef: int, percent: float = 100.0) -> tuple[float, Array]:
        (us,) = self.ask(f"{how} {ef} {percent} {self.found}")
        return us, np.fromfile(self.found, dtype=np.uint32).reshape(-1, K)

    def build(self) -> Peer:
        wall_s, cpu_s, memory_bytes, graph_bytes = self.ask(f"build {M} {EF_CONSTRUCTION} {THREADS}")
        self.without_graph_bytes = int(memory_bytes - graph_bytes)
        return Peer("marquee", wall_s, cpu_s, int(memory_bytes), lambda ef: self.search("search", ef))


def generate(size: int, queries: int) -> tuple[Array, Array]:
    random = np.random.default_rng(7)
    centres = random.standard_normal((max(size // ROWS_A_CLUSTER, 1), DIMS), dtype=np.float32)

    def units(count: int) -> Array:
        rows = centres[random.integers(0, len(centres), count)]
        rows = rows + random.standard_normal((count, DIMS), dtype=np.float32)
        unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    return units(size), units(queries)


def exact(vectors: Array, queries: Array) -> Array:
    def best(query: Array) -> Array:
        return np.argpartition(-(vectors @ query), K)[:K]

    return np.array([best(query) for query in queries])


def recall(expected: Array, found: Array) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(expected, found, strict=True)])) / K


def build_hnswlib(vectors: Array, queries: Array) -> Peer:
    index = hnswlib.Index("ip", DIMS)
    wall, cpu = time.perf_counter(), time.process_time()
    index.init_index(len(vectors), M=M, ef_construction=EF_CONSTRUCTION)
    index.add_items(vectors, num_threads=THREADS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    def search(ef: int) -> tuple[float, Array]:
        index.set_ef(ef)
        start = time.thread_time()
        found, _ = index.knn_query(queries, k=K, num_threads=1)
        return (time.thread_time() - start) * 1e6 / len(queries), found

    return Peer("hnswlib", wall, cpu, index.index_file_size(), search)


def build_usearch(vectors: Array, queries: Array) -> Peer:
    index = usearch.index.Index(ndim=DIMS, metric="ip", dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION)
    wall, cpu = time.perf_counter(), time.process_time()
    index.add(np.arange(len(vectors)), vectors, threads=THREADS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    def search(ef: int) -> tuple[float, Array]:
        index.expansion_search = ef
        start = time.thread_time()
        # All queries in one call on this thread: a call for each would measure Python.
        found = index.search(queries, K, threads=1).keys
        return (time.thread_time() - start) * 1e6 / len(queries), found

    return Peer("usearch", wall, cpu, index.memory_usage, search)


def least_ef(peer: Peer, expected: Array) -> int:
    """Bisection between K and the first doubling that reaches the recall."""
    low, high = K - 1, K
    while recall(expected, peer.search(high)[1]) < RECALL_MIN:
        low, high = high, 2 * high
        assert high <= 64 * K, f"{peer.name} does not reach recall {RECALL_MIN}"
    while high - low > 1:
        middle = (low + high) // 2
        if recall(expected, peer.search(middle)[1]) < RECALL_MIN:
            low = middle
        else:
            high = middle
    return high


def compare(peers: list[Peer], expected: Array, raw_bytes: int, rounds: int) -> int:
    efs = [least_ef(peer, expected) for peer in peers]
    times: list[list[float]] = [[] for _ in peers]
    recalls = [0.0] * len(peers)
    for _ in range(rounds):
        for at, (peer, ef) in enumerate(zip(peers, efs, strict=True)):
            us, found = peer.search(ef)
            times[at].append(us)
            recalls[at] = recall(expected, found)
    medians = [statistics.median(of) for of in times]
    print(
        f"\n{'':9}{'build s':>9}{'CPU s':>8}{'ef':>6}{'recall':>8}{'us/query':>10}{'times ours':>12}"
        f"{'memory / raw':>14}"
    )
    for at, peer in enumerate(peers):
        print(
            f"{peer.name:9}{peer.build_wall_s:9.1f}{peer.build_cpu_s:8.1f}{efs[at]:6}{recalls[at]:8.4f}"
            f"{medians[at]:10.1f}{medians[at] / medians[0]:12.2f}{peer.memory_bytes / raw_bytes:14.2f}"
        )
        assert recalls[at] >= RECALL_MIN, f"{peer.name} lost its recall"
    return efs[0]


def filters(ours: Ours, ef: int, rounds: int) -> None:
    print(f"\n{'accepted':>9}{'exact us':>10}{'hinted us':>11}{'times':>7}{'recall':>8}")
    for percent in FILTERS_PERCENT:
        scans, hinted = [], []
        for _ in range(rounds):
            us, expected = ours.search("exact", ef, percent)
            scans.append(us)
            us, found = ours.search("hinted", ef, percent)
            hinted.append(us)
        real = expected != np.uint32(0xFFFF_FFFF)
        both = sum(len(np.intersect1d(a[keep], b)) for a, b, keep in zip(expected, found, real, strict=True))
        scan_us, hinted_us = statistics.median(scans), statistics.median(hinted)
        print(f"{percent:8}%{scan_us:10.1f}{hinted_us:11.1f}{scan_us / hinted_us:7.2f}{both / real.sum():8.4f}")
        # The same scan twice differs by noise.
        assert hinted_us <= 1.1 * scan_us, f"a filter of {percent}% is slower than a scan"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--ours", required=True, help="the example index_peer")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    vectors, queries = generate(args.size, args.queries)
    raw_bytes = vectors.nbytes
    expected = exact(vectors, queries)
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "arrays.safetensors"
        save_file({"vectors": vectors, "queries": queries}, arrays)
        ours = Ours(args.ours, arrays, Path(folder))
        peers = [ours.build(), build_hnswlib(vectors, queries), build_usearch(vectors, queries)]
        del vectors
        print(
            f"{args.size} x {DIMS}, {args.queries} queries, recall@{K} >= {RECALL_MIN}; M {M}, ef_construction"
            f" {EF_CONSTRUCTION}, {THREADS} threads build, one searches; {args.rounds} rounds in turn, medians of"
            " CPU time"
        )
        ef = compare(peers, expected, raw_bytes, args.rounds)
        without_graph = ours.without_graph_bytes / raw_bytes
        print(f"memory: all that a search needs, over the bare vectors; ours without the graph {without_graph:.3f}")
        assert without_graph <= 1.3, "more than 1.3 times the vectors beside the graph"
        filters(ours, ef, args.rounds)
        ours.process.stdin.close()  # type: ignore[union-attr]
        ours.process.wait()


if __name__ == "__main__":
    main()
