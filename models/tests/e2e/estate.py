"""Two Marquee processes on PostgreSQL, Redis, Kafka and S3 of their own, each behind a proxy that can break it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ingest.copying import Sum, sums
from testkit.process import HOST, free_ports
from testkit.proxy import Proxy
from testkit.servers.kafka import Kafka
from testkit.servers.postgres import DATABASE, PASSWORD, USER, Postgres
from testkit.servers.redis import Redis
from testkit.servers.s3 import BUCKET, S3

from tests.e2e import catalogue
from tests.e2e.house import House, Server
from tests.e2e.spread import LOAD_THREADS, READY_S_MAX, Spread

PROCESSES = 2
NAMESPACE = "estate"
# Of every Recommend: no fault may cost a caller more.
DEADLINE_S = 2.5
USERS = [f"u{number}" for number in range(catalogue.USERS)]
# So many rounds of answers in a row without a degraded flag, and an installation is whole again.
WHOLE_ROUNDS = 10


class Estate:
    """Everything of one installation. Servers of the test's own: it may do anything to them."""

    def __init__(self, folder: Path, binaries: Path, trained: House, fresh_wait_ms: int) -> None:
        self._stack = ExitStack()
        self.folder = folder
        self.trained = trained
        kafka_port = free_ports(1)[0]
        self.postgres = Postgres(folder / "postgres")
        self.redis = Redis(folder / "redis")
        self.kafka = Kafka(folder / "kafka", advertised_port=kafka_port)
        self.s3 = S3(folder / "s3")
        self.to_postgres, self.to_redis = Proxy(self.postgres.port), Proxy(self.redis.port)
        self.to_kafka, self.to_s3 = Proxy(self.kafka.port, kafka_port), Proxy(self.s3.port)
        settings = {
            "MARQUEE_NAMESPACE": NAMESPACE,
            "MARQUEE_STORE__URL": f"postgres://{USER}:{PASSWORD}@{HOST}:{self.to_postgres.port}/{DATABASE}",
            "MARQUEE_CACHE__URL": f"redis://{HOST}:{self.to_redis.port}",
            "MARQUEE_EVENTS__URL": self.kafka.url,
            "MARQUEE_EVENTS__CREATE_TOPIC": "true",
            "MARQUEE_ARTIFACTS__URL": f"s3://{BUCKET}",
            "MARQUEE_ARTIFACTS__POLL_MS": "500",
            # On a slow machine Redis needs more time than it would get, and less than what makes it slow takes.
            "MARQUEE_CACHE__RESPONSE_TIMEOUT_MS": "100",
            "MARQUEE_RANKING__FRESH_WAIT_MS": str(fresh_wait_ms),
            "MARQUEE_SERVER__REQUEST_TIMEOUT_MS": "30000",
            **self.s3.environment(),
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.to_s3.port}",
        }
        self.houses = []
        for number, port in enumerate(free_ports(PROCESSES)):
            own = folder / f"house-{number}"
            own.mkdir(parents=True)
            listen = {"MARQUEE_SERVER__LISTEN": f"{HOST}:{port}", "MARQUEE_ARTIFACTS__CACHE_FOLDER": f"{own}/cache"}
            self.houses.append(House(own, binaries, {**settings, **listen}))
        self.processes: list[Server] = []

    def __enter__(self) -> Estate:
        try:
            for server in (self.postgres, self.redis, self.kafka, self.s3):
                self._stack.callback(server.close)
                server.start()
            for proxy in (self.to_postgres, self.to_redis, self.to_kafka, self.to_s3):
                self._stack.enter_context(proxy)
            self._furnish()
            self._stack.callback(self._kill_all)
            for house in self.houses:
                self.processes.append(Server.start(house))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _kill_all(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.kill()

    def _furnish(self) -> None:
        """The catalogue into the store, the trained bundle into the bucket; it serves."""
        house = self.houses[0]
        catalogue.write(self.folder / "catalogue")
        house.run("import", "--layout", "marquee", self.folder / "catalogue")
        house.run("bundle", "publish", self.trained.folder / "bundles" / self.trained.serving(), "--activate")

    def publish_another(self, version: str) -> None:
        """A second bundle into the bucket; it does not serve yet."""
        training, out = self.trained.folder / "training", self.folder / "built"
        words = ("--data", training / "log" / "export", "--models", training / "live" / "models", "--out", out)
        # Built in a house without S3: a bundle folder is a folder.
        replace(self.trained, settings={}).run("bundle", "build", *words, "--version", version)
        self.houses[0].run("bundle", "publish", out / version)

    def spread(self, name: str, *, timeout_s: float = DEADLINE_S, retries_cut: bool = False) -> Spread:
        """A client of a service on both processes."""
        return Spread([process.public for process in self.processes], name, timeout_s, retries_cut)

    def serving(self) -> list[str]:
        """The version that each process answers from."""
        asked = [process.service("RecommendationService") for process in self.processes]
        return [str(each.Recommend(user_id="u1", count=5, bypass_cache=True).bundle_version) for each in asked]

    def wait_whole(self) -> None:
        """Until answers of each process leave nothing out any more. To strangers: no cache of a process has them. As
        many at once as a load asks: a connection to the store that a fault left behind shows only when it is used."""
        until = time.monotonic() + READY_S_MAX
        with ThreadPoolExecutor(LOAD_THREADS) as callers:
            for process in self.processes:
                service, whole = process.service("RecommendationService"), 0

                def ask(caller: int, service: Any = service) -> list[str]:
                    answer = service.Recommend(user_id=f"stranger-{caller}-{time.time_ns()}", count=10)
                    return [str(part) for part in answer.degraded.parts]

                while whole < WHOLE_ROUNDS:
                    left_out = list(chain(*callers.map(ask, range(LOAD_THREADS))))
                    whole = 0 if left_out else whole + 1
                    assert time.monotonic() < until, f"still degraded: {left_out}"
                    time.sleep(0.02)

    def sums(self, prefix: str) -> tuple[Sum, Sum]:
        """Count and checksum of the events whose ids begin so, in the log and in the table of known ids."""

        def ask(text: str) -> str:
            told = self.postgres.query(f'SET search_path = "{NAMESPACE}"; {text}')
            assert told is not None, text
            return told

        return sums(ask, prefix)

    def counts(self) -> dict[str, int]:
        """`marquee status --json`"""
        found: dict[str, int] = json.loads(self.houses[0].run("status", "--json"))["counts"]
        return found
