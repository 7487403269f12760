"""The bundle as columns in memory: read once before the workers fork, so that they share it.

Whatever depends on an item alone is computed here and not in a request: popularity, smoothed rates, trends, genres and
people as padded tables. The definitions are those of `engine/src/world` and `engine/src/feature`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]

DAY_MS = 86_400_000
HALF_LIVES_DAYS = (1.0, 3.0, 7.0, 30.0)
DAY, DAYS, WEEK, MONTH = range(4)
TRACE_OF_EVER = 1e-6
ITEM_PRIOR = np.float32(10.0)
WEEK_PRIOR = 5.0
PEOPLE_MAX = 8
POPULAR_MAX_ITEMS = 4_096
MATRICES = ("cooccurrence", "cooccurrence_liked", "transitions", "transitions_wide", "transitions_liked", "similar")


@dataclass(frozen=True)
class Matrix:
    """Links from item to item: row i holds `item[offsets[i]:offsets[i + 1]]`."""

    offsets: I32
    item: I32
    weight: F32


@dataclass(frozen=True)
class Popular:
    """One kind of popularity: the score of every item, and the best rows, best first."""

    score: F32
    rows: I32


@dataclass(frozen=True)
class Catalogue:
    """Everything that ranking reads and that no user changes. Arrays are by item row."""

    version: str
    watermark: int
    columns: list[str]
    ids: list[str]
    vectors: F32
    gram: F64
    alpha: np.float32
    users: F32
    user_of: dict[int, int]
    likes: Matrix
    content: F32
    matrices: dict[str, Matrix]
    # rating, positive_rate, positive_rate_week, percentile, trend_week, trend_day
    fixed: F32
    genre_count: F32
    genres: I32
    genre_numbers: int
    people: I32
    people_numbers: int
    year: F32
    events: F32
    first_ms: F64
    created_ms: F64
    # By moment of creation, ascending, so that fresh items are one slice.
    created_order: I32
    created_sorted_ms: F64
    hidden: Bools
    from_ms: F64
    until_ms: F64
    # on a surface without events of its own, day, days, month, ever
    popular: list[Popular]
    surfaces: dict[str, Popular]
    mean_rating: np.float32
    positive_share: np.float32


def read_arrays(path: Path) -> tuple[Arrays, dict[str, str]]:
    """All arrays of a safetensors file and the texts of its header; nothing where there is no file."""
    if not path.exists():
        return {}, {}
    with safe_open(path, framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def read(folder: Path) -> Catalogue:
    """Reads a bundle's folder. Checksums are Marquee's business; here the files are trusted."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("until_ms") is not None:
        raise SystemExit("the bundle was cut by time; the peer reads bundles of the whole log only")
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        items = [json.loads(line) for line in lines]
    stats, about = read_arrays(folder / "stats.safetensors")
    embedding, _ = read_arrays(folder / "embedding.safetensors")
    users, _ = read_arrays(folder / "users.safetensors")
    content, _ = read_arrays(folder / "content.safetensors")
    links, _ = read_arrays(folder / "matrices.safetensors")
    vectors = embedding["items"] + np.float32(0.0)
    ids = [item["id"] for item in items]
    wide = vectors.astype(np.float64)
    gram = (wide.T @ wide).astype(np.float32).astype(np.float64)
    gram[np.diag_indices_from(gram)] += float(embedding["regularization"][0])
    genres, genre_numbers = _padded([_terms("genre", item.get("genres", [])) for item in items])
    people, people_numbers = _padded([_people(item) for item in items])
    first = np.where(stats["events"] > 0, stats["first_ms"].astype(np.float64), np.nan)
    created = _times(items, "created_ms", np.nan)
    created = np.where(np.isnan(created), first, created)
    order = np.argsort(np.where(np.isnan(created), -np.inf, created), kind="stable").astype(np.int32)
    fixed, popular, surfaces = _statistics(stats, json.loads(about["surfaces"]))
    ratings, totals = float(stats["ratings"].sum()), float(stats["events"].sum())
    return Catalogue(
        version=manifest["version"],
        watermark=manifest["watermark"],
        columns=manifest["columns"],
        ids=ids,
        vectors=vectors,
        gram=gram,
        alpha=np.float32(embedding["alpha"][0]),
        users=users["vectors"] + np.float32(0.0),
        user_of={int(hashed): row for row, hashed in enumerate(users["hashes"])},
        likes=_matrix(users, "likes."),
        content=content["items"] + np.float32(0.0),
        matrices={name: _matrix(links, f"{name}.") for name in MATRICES},
        fixed=fixed,
        genre_count=(genres < genre_numbers).sum(axis=1).astype(np.float32),
        genres=genres,
        genre_numbers=genre_numbers,
        people=people,
        people_numbers=people_numbers,
        year=np.array([item.get("year") or np.nan for item in items], dtype=np.float32),
        events=stats["events"].astype(np.float32),
        first_ms=first,
        created_ms=created,
        created_order=order,
        created_sorted_ms=np.where(np.isnan(created), -np.inf, created)[order],
        hidden=np.array([item.get("hidden", False) for item in items], dtype=np.bool_),
        from_ms=_times(items, "available_from_ms", -np.inf),
        until_ms=_times(items, "available_until_ms", np.inf),
        popular=popular,
        surfaces=surfaces,
        mean_rating=_ratio(np.float32(stats["rating_sum_centi"].sum()) / np.float32(100.0), ratings),
        positive_share=_ratio(np.float32(stats["positives"].sum()), totals),
    )


def _matrix(arrays: Arrays, prefix: str) -> Matrix:
    offsets, item = (arrays[f"{prefix}{part}"].astype(np.int32) for part in ("offsets", "item"))
    return Matrix(offsets, item, arrays[f"{prefix}weight"])


def _ratio(above: np.float32, below: float) -> np.float32:
    return np.float32(above / np.float32(below)) if below > 0 else np.float32(0.0)


def _times(items: list[dict[str, Any]], name: str, absent: float) -> F64:
    found = (item.get(name) for item in items)
    return np.array([absent if time is None else time for time in found], dtype=np.float64)


def _terms(field: str, names: list[str]) -> list[str]:
    return [f"{field}:{name.strip().lower()}" for name in names]


def _people(item: dict[str, Any]) -> list[str]:
    return _terms("cast", item.get("cast", [])[:PEOPLE_MAX]) + _terms("director", item.get("directors", []))


def _padded(lists: list[list[str]]) -> tuple[I32, int]:
    """Terms as numbers, one row an item, filled up with the number that no term has."""
    numbers: dict[str, int] = {}
    rows = [sorted({numbers.setdefault(term, len(numbers)) for term in terms}) for terms in lists]
    table = np.full((len(rows), max(1, max(map(len, rows), default=0))), len(numbers), dtype=np.int32)
    for row, terms in enumerate(rows):
        table[row, : len(terms)] = terms
    return table, len(numbers)


def _statistics(stats: Arrays, surface_names: list[str]) -> tuple[F32, list[Popular], dict[str, Popular]]:
    items = len(stats["events"])
    newest = stats["last_ms"][stats["events"] > 0].max(initial=0) // DAY_MS
    whole = stats["days.surface"] == 0
    days = {name: stats[f"days.{name}"][whole] for name in ("item", "day", "events", "positives")}
    events, positives = _decayed(days, items, newest)
    summed = _by_day(days)
    _, all_positives = _decayed(summed, 1, newest)
    trace = TRACE_OF_EVER * stats["positives"].astype(np.float64)
    decayed = [_popular((positives[half_life] + trace).astype(np.float32)) for half_life in range(4)]
    surfaces = {}
    best = float(decayed[WEEK].score.max(initial=0.0))
    everywhere = (positives[WEEK] + trace) / max(best if best > 0 else 1.0, 1e-9)
    for number, name in enumerate(surface_names, 1):
        there = stats["days.surface"] == number
        here = {key: stats[f"days.{key}"][there] for key in days}
        surfaces[name] = _popular((_decayed(here, items, newest)[1][WEEK] + everywhere).astype(np.float32))
    popular = [decayed[WEEK], decayed[DAY], decayed[DAYS], decayed[MONTH]]
    popular.append(_popular(stats["positives"].astype(np.float32)))
    return _fixed(stats, events, positives, all_positives), popular, surfaces


def _popular(score: F32) -> Popular:
    order = np.argsort(-score, kind="stable").astype(np.int32)
    return Popular(score, order[score[order] > 0][:POPULAR_MAX_ITEMS])


def _by_day(days: Arrays) -> Arrays:
    day, place = np.unique(days["day"], return_inverse=True)
    total = {name: np.bincount(place, weights=days[name]).astype(np.int64) for name in ("events", "positives")}
    return {"item": np.zeros(len(day), dtype=np.int64), "day": day, **total}


def _decayed(days: Arrays, items: int, newest: int) -> tuple[F64, F64]:
    """Sums decayed to the newest day, [half-lives, items], added up day by day as the engine does."""
    sums = np.zeros((2, len(HALF_LIVES_DAYS), items))
    item, day = days["item"].astype(np.int64), days["day"].astype(np.int64)
    counts = np.stack([days["events"], days["positives"]]).astype(np.float64)
    starts = np.searchsorted(item, item)
    nth = np.arange(len(item)) - starts
    following = np.full(len(item), newest)
    same = item[1:] == item[:-1]
    following[:-1][same] = day[1:][same]
    order = np.argsort(nth, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(nth))[:-1]) if len(nth) else []:
        passed = np.maximum(following[rows] - day[rows], 0).astype(np.float64)
        for at, half_life in enumerate(HALF_LIVES_DAYS):
            sums[:, at, item[rows]] = (sums[:, at, item[rows]] + counts[:, rows]) * np.exp2(-passed / half_life)
    return sums[0], sums[1]


def _fixed(stats: Arrays, events: F64, positives: F64, all_positives: F64) -> F32:
    """Features of `engine/src/feature/item.rs` that depend on the item alone."""
    one = np.float32
    mean = _ratio(one(stats["rating_sum_centi"].sum()) / one(100.0), float(stats["ratings"].sum()))
    share = _ratio(one(stats["positives"].sum()), float(stats["events"].sum()))
    rating = stats["rating_sum_centi"].astype(np.float32) / one(100.0) + ITEM_PRIOR * mean
    rating = rating / (stats["ratings"].astype(np.float32) + ITEM_PRIOR)
    rate = stats["positives"].astype(np.float32) + ITEM_PRIOR * share
    rate = rate / (stats["events"].astype(np.float32) + ITEM_PRIOR)
    week = (positives[WEEK] + WEEK_PRIOR * rate.astype(np.float64)) / (events[WEEK] + WEEK_PRIOR)
    counts = np.sort(stats["events"])
    percentile = np.searchsorted(counts, stats["events"]).astype(np.float32) / one(max(len(counts), 1))
    floor = 0.2 / max(len(counts), 1)
    shares = positives / np.maximum(all_positives, 1e-9)
    ever = stats["positives"].astype(np.float64) / max(float(stats["positives"].sum()), 1e-9)
    trend_week = np.log((shares[WEEK] + floor) / (ever + floor))
    trend_day = np.log((shares[DAY] + floor) / (shares[MONTH] + floor))
    return np.stack([rating, rate, week, percentile, trend_week, trend_day]).astype(np.float32)
