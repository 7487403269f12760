"""One ranking, from profile to slate: the same stages as `engine/src/recommend.rs`, over whole arrays."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import catalogue as bundles
import features
import nearest
import ranker
from catalogue import F32, I32, Bools
from moment import moment
from nearest import Choice, Nearest
from profiles import Profile
from sources import NAMES, Sources

# Queries on which an index is tuned.
QUERIES = 200


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


def sets(known: bundles.Catalogue) -> dict[str, tuple[F32, F32]]:
    """The vectors that are searched, by name, and queries like those that requests bring: users, and words of items."""
    pick = np.random.default_rng(1).permutation
    users = known.users[pick(len(known.users))[:QUERIES]]
    words = known.content[pick(len(known.content))[:QUERIES]]
    return {"embedding": (known.vectors, users), "users": (known.users, users), "content": (known.content, words)}


def choose(known: bundles.Catalogue, indexes: Path) -> dict[str, Choice]:
    """Builds the indexes, decides how each set is searched, and writes that down for all peers."""
    chosen = {
        name: nearest.choose(vectors, indexes / f"{known.version}.{name}.hnsw", queries)
        for name, (vectors, queries) in sets(known).items()
    }
    indexes.mkdir(parents=True, exist_ok=True)
    told = {name: dataclasses.asdict(choice) for name, choice in chosen.items()}
    (indexes / f"{known.version}.json").write_text(json.dumps(told, indent=2))
    return chosen


def load(setup: Setup) -> Callable[[], Engine]:
    """Reads the bundle and the indexes once; the function that comes back makes the engine of one worker."""
    known = bundles.read(setup.bundle)
    told = {} if setup.exact else json.loads((setup.indexes / f"{known.version}.json").read_text(encoding="utf-8"))

    def opened(name: str, vectors: F32) -> Nearest:
        ef = 0 if setup.exact else told[name]["ef"]
        if not ef:
            return Nearest(vectors, None, engine_order=setup.exact)
        index = nearest.index_of(vectors, setup.indexes / f"{known.version}.{name}.hnsw")
        index.set_ef(ef)
        return Nearest(vectors, index)

    searched = {name: opened(name, vectors) for name, (vectors, _) in sets(known).items()}

    def engine() -> Engine:
        sources = Sources(known, searched["embedding"], searched["users"], searched["content"])
        return Engine(known, sources, ranker.load(setup.bundle, setup.predictor), recipe(setup.variant))

    return engine
