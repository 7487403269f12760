"""Compares the peer's feature columns and candidates with Marquee's: `bench.py --columns USERS`.

Marquee is asked with EXPLAIN_LEVEL_FULL for all its candidates; the peer ranks the same user at the same moment, in
this process.
"""

from __future__ import annotations

import math

import numpy as np

import features
import load
import profiles
import wire
from catalogue import F32
from engine import Engine

COUNT_MAX = 500


def columns(peer: Engine, export: profiles.Export, users: list[int], port: int) -> str:
    """One line a column with the largest difference of any value; then what differs in candidates and order."""
    worst = np.zeros(len(features.COLUMNS))
    sets = orders = rows = 0
    connection = wire.Grpc(wire.connect(port))
    for user in users:
        name = export.keys[user].removeprefix("u:")
        request = wire.recommend_request(name, COUNT_MAX, bypass_cache=True, explain=True)
        answer = wire.recommend_answer(load.answers(connection, [request])[0])
        slate = peer.recommend(export.profile(user), answer.now_ms, "default", COUNT_MAX)
        mine = {peer.catalogue.ids[row]: at for at, row in enumerate(slate.candidates)}
        common = [at for at, item in enumerate(answer.items) if item in mine]
        rows += len(common)
        sets += set(mine) != set(answer.items)
        orders += [peer.catalogue.ids[row] for row in slate.rows] != answer.items
        theirs = np.array([[answer.features[at][name] for name in features.COLUMNS] for at in common], np.float32)
        worst = np.maximum(worst, differences(theirs, slate.matrix[[mine[answer.items[at]] for at in common]]))
    lines = [f"{name:36} {difference:.1e}" for name, difference in zip(features.COLUMNS, worst, strict=True)]
    equal = int(np.count_nonzero(worst == 0.0))
    return "\n".join(
        [
            *lines,
            f"{equal} of {len(worst)} columns equal in every bit, over {rows} candidates of {len(users)} users",
            f"{sets} users with other candidates, {orders} with another order of all of them",
        ]
    )


def differences(theirs: F32, ours: F32) -> F32:
    """The largest difference of each column; infinite where one side knows and the other does not."""
    unknown = np.isnan(theirs) != np.isnan(ours)
    apart = np.where(unknown, math.inf, np.nan_to_num(np.abs(theirs - ours)))
    largest: F32 = apart.max(axis=0, initial=0.0)
    return largest
