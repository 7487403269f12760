"""Cleans the exported events: duplicates, clock skew, impossible watch times, bots. What fits read is written here.

`marquee import` and `RecordEvents` have already refused rows that are malformed; this step looks at what only shows
in the data as a whole. Every dropped event is counted by reason and kept in `quarantine.jsonl`. Rules are meant to
leave people alone, those too who rate hundreds of films within an hour: each limit is far beyond that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from marquee_models import arrays
from marquee_models.arrays import F32, I64, U32, Arrays, Bools

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

EVENTS = {
    "user": "uint32",
    "item": "uint32",
    "weight": "float32",
    "rating": "float32",
    "seen": "uint8",
    "interaction": "uint8",
    "time_ms": "int64",
}
# Written by newer exports: seconds watched, NaN when the event is none. Without it that one rule does not run.
WATCHED = "watched_seconds"


@dataclass(frozen=True)
class Config:
    """Limits beyond which an event is an error and not somebody's taste."""

    # Before this moment nothing is believed (1990-01-01).
    time_min_ms: int = 631_152_000_000
    # Later than the export by more than this is a wrong clock.
    skew_future_max_ms: int = DAY_MS
    # One film watched for longer than this is a stuck player.
    watched_seconds_max: float = 24 * 3600.0
    # More hours watched within one UTC day: several screens, but not a family's.
    watched_hours_per_day_max: float = 72.0
    # One user's events: one a second for an hour ...
    user_events_per_hour_max: int = 3_600
    # ... or this many in one UTC day ...
    user_events_per_day_max: int = 10_000
    # ... or some in each of this many hours on end: nobody stays awake for four days.
    user_hours_on_end_max: int = 96
    # The same user and item within a UTC day; the rest is a loop in somebody's client.
    repeats_per_day_max: int = 100


@dataclass(frozen=True)
class Prepared:
    """Clean events in (time, event id) order, by item row and user row of the export."""

    items: int
    users: int
    user: U32
    item: U32
    weight: F32
    rating: F32
    seen: Bools
    interaction: Bools
    time_ms: I64

    def until(self, time_ms: int) -> Prepared:
        """The events before `time_ms`."""
        end = int(np.searchsorted(self.time_ms, time_ms, side="left"))
        columns = ("user", "item", "weight", "rating", "seen", "interaction", "time_ms")
        return Prepared(self.items, self.users, *(getattr(self, name)[:end] for name in columns))

    def matrix(self, positive: bool = False) -> sp.csr_matrix:
        """Users by items: 1 where the user interacted with the item (positively, if asked), however often."""
        keep = self.interaction & (self.weight > 0) if positive else self.interaction
        ones = np.ones(int(keep.sum()), dtype=np.float32)
        matrix = sp.csr_matrix((ones, (self.user[keep], self.item[keep])), shape=(self.users, self.items))
        matrix.data[:] = 1.0
        return matrix


def drop_reasons(events: Arrays, created_ms: int, config: Config) -> tuple[npt.NDArray[np.int8], list[str]]:
    """For every event 0, or 1 + the index of the first rule that drops it; and the rules' names."""
    user, item, time_ms = events["user"], events["item"], events["time_ms"]
    day = time_ms // DAY_MS
    rules: list[tuple[str, Bools]] = [
        ("clock_too_early", time_ms < config.time_min_ms),
        ("clock_in_the_future", time_ms > created_ms + config.skew_future_max_ms),
        ("duplicate", _repeats_within(_columns(events), 1)),
    ]
    if WATCHED in events:
        watched = np.nan_to_num(events[WATCHED], nan=0.0)
        too_long = (watched < 0) | (watched > config.watched_seconds_max)
        rules.append(("impossible_watch_time", too_long))
        daily = _sum_by([user, day], np.where(too_long, 0.0, watched))
        rules.append(("bot_watches_more_than_a_day_holds", daily > config.watched_hours_per_day_max * 3600))
    hour = time_ms // HOUR_MS
    per_hour = _sum_by([user, hour], np.ones(len(user)))
    per_day = _sum_by([user, day], np.ones(len(user)))
    rules += [
        ("bot_events_per_hour", _whole_user(user, per_hour > config.user_events_per_hour_max)),
        ("bot_events_per_day", _whole_user(user, per_day > config.user_events_per_day_max)),
        ("bot_never_sleeps", _never_sleeps(user, hour, config.user_hours_on_end_max)),
        ("repeated_too_often", _repeats_within([user, item, day], config.repeats_per_day_max)),
    ]
    reason = np.zeros(len(user), dtype=np.int8)
    for index, (_, drop) in enumerate(rules):
        reason[(reason == 0) & drop] = index + 1
    return reason, [name for name, _ in rules]


def _columns(events: Arrays) -> list[npt.NDArray[np.int64]]:
    # Floats by their bits, so that NaN equals NaN.
    return [
        array.view(np.uint32).astype(np.int64) if array.dtype == np.float32 else array.astype(np.int64)
        for array in events.values()
    ]


def _groups(keys: Sequence[npt.NDArray[np.integer]]) -> tuple[I64, I64]:
    """A stable order that brings equal keys together, and the group number along that order."""
    order = np.lexsort([np.asarray(key) for key in reversed(keys)])
    changes = np.zeros(len(order), dtype=bool)
    for key in keys:
        sorted_key = np.asarray(key)[order]
        changes[1:] |= sorted_key[1:] != sorted_key[:-1]
    return order, np.cumsum(changes)


def _sum_by(keys: Sequence[npt.NDArray[np.integer]], values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """For every event the sum of `values` over the events of equal keys."""
    order, group = _groups(keys)
    result = np.empty(len(order), dtype=np.float64)
    if len(order):
        result[order] = np.bincount(group, weights=values[order])[group]
    return result


def _repeats_within(keys: Sequence[npt.NDArray[np.integer]], keep: int) -> Bools:
    """True for events beyond the first `keep` of equal keys."""
    order, group = _groups(keys)
    result = np.zeros(len(order), dtype=bool)
    if len(order):
        first = np.searchsorted(group, group, side="left")
        result[order] = np.arange(len(order)) - first >= keep
    return result


def _whole_user(user: U32, hit: Bools) -> Bools:
    """True for every event of a user who has one in `hit`."""
    return np.isin(user, np.unique(user[hit]))


def _never_sleeps(user: U32, hour: I64, on_end_max: int) -> Bools:
    """True for every event of a user who is active in more than `on_end_max` hours one after the other."""
    if len(user) == 0:
        return np.zeros(0, dtype=bool)
    pairs = np.unique(np.stack([user.astype(np.int64), hour]), axis=1)
    breaks = np.ones(pairs.shape[1], dtype=bool)
    breaks[1:] = (np.diff(pairs[0]) != 0) | (np.diff(pairs[1]) != 1)
    run = np.cumsum(breaks) - 1
    long_run = np.bincount(run) > on_end_max
    return np.isin(user, np.unique(pairs[0][long_run[run]]))


def prepare(export: Path, out: Path, config: Config) -> dict[str, int]:
    """Writes `events.safetensors`, `quarantine.jsonl` and `prepared.json` to `out`; answers the drops by reason."""
    about = json.loads((export / "export.json").read_text(encoding="utf-8"))
    path = export / "events.safetensors"
    wanted = dict(EVENTS)
    if WATCHED in arrays.names_in(path):
        wanted[WATCHED] = "float32"
    events = arrays.load(path, wanted)
    items, users = int(about["items"]), int(about["users"])
    _check(path, events, items, users)

    reason, names = drop_reasons(events, int(about["created_ms"]), config)
    counts = {name: int((reason == index + 1).sum()) for index, name in enumerate(names)}
    _write_quarantine(export, out / "quarantine.jsonl", events, reason, names)
    keep = reason == 0
    arrays.save_rows(out / "events.safetensors", {name: events[name][keep] for name in EVENTS})
    arrays.write_json(
        out / "prepared.json",
        {"items": items, "users": users, "events_in": len(keep), "events": int(keep.sum()), "dropped": counts},
    )
    return counts


def _check(path: Path, events: Arrays, items: int, users: int) -> None:
    lengths = {name: array.shape for name, array in events.items()}
    arrays.require(len(set(lengths.values())) == 1, path, "events", f"arrays differ in length: {lengths}")
    arrays.require(bool((events["user"] < users).all()), path, "user", f"points beyond row {users - 1}")
    arrays.require(bool((events["item"] < items).all()), path, "item", f"points beyond row {items - 1}")
    arrays.require(bool((np.diff(events["time_ms"]) >= 0).all()), path, "time_ms", "is not in order of time")
    arrays.require(bool(np.isfinite(events["weight"]).all()), path, "weight", "holds a number that is not finite")


def _write_quarantine(export: Path, path: Path, events: Arrays, reason: npt.NDArray[np.int8], names: list[str]) -> None:
    dropped = np.flatnonzero(reason)
    item_ids = ids(export / "items.jsonl") if len(dropped) else []
    user_ids = ids(export / "users.jsonl") if len(dropped) else []
    lines = [
        json.dumps(
            {
                "reason": names[reason[row] - 1],
                "user": user_ids[events["user"][row]],
                "item": item_ids[events["item"][row]],
                "time_ms": int(events["time_ms"][row]),
            },
            ensure_ascii=False,
        )
        for row in dropped
    ]
    arrays.write_text(path, "".join(line + "\n" for line in lines))


def ids(path: Path) -> list[str]:
    """The `id` of every line of a JSON lines file; the line number is the row."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["id"] for line in lines]


def read(directory: Path) -> Prepared:
    """What `prepare` wrote."""
    about = json.loads((directory / "prepared.json").read_text(encoding="utf-8"))
    events = arrays.load(directory / "events.safetensors", EVENTS)
    return Prepared(
        items=about["items"],
        users=about["users"],
        user=events["user"],
        item=events["item"],
        weight=events["weight"],
        rating=events["rating"],
        seen=events["seen"] != 0,
        interaction=events["interaction"] != 0,
        time_ms=events["time_ms"],
    )


def main() -> None:
    """`python -m marquee_models.prepare EXPORT OUT`"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("export", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    for name, count in prepare(arguments.export, arguments.out, Config()).items():
        print(f"{count:>10,}  {name}")


if __name__ == "__main__":
    main()
