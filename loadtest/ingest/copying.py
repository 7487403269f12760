"""The same rows by psql's COPY: written out of one schema, batch by batch, and into another one, equal and empty."""

from __future__ import annotations

import hashlib
import resource
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ingest.servers import Database, cpu_s

COLUMNS = (
    "seq, kind, received_ms, user_key, event_id, event_type, item_id, value, watched_seconds, time_ms, surface, "
    "session_id, slate_id, position, query, payload, moved_seq, moved_from"
)
DIGITS = 15


@dataclass(frozen=True)
class Sum:
    """How many event ids there are, and the sum of the first 60 bits of their SHA-256: the order does not matter."""

    count: int
    total: int


def of_ids(ids: Iterable[str]) -> Sum:
    """Of what was sent."""
    count = total = 0
    for name in ids:
        count += 1
        total += int(hashlib.sha256(name.encode()).hexdigest()[:DIGITS], 16)
    return Sum(count, total)


def of_store(database: Database, namespace: str) -> tuple[Sum, Sum]:
    """Of the log's events, and of the hashes by which events count once."""
    return sums(lambda text: database.ask(namespace, text))


def sums(ask: Callable[[str], str], prefix: str = "") -> tuple[Sum, Sum]:
    """The same of events whose ids begin so; `ask` is psql in the store's schema."""
    events, hashes = "log WHERE kind = 0", "event_ids"
    if prefix:
        events += f" AND substr(event_id, 1, {len(prefix.encode())}) = '{prefix}'::bytea"
        hashes += f" WHERE hash IN (SELECT substr(sha256(event_id), 1, 16) FROM {events})"
    found = []
    for what, rows in (("sha256(event_id)", events), ("hash", hashes)):
        number = f"('x' || substr(encode({what}, 'hex'), 1, {DIGITS}))::bit({DIGITS * 4})::bigint"
        told = ask(f"SELECT count(*), coalesce(sum({number}), 0) FROM {rows}").split("|")
        found.append(Sum(int(told[0]), int(told[1])))
    return found[0], found[1]


def batches(database: Database, namespace: str) -> list[int]:
    """Events of each transaction that wrote any, in order."""
    told = database.ask(namespace, "SELECT count(*) FROM log WHERE kind = 0 GROUP BY xmin ORDER BY min(seq)")
    return [int(line) for line in told.split()]


def write_script(database: Database, namespace: str, sizes: list[int], script: Path) -> None:
    """A script for psql that writes these events, in these transactions."""
    query = f"COPY (SELECT {COLUMNS}, substr(sha256(event_id), 1, 16) FROM log WHERE kind = 0 ORDER BY seq) TO STDOUT"
    words, environment = database.psql(namespace, "-c", query)
    with (
        script.open("wb") as file,
        subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, bufsize=1 << 20) as reader,
    ):
        assert reader.stdout is not None
        for size in sizes:
            rows, hashes = [], []
            for _ in range(size):
                row, _tab, digest = next(reader.stdout).rpartition(b"\t")
                rows.append(row + b"\n")
                hashes.append(digest[:-1] + b"\t" + row.split(b"\t", 3)[2] + b"\n")
            file.write(f"BEGIN;\nCOPY log ({COLUMNS}) FROM STDIN;\n".encode())
            file.writelines(rows)
            file.write(b"\\.\nCOPY event_ids (hash, received_ms) FROM STDIN;\n")
            file.writelines(hashes)
            file.write(b"\\.\nCOMMIT;\n")
        if next(reader.stdout, None) is not None:
            raise SystemExit("there are more events than their transactions have")
    if reader.returncode != 0:
        raise SystemExit(f"reading the events back failed with {reader.returncode}")


@dataclass(frozen=True)
class Copied:
    """What a run of the script took."""

    seconds: float
    psql_cpu_s: float
    postgres_cpu_s: float


def copy(database: Database, postmaster: int, namespace: str, script: Path) -> Copied:
    """Runs the script."""
    words, environment = database.psql(namespace, "-f", str(script))
    before, cpu, started = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_s(postmaster), time.monotonic()
    subprocess.run(words, env=environment, check=True)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    psql = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Its backend has ended, but the postmaster waits for it a moment later.
    time.sleep(0.2)
    return Copied(seconds, psql, cpu_s(postmaster) - cpu)
