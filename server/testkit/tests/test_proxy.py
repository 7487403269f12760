"""The proxy before an echo server: what it breaks, and that nothing is broken without it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.process import HOST
from testkit.proxy import BLACK_HOLE, HALF_OPEN, REFUSE, WAITING_MAX_CHUNKS, Fault, Proxy, parse

PATIENCE_S = 10.0
SERVER = Path(__file__).resolve().parents[2]


def _serve(listener: socket.socket) -> None:
    def echo(link: socket.socket) -> None:
        with link, contextlib.suppress(OSError):
            while data := link.recv(65_536):
                link.sendall(data)
            link.shutdown(socket.SHUT_WR)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says what it hears."""
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=PATIENCE_S)


def _ask(link: socket.socket, data: bytes = b"hello") -> bytes:
    link.sendall(data)
    return _read(link, len(data))


def _read(link: socket.socket, size: int) -> bytes:
    """So many bytes; fewer when the connection ends before."""
    found = b""
    while len(found) < size and (more := link.recv(size - len(found))):
        found += more
    return found


def test_everything_goes_through_unchanged_when_nothing_is_wrong(proxy: Proxy) -> None:
    data = bytes(range(256)) * 20_000
    with _connect(proxy) as link:
        sending = threading.Thread(target=link.sendall, args=(data,))
        sending.start()
        assert _read(link, len(data)) == data
        sending.join()
        link.shutdown(socket.SHUT_WR)
        assert link.recv(1) == b"", "the end of a direction goes through, too"


def test_an_answer_comes_later_by_the_latency_and_at_most_the_jitter(proxy: Proxy) -> None:
    with _connect(proxy) as link:
        proxy.set(Fault(latency_ms=120.0, jitter_ms=30.0))
        for _ in range(3):
            began = time.monotonic()
            assert _ask(link) == b"hello"
            assert time.monotonic() - began >= 0.120
        # Many at once are delayed side by side, and stay in order.
        began = time.monotonic()
        assert _ask(link, b"".join(b"%05d" % number for number in range(1_000)))[-5:] == b"00999"
        proxy.clear()
        assert _ask(link) == b"hello"


def test_a_throttled_connection_gets_no_more_than_its_share(proxy: Proxy) -> None:
    with _connect(proxy) as link:
        proxy.set(Fault(bytes_per_s=100_000.0))
        began = time.monotonic()
        assert _ask(link, b"x" * 50_000) == b"x" * 50_000
        assert time.monotonic() - began >= 0.45


def test_a_reset_ends_connections_with_an_error_and_new_ones_work(proxy: Proxy) -> None:
    with _connect(proxy) as link:
        assert _ask(link) == b"hello"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            _ask(link)
    with _connect(proxy) as link:
        assert _ask(link) == b"hello"


def test_resets_by_chance_hit_about_their_share(proxy: Proxy) -> None:
    proxy.set(Fault(reset_share=0.25))
    whole = 0
    for _ in range(40):
        with _connect(proxy) as link, contextlib.suppress(OSError):
            whole += _ask(link) == b"hello"
    assert 5 <= whole <= 39, whole


def test_a_black_hole_swallows_also_what_was_open_and_lets_nothing_late_out(proxy: Proxy) -> None:
    with _connect(proxy) as old:
        assert _ask(old) == b"hello"
        proxy.set(Fault(mode=BLACK_HOLE))
        with _connect(proxy) as new:
            for link in (old, new):
                link.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    _ask(link, b"lost")
            proxy.clear()
            # A hole in the stream cannot be mended: such connections are reset.
            for link in (old, new):
                link.settimeout(PATIENCE_S)
                with pytest.raises(ConnectionResetError):
                    _ask(link)
    with _connect(proxy) as link:
        assert _ask(link) == b"hello"


def test_a_half_open_one_accepts_and_never_answers_and_open_ones_go_on_where_they_stood(proxy: Proxy) -> None:
    with _connect(proxy) as old:
        assert _ask(old) == b"hello"
        proxy.set(Fault(mode=HALF_OPEN))
        with _connect(proxy) as new:
            for link in (old, new):
                link.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    _ask(link, b"later")
            proxy.clear()
            old.settimeout(PATIENCE_S)
            assert _read(old, 5) == b"later", "nothing was lost on it"
            new.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                _ask(new)


def test_a_refused_connection_fails_at_once_until_it_is_cleared(proxy: Proxy) -> None:
    with _connect(proxy) as link:
        assert _ask(link) == b"hello"
        proxy.set(Fault(mode=REFUSE))
        with pytest.raises(ConnectionError):
            _ask(link)
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                _connect(proxy)
        proxy.clear()
    with _connect(proxy) as link:
        assert _ask(link) == b"hello"


def test_a_server_that_is_gone_resets_its_clients() -> None:
    """Whenever the reset comes: while connecting still waits to hear of its success, too."""
    with Proxy(1) as gone:
        for _ in range(20):
            with pytest.raises(ConnectionResetError), _connect(gone) as link:
                _ask(link)
        assert gone.accepted == 20


def test_what_waits_is_bounded(proxy: Proxy) -> None:
    """A sender that nobody reads for is stopped, however long the latency is."""
    with _connect(proxy) as link:
        proxy.set(Fault(mode=HALF_OPEN))
        link.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 30:
                sent += link.send(b"x" * 65_536)
    assert sent < 64 << 20, (sent, WAITING_MAX_CHUNKS)


def test_faults_are_read_from_words_and_bad_ones_are_named() -> None:
    assert parse("latency_ms=200 jitter_ms=50") == Fault(latency_ms=200.0, jitter_ms=50.0)
    for line in ("latency=3", "mode=odd", "latency_ms=-1", "latency_ms=nan", "reset_share=2", "slow", "latency_ms=x"):
        with pytest.raises(ValueError, match=r"\w"):
            parse(line)


def test_people_can_switch_it_by_hand(echo: int) -> None:
    words = [sys.executable, "-m", "testkit", "proxy", "--to", str(echo)]
    with subprocess.Popen(words, cwd=SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as by_hand:
        assert by_hand.stdin and by_hand.stdout
        port = int(by_hand.stdout.readline().split()[0].rpartition(":")[2])
        with socket.create_connection((HOST, port), timeout=PATIENCE_S) as link:
            assert _ask(link) == b"hello"
            by_hand.stdin.write("mode=refuse\n")
            by_hand.stdin.flush()
            with contextlib.suppress(ConnectionError):
                assert link.recv(1) == b""
        by_hand.stdin.close()
        assert by_hand.wait(PATIENCE_S) == 0
