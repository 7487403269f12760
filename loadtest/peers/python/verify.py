"""Compares the peer with Marquee, in process: every feature column of every candidate, and the order.

    verify.py --state FILE --users N     a state file of `bench.py`: where Marquee listens, what the peer reads

Marquee is asked with EXPLAIN_LEVEL_FULL for all its candidates; the peer ranks the same user at the same moment.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np

import engine
import features
import profiles
import wire
from catalogue import F32

COUNT_MAX = 500


def main() -> None:
    """Prints one line a column, then what differs in the order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--setup", type=Path, required=True)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--users", type=int, default=100)
    asked = parser.parse_args()
    peer = engine.load(engine.Setup.read(asked.setup))()
    export = profiles.Export(asked.export, peer.catalogue)
    worst = np.zeros(len(features.COLUMNS))
    sets = orders = 0
    connection = wire.Grpc(wire.connect(asked.port))
    users = export.draw(asked.users, seed=1)
    for user in users:
        answer = ask(connection, export.keys[user].removeprefix("u:"))
        slate = peer.recommend(export.profile(user), answer.now_ms, "default", COUNT_MAX)
        mine = {peer.catalogue.ids[row]: at for at, row in enumerate(slate.candidates)}
        common = [at for at, item in enumerate(answer.items) if item in mine]
        sets += set(mine) != set(answer.items)
        orders += [peer.catalogue.ids[row] for row in slate.rows] != answer.items
        theirs = np.array([[answer.features[at][name] for name in features.COLUMNS] for at in common])
        ours = slate.matrix[[mine[answer.items[at]] for at in common]]
        worst = np.maximum(worst, differences(theirs, ours))
    for name, difference in zip(features.COLUMNS, worst, strict=True):
        print(f"{name:36} {difference:.2e}")
    print(f"{len(users)} users: {sets} with other candidates, {orders} in another order")


def ask(connection: wire.Grpc, user: str) -> wire.Answer:
    """All candidates of one user with their features."""
    connection.ask(wire.recommend_request(user, COUNT_MAX, bypass_cache=True, explain=True))
    while (body := connection.take()) is None:
        pass
    return wire.recommend_answer(body)


def differences(theirs: F32, ours: F32) -> F32:
    """The largest difference of each column; infinite where one side knows and the other does not."""
    unknown = np.isnan(theirs) != np.isnan(ours)
    apart = np.where(unknown, math.inf, np.nan_to_num(np.abs(theirs - ours)))
    largest: F32 = apart.max(axis=0, initial=0.0)
    return largest


if __name__ == "__main__":
    main()
