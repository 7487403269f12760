"""`make bench-peers`: Marquee and the Python peer side by side, on one state, in one run.

First both rank the same users at the same moments with exact retrieval, and their slates must be equal; then they are
timed as they would serve, in turns. CPU is what the operating system says of each server's processes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis

import catalogue as bundles
import compare
import engine
import load
import profiles
import report
import verify
import wire
from processes import Server, free_port

HERE = Path(__file__).resolve().parent
EXACT = "1000000000"
# numpy brings its own OpenBLAS; what a machine sets for another one would slow it down.
NOT_FOR_THE_PEER = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
PREDICTORS = ("onnx", "xgboost")


def arguments() -> argparse.Namespace:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marquee", type=Path, required=True, help="the release binary")
    parser.add_argument("--config", type=Path, required=True, help="marquee.toml of a store with a serving bundle")
    parser.add_argument("--work", type=Path, required=True, help="folder for export, indexes and logs")
    parser.add_argument("--users", type=int, default=500, help="users that are asked for")
    parser.add_argument("--verify-users", type=int, default=300, help="of them, those whose slates are compared")
    parser.add_argument("--count", type=int, default=20, help="items of a slate")
    parser.add_argument("--connections", type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--columns", type=int, metavar="USERS", help="only compare every feature column, for so many users"
    )
    parser.add_argument("--json", type=Path, help="the figures as JSON")
    return parser.parse_args()


@dataclasses.dataclass
class State:
    """One store and its serving bundle, copied where they may be written to."""

    asked: argparse.Namespace
    config: dict[str, Any]
    bundle: Path
    users: list[str]
    redis_port: int
    # How the peer searches each set of vectors, for people.
    searches: dict[str, str]

    def setup(self, predictor: str, *, exact: bool) -> Path:
        """Writes what a peer reads."""
        made = engine.Setup(
            bundle=self.bundle,
            indexes=self.asked.work / "indexes",
            variant=self.config["variants"]["default"],
            predictor=predictor,
            exact=exact,
            clock_offset_ms=self.config["server"]["clock_offset_ms"],
            redis_port=self.redis_port,
        )
        file: Path = self.asked.work / f"setup-{predictor}-{'exact' if exact else 'timed'}.json"
        file.write_text(json.dumps(dataclasses.asdict(made), default=str, indent=2))
        return file


def main() -> int:
    """The comparison, the table, the JSON; 1 when the slates differ."""
    for name in NOT_FOR_THE_PEER:
        os.environ.pop(name, None)
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        state = prepare(asked, stack)
        if asked.columns:
            print(compared_columns(state))
            return 0
        compared = [compared_slates(state, predictor) for predictor in PREDICTORS]
        for found in compared:
            print(found.line(), flush=True)
        if not all(found.is_equal() for found in compared):
            print("the slates differ: nothing is timed", file=sys.stderr)
            return 1
        rows, common = timed(state)
    result = report.Result(compared, rows, report.about(state.bundle, asked), state.searches, common)
    print(result.table())
    if asked.json:
        asked.json.write_text(json.dumps(result.as_json(), indent=2) + "\n")
    return 0


def prepare(asked: argparse.Namespace, stack: ExitStack) -> State:
    """Export, Redis with the profiles, a copy of the store."""
    config = tomllib.loads(marquee(asked, "config", "show"))
    listed = json.loads(marquee(asked, "bundle", "list", "--json"))
    serving = [bundle["version"] for bundle in listed if bundle["serving"]]
    if not serving:
        raise SystemExit("no bundle serves in this state: train one first")
    bundle = Path(config["artifacts"]["url"].removeprefix("file://")) / serving[0]
    known = bundles.read(bundle)
    export = asked.work / "export"
    about = export / "export.json"
    if not about.exists() or json.loads(about.read_text())["watermark"] != known.watermark:
        print(marquee(asked, "export", "--out", str(export)).splitlines()[0], flush=True)
    exported = profiles.Export(export, known)
    if exported.watermark != known.watermark:
        raise SystemExit(
            f"the log went on to {exported.watermark} after the bundle was built at {known.watermark}; the peer knows "
            "the bundle alone: train again, or take a state that nobody has written to since"
        )
    chosen = engine.choose(known, asked.work / "indexes")
    searches = {name: f"{'hnswlib' if it.ef else 'exact scan'} ({it.said})" for name, it in chosen.items()}
    for name, said in searches.items():
        print(f"peer, {name}: {said}", flush=True)
    copy_store(config, asked.work)
    drawn = exported.draw(asked.users, seed=1)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = Server([*command, "--dir", str(asked.work)], port, asked.work / "redis.log")
    stack.callback(server.stop)
    stack.callback(setattr, asked, "redis", None)
    asked.redis = server
    pipeline = redis.Redis(port=port).pipeline(transaction=False)
    users = [exported.keys[user].removeprefix("u:") for user in drawn]
    for user, name in zip(drawn, users, strict=True):
        pipeline.set(f"profile:{name}", profiles.encode(exported.profile(user)))
    pipeline.execute()
    return State(asked, config, bundle, users, port, searches)


def marquee(asked: argparse.Namespace, *command: str) -> str:
    """One command of the binary; its output."""
    ran = subprocess.run(
        [asked.marquee, "--config", asked.config, *command], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"marquee {' '.join(command)} failed:\n{ran.stderr[-2_000:]}")
    return ran.stdout


def copy_store(config: dict[str, Any], work: Path) -> None:
    """The slate log is written into the store: into a copy."""
    source = Path(config["store"]["url"].removeprefix("sqlite://"))
    for name in ("plain", "logging"):
        target = work / f"{name}.db"
        for old in work.glob(f"{name}.db*"):
            old.unlink()
        with sqlite3.connect(f"file:{source}?mode=ro", uri=True) as opened, sqlite3.connect(target) as written:
            opened.backup(written)


@contextmanager
def serving_marquee(state: State, *, exact: bool = False, slate_log: bool = False) -> Iterator[Server]:
    """A Marquee over the copied store."""
    work, listen, port = state.asked.work, "127.0.0.1", free_port()
    store = work / ("logging.db" if slate_log else "plain.db")
    environment = {
        "MARQUEE_SERVER__LISTEN": f"{listen}:{port}",
        "MARQUEE_SERVER__ADMIN_LISTEN": f"{listen}:{free_port()}",
        "MARQUEE_SERVER__METRICS_LISTEN": f"{listen}:{free_port()}",
        "MARQUEE_STORE__URL": f"sqlite://{store.resolve()}",
        "MARQUEE_CACHE__MAX_BYTES": "67108864",
        "MARQUEE_SLATE_LOG__ENABLED": str(slate_log).lower(),
        **({"MARQUEE_RANKING__EXACT_BELOW_ITEMS": EXACT} if exact else {}),
    }
    command = [str(state.asked.marquee), "--config", str(state.asked.config), "serve"]
    server = Server(command, port, work / f"marquee-{store.stem}.log", environment)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def serving_peer(state: State, predictor: str, *, exact: bool = False) -> Iterator[Server]:
    """The peer: gunicorn with one worker a core, one thread of each library in it."""
    port = free_port()
    environment = {
        "PEER_PORT": str(port),
        "PEER_WORKERS": str(os.cpu_count() or 1),
        "PEER_SETUP": str(state.setup(predictor, exact=exact).resolve()),
        "PYTHONPATH": str(HERE),
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"),
    }
    command = [sys.executable, "-m", "gunicorn", "--config", str(HERE / "gunicorn.conf.py"), "app:app"]
    server = Server(command, port, state.asked.work / f"peer-{predictor}.log", environment)
    try:
        yield server
    finally:
        server.stop()


def grpc_requests(state: State, *, bypass: bool) -> list[bytes]:
    """One for each user."""
    return [wire.recommend_request(user, state.asked.count, bypass_cache=bypass) for user in state.users]


def http_request(state: State, user: str, more: str) -> bytes:
    """The same question for the peer."""
    return wire.http_request(f"/recommend?user_id={quote(user)}&count={state.asked.count}{more}")


def compared_slates(state: State, predictor: str) -> compare.Compared:
    """Both rank exactly; the peer at the very moments at which Marquee did."""
    with serving_marquee(state, exact=True) as ours, serving_peer(state, predictor, exact=True) as theirs:
        return compare.slates(predictor, *both(state, ours, theirs))


def both(state: State, ours: Server, theirs: Server) -> tuple[list[wire.Answer], list[dict[str, Any]]]:
    """The slates of both for the same users and moments."""
    users = state.users[: state.asked.verify_users]
    asked = [wire.recommend_request(user, state.asked.count, bypass_cache=True) for user in users]
    slates = [wire.recommend_answer(body) for body in load.answers(wire.Grpc(wire.connect(ours.port)), asked)]
    again = [
        http_request(state, user, f"&bypass_cache=true&now_ms={slate.now_ms}")
        for user, slate in zip(users, slates, strict=True)
    ]
    others = load.answers(wire.Http(wire.connect(theirs.port)), again)
    return slates, [json.loads(body) for body in others]


def compared_columns(state: State) -> str:
    """Column by column; see `verify.py`."""
    peer = engine.load(engine.Setup.read(state.setup("onnx", exact=True)))()
    export = profiles.Export(state.asked.work / "export", peer.catalogue)
    with serving_marquee(state, exact=True) as ours:
        return verify.columns(peer, export, export.draw(state.asked.columns, seed=1), ours.port)


def timed(state: State) -> tuple[list[report.Row], float]:
    """Every server in turns, so that what else the machine does meets all of them; and the slates' common share."""
    with ExitStack() as stack:
        plain = stack.enter_context(serving_marquee(state))
        logging = stack.enter_context(serving_marquee(state, slate_log=True))
        peers = {name: stack.enter_context(serving_peer(state, name)) for name in PREDICTORS}
        common = compare.overlap(*both(state, plain, peers["onnx"]))
        print(f"as timed, with approximate searches: {common:.1%} of the items of their slates in common", flush=True)
        peer_cached = [http_request(state, user, "") for user in state.users]
        peer_ranked = [http_request(state, user, "&bypass_cache=true") for user in state.users]
        ours = {True: grpc_requests(state, bypass=True), False: grpc_requests(state, bypass=False)}
        runs = [
            ("cached", "Marquee", plain, wire.Grpc, ours[False]),
            ("cached", "Marquee, slate log on", logging, wire.Grpc, ours[False]),
            ("cached", "peer (Redis)", peers["onnx"], wire.Http, peer_cached),
            ("ranked", "Marquee", plain, wire.Grpc, ours[True]),
            ("ranked", "Marquee, slate log on", logging, wire.Grpc, ours[True]),
            ("ranked", "peer, onnxruntime", peers["onnx"], wire.Http, peer_ranked),
            ("ranked", "peer, xgboost", peers["xgboost"], wire.Http, peer_ranked),
        ]
        rows = [report.Row(kind, name) for kind, name, *_ in runs]
        for repetition in range(state.asked.repetitions):
            for row, (kind, name, server, protocol, requests) in zip(rows, runs, strict=True):
                print(f"repetition {repetition + 1}: {kind}, {name}", file=sys.stderr, flush=True)
                row.add(measured(state, server, protocol, requests))
    return rows, common


def measured(
    state: State, server: Server, protocol: Callable[..., wire.Connection], requests: list[bytes]
) -> report.Run:
    """One run, after every user was asked for once: caches are full then, and nothing is new to the server."""
    load.answers(protocol(wire.connect(server.port)), requests)
    before, redis_before = server.cpu_s(), state.asked.redis.cpu_s()
    outcome = load.run(
        lambda: protocol(wire.connect(server.port)), requests, state.asked.connections, state.asked.seconds
    )
    return report.Run(outcome, server.cpu_s() - before, state.asked.redis.cpu_s() - redis_before)


if __name__ == "__main__":
    if shutil.which("redis-server") is None:
        raise SystemExit("redis-server was not found; `run.sh` installs it")
    sys.exit(main())
