"""The command line: `python3 -m testkit start | stop | status | run COMMAND... | proxy`."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from testkit import proxy, services
from testkit.process import Unready, born


def main() -> int:
    """Only `export` lines go to standard output."""
    parser = argparse.ArgumentParser(prog="testkit", description="Real servers for tests, on 127.0.0.1.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (
        ("start", "start servers that go on; prints export lines"),
        ("stop", "stop them"),
        ("status", "which run"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("--folder", type=Path, default=services.PLACE / "shared")
        if name == "start":
            command.add_argument("--only", default=",".join(services.ALL), help="names, with commas between")
    command = commands.add_parser("run", help="run a command beside servers of its own, then stop them")
    command.add_argument("words", nargs=argparse.REMAINDER)
    command = commands.add_parser("proxy", help="relay a port; each line of standard input changes the faults")
    command.add_argument("--to", type=int, required=True, help="port on 127.0.0.1")
    command.add_argument("--port", type=int, help="port to listen on; a free one when not given")
    given = parser.parse_args()
    folder = Path(given.folder).absolute() if "folder" in given else services.PLACE
    try:
        match given.command:
            case "start":
                print(*_exports(start(folder, given.only.split(","))), sep="\n")
            case "stop":
                print(f"testkit: {services.stop(folder)} processes stopped", file=sys.stderr)
            case "status":
                for mark in services.marks(folder):
                    print(f"{mark.name:<18} {mark.pid:>7} {'runs' if born(mark.pid) == mark.born else 'is gone'}")
                return 0 if services.running(folder) else 1
            case "proxy":
                return proxy.by_hand(given.to, given.port)
            case _:
                return services.run(given.words[1:] if given.words[:1] == ["--"] else given.words)
    except Unready as error:
        print(f"testkit: {error}", file=sys.stderr)
        return 69
    return 0


def start(folder: Path, only: list[str]) -> dict[str, str]:
    """The set that runs there already if it is whole, else a new one."""
    found = services.running(folder)
    if found is not None:
        print("testkit: they run already", file=sys.stderr)
        return found
    services.stop(folder)
    return services.Set(folder, only, outlives=True).start()


def _exports(environment: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]


if __name__ == "__main__":
    sys.exit(main())
