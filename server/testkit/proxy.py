"""A TCP relay on 127.0.0.1 whose faults are switched while connections are open.

From a test (a thread of its own runs it):

    with Proxy(redis.port) as proxy:
        proxy.set(Fault(latency_ms=200))
        proxy.clear()

By hand, one line of standard input a change: `python3 -m testkit proxy --to 6379`, then `latency_ms=200 jitter_ms=50`,
`mode=refuse`, `reset`, `clear`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields, replace
from typing import Any

from testkit.process import HOST, free_ports

CHUNK_BYTES = 64 * 1024
# Chunks of one direction that wait for their moment; beyond them the sender is not read.
WAITING_MAX_CHUNKS = 64
CONNECTIONS_MAX = 1_000
THROTTLE_STEP_S = 0.05
SWITCH_S_MAX = 10.0
NO_LINGER = struct.pack("ii", 1, 0)  # closed by a reset

PASS = "pass"
# Connects, then takes all bytes and gives none, also on connections that are open already.
BLACK_HOLE = "black_hole"
# Connects, then neither reads nor answers; open connections stand still, too.
HALF_OPEN = "half_open"
# No listener; open connections are reset.
REFUSE = "refuse"
MODES = (PASS, BLACK_HOLE, HALF_OPEN, REFUSE)


@dataclass(frozen=True)
class Fault:
    """What is wrong at a time. The default is nothing."""

    mode: str = PASS
    # How much later what the server says arrives, and up to how much more, drawn anew for each piece.
    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    # The most that goes through in each direction of a connection; 0 is no bound.
    bytes_per_s: float = 0.0
    # The share of pieces after which the connection is reset.
    reset_share: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: one of {', '.join(MODES)}")
        if not 0.0 <= self.reset_share <= 1.0:
            raise ValueError("reset_share: from 0 to 1")
        for name in ("latency_ms", "jitter_ms", "bytes_per_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: a number from 0 on")


def parse(line: str) -> Fault:
    """`latency_ms=200 mode=black_hole`; what is not named is not wrong."""
    known = {field.name for field in fields(Fault)}
    found: dict[str, Any] = {}
    for word in line.split():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise ValueError(f"{word}: write NAME=VALUE with one of {', '.join(sorted(known))}")
        found[name] = value if name == "mode" else float(value)
    return replace(Fault(), **found)


class _Link:
    """One connection of a client, and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.tasks: list[asyncio.Task[None]] = []
        # Bytes were lost on it, or it never had a server: it cannot be made whole again.
        self.broken = False

    def reset(self) -> None:
        """Ends both sides at once, by a reset."""
        for writer in self.writers:
            raw = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            writer.transport.abort()
        for task in self.tasks:
            # One that ends itself needs no cancelling, and would end as cancelled.
            if task is not asyncio.current_task():
                task.cancel()


class Proxy:
    """Relays to a port of this machine. Thread-safe."""

    def __init__(self, to: int, port: int | None = None, draw: random.Random | None = None) -> None:
        self.to = to
        self.port = port or free_ports(1)[0]
        self.accepted = 0
        self._draw = draw or random.Random()
        self._fault = Fault()
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    def start(self) -> None:
        """Listens."""
        self._thread.start()
        self._call(self._listen)

    def close(self) -> None:
        """Ends everything."""

        async def end() -> None:
            await self._unlisten()
            self._reset_all()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._call(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SWITCH_S_MAX)
        self._loop.close()

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set(self, fault: Fault) -> None:
        """From now on this is wrong, and nothing else. Returns when it holds."""

        async def switch() -> None:
            self._fault = fault
            for link in [link for link in self._links if link.broken or fault.mode == REFUSE]:
                link.reset()
            self._changed.set()
            self._changed = asyncio.Event()
            await (self._unlisten() if fault.mode == REFUSE else self._listen())

        self._call(switch)

    def clear(self) -> None:
        """Nothing is wrong any more. What cannot be made whole again is reset."""
        self.set(Fault())

    def reset(self) -> None:
        """Resets every open connection, once."""

        async def reset() -> None:
            self._reset_all()

        self._call(reset)

    def _call(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(SWITCH_S_MAX)

    def _reset_all(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, HOST, self.port, limit=CHUNK_BYTES)

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        if len(self._links) >= CONNECTIONS_MAX:
            return link.reset()
        self.accepted += 1
        self._links.add(link)
        try:
            await self._relay(link, reader, writer)
        except asyncio.CancelledError:
            pass  # that is how a reset ends it
        finally:
            if link.broken:
                link.reset()
            for each in link.writers:
                each.close()
            self._links.discard(link)

    async def _relay(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link.tasks.append(task)
        if self._fault.mode == HALF_OPEN:
            link.broken = True
        while self._fault.mode == HALF_OPEN:
            await self._changed.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.to, limit=CHUNK_BYTES)
        except OSError:
            return link.reset()
        link.writers.append(server_writer)
        ways = (self._pump(link, reader, server_writer, False), self._pump(link, server_reader, writer, True))
        link.tasks += [asyncio.create_task(way) for way in ways]
        try:
            await asyncio.gather(*link.tasks[1:])
        except (OSError, asyncio.IncompleteReadError):
            link.reset()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool
    ) -> None:
        """One direction: pieces wait for their moment in a bounded queue, in order."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_MAX_CHUNKS)

        async def read() -> None:
            due = 0.0
            while True:
                chunk = await reader.read(CHUNK_BYTES)
                fault = self._fault
                delay_ms = fault.latency_ms + self._draw.uniform(0.0, fault.jitter_ms) if is_answer else 0.0
                due = max(due, self._loop.time() + delay_ms / 1_000)
                await waiting.put((due, chunk))
                if not chunk:
                    return

        async def write() -> None:
            while True:
                due, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                while self._fault.mode == HALF_OPEN:
                    await self._changed.wait()
                if self._fault.mode == BLACK_HOLE:
                    link.broken = True
                    continue
                if not chunk:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                await self._send(writer, chunk)
                if self._fault.reset_share > 0.0 and self._draw.random() < self._fault.reset_share:
                    link.reset()

        reading = asyncio.create_task(read())
        try:
            await write()
        finally:
            reading.cancel()

    async def _send(self, writer: asyncio.StreamWriter, chunk: bytes) -> None:
        """All of it, no faster than the bound of the moment."""
        while chunk:
            pace = self._fault.bytes_per_s
            size = max(1, int(pace * THROTTLE_STEP_S)) if pace > 0.0 else len(chunk)
            writer.write(chunk[:size])
            await writer.drain()
            chunk = chunk[size:]
            if pace > 0.0:
                await asyncio.sleep(size / pace)


def by_hand(to: int, port: int | None) -> int:
    """Relays until standard input ends; each line changes the faults."""
    with Proxy(to, port) as proxy:
        print(f"127.0.0.1:{proxy.port} -> 127.0.0.1:{to}", flush=True)
        for line in map(str.strip, sys.stdin):
            try:
                if line == "reset":
                    proxy.reset()
                elif line in ("", "clear"):
                    proxy.clear()
                else:
                    proxy.set(parse(line))
            except ValueError as error:
                print(error, file=sys.stderr, flush=True)
    return 0
