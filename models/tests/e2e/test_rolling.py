"""Two processes on one store, restarted one after the other under load: nobody notices."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from testkit.process import HOST, free_ports

from tests.e2e import catalogue
from tests.e2e.house import House, Server
from tests.e2e.spread import NOT_SERVING, SERVING, Health, Load, Spread, listed

ROUNDS = int(os.environ.get("MARQUEE_ROLLING_ROUNDS", "1"))
# Shorter than the drain's own bound (server.drain_ms): nothing idle may hold it.
STOP_S_MAX = 5.0


@pytest.fixture
def pair(furnish: Callable[..., House]) -> Iterator[tuple[list[House], list[Server]]]:
    """Two servers of one installation, each on a port that stays."""
    house = furnish()
    houses = [
        replace(house, settings={"MARQUEE_SERVER__LISTEN": f"{HOST}:{port}", "MARQUEE_SERVER__DRAIN_MS": "20000"})
        for port in free_ports(2)
    ]
    servers = [Server.start(each) for each in houses]
    yield houses, servers
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def _silent(server: Server) -> socket.socket:
    """A connection that never sends a byte."""
    host, port = server.public.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def test_a_rolling_restart_fails_no_call(pair: tuple[list[House], list[Server]]) -> None:
    houses, servers = pair
    addresses = [server.public for server in servers]
    asks, writes = Spread(addresses, "RecommendationService"), Spread(addresses, "EventService")
    acknowledged: dict[str, str] = {}

    def ask(number: int, turn: int) -> object:
        return asks.call("Recommend", user_id=f"u{(7 * turn + number) % catalogue.USERS}", count=10)

    def write(number: int, turn: int) -> object:
        event: dict[str, Any] = {
            "id": f"r-{number}-{turn}",
            "user_id": f"roller-{number}",
            "item_id": f"i{turn % 200}",
            "type": 2,
        }
        answer = writes.call("RecordEvents", events=[event])
        acknowledged[event["id"]] = event["user_id"]
        return answer

    with Load(ask) as asking, Load(write, threads=2) as writing:
        for _ in range(ROUNDS):
            for at, house in enumerate(houses):
                asking.wait_for(100)
                watch, silent = Health(servers[at].public), _silent(servers[at])
                began = time.monotonic()
                servers[at].stop()
                took = time.monotonic() - began
                assert took < STOP_S_MAX, f"the stop took {took:.1f} s: something idle held it"
                told = watch.end()
                assert told[0] == SERVING and told[-1] == NOT_SERVING, told
                silent.close()
                asking.wait_for(100)
                servers[at] = Server.start(house)
                for spread in (asks, writes):
                    spread.wait_ready()
        asking.wait_for(100)
    for load in (asking, writing):
        assert load.tally.failed == [], load.tally.failed[:5]
        assert load.tally.answered > 100
    assert not asking.tally.degraded, asking.tally.degraded
    assert asks.moved + writes.moved > 0, "no call met a server that was gone: the test shows nothing"
    users = servers[1].service("UserService")
    for user in set(acknowledged.values()):
        assert listed(users, user) == Counter(event for event, of in acknowledged.items() if of == user)
    for server in servers:
        server.stop()
    print(f"{asking.tally.answered} slates and {len(acknowledged)} events; {asks.moved + writes.moved} calls moved")
