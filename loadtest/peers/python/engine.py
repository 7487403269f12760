"""One ranking, from profile to slate: the same stages as `engine/src/recommend.rs`, over whole arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import catalogue as bundles
import features
import ranker
from catalogue import F32, I32, Bools
from moment import moment
from nearest import Nearest
from profiles import Profile
from sources import NAMES, Sources


@dataclass(frozen=True)
class Recipe:
    """A variant: for each of its sources (weight, budget), in the order of the sources, and the candidates' bound."""

    sources: list[tuple[int, np.float32, int]]
    candidates_max: int


@dataclass(frozen=True)
class Slate:
    """Best first: rows and scores; and what was ranked, for the comparison with Marquee."""

    rows: I32
    scores: F32
    candidates: I32
    matrix: F32


def recipe(variant: dict[str, object]) -> Recipe:
    """From a variant of `marquee config show`."""
    planned = variant["sources"]
    assert isinstance(planned, dict) and variant["ranker"]
    sources = [
        (at, np.float32(planned[name]["weight"]), int(planned[name]["budget_items"]))
        for at, name in enumerate(NAMES)
        if name in planned
    ]
    return Recipe(sources, int(str(variant["candidates_max_items"])))


class Engine:
    """Ranks for one worker: scratch memory is its own, the catalogue is shared."""

    def __init__(self, catalogue: bundles.Catalogue, sources: Sources, score: ranker.Score, plan: Recipe) -> None:
        self.catalogue, self.sources, self.score, self.plan = catalogue, sources, score, plan
        self.features = features.Features(catalogue)
        self._open: Bools = np.zeros(len(catalogue.ids), np.bool_)
        self._open_until_ms = -np.inf
        self._changes_ms = np.unique(np.concatenate([catalogue.from_ms, catalogue.until_ms]))
        self._weights = np.array([weight for _, weight, _ in plan.sources], np.float32)[:, None]
        self._planned = [source for source, _, _ in plan.sources]

    def recommend(self, profile: Profile, now_ms: int, surface: str, count: int) -> Slate:
        """The slate of a frozen world: no event since the bundle was built."""
        self._open_at(now_ms)
        self._open[profile.seen] = False
        try:
            return self._slate(profile, now_ms, surface, count)
        finally:
            self.sources.clear()
            self._open[profile.seen] = self._available[profile.seen]

    def _slate(self, profile: Profile, now_ms: int, surface: str, count: int) -> Slate:
        asked = moment(self.catalogue, profile, now_ms, surface, self._open)
        found = self.sources.ask(asked)
        hits = [found.ranked[source][:budget] for source, _, budget in self.plan.sources]
        rows = np.unique(np.concatenate(hits))
        rows = self._filled(rows, count)
        shares = self.sources.score(asked, found, rows) / found.best[:, None]
        shares[~np.isfinite(shares)] = np.nan
        # Added up source after source, in single precision as the engine does.
        blend = np.add.reduce(np.nan_to_num(shares[self._planned]) * self._weights, axis=0)
        if len(rows) > self.plan.candidates_max:
            kept = np.sort(np.argsort(-blend, kind="stable")[: self.plan.candidates_max])
            rows, shares, blend = rows[kept], shares[:, kept], blend[kept]
        matrix = self.features.matrix(asked, self.sources, found, rows, shares)
        scores = self.score(matrix)
        order = np.lexsort((rows, -blend, -scores))[:count]
        return Slate(rows[order], scores[order], rows, matrix)

    def _filled(self, rows: I32, count: int) -> I32:
        """When the budgets give fewer candidates than the slate is long: the next most popular items."""
        if len(rows) >= count:
            return rows
        popular = self.catalogue.popular[0].rows
        more = popular[self._open[popular] & ~np.isin(popular, rows)][: count - len(rows)]
        return np.sort(np.concatenate([rows, more]))

    def _open_at(self, now_ms: int) -> None:
        """Which items are available; computed anew only when a window opened or closed since the last request."""
        if now_ms < self._open_until_ms:
            return
        known = self.catalogue
        self._available = ~known.hidden & (known.from_ms <= now_ms) & (now_ms < known.until_ms)
        self._open = self._available.copy()
        later = self._changes_ms[self._changes_ms > now_ms]
        self._open_until_ms = later[0] if len(later) else np.inf


@dataclass(frozen=True)
class Setup:
    """What a peer is made of; read from `setup.json`, which the bench writes."""

    bundle: Path
    indexes: Path
    variant: dict[str, object]
    predictor: str
    exact: bool
    clock_offset_ms: int
    redis_port: int

    @staticmethod
    def read(file: Path) -> Setup:
        """From its file."""
        told = json.loads(file.read_text(encoding="utf-8"))
        return Setup(**{**told, "bundle": Path(told["bundle"]), "indexes": Path(told["indexes"])})


def load(setup: Setup) -> Callable[[], Engine]:
    """Reads the bundle and the indexes once; the function that comes back makes the engine of one worker."""
    known = bundles.read(setup.bundle)

    def nearest(name: str, vectors: F32) -> Nearest:
        return Nearest(vectors, setup.indexes / f"{known.version}.{name}.hnsw", exact=setup.exact)

    embedding, users = nearest("embedding", known.vectors), nearest("users", known.users)
    content = nearest("content", known.content)
    for index in (embedding, users, content):
        index.tune(queries(known, index))

    def engine() -> Engine:
        sources = Sources(known, embedding, users, content)
        return Engine(known, sources, ranker.load(setup.bundle, setup.predictor), recipe(setup.variant))

    return engine


def queries(known: bundles.Catalogue, index: Nearest) -> F32:
    """Vectors like those that requests bring, to tune ef on: users for the factor model, items for the words."""
    pool = index.vectors if index.vectors is known.content else known.users
    rows = np.random.default_rng(1).permutation(len(pool))[:200]
    return pool[rows]
