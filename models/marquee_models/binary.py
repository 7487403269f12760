"""The commands of the binary `marquee` that training calls. The only module that knows their arguments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BinaryFailed(Exception):
    """A command of the binary ended with an error; the message holds the command and the end of what it printed."""


@dataclass(frozen=True)
class Binary:
    """Where the binary is, and its config."""

    path: Path
    config: Path | None = None

    def call(self, *arguments: object) -> str:
        """Runs a command; answers what it printed. Its progress goes to the terminal if there is one."""
        command = [str(self.path), *map(str, self._global()), *(str(argument) for argument in arguments)]
        to_terminal = sys.stderr.isatty()
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=None if to_terminal else subprocess.PIPE, text=True, check=False
            )
        except OSError as error:
            raise BinaryFailed(f"{self.path}: {error.strerror}") from error
        if done.returncode != 0:
            told = "\n".join(((done.stderr or "") + done.stdout).strip().splitlines()[-15:])
            raise BinaryFailed(f"{' '.join(command)}\nended with {done.returncode}\n{told}")
        return done.stdout

    def _global(self) -> Sequence[object]:
        return ["--config", self.config] if self.config else []

    def export(self, out: Path, until_ms: int | None) -> None:
        """`marquee export`"""
        until = ["--until", until_ms] if until_ms is not None else []
        self.call("export", "--out", out, *until)

    def bundle_build(
        self,
        data: Path,
        models: Path,
        out: Path,
        *,
        parent: str | None = None,
        metrics: Path | None = None,
        no_ranker_because: str | None = None,
        threads: int,
    ) -> str:
        """`marquee bundle build`; answers the version, which is the folder's name under `out`."""
        optional: list[object] = []
        if parent:
            optional += ["--parent", parent]
        if metrics:
            optional += ["--metrics", metrics]
        if no_ranker_because:
            optional += ["--no-ranker-because", no_ranker_because]
        told = self.call(
            "bundle", "build", "--data", data, "--models", models, "--out", out, "--threads", threads, *optional
        )
        return told.strip().splitlines()[-1].strip()

    def replay(self, bundle: Path, from_ms: int, until_ms: int, out: Path, moments_max: int, negatives_max: int) -> str:
        """`marquee replay`; answers what it says of the rows."""
        bounds = ["--from", from_ms, "--until", until_ms]
        sizes = ["--moments-max", moments_max, "--negatives-max", negatives_max]
        return self.call("replay", "--bundle", bundle, *bounds, *sizes, "--out", out).strip()

    def moments(self, data: Path, from_ms: int, until_ms: int, moments_max: int, out: Path) -> None:
        """`marquee evaluate --moments-only`"""
        bounds = ["--from", from_ms, "--until", until_ms, "--moments-max", moments_max]
        self.call("evaluate", "--data", data, *bounds, "--moments-out", out, "--moments-only")

    def evaluate(
        self,
        data: Path,
        from_ms: int,
        until_ms: int,
        moments_max: int,
        out: Path,
        *,
        bundle: Path | None = None,
        lists: Path | None = None,
    ) -> None:
        """`marquee evaluate`"""
        optional: list[object] = []
        if bundle:
            optional += ["--bundle", bundle]
        if lists:
            optional += ["--lists", lists]
        bounds = ["--from", from_ms, "--until", until_ms, "--moments-max", moments_max]
        self.call("evaluate", "--data", data, *bounds, "--out", out, *optional)

    def bundles(self) -> list[dict[str, Any]]:
        """`marquee bundle list --json`"""
        found: list[dict[str, Any]] = json.loads(self.call("bundle", "list", "--json") or "[]")
        return found

    def serving(self) -> str | None:
        """The version that serves."""
        return next((str(bundle["version"]) for bundle in self.bundles() if bundle.get("serving")), None)

    def publish(self, bundle: Path) -> None:
        """`marquee bundle publish`; nothing to do where the bundle was built in its place."""
        self.call("bundle", "publish", bundle)

    def keep(self, file: Path, kind: str, name: str) -> None:
        """`marquee artifacts put`; nothing to do where bundles are kept in a folder."""
        self.call("artifacts", "put", file, kind, "--name", name)

    def activate(self, version: str) -> None:
        """`marquee bundle activate`"""
        self.call("bundle", "activate", version)
