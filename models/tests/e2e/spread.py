"""A load on several servers at once, by a client as a team would write it: calls take turns, and one that could not be
sent because its server is gone goes to another one, once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from demo.client import TIMEOUT_S, Service

# A server that comes back is found again soon.
CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]
CHANNEL += [("grpc.max_reconnect_backoff_ms", 500)]
# What gRPC says of a call that never left: no connection could be made.
NEVER_SENT = "failed to connect to all addresses"
READY_S_MAX = 60.0
LOAD_THREADS = 4
ACCEPTED, DUPLICATE = 1, 2
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def channel(address: str) -> grpc.Channel:
    """A channel that is ready and finds its server again after a restart."""
    opened = grpc.insecure_channel(address, options=CHANNEL)
    grpc.channel_ready_future(opened).result(timeout=READY_S_MAX)
    return opened


class Spread:
    """One service on several servers. `retries_cut` moves also those calls that were cut on their way: reads can bear
    it, and writes of events with ids."""

    def __init__(
        self, addresses: Sequence[str], name: str, timeout_s: float = TIMEOUT_S, retries_cut: bool = False
    ) -> None:
        self._channels = [channel(address) for address in addresses]
        self._services = [Service(opened, name, timeout_s=timeout_s) for opened in self._channels]
        self._retries_cut = retries_cut
        self._turn = 0
        self._lock = threading.Lock()
        self.moved = 0

    def wait_ready(self) -> None:
        """Until all servers are connected: a client sees only after a while that one has come back."""
        for opened in self._channels:
            grpc.channel_ready_future(opened).result(timeout=READY_S_MAX)

    def call(self, method: str, **fields: Any) -> Any:
        """A call on the server whose turn it is; on the next one when it could not be sent."""
        with self._lock:
            self._turn += 1
            turn = self._turn
        for attempt in range(2):
            service = self._services[(turn + attempt) % len(self._services)]
            try:
                return getattr(service, method)(**fields)
            except grpc.RpcError as error:
                unsent = self._retries_cut or NEVER_SENT in (error.details() or "")
                if attempt > 0 or error.code() != grpc.StatusCode.UNAVAILABLE or not unsent:
                    raise
                with self._lock:
                    self.moved += 1
        raise AssertionError("there is no third attempt")


def listed(users: Service, user: str) -> Counter[str]:
    """How often each event id is in a user's list."""
    found: Counter[str] = Counter()
    token = ""
    while True:
        page = users.ListEvents(user_id=user, page_size=1000, page_token=token)
        found.update(event.id for event in page.events)
        token = page.next_page_token
        if not token:
            return found


@dataclass
class Tally:
    """What became of the calls."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    degraded: Counter[str] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)

    def percentile_s(self, share: float) -> float:
        """A percentile of how long answers took."""
        return sorted(self.took_s)[min(int(share * len(self.took_s)), len(self.took_s) - 1)]


class Load:
    """Threads that do one thing again and again until the end of the `with`; each with a number of its own."""

    def __init__(self, once: Callable[[int, int], Any], threads: int = LOAD_THREADS, pause_s: float = 0.01) -> None:
        self._once, self._pause_s = once, pause_s
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self.tally = Tally()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(READY_S_MAX)

    def wait_for(self, calls: int) -> None:
        """Until so many more have been answered or have failed."""
        until, done = time.monotonic() + READY_S_MAX, self._done() + calls
        while self._done() < done:
            assert time.monotonic() < until, f"the load stands still: {self.tally}"
            time.sleep(0.01)

    def _done(self) -> int:
        with self._lock:
            return self.tally.answered + len(self.tally.failed)

    def _run(self, number: int) -> None:
        turn = 0
        while not self._ends.is_set():
            turn += 1
            began = time.monotonic()
            try:
                answer = self._once(number, turn)
                took = time.monotonic() - began
                with self._lock:
                    self.tally.answered += 1
                    self.tally.took_s.append(took)
                    self.tally.degraded.update(_degraded(answer))
            except grpc.RpcError as error:
                with self._lock:
                    self.tally.failed.append(f"{error.code()}: {error.details()}")
            time.sleep(self._pause_s)


def _degraded(answer: object) -> list[str]:
    parts = getattr(getattr(answer, "degraded", None), "parts", ())
    return [str(part.what) for part in parts]


class Writer:
    """Writes events, each user's one after the other, and sends each again until it is acknowledged."""

    def __init__(self, spread: Spread, name: str, items: int) -> None:
        self._spread, self.name, self._items = spread, name, items
        self._pending: dict[int, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.acknowledged: dict[str, Counter[str]] = {}
        self.tokens: dict[str, str] = {}

    def once(self, number: int, turn: int) -> object:
        """Sends what that thread has not got through yet, or the next events."""
        user = f"{self.name}-{number}"
        if number not in self._pending:
            self._pending[number] = [
                {
                    "id": f"{user}-{turn}-{at}",
                    "user_id": user,
                    "item_id": f"i{(turn * 3 + at) % self._items}",
                    "type": 2,
                }
                for at in range(3)
            ]
        answer = self._spread.call("RecordEvents", events=self._pending[number])
        sent = self._pending.pop(number)
        refused = [result for result in answer.results if result.status not in (ACCEPTED, DUPLICATE)]
        assert not refused and len(answer.results) == len(sent), refused
        with self._lock:
            self.acknowledged.setdefault(user, Counter()).update(event["id"] for event in sent)
            self.tokens[user] = answer.write_token or self.tokens.get(user, "")
        return answer

    def finish(self) -> None:
        """Gets through what is still pending."""
        until = time.monotonic() + READY_S_MAX
        for number in list(self._pending):
            while number in self._pending:
                try:
                    self.once(number, 0)
                except grpc.RpcError as error:
                    assert time.monotonic() < until, f"writes do not come back: {error.details()}"
                    time.sleep(0.1)


class Health:
    """Watches a server's health over a stream of its own, as a load balancer does."""

    def __init__(self, address: str) -> None:
        watch = channel(address).unary_stream("/grpc.health.v1.Health/Watch", None, None)
        self._stream = watch(b"")
        self.seen: list[bytes] = []
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._first.wait(READY_S_MAX), "health was not told"

    def _run(self) -> None:
        try:
            for told in self._stream:
                self.seen.append(told)
                self._first.set()
        except grpc.RpcError:
            pass

    def end(self) -> list[bytes]:
        """All that was told until the server ended the stream."""
        self._thread.join(READY_S_MAX)
        assert not self._thread.is_alive(), "the stream goes on"
        return self.seen
