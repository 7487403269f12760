"""Steps that can be restarted: each runs once for the same inputs and settings, and says on the terminal how it went.

A step's marker (`steps/NAME.json` in the work folder) is written when the step is done. It holds a digest of the
settings, of the code and of every input file; a step whose digest and outputs are still there is skipped.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from marquee_models import arrays

Result = dict[str, Any]


@dataclass
class Steps:
    """The steps of one run, in order."""

    work: Path
    screen: TextIO = field(default_factory=lambda: sys.stderr)
    again: bool = False
    timings: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def run(
        self,
        name: str,
        action: Callable[[], Result | None],
        *,
        settings: object = None,
        code: Iterable[ModuleType] = (),
        inputs: Iterable[Path] = (),
        outputs: Iterable[Path] = (),
    ) -> Result:
        """Runs `action` unless nothing changed; answers what it answered, now or then. `shown` in it is printed."""
        marker = self.work / "steps" / f"{name.replace(' ', '-').replace('/', '-')}.json"
        digest = _digest(settings, code, inputs)
        found = None if self.again else _read(marker)
        if found and found["digest"] == digest and all(path.exists() for path in outputs):
            self.timings[name] = found["seconds"]
            self._line(name, found["result"].get("shown", ""), "unchanged")
            return dict(found["result"])
        marker.unlink(missing_ok=True)
        self._pending(name)
        begun = time.monotonic()
        result = action() or {}
        seconds = time.monotonic() - begun
        self.timings[name] = seconds
        arrays.write_json(marker, {"digest": digest, "seconds": round(seconds, 3), "result": result})
        self._line(name, result.get("shown", ""), _duration(seconds))
        return result

    def title(self, text: str) -> None:
        """A heading between groups of steps."""
        bold, plain = ("\x1b[1m", "\x1b[0m") if self.screen.isatty() else ("", "")
        print(f"{bold}{text}{plain}", file=self.screen, flush=True)

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"  {text}", file=self.screen, flush=True)

    def _pending(self, name: str) -> None:
        if self.screen.isatty():
            print(f"  \x1b[2m… {name}\x1b[0m", end="\r", file=self.screen, flush=True)

    def _line(self, name: str, shown: str, right: str) -> None:
        tty = self.screen.isatty()
        mark = "\x1b[32m✓\x1b[0m" if tty else "-"
        clear = "\r\x1b[K" if tty else ""
        width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
        room = width - 2 - 2 - 28 - 12
        print(f"{clear}  {mark} {name:<28}{shown[:room]:<{room}}{right:>11}", file=self.screen, flush=True)

    def total(self) -> str:
        """Time since the run began, for people."""
        return _duration(time.monotonic() - self.started)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def _read(marker: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
        return found if {"digest", "seconds", "result"} <= found.keys() else None
    except (OSError, ValueError):
        return None


def _digest(settings: object, code: Iterable[ModuleType], inputs: Iterable[Path]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for module in code:
        digest.update(inspect.getsource(module).encode())
    for path in inputs:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                digest.update(f"{file.relative_to(path)}\0".encode())
                digest.update(file_digest(file))
    return digest.hexdigest()


def file_digest(path: Path) -> bytes:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def fresh(directory: Path) -> Path:
    """An empty folder of that name."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory


def threads_default() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
