"""The feature matrix, column by column over all candidates at once. Definitions: `engine/src/feature`."""

from __future__ import annotations

import numpy as np

from catalogue import DAY_MS, F32, I32, Bools, Catalogue
from moment import USER_PRIOR, Moment
from sources import LINK_ITEMS, NAMES, RANKS_MAX, Found, Links, Sources, recency

RECENT_ITEMS = 10
RECENT_PRIOR = np.float32(2.0)
GENRE_PRIOR = np.float32(5.0)
LINK_PRIOR = np.float32(0.5)
HOUR_MS = 3_600_000
YEAR_DAYS = 365.25
OF_SOURCES = 2 * len(NAMES)
FEATURES = (
    *("item:rating", "item:positive_rate", "item:positive_rate_week", "item:percentile", "item:trend_week"),
    *("item:trend_day", "item:age", "item:release_age", "item:genres", "user:items", "user:rating"),
    *("user:positive_share", "user:positive_share_recent", "user:percentile_recent", "affinity:percentile"),
    *("affinity:year", "affinity:year_distance", "affinity:year_last", "affinity:genre_rating"),
    *("affinity:genre_share", "affinity:genre_share_recent", "affinity:genre_last", "affinity:similar_rating"),
    *("affinity:similar_links", "affinity:people", "sequence:cooccurrence", "sequence:transition"),
    *("sequence:cooccurrence_position", "sequence:transition_position", "context:gap", "context:burst"),
    *("context:tenure", "context:hour"),
)
COLUMNS = [f"{kind}:{name}" for name in NAMES for kind in ("score", "rank")] + list(FEATURES)
PLACE = {name: OF_SOURCES + at for at, name in enumerate(FEATURES)}
PERCENTILE = 3
RANK_VALUES: F32 = np.log2(np.arange(RANKS_MAX, dtype=np.float64) + 2.0).astype(np.float32)


class Features:
    """Fills the matrix. Holds scratch memory: one for each worker, one request at a time."""

    def __init__(self, catalogue: Catalogue) -> None:
        if catalogue.columns != COLUMNS:
            raise SystemExit("the bundle's feature columns are not those that the peer computes")
        self.catalogue = catalogue
        items = len(catalogue.ids)
        self._place: I32 = np.full(items, -1, np.int32)
        self._strongest: F32 = np.zeros(items, np.float32)
        self._position: F32 = np.zeros(items, np.float32)
        self._people: F32 = np.zeros(catalogue.people_numbers + 1, np.float32)
        self._recent = recency(float(RECENT_ITEMS))

    def matrix(self, moment: Moment, sources: Sources, found: Found, rows: I32, shares: F32) -> F32:
        """[candidates, columns]. `shares` are the sources' scores over their best, [sources, candidates]."""
        columns = np.full((len(COLUMNS), len(rows)), np.nan, dtype=np.float32)
        columns[0:OF_SOURCES:2] = shares
        self._ranks(columns, found, rows)
        self._items(columns, moment, rows)
        self._user(columns, moment)
        self._affinity(columns, moment, rows)
        self._genres(columns, moment, rows)
        self._similar(columns, sources, rows)
        self._people_of(columns, moment, rows)
        self._strongest_links(columns, "cooccurrence", sources.links["cooccurrence"], moment, rows)
        self._strongest_links(columns, "transition", sources.links["transitions"], moment, rows)
        self._context(columns, moment)
        columns[~np.isfinite(columns)] = np.nan
        return np.ascontiguousarray(columns.T)

    def _ranks(self, columns: F32, found: Found, rows: I32) -> None:
        self._place[rows] = np.arange(len(rows), dtype=np.int32)
        lengths = [len(ranked) for ranked in found.ranked]
        at = self._place.take(np.concatenate(found.ranked))
        kept = np.flatnonzero(at >= 0)
        source = np.repeat(np.arange(1, OF_SOURCES, 2), lengths)[kept]
        values = np.concatenate([RANK_VALUES[:length] for length in lengths])[kept]
        columns[source, at[kept]] = values
        self._place[rows] = -1

    def _items(self, columns: F32, moment: Moment, rows: I32) -> None:
        catalogue, first = self.catalogue, PLACE["item:rating"]
        columns[first : first + 6] = catalogue.fixed.take(rows, axis=1)
        days = np.maximum((moment.now_ms - catalogue.first_ms.take(rows)) / DAY_MS, 0.0)
        columns[PLACE["item:age"]] = np.log1p(days.astype(np.float32))
        released = catalogue.year.take(rows).astype(np.float64)
        columns[PLACE["item:release_age"]] = 1970.0 + moment.now_ms / DAY_MS / YEAR_DAYS - released
        columns[PLACE["item:genres"]] = catalogue.genre_count.take(rows)

    def _user(self, columns: F32, moment: Moment) -> None:
        catalogue, profile = self.catalogue, moment.profile
        liked = profile.weights > 0

        def positive(past: Bools, prior: np.float32) -> np.float32:
            count = np.float32(np.count_nonzero(past))
            return (count + catalogue.positive_share * prior) / (np.float32(len(past)) + prior)

        columns[PLACE["user:items"]] = np.log1p(np.float32(len(profile.rows)))
        columns[PLACE["user:rating"]] = moment.user_mean if moment.rated else np.nan
        columns[PLACE["user:positive_share"]] = positive(liked, USER_PRIOR)
        columns[PLACE["user:positive_share_recent"]] = positive(liked[:RECENT_ITEMS], RECENT_PRIOR)
        columns[PLACE["user:percentile_recent"]] = mean(catalogue.fixed[PERCENTILE, profile.rows[:RECENT_ITEMS]])

    def _affinity(self, columns: F32, moment: Moment, rows: I32) -> None:
        catalogue, profile = self.catalogue, moment.profile
        recent = catalogue.year[profile.rows[:RECENT_ITEMS]]
        year = catalogue.year.take(rows)
        columns[PLACE["affinity:percentile"]] = (
            columns[PLACE["item:percentile"]] - columns[PLACE["user:percentile_recent"]]
        )
        columns[PLACE["affinity:year"]] = year - mean(recent[~np.isnan(recent)])
        columns[PLACE["affinity:year_distance"]] = np.abs(columns[PLACE["affinity:year"]])
        if len(profile.rows):
            columns[PLACE["affinity:year_last"]] = np.abs(year - catalogue.year[profile.rows[0]])

    def _genres(self, columns: F32, moment: Moment, rows: I32) -> None:
        """Sums by genre over the profile as one small table; then one look-up for all candidates' genres."""
        catalogue, profile = self.catalogue, moment.profile
        width, length = catalogue.genre_numbers + 1, len(profile.rows)
        past = catalogue.genres[profile.rows]
        weights = self._recent[:length]
        # Added up in single precision, one after another, as the engine does.
        table = np.zeros((4, width), np.float32)
        np.add.at(table[0], past, moment.difference[:, None])
        np.add.at(table[1], past, np.float32(1.0))
        np.add.at(table[2], past, weights[:, None])
        table[0] /= table[1] + GENRE_PRIOR
        if length:
            table[1] /= np.float32(length)
            table[2] /= weights.cumsum()[-1]
            table[3, past[0]] = 1.0
        table[:, -1] = 0.0
        genres, number = catalogue.genres.take(rows, axis=0), catalogue.genre_count.take(rows)
        sums = table.take(genres, axis=1).sum(axis=2)
        with np.errstate(invalid="ignore", divide="ignore"):
            first = PLACE["affinity:genre_rating"]
            columns[first : first + 3] = sums[:3] / number
            if length:
                last = catalogue.genre_count[profile.rows[0]]
                columns[PLACE["affinity:genre_last"]] = sums[3] / np.sqrt(number * last)

    def _similar(self, columns: F32, sources: Sources, rows: I32) -> None:
        sums = sources.sums["similar"].take(rows, axis=0)
        rated, links = sums[:, -2], sums[:, -1]
        columns[PLACE["affinity:similar_rating"]] = rated / (links + LINK_PRIOR)
        columns[PLACE["affinity:similar_links"]] = np.log1p(np.maximum(links, 0.0))

    def _people_of(self, columns: F32, moment: Moment, rows: I32) -> None:
        catalogue, profile = self.catalogue, moment.profile
        liked = catalogue.people[profile.rows[profile.weights > 0]].ravel()
        np.add.at(self._people, liked, np.float32(1.0))
        self._people[-1] = 0.0
        columns[PLACE["affinity:people"]] = np.log1p(self._people.take(catalogue.people.take(rows, axis=0)).sum(axis=1))
        self._people[liked] = 0.0

    def _strongest_links(self, columns: F32, name: str, links: Links, moment: Moment, rows: I32) -> None:
        """The strongest single link from the newest items; of equal ones that of the newer item."""
        ends = links.starts[: LINK_ITEMS + 1]
        item, weight = links.item[: ends[-1]], links.weight[: ends[-1]]
        position = np.repeat(np.arange(len(ends) - 1, dtype=np.float32), np.diff(ends))
        np.maximum.at(self._strongest, item, weight)
        # Backwards, so that the last one written, the newest item's, stays.
        first = np.flatnonzero(weight == self._strongest.take(item))[::-1]
        self._position[item[first]] = position[first]
        best = weight[moment.open_rows.take(item)].max(initial=np.float32(1e-9))
        strongest = self._strongest.take(rows)
        columns[PLACE[f"sequence:{name}"]] = strongest / best
        linked = np.where(strongest > 0, self._position.take(rows), np.float32(np.nan))
        columns[PLACE[f"sequence:{name}_position"]] = np.log1p(linked)
        self._strongest[item] = 0.0

    def _context(self, columns: F32, moment: Moment) -> None:
        profile, now_ms = moment.profile, moment.now_ms
        columns[PLACE["context:burst"]] = np.log1p(np.float32(np.count_nonzero(profile.times_ms > now_ms - HOUR_MS)))
        if len(profile.rows):
            newest, oldest = int(profile.times_ms[0]), int(profile.times_ms[-1])
            columns[PLACE["context:gap"]] = np.log1p(np.float32(max(now_ms - newest, 0)) / np.float32(1_000.0))
            columns[PLACE["context:tenure"]] = np.log1p(np.float32(max(now_ms - oldest, 0) / DAY_MS))


def mean(numbers: F32) -> np.float32:
    """The mean in single precision, one after another; NaN of nothing."""
    return np.float32(numbers.cumsum()[-1] / np.float32(len(numbers))) if len(numbers) else np.float32(np.nan)
