"""Just enough protobuf, gRPC and HTTP to ask both servers cheaply: bytes made once, answers counted and not decoded.

The load generator shares the machine with the servers, so what it costs distorts what they reach. A client of one
library for gRPC and one for HTTP would cost ten times the server's work on a cached answer, and not the same for both.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
WINDOW_BYTES = 2**31 - 1
FRAME_BYTES = 9
RECOMMEND_PATH = b"/marquee.v1.RecommendationService/Recommend"


class Broken(Exception):
    """The other side answered with an error or not at all."""


class Connection(Protocol):
    """One request at a time on one socket."""

    socket: socket.socket

    def ask(self, request: bytes) -> None:
        """Sends a request made by the module."""

    def take(self) -> bytes | None:
        """The body of the answer when it is whole after one more read, else nothing."""


def connect(port: int) -> socket.socket:
    """A socket to this machine that sends at once."""
    made = socket.create_connection(("127.0.0.1", port), timeout=60.0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


@dataclass
class Http:
    """HTTP/1.1 with keep-alive. Answers must say their length."""

    socket: socket.socket
    _got: bytearray = field(default_factory=bytearray)

    def ask(self, request: bytes) -> None:
        self.socket.sendall(request)

    def take(self) -> bytes | None:
        read = self.socket.recv(1 << 18)
        if not read:
            raise Broken("the peer closed the connection")
        self._got += read
        head = self._got.find(b"\r\n\r\n")
        if head < 0:
            return None
        lower = bytes(self._got[:head]).lower()
        at = lower.find(b"content-length:")
        if at < 0 or not lower.startswith(b"http/1.1 200"):
            raise Broken(bytes(self._got[:500]).decode(errors="replace"))
        end = lower.find(b"\r\n", at)
        whole = head + 4 + int(lower[at + 15 : end if end > 0 else head])
        if len(self._got) < whole:
            return None
        body = bytes(self._got[head + 4 : whole])
        self._got.clear()
        return body


def http_request(path: str) -> bytes:
    """A GET."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n".encode()


@dataclass
class Grpc:
    """Unary calls of Recommend, one stream after another on one connection."""

    socket: socket.socket
    _got: bytearray = field(default_factory=bytearray)
    _body: bytearray = field(default_factory=bytearray)
    _stream: int = -1
    _window_used: int = 0

    def __post_init__(self) -> None:
        settings = struct.pack(">HIHI", 4, WINDOW_BYTES, 1, 0)
        more = struct.pack(">I", WINDOW_BYTES - 65_535)
        self.socket.sendall(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, more))

    def ask(self, request: bytes) -> None:
        self._stream += 2
        self._body.clear()
        head, message = REQUEST_HEADERS, struct.pack(">BI", 0, len(request)) + request
        self.socket.sendall(
            _frame(HEADERS, END_HEADERS, self._stream, head) + _frame(DATA, END_STREAM, self._stream, message)
        )

    def take(self) -> bytes | None:
        read = self.socket.recv(1 << 18)
        if not read:
            raise Broken("the server closed the connection")
        self._got += read
        ended = False
        for kind, flags, stream, payload in self._frames():
            if kind == SETTINGS and not flags & ACK:
                self.socket.sendall(_frame(SETTINGS, ACK, 0, b""))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(_frame(PING, ACK, 0, payload))
            elif kind in (GOAWAY, RST_STREAM):
                raise Broken(f"the server ended the call: frame {kind}, {payload!r}")
            elif kind == DATA and stream == self._stream:
                self._body += payload
                self._window_used += len(payload)
            ended |= kind == HEADERS and stream == self._stream and bool(flags & END_STREAM)
        if self._window_used > WINDOW_BYTES // 2:
            self.socket.sendall(_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._window_used)))
            self._window_used = 0
        if not ended:
            return None
        if len(self._body) < 5:
            raise Broken("the server answered with an error instead of a slate; its log says more")
        return bytes(self._body[5:])

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        got, at = self._got, 0
        while len(got) - at >= FRAME_BYTES:
            length = int.from_bytes(got[at : at + 3], "big")
            if len(got) - at < FRAME_BYTES + length:
                break
            stream = int.from_bytes(got[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            begin = at + FRAME_BYTES
            yield got[at + 3], got[at + 4], stream, bytes(got[begin : begin + length])
            at = begin + length
        del got[:at]


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that enters no table, without Huffman's code (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


REQUEST_HEADERS = b"\x83\x86" + b"".join(
    _literal(name, value)
    for name, value in (
        (b":path", RECOMMEND_PATH),
        (b":authority", b"127.0.0.1"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def recommend_request(user: str, count: int, *, bypass_cache: bool = False, explain: bool = False) -> bytes:
    """An encoded RecommendRequest."""
    message = b"\x12" + _varint(len(user.encode())) + user.encode() + b"\x28" + _varint(count)
    if explain:
        message += b"\x60\x02"
    if bypass_cache:
        message += b"\x88\x01\x01"
    return message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes((number,))


@dataclass
class Answer:
    """What the comparison reads of a RecommendResponse."""

    slate_id: str = ""
    items: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    # Of each item, when it was asked for: columns by name.
    features: list[dict[str, float]] = field(default_factory=list)
    degraded: bool = False

    @property
    def now_ms(self) -> int:
        """The moment for which it was ranked: a slate id begins with it."""
        return int(self.slate_id[1:13], 16)


def recommend_answer(message: bytes) -> Answer:
    """Decodes a RecommendResponse."""
    answer = Answer()
    for number, value in _fields(message):
        if number == 1:
            answer.slate_id = value.decode()
        elif number == 2:
            _result(answer, value)
        elif number == 8:
            answer.degraded = True
    return answer


def _result(answer: Answer, message: bytes) -> None:
    item, score, columns = "", 0.0, {}
    for number, value in _fields(message):
        if number == 1:
            item = value.decode()
        elif number == 2:
            (score,) = struct.unpack("<d", value)
        elif number == 4:
            columns = dict(_feature(feature) for at, feature in _fields(value) if at == 2)
    answer.items.append(item)
    answer.scores.append(score)
    answer.features.append(columns)


def _feature(message: bytes) -> tuple[str, float]:
    parts = dict(_fields(message))
    return parts[1].decode(), struct.unpack("<d", parts[2])[0] if 2 in parts else 0.0


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """(field number, bytes of the value) of every field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        kind = key & 7
        if kind == 2:
            length, at = _read_varint(message, at)
        elif kind == 0:
            begin = at
            _, at = _read_varint(message, at)
            yield key >> 3, message[begin:at]
            continue
        else:
            length = {1: 8, 5: 4}[kind]
        yield key >> 3, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
