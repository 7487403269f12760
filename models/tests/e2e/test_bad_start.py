"""A start against real servers that refuse it: a wrong password, a certificate for another name or of nobody known. All
of them are told at once, by the config's keys, without a secret; then exit 64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from testkit.process import HOST
from testkit.servers import kafka, postgres, redis, s3
from testkit.servers.kafka import KafkaLogin
from testkit.servers.postgres import PostgresTls
from testkit.servers.redis import RedisTls
from testkit.servers.s3 import BUCKET, S3Tls

from tests.e2e.house import House

BAD_INPUT = 64
WRONG = "hush-hush"
SECRETS = (WRONG, postgres.PASSWORD, kafka.PASSWORD, redis.PASSWORD, s3.SECRET)


@dataclass(frozen=True)
class Servers:
    """One of each port, with a login or TLS or both."""

    postgres: PostgresTls
    redis: RedisTls
    kafka: KafkaLogin
    s3: S3Tls

    def settings(self) -> dict[str, str]:
        """With which everything is right."""
        return {
            "MARQUEE_NAMESPACE": "start",
            "MARQUEE_STORE__URL": self.store(
                postgres.PASSWORD, "localhost", f"&sslrootcert={self.postgres.tls}/ca.pem"
            ),
            "MARQUEE_CACHE__URL": self.cache(redis.PASSWORD, "localhost"),
            "MARQUEE_CACHE__TLS_CA_PATH": str(self.redis.authority),
            "MARQUEE_EVENTS__URL": self.kafka.url,
            "MARQUEE_EVENTS__CREATE_TOPIC": "true",
            "MARQUEE_EVENTS__CONNECT_TIMEOUT_MS": "20000",
            "MARQUEE_KAFKA_PASSWORD": kafka.PASSWORD,
            "MARQUEE_ARTIFACTS__URL": f"s3://{BUCKET}",
            **self.s3.environment(),
            # Whom this process trusts beside what the config names.
            "SSL_CERT_FILE": str(self.s3.authority),
        }

    def store(self, password: str, host: str, more: str = "") -> str:
        """PostgreSQL, by a certificate that must be right."""
        login = f"{postgres.USER}:{password}@{host}:{self.postgres.port}"
        return f"postgres://{login}/{postgres.DATABASE}?sslmode=verify-full{more}"

    def cache(self, password: str, host: str) -> str:
        """Redis"""
        return f"rediss://:{password}@{host}:{self.redis.port}"


@pytest.fixture(scope="module")
def servers(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("refusing")
    found = Servers(
        PostgresTls(folder / "postgres"),
        RedisTls(folder / "redis"),
        KafkaLogin(folder / "kafka"),
        S3Tls(folder / "s3"),
    )
    with ExitStack() as stack:
        for server in (found.postgres, found.redis, found.kafka, found.s3):
            stack.enter_context(server)
        yield found


def _refused(binaries: Path, folder: Path, settings: dict[str, str]) -> dict[str, str]:
    """What is said of each key of the config; nothing else may be said."""
    done = House(folder, binaries, settings).try_run("serve")
    said = done.stdout + done.stderr
    assert done.returncode == BAD_INPUT, (done.returncode, said)
    assert not any(secret in said for secret in SECRETS) and "panicked" not in said, said
    lines = [line.strip().removeprefix("- ") for line in done.stderr.splitlines()]
    found = {line.partition(": ")[0]: line for line in lines if line.partition(": ")[0].endswith(".url")}
    assert len(found) == sum(".url: " in line for line in lines), said
    return found


def test_a_start_with_everything_right_succeeds(servers: Servers, binaries: Path, tmp_path: Path) -> None:
    with House(tmp_path, binaries, servers.settings()).server() as server:
        assert server.service("RecommendationService").Recommend(user_id="ann", count=5).slate_id


def test_wrong_passwords_of_all_servers_are_told_at_once(servers: Servers, binaries: Path, tmp_path: Path) -> None:
    right = servers.settings()
    wrong = {
        "MARQUEE_STORE__URL": right["MARQUEE_STORE__URL"].replace(postgres.PASSWORD, WRONG),
        "MARQUEE_CACHE__URL": servers.cache(WRONG, "localhost"),
        "MARQUEE_KAFKA_PASSWORD": WRONG,
        "AWS_SECRET_ACCESS_KEY": WRONG,
    }
    found = _refused(binaries, tmp_path, {**right, **wrong})
    assert set(found) == {"store.url", "cache.url", "events.url", "artifacts.url"}
    assert "password" in found["store.url"], found
    assert "login" in found["cache.url"] or "password" in found["cache.url"], found
    assert "refuses the login" in found["events.url"], found
    assert "refuses the credentials" in found["artifacts.url"], found


def test_certificates_for_another_name_are_told_at_once(servers: Servers, binaries: Path, tmp_path: Path) -> None:
    right = servers.settings()
    wrong = {
        "MARQUEE_STORE__URL": right["MARQUEE_STORE__URL"].replace("@localhost:", f"@{HOST}:"),
        "MARQUEE_CACHE__URL": servers.cache(redis.PASSWORD, HOST),
        "AWS_ENDPOINT_URL": f"https://{HOST}:{servers.s3.port}",
    }
    found = _refused(binaries, tmp_path, {**right, **wrong})
    assert set(found) == {"store.url", "cache.url", "artifacts.url"}
    assert all("another name" in told for told in found.values()), found


def test_certificates_of_nobody_known_are_told_at_once(servers: Servers, binaries: Path, tmp_path: Path) -> None:
    right = servers.settings()
    # Another authority of the same name: its signature is not theirs.
    other = servers.redis.authority
    wrong = {
        "MARQUEE_STORE__URL": servers.store(postgres.PASSWORD, "localhost", f"&sslrootcert={other}"),
        "MARQUEE_CACHE__TLS_CA_PATH": str(servers.s3.authority),
        "SSL_CERT_FILE": str(other),
    }
    found = _refused(binaries, tmp_path, {**right, **wrong})
    assert set(found) == {"store.url", "cache.url", "artifacts.url"}
    assert all("not trusted" in told for told in found.values()), found
