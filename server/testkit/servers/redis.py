"""Redis: alone, with TLS and a password, as a cluster of three, and behind a Sentinel."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

from testkit import tools
from testkit.certificates import authority
from testkit.process import HOST, Server, free_ports, wait_until

PASSWORD = "only-for-tests"
SLOTS = 16_384
MASTER = "mymaster"
ANSWER_S_MAX = 2.0


class Refused(Exception):
    """Redis answered with an error."""


def command(port: int, *words: str, tls: ssl.SSLContext | None = None) -> object:
    """One command to a server on this machine; raises OSError when it is not there and Refused when it says no."""
    with contextlib.ExitStack() as stack:
        raw = stack.enter_context(socket.create_connection((HOST, port), timeout=ANSWER_S_MAX))
        link = stack.enter_context(tls.wrap_socket(raw, server_hostname="localhost")) if tls else raw
        if tls:
            _ask(link, "AUTH", PASSWORD)
        return _ask(link, *words)


def _ask(link: socket.socket, *words: str) -> object:
    encoded = [word.encode() for word in words]
    parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)]
    link.sendall(b"".join(parts))
    with link.makefile("rb") as file:
        return _answer(file.readline, file.read)


def _answer(line: object, read: object) -> object:
    told: bytes = line()  # type: ignore[operator]
    if not told.endswith(b"\r\n"):
        raise OSError("the connection ended")
    kind, rest = told[:1], told[1:-2].decode()
    if kind == b"-":
        raise Refused(rest)
    if kind == b"$":
        if rest == "-1":
            return None
        body: bytes = read(int(rest) + 2)  # type: ignore[operator]
        return body[:-2].decode(errors="replace")
    if kind == b"*":
        return [_answer(line, read) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest


class Redis(Server):
    """One Redis server that keeps nothing on disk. `settings` are words of its command line."""

    name = "redis"

    def __init__(self, folder: Path, *settings: str, name: str = "redis", outlives: bool = False) -> None:
        super().__init__(folder, outlives=outlives)
        self.name = name
        self.settings = settings

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Nothing: everything is on the command line."""

    def words(self) -> list[str]:
        words = [tools.program("redis-server"), "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder)]
        return [*words, "--save", "", "--appendonly", "no", "--maxmemory", "256mb", *self.settings]

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError, Refused):
            return self.command("PING") == "PONG"
        return False

    def command(self, *words: str) -> object:
        """One command; the answer."""
        return command(self.port, *words)


class RedisTls(Redis):
    """TLS alone, and a password. Its certificate is for `localhost`: 127.0.0.1 is a name that does not match."""

    def __init__(self, folder: Path, *, outlives: bool = False) -> None:
        super().__init__(folder, name="redis-tls", outlives=outlives)

    @property
    def url(self) -> str:
        return f"rediss://:{PASSWORD}@localhost:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate of who signed it."""
        return self.folder / "ca.pem"

    def prepare(self) -> None:
        authority(self.folder)

    def words(self) -> list[str]:
        words = [tools.program("redis-server"), "--port", "0", "--tls-port", str(self.port), "--bind", HOST]
        words += ["--tls-cert-file", f"{self.folder}/server.pem", "--tls-key-file", f"{self.folder}/server.key"]
        words += ["--tls-ca-cert-file", str(self.authority), "--tls-auth-clients", "no", "--requirepass", PASSWORD]
        return [*words, "--save", "", "--dir", str(self.folder)]

    def command(self, *words: str) -> object:
        return command(self.port, *words, tls=ssl.create_default_context(cafile=str(self.authority)))


def cluster(folder: Path, *, outlives: bool = False) -> list[Redis]:
    """Three nodes; `join` makes them a cluster once they run."""
    nodes = []
    for number, bus in enumerate(free_ports(3)):
        words = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "2000")
        nodes.append(Redis(folder / str(number), *words, name=f"redis-cluster-{number}", outlives=outlives))
    return nodes


def join(nodes: list[Redis]) -> None:
    """Gives each node its share of the slots and waits until all agree."""
    share = -(-SLOTS // len(nodes))
    for number, node in enumerate(nodes):
        node.command("CLUSTER", "ADDSLOTSRANGE", str(number * share), str(min((number + 1) * share, SLOTS) - 1))
        node.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
    for node in nodes[1:]:
        bus = node.settings[node.settings.index("--cluster-port") + 1]
        nodes[0].command("CLUSTER", "MEET", HOST, str(node.port), bus)
    words = ("cluster_state:ok", f"cluster_known_nodes:{len(nodes)}", f"cluster_slots_ok:{SLOTS}")

    def whole() -> bool:
        told = [str(node.command("CLUSTER", "INFO")) for node in nodes]
        return all(word in info for info in told for word in words)

    wait_until(whole, "the Redis cluster did not come together")


def cluster_url(nodes: list[Redis]) -> str:
    """What goes into a Marquee config."""
    return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in nodes)


class Sentinel(Redis):
    """A Sentinel that watches one master; it alone decides that the master is down."""

    def __init__(self, folder: Path, master: Redis, *, outlives: bool = False) -> None:
        super().__init__(folder, name="redis-sentinel", outlives=outlives)
        self.master = master

    @property
    def url(self) -> str:
        return f"redis+sentinel://{HOST}:{self.port}/{MASTER}"

    def prepare(self) -> None:
        lines = [f"port {self.port}", f"bind {HOST}", f"dir {self.folder}"]
        lines += [f"sentinel monitor {MASTER} {HOST} {self.master.port} 1"]
        lines += [f"sentinel down-after-milliseconds {MASTER} 1000", f"sentinel failover-timeout {MASTER} 5000"]
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def words(self) -> list[str]:
        return [tools.program("redis-server"), str(self.folder / "sentinel.conf"), "--sentinel"]

    def is_ready(self) -> bool:
        """It knows the master and its replica."""
        with contextlib.suppress(OSError, Refused):
            return isinstance(told := self.command("SENTINEL", "REPLICAS", MASTER), list) and len(told) > 0
        return False


def sentinel(folder: Path, *, outlives: bool = False) -> list[Redis]:
    """A master, a replica and the Sentinel, in the order in which they start."""
    master = Redis(folder / "master", name="redis-master", outlives=outlives)
    follow = ("--replicaof", f"{HOST} {master.port}", "--repl-diskless-sync-delay", "0")
    replica = Redis(folder / "replica", *follow, name="redis-replica", outlives=outlives)
    return [master, replica, Sentinel(folder / "sentinel", master, outlives=outlives)]
