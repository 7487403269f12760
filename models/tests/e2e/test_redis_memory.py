"""What a user takes in Redis: many users with real people's histories, each asked for; then Redis tells of each key."""

from __future__ import annotations

import csv
import itertools
import os
import random
import statistics
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from testkit.servers.redis import Redis

from tests.e2e.house import House

# `make bench-redis-memory` takes 100,000.
USERS = int(os.environ.get("MARQUEE_MEMORY_USERS", "150"))
MANY = 10_000_000
SEED = 1
# Users in one import: it sorts their events in memory.
USERS_AT_ONCE = 10_000
ASKING_THREADS = 8
WRITTEN_S_MAX = 60.0
# Without a bundle, a server that starts reads the whole log: seventeen million events of 100,000 users.
START_S_MAX = 900.0
# Of the made-up users whose histories are taken where there are no real ones.
MADE_UP = ("--items", "500", "--users", "300")

# What the config promises.
SLATES_PER_USER = 4
VALUE_BYTES_MAX = 64 * 1024
TTL_MS = 3_600_000
TTL_JITTER = 0.25
PROFILE_EVENTS_MAX = 1_000
PROFILE_SEEN_MAX = 10_000
# Of a profile's value (server/src/profile/value.rs), at most: its head; of an event its time, flags, weight, rating and
# the length of the item's id; of a seen item the length of its id.
HEAD_BYTES_MAX = 2 + 8 + 3 * 10 + 10
EVENT_BYTES_MAX = 10 + 1 + 4 + 4 + 2
SEEN_BYTES_MAX = 2
# So many other questions of so many users: each place of a user is taken then, but for one user in a million.
QUESTIONS = 64
FULL_USERS_MAX = 50

# One step of a scan: for each key its bytes with everything, its rest of life, its fields, the bytes of each.
LOOK = """
local found = redis.call('SCAN', ARGV[1], 'COUNT', 500)
local rows = {}
for at, key in ipairs(found[2]) do
  local row = {key, redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0'), redis.call('PTTL', key)}
  row[4], row[5] = redis.call('HLEN', key), redis.call('HSTRLEN', key, 'p')
  for place = 0, ARGV[2] - 1 do row[6 + place] = redis.call('HSTRLEN', key, 's' .. place) end
  rows[at] = row
end
return {found[1], rows}
"""


@dataclass(frozen=True)
class Histories:
    """Of each user what comes after the ids in a row of events.csv, oldest first; and of what they are told."""

    of: str
    rows: list[list[str]]
    item_bytes_max: int


@dataclass(frozen=True)
class Key:
    """What Redis tells of one user's key."""

    name: str
    memory: int
    ttl_ms: int
    fields: int
    profile: int
    slates: tuple[int, ...]

    @property
    def overhead(self) -> int:
        """What is neither profile nor slate."""
        return self.memory - self.profile - sum(self.slates)


def _histories(of: str, events: Iterable[tuple[str, str, str, int]]) -> Histories:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    longest = 0
    for user, item, stars, time_ms in events:
        longest = max(longest, len(item.encode()))
        found[user].append((time_ms, f"{item},rating,{stars},{time_ms}"))
    return Histories(of, [[row for _, row in sorted(rows)] for rows in found.values()], longest)


def _real(data: Path) -> Histories:
    with (data / "ratings.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        return _histories(
            data.name, ((row["userId"], row["movieId"], row["rating"], int(row["timestamp"]) * 1_000) for row in rows)
        )


def _made_up(folder: Path) -> Histories:
    with (folder / "events.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        events = ((row["user_id"], row["item_id"], row["value"], int(row["time_ms"])) for row in rows)
        return _histories("made-up users (MARQUEE_DATA is not set)", events)


def _originals(house: House) -> Histories:
    """Imports a data set as it is, for its items, and gives its users' histories."""
    if data := os.environ.get("MARQUEE_DATA"):
        folder = Path(data).absolute() / "ml-latest-small"
        house.run("import", "--layout", "movielens", folder)
        return _real(folder)
    house.run("generate", *MADE_UP, "--out", house.folder / "made-up", program="marquee-loadtest")
    house.run("import", "--layout", "marquee", house.folder / "made-up" / "import")
    return _made_up(house.folder / "made-up" / "import")


def _resample(house: House, histories: Histories) -> dict[str, int]:
    """Imports as many new users, each with somebody's history; how many events each has. The longest is among them."""
    chance = random.Random(SEED)
    users: dict[str, int] = {}
    longest = max(histories.rows, key=len)
    drawn = itertools.chain([longest], (chance.choice(histories.rows) for _ in range(USERS - 1)))
    # As long as the ids of many apps.
    people = ((str(uuid.UUID(int=chance.getrandbits(128), version=4)), rows) for rows in drawn)
    path = house.folder / "events.csv"
    while some := list(itertools.islice(people, USERS_AT_ONCE)):
        with path.open("w", encoding="utf-8") as file:
            file.write("id,user_id,item_id,type,value,time_ms\n")
            for user, rows in some:
                file.writelines(f"{user}.{at},{user},{row}\n" for at, row in enumerate(rows))
        house.run("import", "--layout", "marquee", path)
        users.update((user, len(rows)) for user, rows in some)
    path.unlink()
    return users


def _ask(service: Any, questions: Iterable[tuple[str, str]]) -> None:
    """Each visitor's question once; each is ranked anew, and lacks no more than the model that there is not."""

    def one(question: tuple[str, str]) -> None:
        answer = service.Recommend(user_id=question[0], surface=question[1])
        lacking = {part.what for part in answer.degraded.parts}
        assert answer.results and lacking <= {"ranker"}, f"{question}: {lacking}"
        status = answer.DESCRIPTOR.fields_by_name["cache_status"].enum_type.values_by_number[answer.cache_status].name
        assert status == "CACHE_STATUS_MISS", f"{question}: {status}"

    with ThreadPoolExecutor(ASKING_THREADS) as pool:
        todo = iter(questions)
        while some := list(itertools.islice(todo, 1_000)):
            list(pool.map(one, some))


def _info(redis: Redis, section: str) -> dict[str, str]:
    lines = str(redis.command("INFO", section)).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _keys(redis: Redis) -> Iterator[Key]:
    cursor, told = "0", set()
    while True:
        found = cast(list[Any], redis.command("EVAL", LOOK, "0", cursor, str(SLATES_PER_USER)))
        for name, memory, ttl_ms, fields, profile, *slates in found[1]:
            # A scan may tell of a key twice.
            if name not in told:
                told.add(name)
                yield Key(name, memory, ttl_ms, fields, profile, tuple(slates))
        cursor = str(found[0])
        if cursor == "0":
            return


def _wait(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WRITTEN_S_MAX
    while not holds():
        assert time.monotonic() < until, f"{what} within {WRITTEN_S_MAX:.0f} s"
        time.sleep(0.1)


def _check(keys: list[Key], users: dict[str, int], histories: Histories) -> None:
    """Every key is one of ours, goes by itself, and is inside the bounds of the config."""
    for key in keys:
        events = users[key.name.removeprefix("mq:default:0:{u:").removesuffix("}")]
        assert 0 < key.ttl_ms <= TTL_MS * (1 + TTL_JITTER), key
        slates = [length for length in key.slates if length]
        assert slates and key.fields == 1 + len(slates), f"there is more than a profile and the slates: {key}"
        assert 0 < key.profile <= VALUE_BYTES_MAX and max(slates) <= VALUE_BYTES_MAX, key
        seen = min(max(events - PROFILE_EVENTS_MAX, 0), PROFILE_SEEN_MAX)
        bound = HEAD_BYTES_MAX + min(events, PROFILE_EVENTS_MAX) * (EVENT_BYTES_MAX + histories.item_bytes_max)
        bound += seen * (SEEN_BYTES_MAX + histories.item_bytes_max)
        assert key.profile <= bound, f"{events} events take {key.profile} bytes, more than {bound}"


def _row(name: str, numbers: list[int]) -> str:
    ordered = sorted(numbers)
    at = [ordered[(len(ordered) - 1) * share // 100] for share in (50, 99, 100)]
    return f"{name:<34} {statistics.fmean(numbers):>9,.0f} {at[0]:>9,} {at[1]:>9,} {at[2]:>9,}"


def _table(keys: list[Key], slates: str) -> None:
    print(f"{'bytes a user, ' + slates:<34} {'mean':>9} {'median':>9} {'p99':>9} {'most':>9}")
    print(_row("profile", [key.profile for key in keys]))
    print(_row("slates", [sum(key.slates) for key in keys]))
    print(_row("key, fields, allocator", [key.overhead for key in keys]))
    print(_row("all of it (MEMORY USAGE)", [key.memory for key in keys]))


def test_what_a_user_takes_in_redis_is_bounded_and_goes_by_itself(binaries: Path, tmp_path: Path) -> None:
    redis = Redis(tmp_path / "redis", "--maxmemory", "0")
    settings = {
        "MARQUEE_CACHE__URL": redis.url,
        "MARQUEE_CACHE__REDIS_SLATES_PER_USER": str(SLATES_PER_USER),
        "MARQUEE_CACHE__REDIS_VALUE_MAX_BYTES": str(VALUE_BYTES_MAX),
        "MARQUEE_CACHE__REDIS_TTL_MS": str(TTL_MS),
        # A busy machine must not keep anything from being written.
        "MARQUEE_CACHE__RESPONSE_TIMEOUT_MS": "5000",
        "MARQUEE_LIMITS__PROFILE_EVENTS_MAX": str(PROFILE_EVENTS_MAX),
        "MARQUEE_LIMITS__PROFILE_SEEN_MAX": str(PROFILE_SEEN_MAX),
        "MARQUEE_SLATE_LOG__ENABLED": "false",
    }
    with redis:
        house = House(tmp_path, binaries, settings)
        histories = _originals(house)
        users = _resample(house, histories)
        empty = int(_info(redis, "memory")["used_memory"])
        with house.server(START_S_MAX) as server:
            service = server.service("RecommendationService")
            _ask(service, ((user, "home") for user in users))
            _wait(lambda: redis.command("DBSIZE") == USERS, f"{USERS} keys were not there")
            # Every key has an end.
            assert f"keys={USERS},expires={USERS}," in _info(redis, "keyspace")["db0"]
            used = int(_info(redis, "memory")["used_memory"]) - empty
            keys = list(_keys(redis))
            assert len(keys) == len(users) == USERS
            _check(keys, users, histories)
            assert {key.fields for key in keys} == {2}, "a profile and the slate that was asked for"

            some = list(users)[:FULL_USERS_MAX]
            _ask(service, ((user, f"place-{number}") for number in range(QUESTIONS) for user in some))
            names = {f"mq:default:0:{{u:{user}}}" for user in some}
            full_fields = 1 + SLATES_PER_USER
            _wait(
                lambda: all(redis.command("HLEN", name) == full_fields for name in names),
                f"not all of {SLATES_PER_USER} places were taken",
            )
            assert redis.command("DBSIZE") == USERS
            after = list(_keys(redis))
            _check(after, users, histories)
            full = [key for key in after if key.name in names]
    counts = sorted(users.values())
    print(f"\n{USERS:,} users with histories of {histories.of}: {len(histories.rows):,} different ones,")
    middle, mean = counts[len(counts) // 2], statistics.fmean(counts)
    print(f"median {middle}, mean {mean:.0f}, most {counts[-1]:,} events; ids of 36 bytes")
    _table(keys, "one slate")
    print(f"{'Redis as a whole, a user':<34} {used / USERS:>9,.0f}")
    _table(full, f"{SLATES_PER_USER} slates")
    before = {key.name: key.memory for key in keys}
    places = used / USERS + statistics.fmean(key.memory - before[key.name] for key in full)
    bound = (1 + SLATES_PER_USER) * VALUE_BYTES_MAX
    print(
        f"at most {bound:,} bytes of values a user: 1 + cache.redis_slates_per_user, each cache.redis_value_max_bytes"
    )
    one, all_full = used / USERS * MANY / 2**30, places * MANY / 2**30
    print(f"{MANY:,} users: {one:.1f} GiB with one slate, {all_full:.1f} GiB with all places full")
