"""Rules of the house that a machine can check; see "Invariants" in ARCHITECTURE.md. Part of `make check`.

Prints every broken rule and exits with 1. Python's standard library only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the ranking must not depend on: runtimes, sockets, stores, clocks, randomness.
ENGINE_WITHOUT = {
    "async-std", "chrono", "fred", "hyper", "mio", "prost-types", "rdkafka", "redis", "reqwest", "rusqlite", "sqlx",
    "time", "tokio", "tonic",
}  # fmt: skip
# Two are of data: Unicode's tables, and the certificates of public authorities.
LICENCES = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "MIT",
    "CDLA-Permissive-2.0",
    "Unicode-3.0",
    "Zlib",
}
REFUSED = {
    "openssl-sys": "TLS is rustls; no C library that must be on the machine",
    "protoc-bin-vendored": "protos compile without protoc",
}
# Who may name the generated types: the RPC layer, its tests, and the client for load tests.
MAY_NAME_PROTO = ("proto/", "server/src/rpc/", "server/tests/", "loadtest/", "docs/examples/")


def files(*patterns: str) -> Iterator[Path]:
    """Files under version control, or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return (ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file())


def engine_is_pure() -> Iterator[str]:
    """The engine's dependencies, direct or not."""
    tree = subprocess.run(
        ["cargo", "tree", "--package", "marquee-engine", "--edges", "normal", "--prefix", "none", "--format", "{p}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {line.split()[0] for line in tree.stdout.splitlines() if line}
    for name in sorted(found & ENGINE_WITHOUT):
        yield f"engine/Cargo.toml: the engine depends on {name}"


def engine_asks_nothing() -> Iterator[str]:
    """No clock, no randomness, no threads that would make results depend on their number while serving."""
    asks = re.compile(r"\b(SystemTime::now|Instant::now|thread_rng|rand::|std::env::var|std::net)")
    for path in files("engine/src/*.rs", "engine/src/**/*.rs"):
        if "tests" in path.parts:
            continue
        code = path.read_text(encoding="utf-8").split("#[cfg(test)]")[0]
        for number, line in enumerate(code.splitlines(), 1):
            if asks.search(line) and not line.lstrip().startswith("//"):
                yield f"{path.relative_to(ROOT)}:{number}: the engine asks the world: {line.strip()}"


def only_rpc_names_the_wire() -> Iterator[str]:
    """Generated types stay in server/src/rpc."""
    for path in files("*.rs"):
        shown = str(path.relative_to(ROOT))
        if not shown.startswith(MAY_NAME_PROTO) and "marquee_proto" in path.read_text(encoding="utf-8"):
            yield f"{shown}: only server/src/rpc may name marquee_proto"


def dependencies_have_reasons() -> Iterator[str]:
    """A comment above each group of dependencies in Cargo.toml, a comment behind each one in pyproject.toml."""
    cargo = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    section = cargo.split("[workspace.dependencies]", 1)[1].split("\n[", 1)[0]
    explained = False
    for line in section.splitlines():
        if line.startswith("#"):
            explained = True
        elif not line.strip():
            explained = False
        elif not explained:
            yield f"Cargo.toml: no reason above {line.split('=')[0].strip()}"
    for path in files("*/Cargo.toml"):
        manifest = tomllib.loads(path.read_text(encoding="utf-8"))
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, wanted in manifest.get(kind, {}).items():
                if not (isinstance(wanted, dict) and wanted.get("workspace")) and "examples" not in path.parts:
                    yield f"{path.relative_to(ROOT)}: {name} is not taken from the workspace"
    for number, line in enumerate((ROOT / "models/pyproject.toml").read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r'\s+"[A-Za-z0-9_.\[\]-]+[><=~!]', line) and "#" not in line:
            yield f"models/pyproject.toml:{number}: no reason behind {line.strip()}"


def licences_are_permissive() -> Iterator[str]:
    """Marquee is Apache-2.0 and linked statically: every crate must offer a licence that goes with that."""
    told = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--locked"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for package in json.loads(told.stdout)["packages"]:
        # "(MIT OR Apache-2.0) AND Unicode-3.0", or of old "MIT/Apache-2.0": each part needs one that is allowed.
        expression = (package["license"] or "none").replace("/", " OR ")
        for part in re.split(r"\s+AND\s+", expression):
            offers = {offer.strip(" ()") for offer in re.split(r"\s+OR\s+", part)}
            if not offers & LICENCES:
                yield f"Cargo.lock: {package['name']} {package['version']} is under {package['license']}"
        if package["name"] in REFUSED:
            yield f"Cargo.lock: {package['name']}: {REFUSED[package['name']]}"


def links_lead_somewhere() -> Iterator[str]:
    """Relative links of the documents."""
    link = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
    for path in files("*.md"):
        for target in link.findall(path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                yield f"{path.relative_to(ROOT)}: link to {target}, which is not there"


def nothing_pickled() -> Iterator[str]:
    """No file in this repository or read by it may run code when it is loaded."""
    for path in files("*.py"):
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(r"^\s*(import|from) (pickle|joblib|dill)\b|allow_pickle=True", line):
                yield f"{path.relative_to(ROOT)}:{number}: pickle"


RULES = (
    engine_is_pure,
    engine_asks_nothing,
    only_rpc_names_the_wire,
    dependencies_have_reasons,
    licences_are_permissive,
    links_lead_somewhere,
    nothing_pickled,
)


def main() -> int:
    """Every rule; every place that breaks it."""
    broken = [line for rule in RULES for line in rule()]
    for line in broken:
        print(line, file=sys.stderr)
    print(f"house: {len(RULES)} rules, {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
