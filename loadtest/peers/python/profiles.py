"""Users' profiles: from the export of the log to the bytes that lie in Redis, and back.

What a good team would keep is kept: not the raw events but what ranking reads, each item of the profile once, newest
first, with its weight, rating and time, and the rows that were seen. See `engine/src/profile.rs` and `moment.rs`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catalogue import F32, I32, I64, Catalogue, read_arrays

EVENTS_MAX = 1_000
SEEN_BEFORE_MAX = 10_000


@dataclass(frozen=True)
class Profile:
    """One user. `own` is the user's row among the bundle's users, -1 when the bundle does not know them."""

    own: int
    rows: I32
    weights: F32
    ratings: F32
    times_ms: I64
    seen: I32


NOBODY = Profile(
    -1,
    np.empty(0, np.int32),
    np.empty(0, np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.int64),
    np.empty(0, np.int32),
)


def encode(profile: Profile) -> bytes:
    """A header of three numbers, then the columns as they lie in memory."""
    header = np.array([profile.own, len(profile.rows), len(profile.seen), 0], dtype=np.int32)
    columns = (header, profile.times_ms, profile.rows, profile.weights, profile.ratings, profile.seen)
    return b"".join(column.tobytes() for column in columns)


def decode(data: bytes) -> Profile:
    """Views into the bytes; nothing is copied."""
    own, length, seen, _ = np.frombuffer(data, np.int32, 4).tolist()
    at = 16 + 8 * length
    return Profile(
        own,
        np.frombuffer(data, np.int32, length, at),
        np.frombuffer(data, np.float32, length, at + 4 * length),
        np.frombuffer(data, np.float32, length, at + 8 * length),
        np.frombuffer(data, np.int64, length, 16),
        np.frombuffer(data, np.int32, seen, at + 12 * length),
    )


def id_hash(key: str) -> int:
    """FNV-1a, as the bundle's users are found."""
    found = 0xCBF2_9CE4_8422_2325
    for byte in key.encode():
        found = (found ^ byte) * 0x0000_0100_0000_01B3 & 0xFFFF_FFFF_FFFF_FFFF
    return found


class Export:
    """Profiles of known users out of the folder that `marquee export` wrote."""

    def __init__(self, folder: Path, catalogue: Catalogue) -> None:
        self.watermark = int(json.loads((folder / "export.json").read_text(encoding="utf-8"))["watermark"])
        self._catalogue = catalogue
        with (folder / "users.jsonl").open(encoding="utf-8") as lines:
            self.keys: list[str] = [json.loads(line)["id"] for line in lines]
        events, _ = read_arrays(folder / "events.safetensors")
        matters = (events["interaction"] > 0) | (events["seen"] > 0) | (events["weight"] != 0)
        chosen = np.flatnonzero(matters)
        # Stable: the export's order, by time and event id, stays within each user.
        chosen = chosen[np.argsort(events["user"][chosen], kind="stable")]
        self._events = {name: column[chosen] for name, column in events.items()}
        self._starts = np.searchsorted(self._events["user"], np.arange(len(self.keys) + 1))

    def draw(self, count: int, seed: int) -> list[int]:
        """So many users with a profile, by chance; user ids only, no anonymous visitors."""
        known = np.array([key.startswith("u:") for key in self.keys])
        rows = np.flatnonzero((np.diff(self._starts) > 0) & known)
        return [int(row) for row in np.random.default_rng(seed).permutation(rows)[:count]]

    def profile(self, user: int) -> Profile:
        """One user's profile."""
        mine = slice(int(self._starts[user]), int(self._starts[user + 1]))
        event = {name: column[mine][::-1] for name, column in self._events.items()}
        own = self._catalogue.user_of.get(id_hash(self.keys[user]), -1)
        newest = {name: column[:EVENTS_MAX] for name, column in event.items()}
        seen_now = np.unique(newest["item"][newest["seen"] > 0])
        older = event["item"][EVENTS_MAX:][event["seen"][EVENTS_MAX:] > 0]
        older = older[~np.isin(older, seen_now)]
        _, first = np.unique(older, return_index=True)
        seen_before = older[np.sort(first)[:SEEN_BEFORE_MAX]]
        touched = newest["interaction"] > 0
        item, weight = newest["item"][touched], newest["weight"][touched]
        rating, time_ms = newest["rating"][touched], newest["time_ms"][touched]
        order = np.sort(np.unique(item, return_index=True)[1])
        rows = item[order]
        return Profile(
            own=own,
            rows=rows.astype(np.int32),
            weights=_newest(item, weight, rows, weight != 0, 0.0),
            ratings=_newest(item, rating, rows, ~np.isnan(rating), np.nan),
            times_ms=time_ms[order].astype(np.int64),
            seen=np.concatenate([seen_now, seen_before]).astype(np.int32),
        )


def _newest(
    item: npt.NDArray[np.uint32], value: F32, rows: npt.NDArray[np.uint32], counts: npt.NDArray[np.bool_], absent: float
) -> F32:
    """For each of `rows` the newest value that counts."""
    found, first = np.unique(item[counts], return_index=True)
    values = np.full(len(rows), absent, dtype=np.float32)
    order = np.argsort(rows)
    places = order[np.searchsorted(rows[order], found)]
    values[places] = value[counts][first]
    return values
