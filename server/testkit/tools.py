"""Where the programs are: on PATH, in Debian's folder, or in what `.ci/tool` fetches into the clone."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from testkit.process import Unready

ROOT = Path(__file__).resolve().parents[2]
# Program -> Debian package that brings it.
PACKAGES = {
    "initdb": "postgresql",
    "redis-server": "redis-server",
    "java": "default-jre-headless",
    "mvn": "maven",
    "openssl": "openssl",
}
NEEDS = {
    "postgres": ("initdb",),
    "redis": ("redis-server",),
    "redis-cluster": ("redis-server",),
    "redis-sentinel": ("redis-server",),
    "redis-tls": ("redis-server", "openssl"),
    "kafka": ("java",),
    "s3": (),
}


def found(program: str) -> str | None:
    """Where it is: PATH first, then where Debian keeps what it does not put there, newest first."""
    on_path = shutil.which(program)
    if on_path:
        return on_path
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return next((str(path / program) for path in folders if (path / program).is_file()), None)


def program(name: str) -> str:
    """Where it is; it must be there."""
    path = found(name)
    if path is None:
        raise Unready(f"{name} was not found: install {PACKAGES.get(name, name)}")
    return path


def kafka_jars() -> str:
    """Kafka's class path: beside a `kafka-server-start.sh` on PATH, or fetched."""
    for script in ("kafka-server-start.sh", "kafka-server-start"):
        path = shutil.which(script)
        jars = Path(path).resolve().parent.parent / "libs" if path else None
        if jars and any(jars.glob("kafka_*.jar")):
            return f"{jars}/*"
    return f"{_fetched('kafka')}/*"


def weed() -> str:
    """SeaweedFS's program: on PATH, or fetched."""
    return shutil.which("weed") or _fetched("weed")


def _fetched(tool: str) -> str:
    done = subprocess.run([str(ROOT / ".ci" / "tool"), tool], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Unready(f".ci/tool {tool} failed with {done.returncode}")
    return done.stdout.strip()


def ensure(services: Iterable[str]) -> None:
    """Installs what is missing with apt-get where that is possible; otherwise says what to install."""
    wanted = [name for service in services for name in NEEDS[service]]
    if "kafka" in services and not (shutil.which("kafka-server-start.sh") or shutil.which("kafka-server-start")):
        wanted.append("mvn")
    missing = sorted({PACKAGES[name] for name in wanted if found(name) is None})
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unready(f"install {', '.join(missing)} (Debian's names), or put the programs on PATH")
    print(f"testkit: installing {', '.join(missing)}", file=sys.stderr)
    # Run level 1: Debian's packages start no server of their own then.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    lock = ROOT / ".marquee" / "apt.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(["apt-get", "--quiet", *words], env=environment, stdout=sys.stderr, check=False)
            if done.returncode != 0:
                raise Unready(f"apt-get {' '.join(words)} failed with {done.returncode}")
