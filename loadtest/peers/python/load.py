"""A closed loop over a few connections: each sends its next request when its last one is answered."""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wire import Broken, Connection

ANSWER_MAX_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """One run."""

    requests: int
    seconds: float
    latencies_ms: list[float]
    generator_cpu_s: float
    bytes_each: float

    def percentile_ms(self, percent: float) -> float:
        """Of the service time."""
        return float(np.percentile(self.latencies_ms, percent))


def run(open_one: Callable[[], Connection], requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Asks `requests` round and round for so long; every connection begins elsewhere in them."""
    selector, latencies, size = selectors.DefaultSelector(), [], 0
    opened = [open_one() for _ in range(connections)]
    following = itertools.cycle(requests)
    sent: dict[int, float] = {}
    cpu, began = time.process_time(), time.perf_counter()
    until = began + seconds
    for place, connection in enumerate(opened):
        selector.register(connection.socket, selectors.EVENT_READ, place)
        sent[place] = time.perf_counter()
        connection.ask(next(following))
    waiting = connections
    while waiting:
        ready = selector.select(ANSWER_MAX_S)
        if not ready:
            raise Broken(f"no answer within {ANSWER_MAX_S:.0f} s")
        for key, _ in ready:
            connection = opened[key.data]
            body = connection.take()
            if body is None:
                continue
            now = time.perf_counter()
            latencies.append((now - sent[key.data]) * 1_000.0)
            size += len(body)
            if now < until:
                sent[key.data] = now
                connection.ask(next(following))
            else:
                waiting -= 1
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    for connection in opened:
        connection.socket.close()
    return Outcome(len(latencies), took, latencies, spent, size / max(len(latencies), 1))


def answers(connection: Connection, requests: Sequence[bytes]) -> list[bytes]:
    """The bodies, asked for one after another."""
    found = []
    for request in requests:
        connection.ask(request)
        while (body := connection.take()) is None:
            pass
        found.append(body)
    return found
