"""Kafka: one broker that is its own controller (KRaft), on the machine's Java."""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
from pathlib import Path

from testkit import tools
from testkit.process import HOST, Server, free_ports, run

USER = "marquee"
PASSWORD = "only-for-tests"
CLUSTER = "TWFycXVlZSB0ZXN0cyAhIQ"
API_VERSIONS = 18
JAVA = ("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Kafka(Server):
    """One broker. `advertised_port` is what clients are sent to when a proxy stands before it."""

    name = "kafka"

    def __init__(self, folder: Path, *, advertised_port: int | None = None, outlives: bool = False) -> None:
        super().__init__(folder, outlives=outlives)
        self.controller_port = free_ports(1)[0]
        self.advertised_port = advertised_port or self.port
        self._java = tools.program("java")
        self._jars = ""

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.advertised_port}"

    def settings(self) -> dict[str, object]:
        """server.properties"""
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.advertised_port}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            # The broker talks to nobody but itself: it need not go through the proxy for that.
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self.folder / "data",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1_000,
            # A missing topic must be told at the start, not made.
            "auto.create.topics.enable": "false",
            "num.network.threads": 2,
            "num.io.threads": 2,
            "log.segment.bytes": 64 * 1024 * 1024,
        }

    def prepare(self) -> None:
        self._jars = tools.kafka_jars()
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        lines = [f"{key}={value}\n" for key, value in self.settings().items()]
        (self.folder / "server.properties").write_text("".join(lines), encoding="utf-8")
        words = [self._java, *JAVA, "-cp", self._jars, "kafka.tools.StorageTool", "format"]
        run([*words, "-t", CLUSTER, "-c", str(self.folder / "server.properties")])

    def words(self) -> list[str]:
        return [self._java, *JAVA, "-cp", self._jars, "kafka.Kafka", str(self.folder / "server.properties")]

    def is_ready(self) -> bool:
        """Answers which versions it speaks, as every client asks first."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=2.0) as link:
            asked = struct.pack(">hhih", API_VERSIONS, 0, 7, -1)
            link.sendall(struct.pack(">i", len(asked)) + asked)
            told = link.makefile("rb").read(10)
            return len(told) == 10 and struct.unpack(">iih", told)[1:] == (7, 0)
        return False


class KafkaLogin(Kafka):
    """The same for those who log in with SASL/PLAIN; the broker itself has a listener of its own."""

    def __init__(self, folder: Path, *, outlives: bool = False) -> None:
        super().__init__(folder, outlives=outlives)
        self.own_port = free_ports(1)[0]

    @property
    def url(self) -> str:
        return f"{super().url}?security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&sasl.username={USER}"

    def settings(self) -> dict[str, object]:
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        listeners = f"LOGIN://{HOST}:{self.port},OWN://{HOST}:{self.own_port}"
        return {
            **super().settings(),
            "listeners": f"{listeners},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "LOGIN:SASL_PLAINTEXT,OWN:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "OWN",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f'{module} required user_{USER}="{PASSWORD}";',
        }
