"""Sends events through RecordEvents into Kafka, then takes them over into PostgreSQL, round by round, beside COPY."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from testkit import tools
from testkit.process import Mark, Unready
from testkit.servers.kafka import Kafka

from ingest import copying
from ingest.servers import Database, Place, serve
from ingest.watch import TELLING_EVENTS, Growth, Taken, watch

ITEMS = 1_000
TOPIC = "bench-ingest"
SENDER = "sender"
EVENTS_PER_USER = 50
USERS = range(200, 200_000)
EVENTS_PER_CALL = 1_000


@dataclass(frozen=True)
class Round:
    """One round of both."""

    taken: Taken
    copied: copying.Copied
    events: int
    batches: int

    @property
    def rates(self) -> float:
        """How much faster COPY is."""
        return self.events / self.copied.seconds / self.taken.rate

    @property
    def copy_cpu_us(self) -> float:
        """Of psql and PostgreSQL an event."""
        return (self.copied.psql_cpu_s + self.copied.postgres_cpu_s) * 1e6 / self.events

    @property
    def cpus(self) -> float:
        """How much more CPU the server and PostgreSQL take than psql and PostgreSQL."""
        return self.taken.cpu_us("server", "postgres") / self.copy_cpu_us


class Bench:
    """The servers of a run, and what was sent."""

    def __init__(self, folder: Path, binaries: Path, events: int) -> None:
        tools.ensure(["postgres", "kafka"])
        self.folder, self.events = folder, events
        self.database, self.kafka = Database(folder / "postgres"), Kafka(folder / "kafka")
        self.place = Place(folder, binaries, self.database.url, f"{self.kafka.url}/{TOPIC}")
        self.pids: dict[str, int] = {}
        self.sent = copying.Sum(0, 0)

    def start(self) -> None:
        """Both servers, and the catalogue's file."""
        for server in (self.database, self.kafka):
            server.prepare()
            mark: Mark = server.spawn()
            self.pids[server.name] = mark.pid
        for server in (self.database, self.kafka):
            server.wait_ready()
        catalogue = self.folder / "catalogue"
        catalogue.mkdir()
        lines = (json.dumps({"id": f"item-{at}", "title": f"Item {at}"}) + "\n" for at in range(ITEMS))
        (catalogue / "items.jsonl").write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Stops both."""
        self.kafka.close()
        self.database.close()

    def make_schema(self, namespace: str) -> None:
        """With the catalogue in it and no event."""
        self.place.run("marquee", namespace, "import", "--layout", "marquee", str(self.folder / "catalogue"))

    def drop_schema(self, namespace: str) -> None:
        """Its room is needed."""
        self.database.ask(namespace, f'DROP SCHEMA "{namespace}" CASCADE')

    def send(self) -> str:
        """Fills the topic by a process that takes nothing over; what the sender said at last."""
        self.make_schema(SENDER)
        noted = self.folder / "acknowledged"
        users = min(max(self.events // EVENTS_PER_USER, USERS.start), USERS.stop)
        with serve(self.place, SENDER, MARQUEE_EVENTS__INGEST="false") as marquee:
            words = ["--address", f"http://{marquee.public}", "stream-events", "--events", str(self.events)]
            words += ["--batch", str(EVENTS_PER_CALL), "--users", str(users), "--acknowledged", str(noted)]
            told = self.place.run("marquee-loadtest", SENDER, *words)
        self.drop_schema(SENDER)
        with noted.open(encoding="utf-8") as lines:
            self.sent = copying.of_ids(line.rstrip("\n") for line in lines)
        noted.unlink()
        if self.sent.count != self.events:
            raise SystemExit(f"{self.sent.count} events were acknowledged, {self.events} were to be sent")
        return f"{users} users; sent by RecordEvents: {told.strip().splitlines()[-1]}"

    def check(self, namespace: str, who: str) -> None:
        """Every event that was sent is there once, and is known by its id."""
        for what, found in zip(("events", "event ids"), copying.of_store(self.database, namespace), strict=True):
            if found != self.sent:
                raise SystemExit(f"{who}: {what} in the store: {found}; sent: {self.sent}")

    def round(self, number: int) -> Round:
        """Takes the topic over into a new schema, then copies that into another one."""
        ours, theirs = f"ours{number}", f"copy{number}"
        self.make_schema(ours)
        self.database.ask("public", "CHECKPOINT")
        with serve(self.place, ours) as marquee:
            taken = watch(marquee, self.events, self.pids)
        self.check(ours, "Marquee")
        position = self.database.ask(ours, "SELECT sum(next) FROM ingested")
        if position != str(self.events):
            raise SystemExit(f"the store says that it is at {position} of {self.events} records")
        sizes = copying.batches(self.database, ours)
        script = self.folder / "copy.sql"
        copying.write_script(self.database, ours, sizes, script)
        self.drop_schema(ours)
        self.make_schema(theirs)
        self.database.ask("public", "CHECKPOINT")
        copied = copying.copy(self.database, self.pids["postgres"], theirs, script)
        self.check(theirs, "COPY")
        self.drop_schema(theirs)
        script.unlink()
        return Round(taken, copied, self.events, len(sizes))


def tell(number: int, done: Round) -> None:
    """One round."""
    taken, copied = done.taken, done.copied
    cpu = [taken.cpu_us(name) for name in ("server", "postgres", "kafka")]
    print(
        f"round {number}  ingest {taken.rate:>9,.0f} events/s  CPU us/event: server {cpu[0]:.1f},"
        f" PostgreSQL {cpu[1]:.1f}, Kafka {cpu[2]:.1f};"
        f" {done.batches} transactions of {done.events / done.batches:.0f} events"
    )
    print(
        f"         COPY   {done.events / copied.seconds:>9,.0f} events/s  CPU us/event: psql"
        f" {copied.psql_cpu_s * 1e6 / done.events:.1f}, PostgreSQL {copied.postgres_cpu_s * 1e6 / done.events:.1f}"
    )
    print(f"         COPY is {done.rates:.2f} times as fast; ingest takes {done.cpus:.2f} times its CPU", flush=True)


def tell_memory(growth: Growth, events: int) -> bool:
    """Whether it may pass."""
    shown = " ".join(f"{mb:.0f}" for mb in growth.tenths_mb)
    is_telling = events >= TELLING_EVENTS
    verdict = (
        ("flat" if growth.is_flat else "NOT flat") if is_telling else f"under {TELLING_EVENTS:,} events: no verdict"
    )
    print(
        f"memory   {growth.mb_per_million:+.2f} MB per million events over the second half"
        f" ({growth.grown_mb:+.1f} of {growth.mean_mb:.1f} MB, scattered by {growth.deviation_mb:.1f}):"
        f" {verdict}; at each tenth: {shown}"
    )
    return growth.is_flat or not is_telling


def leave(number: int, _: object) -> None:
    """Ends by an exception, so that what was started is ended, too."""
    raise SystemExit(128 + number)


def main() -> int:
    """1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="bench-ingest", description=__doc__)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of marquee and marquee-loadtest")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    # Told to stop, it stops its servers, too.
    for told in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(told, leave)
    (tools.ROOT / ".marquee").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=tools.ROOT / ".marquee"))
    bench = Bench(folder, given.binaries.absolute(), given.events)
    try:
        bench.start()
        print(f"{given.events:,} events, {bench.send()}", flush=True)
        rounds, is_good = [], True
        for number in range(1, given.rounds + 1):
            rounds.append(bench.round(number))
            tell(number, rounds[-1])
            is_good &= tell_memory(rounds[-1].taken.growth(), given.events)
    except Unready as error:
        raise SystemExit(str(error)) from None
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)
    rate, rates, cpus = (
        median(values) for values in zip(*((r.taken.rate, r.rates, r.cpus) for r in rounds), strict=True)
    )
    print(f"median   {rate:,.0f} events/s; COPY / ingest {rates:.2f}; CPU of ingest / COPY {cpus:.2f}")
    print(f"each of the {given.events:,} events is in the store exactly once, in every round, by count and checksum")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
