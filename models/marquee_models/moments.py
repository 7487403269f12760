"""The moments of an evaluation, with what each user had done strictly before: what a baseline may look at.

`marquee evaluate --moments-out` writes them, so baselines and engine answer the same questions from the same past.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from marquee_models import arrays, prepare
from marquee_models.arrays import F32, F64, I64, U32, Bools
from marquee_models.prepare import Prepared


@dataclass(frozen=True)
class Moments:
    """Questions in file order. Profiles as CSR: distinct items by latest interaction, newest first."""

    items: int
    user: U32
    time_ms: I64
    offsets: I64
    item: U32
    weight: F32

    def __len__(self) -> int:
        return len(self.user)

    def part(self, start: int, stop: int) -> Moments:
        """Some of the questions, in order."""
        entries = slice(int(self.offsets[start]), int(self.offsets[stop]))
        return Moments(
            self.items,
            self.user[start:stop],
            self.time_ms[start:stop],
            self.offsets[start : stop + 1] - self.offsets[start],
            self.item[entries],
            self.weight[entries],
        )

    def positions(self) -> I64:
        """For every profile entry its distance from the newest one: 0, 1, 2 ..."""
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return np.arange(len(self.item)) - starts

    def matrix(self, weight: F64 | None = None) -> sp.csr_matrix:
        """Questions by items: `weight` of every profile entry, or 1."""
        values = np.ones(len(self.item), np.float32) if weight is None else weight.astype(np.float32)
        return sp.csr_matrix((values, self.item.astype(np.int64), self.offsets), shape=(len(self), self.items))


def read(path: Path, items: int) -> Moments:
    """A file with `user`, `time_ms` and the profiles: `offsets`, `item`, `weight`, oldest first, repeats allowed."""
    wanted = {"user": "uint32", "time_ms": "int64", "offsets": "int64", "item": "uint32", "weight": "float32"}
    found = arrays.load(path, wanted)
    arrays.require(bool((found["item"] < items).all()), path, "item", f"points beyond row {items - 1}")
    question = np.repeat(np.arange(len(found["user"])), np.diff(found["offsets"]))
    return _newest_first(items, found["user"], found["time_ms"], question, found["item"], found["weight"])


def from_log(user: U32, time_ms: I64, log: Prepared) -> Moments:
    """The same from a log whose user rows `user` speaks of: interactions strictly before each moment."""
    order = np.flatnonzero(log.interaction)
    order = order[np.argsort(log.user[order], kind="stable")]
    log_user, log_time = log.user[order], log.time_ms[order]
    # Users and moments as one sorted key: times are packed by their rank.
    times = np.unique(log_time)
    key = log_user.astype(np.int64) * (len(times) + 1) + np.searchsorted(times, log_time)
    start = np.searchsorted(log_user, user, side="left")
    stop = np.searchsorted(key, user.astype(np.int64) * (len(times) + 1) + np.searchsorted(times, time_ms), side="left")
    length = np.maximum(stop - start, 0)
    question = np.repeat(np.arange(len(user)), length)
    first = np.cumsum(length) - length
    entry = order[np.arange(len(question)) - np.repeat(first, length) + np.repeat(start, length)]
    return _newest_first(log.items, user, time_ms, question, log.item[entry], log.weight[entry])


def _newest_first(items: int, user: U32, time_ms: I64, question: I64, item: U32, weight: F32) -> Moments:
    """Reverses each profile and keeps the newest entry of every item."""
    backwards = np.arange(len(question))[::-1]
    backwards = backwards[np.argsort(question[backwards], kind="stable")]
    pair = question[backwards] * items + item[backwards]
    _, first = np.unique(pair, return_index=True)
    kept = backwards[np.sort(first)]
    counts = np.bincount(question[kept], minlength=len(user))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Moments(items, user, time_ms, offsets, item[kept], weight[kept])


def seen_mask(moments: Moments) -> Bools:
    """Questions by items: what must not be answered."""
    mask = np.zeros((len(moments), moments.items), dtype=bool)
    question = np.repeat(np.arange(len(moments)), np.diff(moments.offsets))
    mask[question, moments.item] = True
    return mask


def log_on_rows_of(log_export: Path, fit_export: Path) -> Prepared:
    """Events of a longer export by the item rows of another; events of items that are not in it are left out."""
    rows = {name: row for row, name in enumerate(prepare.ids(fit_export / "items.jsonl"))}
    row_of = np.array([rows.get(name, -1) for name in prepare.ids(log_export / "items.jsonl")], dtype=np.int64)
    events = arrays.load(log_export / "events.safetensors", prepare.EVENTS)
    item = row_of[events["item"]]
    known = item >= 0
    return Prepared(
        items=len(rows),
        users=len(prepare.ids(log_export / "users.jsonl")),
        user=events["user"][known],
        item=item[known].astype(np.uint32),
        weight=events["weight"][known],
        rating=events["rating"][known],
        seen=events["seen"][known] != 0,
        interaction=events["interaction"][known] != 0,
        time_ms=events["time_ms"][known],
    )
