"""compose.yaml cannot be run by these tests; what can be checked without docker is."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import yaml

from testkit.tools import ROOT

# Secrets: from the environment alone, so the sample config does not have them.
SECRETS = {"MARQUEE_ADMIN_TOKEN", "MARQUEE_KAFKA_PASSWORD"}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_every_variable_of_ours_is_a_key_of_the_config() -> None:
    sample = tomllib.loads((ROOT / "server" / "marquee.sample.toml").read_text(encoding="utf-8"))
    known = {f"MARQUEE_{key}".upper() for key, value in sample.items() if not isinstance(value, dict)}
    for section, keys in sample.items():
        if isinstance(keys, dict):
            known |= {f"MARQUEE_{section}__{key}".upper() for key in keys}
    ours = {name for name in SERVICES["marquee"]["environment"] if name.startswith("MARQUEE_")}
    assert len(ours) >= 6 and ours <= known | SECRETS, ours - known - SECRETS


def test_images_are_pinned_and_ports_are_published_on_loopback_alone() -> None:
    for name, service in SERVICES.items():
        assert ("image" in service) != ("build" in service), name
        assert "build" in service or re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", service["image"]), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_what_is_waited_for_is_there_and_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES, f"{name} waits for {other}"
            assert wait["condition"] != "service_healthy" or "healthcheck" in SERVICES[other], other
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"], volume
    hosts = re.findall(r"//(?:[^@/\s]*@)?([a-z0-9]+):\d+", str(SERVICES["marquee"]["environment"]))
    assert hosts and set(hosts) <= set(SERVICES), hosts


def test_the_service_is_built_from_files_that_are_there() -> None:
    build = SERVICES["marquee"]["build"]
    recipe = (ROOT / build["context"] / build["dockerfile"]).read_text(encoding="utf-8")
    wanted = re.search(r"FROM rust:(\d+)\.(\d+)", recipe)
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    least = cargo["workspace"]["package"]["rust-version"].split(".")
    assert wanted and tuple(map(int, wanted.groups())) >= tuple(map(int, least[:2]))
