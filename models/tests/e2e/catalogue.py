"""A made-up catalogue whose taste is known, in the layout of docs/data.md: what an installation would import.

Six kinds of films; each user mostly watches one kind, and likes what they watch of it. Films of a kind come in a fixed
order that users follow now and then, so that there are transitions to learn. A few rows are wrong on purpose.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

KINDS = ("Western", "Comedy", "Horror", "Musical", "Noir", "Space")
ITEMS_OF_KIND = 40
USERS = 160
EVENTS_OF_USER = 40
START_MS = 1_704_067_200_000
# Rows that an import must refuse, each for a reason of its own.
BAD_EVENTS = (
    {"id": "bad-1", "user_id": "u1", "item_id": "i1", "type": "rating", "value": "nan", "time_ms": START_MS},
    {"id": "bad-2", "user_id": "", "item_id": "i1", "type": "rating", "value": "4", "time_ms": START_MS},
    {"id": "bad-3", "user_id": "u1", "item_id": "i1", "type": "rating", "value": "4", "time_ms": "yesterday"},
)
COLUMNS = ("id", "user_id", "item_id", "type", "value", "time_ms")


def write(folder: Path) -> int:
    """Writes items.jsonl, users.csv and events.csv; answers the number of good events."""
    draw = random.Random(1)
    folder.mkdir(parents=True)
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for number in range(len(KINDS) * ITEMS_OF_KIND):
            kind = KINDS[number % len(KINDS)]
            item = {
                "id": f"i{number}",
                "title": f"{kind} {number // len(KINDS)}",
                "year": 1960 + number % 60,
                "genres": [kind],
                "cast": [f"{kind} actor {number % 7}", f"actor {number % 11}"],
                "directors": [f"{kind} director {number % 3}"],
                "text": f"A {kind.lower()} film, number {number}.",
                "attributes": {"minutes": 80 + number % 60},
            }
            file.write(json.dumps(item) + "\n")
    with (folder / "users.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "attr.age"])
        rows.writerows([f"u{user}", 18 + user % 60] for user in range(USERS))
    events = _events(draw)
    with (folder / "events.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(events)
        table.writerows(BAD_EVENTS)
    return len(events)


def _events(draw: random.Random) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    places = [draw.randrange(ITEMS_OF_KIND) for _ in range(USERS)]
    seen: list[set[int]] = [set() for _ in range(USERS)]
    for step in range(EVENTS_OF_USER):
        for user in range(USERS):
            own = draw.random() < 0.8
            kind = user % len(KINDS) if own else draw.randrange(len(KINDS))
            places[user] = (places[user] + 1) % ITEMS_OF_KIND if draw.random() < 0.7 else _early(draw)
            item = places[user] * len(KINDS) + kind
            if item in seen[user]:
                continue
            seen[user].add(item)
            at = START_MS + (step * USERS + user) * 600_000
            value = draw.choice((4, 5)) if kind == user % len(KINDS) else draw.choice((1, 2, 3, 4))
            row = {"id": f"e{user}-{step}", "user_id": f"u{user}", "item_id": f"i{item}", "type": "rating"}
            events.append({**row, "value": value, "time_ms": at})
    return events


def _early(draw: random.Random) -> int:
    """Some films are more popular than others."""
    return min(int(draw.expovariate(0.1)), ITEMS_OF_KIND - 1)
