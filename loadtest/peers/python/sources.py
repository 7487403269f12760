"""The sources of candidates, each as few calls of numpy over whole arrays as it takes.

The definitions are those of `engine/src/source`. What is shared is computed once: one fold-in for the embedding and the
user neighbours, one gather of a matrix's links for all views of it and for the features that read the same links.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import _sparsetools as sparse

from catalogue import DAY_MS, F32, F64, I32, Bools, Catalogue, Matrix, Popular
from moment import Moment
from nearest import Nearest, top
from profiles import EVENTS_MAX, Profile

RANKS_MAX = 300
NEIGHBOURS_MAX_USERS = 100
FOLD_IN_MAX_ITEMS = 500
FRESH_DAYS = np.float32(30.0)
CHANCES = np.float32(50.0)
NEUTRAL_WEIGHT = np.float32(0.2)
LINK_ITEMS = 20
TAUS_MAX = 8.0
NAMES = (
    *("embedding", "embedding_recent", "user_neighbours", "user_neighbours_recent", "cooccurrence"),
    *("cooccurrence_short", "cooccurrence_recent", "cooccurrence_whole", "cooccurrence_signed", "liked_short"),
    *("liked_recent", "liked_whole", "transitions", "transitions_last", "transitions_recent", "transitions_wide"),
    *("transitions_liked", "similar", "content", "content_recent", "popular", "popular_day", "popular_days"),
    *("popular_month", "popular_ever", "fresh"),
)
EMBEDDING, NEIGHBOURS, VIEWS, CONTENT, POPULAR, FRESH = (
    *(NAMES.index("embedding"), NAMES.index("user_neighbours"), NAMES.index("cooccurrence")),
    *(NAMES.index("content"), NAMES.index("popular"), NAMES.index("fresh")),
)
# Each matrix with the recency of its views; infinite is all alike.
VIEW_TAUS = {
    "cooccurrence": (10.0, 3.0, 30.0, np.inf, 30.0),
    "cooccurrence_liked": (5.0, 30.0, np.inf),
    "transitions": (3.0, 1.0, 10.0),
    "transitions_wide": (5.0,),
    "transitions_liked": (10.0,),
    "similar": (5.0,),
}
SIGNED_VIEW = 4


def recency(tau: float) -> F32:
    """exp(-p / tau) for the positions of a profile, in single precision as the engine has it."""
    if np.isinf(tau):
        return np.ones(EVENTS_MAX, dtype=np.float32)
    exponent = -np.arange(EVENTS_MAX, dtype=np.float32) / np.float32(tau)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def _view_table(taus: tuple[float, ...]) -> F32:
    """[positions, views]; 0 from where a view stops."""
    table = np.stack([recency(tau) for tau in taus], axis=1)
    for view, tau in enumerate(taus):
        if np.isfinite(tau):
            table[int(np.ceil(tau * TAUS_MAX)) :, view] = 0.0
    return table


@dataclass
class Links:
    """Links of a profile's items in one matrix: in order of the profile, item after item."""

    starts: I32
    item: I32
    weight: F32
    # The rows that are linked at all, ascending, and which of them are open.
    touched: I32
    open: I32


@dataclass
class Found:
    """What the sources answer to one moment: the ranked rows of each, best first, and its best score."""

    ranked: list[I32]
    best: F32
    user: F32 | None
    taste: F32 | None


class Answers:
    """What the sources have answered so far: best over open rows only."""

    def __init__(self, open_rows: Bools) -> None:
        self.open_rows = open_rows
        self.ranked: list[I32] = [np.empty(0, np.int32)] * len(NAMES)
        self.best: F32 = np.ones(len(NAMES), np.float32)

    def keep(self, source: int, rows: I32, scores: F32) -> None:
        """Of rows that come best first, the open ones."""
        kept = self.open_rows.take(rows).nonzero()[0][:RANKS_MAX]
        self.ranked[source] = rows[kept]
        if len(kept):
            self.best[source] = scores[kept[0]]

    def rank(self, source: int, rows: I32, values: F32) -> None:
        """Of open rows, ascending, those of positive value: best first, ties by row."""
        places, scores = top(values, RANKS_MAX)
        if len(scores) and scores[-1] <= 0:
            places = places[: int(np.searchsorted(-scores, 0.0))]
        self.ranked[source] = rows[places]
        if len(places):
            self.best[source] = scores[0]


class Sources:
    """All sources over one catalogue. Holds scratch memory: one for each worker, one request at a time."""

    def __init__(self, catalogue: Catalogue, embedding: Nearest, users: Nearest, content: Nearest) -> None:
        self.catalogue, self.embedding, self.users, self.content = catalogue, embedding, users, content
        items = len(catalogue.ids)
        self.views = {name: _view_table(taus) for name, taus in VIEW_TAUS.items()}
        # The similar matrix is also summed for two features: ratings' differences, and plain links.
        widths = {name: table.shape[1] + (2 if name == "similar" else 0) for name, table in self.views.items()}
        self.sums: dict[str, F32] = {name: np.zeros((items, width), np.float32) for name, width in widths.items()}
        self.neighbour_sums: F32 = np.zeros((items, 2), np.float32)
        self.links: dict[str, Links] = {}
        self._neighbours_touched: I32 = np.empty(0, np.int32)
        self._marks: Bools = np.zeros(items, np.bool_)
        self._recent = recency(10.0)

    def ask(self, moment: Moment) -> Found:
        """Every source."""
        profile, answers = moment.profile, Answers(moment.open_rows)
        user = self._fold_in(profile)
        if user is None:
            answers.best[EMBEDDING:VIEWS] = np.nan
        else:
            self._ask_embedding(user, profile, answers)
            self._ask_neighbours(user, profile, answers)
        self._ask_links(moment, answers)
        taste = self._taste(profile)
        if taste is None:
            answers.best[CONTENT:POPULAR] = np.nan
        else:
            for view, (rows, scores) in enumerate(self.content.search(taste, RANKS_MAX + len(profile.seen))):
                answers.keep(CONTENT + view, rows, scores)
        self._ask_popular(moment, answers)
        self._ask_fresh(moment, answers)
        return Found(answers.ranked, np.maximum(answers.best, np.float32(1e-9)), user, taste)

    def score(self, moment: Moment, found: Found, rows: I32) -> F32:
        """[sources, rows]: what each source says of any item; NaN where it cannot know."""
        scores = np.full((len(NAMES), len(rows)), np.nan, dtype=np.float32)
        if found.user is not None:
            scores[EMBEDDING:NEIGHBOURS] = self.embedding.dots(rows, found.user)
            scores[NEIGHBOURS:VIEWS] = self.neighbour_sums.take(rows, axis=0).T
        at = VIEWS
        for name, taus in VIEW_TAUS.items():
            scores[at : at + len(taus)] = self.sums[name].take(rows, axis=0)[:, : len(taus)].T
            at += len(taus)
        if found.taste is not None:
            scores[CONTENT:POPULAR] = self.content.dots(rows, found.taste)
        for at, kind in enumerate(self._popular(moment.surface), POPULAR):
            scores[at] = kind.score.take(rows)
        scores[FRESH] = self._freshness(rows, moment.now_ms)
        return scores

    def clear(self) -> None:
        """Takes this request's sums out of the scratch memory."""
        for name, links in self.links.items():
            _zero(self.sums[name], links.touched)
        _zero(self.neighbour_sums, self._neighbours_touched)
        self._neighbours_touched = self._neighbours_touched[:0]
        self.links = {}

    def _fold_in(self, profile: Profile) -> F32 | None:
        """The user's vectors, of the whole profile and of its newest part: `fold_in` of the engine, in doubles."""
        rows = profile.rows[:FOLD_IN_MAX_ITEMS]
        if not len(rows):
            return None
        vectors: F64 = self.catalogue.vectors.take(rows, axis=0).astype(np.float64)
        users = np.empty((2, vectors.shape[1]), np.float32)
        for view, weights in enumerate((None, self._recent[: len(rows)])):
            alpha = self.catalogue.alpha
            weight = np.float64(alpha) if weights is None else (weights * alpha).astype(np.float64)[:, None]
            scaled = vectors * weight
            _, solved, failed = lapack.dposv(self.catalogue.gram + scaled.T @ vectors, scaled.sum(axis=0), lower=1)
            if failed:
                return None
            users[view] = solved
        return users

    def _ask_embedding(self, user: F32, profile: Profile, answers: Answers) -> None:
        for view, (rows, scores) in enumerate(self.embedding.search(user, RANKS_MAX + len(profile.seen))):
            answers.keep(EMBEDDING + view, rows, scores)

    def _ask_neighbours(self, user: F32, profile: Profile, answers: Answers) -> None:
        likes, touched = self.catalogue.likes, []
        # Added up one after another, as the engine does.
        norms = np.sqrt(np.add.accumulate(user * user, axis=1)[:, -1:])
        for view, (near, cosine) in enumerate(
            self.users.search(np.divide(user, norms, dtype=np.float32), NEIGHBOURS_MAX_USERS + 1)
        ):
            counts = np.flatnonzero(near != profile.own)[:NEIGHBOURS_MAX_USERS]
            counts = counts[cosine[counts] > 0]
            starts, item, weight = gather(likes, near[counts])
            share = np.repeat(cosine[counts] * cosine[counts], np.diff(starts))
            np.add.at(self.neighbour_sums[:, view], item, share * weight)
            rows = self._distinct(item)
            opened = rows[answers.open_rows.take(rows)]
            answers.rank(NEIGHBOURS + view, opened, self.neighbour_sums[:, view].take(opened))
            touched.append(rows)
        self._neighbours_touched = np.concatenate(touched)

    def _ask_links(self, moment: Moment, answers: Answers) -> None:
        profile, source, length = moment.profile, VIEWS, len(moment.profile.rows)
        for name, table in self.views.items():
            views = table.shape[1]
            depth = length if np.isinf(max(VIEW_TAUS[name])) else min(length, int(max(VIEW_TAUS[name]) * TAUS_MAX))
            weights = table[:length]
            if name == "cooccurrence":
                weights = weights.copy()
                weights[:, SIGNED_VIEW] *= np.where(profile.weights == 0, NEUTRAL_WEIGHT, profile.weights)
            elif name == "similar":
                depth = length
                weights = np.column_stack([weights, moment.difference, np.ones(length, np.float32)])
            starts, item, weight = gather(self.catalogue.matrices[name], profile.rows[:depth])
            add_links(self.sums[name], starts, item, weight, weights[:depth])
            touched = self._distinct(item)
            opened = touched[answers.open_rows.take(touched)]
            self.links[name] = Links(starts, item, weight, touched, opened)
            sums = np.ascontiguousarray(self.sums[name].take(opened, axis=0).T)
            for view in range(views):
                answers.rank(source + view, opened, sums[view])
            source += views

    def _distinct(self, rows: I32) -> I32:
        """Each row once, ascending: few by sorting, many through a table of marks."""
        if len(rows) * 8 < len(self._marks):
            ordered = np.sort(rows)
            distinct: I32 = ordered[np.concatenate((ordered[:1] >= 0, ordered[1:] != ordered[:-1]))]
            return distinct
        self._marks[rows] = True
        distinct = self._marks.nonzero()[0].astype(np.int32)
        self._marks[distinct] = False
        return distinct

    def _taste(self, profile: Profile) -> F32 | None:
        liked = np.flatnonzero(profile.weights > 0)
        if not len(liked):
            return None
        vectors = self.catalogue.content.take(profile.rows[liked], axis=0)
        # Rows are added in order, one after another, as the engine does.
        taste = np.stack([vectors.sum(axis=0), (vectors * self._recent[liked][:, None]).sum(axis=0)])
        norm = np.sqrt(np.add.accumulate(taste * taste, axis=1)[:, -1:])
        return None if norm.min() <= 1e-12 else np.divide(taste, norm, dtype=np.float32)

    def _popular(self, surface: str) -> list[Popular]:
        kinds = self.catalogue.popular
        return [self.catalogue.surfaces.get(surface, kinds[0]), *kinds[1:]]

    def _ask_popular(self, moment: Moment, answers: Answers) -> None:
        """The best rows of each kind are known; what the user has seen is dropped from their beginning."""
        enough = RANKS_MAX + len(moment.profile.seen)
        for source, kind in enumerate(self._popular(moment.surface), POPULAR):
            rows = kind.rows[:enough]
            if np.count_nonzero(answers.open_rows.take(rows)) < RANKS_MAX:
                rows = kind.rows
            answers.keep(source, rows, kind.score.take(rows))

    def _ask_fresh(self, moment: Moment, answers: Answers) -> None:
        """Only items of the last thirty days can be fresh: one slice of the order of creation."""
        now_ms, created = moment.now_ms, self.catalogue.created_sorted_ms
        since, until = np.searchsorted(created, [now_ms - float(FRESH_DAYS) * DAY_MS, now_ms + 1.0])
        rows = self.catalogue.created_order[since:until]
        rows = np.sort(rows[answers.open_rows.take(rows)])
        answers.rank(FRESH, rows, self._freshness(rows, now_ms))

    def _freshness(self, rows: I32, now_ms: int) -> F32:
        days = (now_ms - self.catalogue.created_ms.take(rows)) / DAY_MS
        left = np.float32(1.0) - days.astype(np.float32) / FRESH_DAYS
        left = np.where(days >= 0, np.clip(left, 0.0, 1.0), np.float32(0.0))
        scores: F32 = left / (np.float32(1.0) + self.catalogue.events.take(rows) / CHANCES)
        return scores


def _zero(sums: F32, rows: I32) -> None:
    """sums[rows] = 0; with a row as one element, which numpy writes in half the time."""
    whole = np.dtype((np.void, sums.itemsize * sums.shape[1]))
    np.put(sums.view(whole).ravel(), rows, np.zeros(1, whole))


def gather(matrix: Matrix, rows: I32) -> tuple[I32, I32, F32]:
    """The entries of several rows, one row after another: (where each row begins and all end, items, weights)."""
    starts = np.zeros(len(rows) + 1, dtype=np.int32)
    (matrix.offsets[rows + 1] - matrix.offsets[rows]).cumsum(out=starts[1:])
    item, weight = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    sparse.csr_row_index(len(rows), rows, matrix.offsets, matrix.item, matrix.weight, item, weight)
    return starts, item, weight


def add_links(sums: F32, starts: I32, item: I32, weight: F32, weights: F32) -> None:
    """sums[item] += weight x weights[row], row after row, for all views in one pass of scipy's compiled code."""
    sparse.csc_matvecs(
        *(len(sums), len(weights), sums.shape[1], starts, item, weight),
        *(np.ascontiguousarray(weights).ravel(), sums.ravel()),
    )
