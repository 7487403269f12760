"""The checkerboard: even users like even items and odd users odd ones, so every right answer is known."""

from __future__ import annotations

import os

# Before numpy comes: tiny matrices are slower on several threads, and tests run beside others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before gRPC comes: tests start processes while its threads run, and it would complain of each.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from marquee_models import arrays, prepare
from marquee_models.arrays import Arrays
from marquee_models.prepare import Prepared

USERS = 40
ITEMS = 24
EVENTS_OF_USER = 8
START_MS = 1_700_000_000_000
MINUTE_MS = 60_000


def checkerboard() -> Arrays:
    """Events in time order: every user walks up the items of its colour from a start of its own, one a minute."""
    user, item, time_ms = [], [], []
    for step in range(EVENTS_OF_USER):
        for row in range(USERS):
            own = np.arange(row % 2, ITEMS, 2)
            user.append(row)
            item.append(own[(row // 2 + step) % len(own)])
            time_ms.append(START_MS + step * MINUTE_MS)
    count = len(user)
    return {
        "user": np.array(user, np.uint32),
        "item": np.array(item, np.uint32),
        "weight": np.ones(count, np.float32),
        "rating": np.full(count, np.nan, np.float32),
        "seen": np.ones(count, np.uint8),
        "interaction": np.ones(count, np.uint8),
        "time_ms": np.array(time_ms, np.int64),
    }


def json_lines(values: Iterable[object]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def write_export(directory: Path, events: Arrays) -> Path:
    """An export directory as Rust writes it; items of one colour share a genre token."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays.save_rows(directory / "events.safetensors", events)
    (directory / "items.jsonl").write_text(
        json_lines({"id": f"i{row}", "title": f"Item {row}"} for row in range(ITEMS))
    )
    (directory / "users.jsonl").write_text(json_lines({"id": f"u:{row}"} for row in range(USERS)))
    vocabulary = ["genre:even", "genre:odd", *(f"cast:{row}" for row in range(ITEMS))]
    (directory / "vocabulary.jsonl").write_text(json_lines(vocabulary))
    token = np.stack([np.arange(ITEMS) % 2, np.arange(ITEMS) + 2], axis=1).ravel().astype(np.uint32)
    tokens: Arrays = {
        "offsets": np.arange(0, 2 * ITEMS + 1, 2, dtype=np.int64),
        "token": token,
        "weight": np.ones(len(token), np.float32),
    }
    arrays.save(directory / "tokens.safetensors", tokens)
    about = {"items": ITEMS, "users": USERS, "events": len(events["user"]), "created_ms": START_MS + 86_400_000}
    (directory / "export.json").write_text(json.dumps(about))
    return directory


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkerboard's export directory."""
    return write_export(tmp_path_factory.mktemp("export"), checkerboard())


@pytest.fixture(scope="session")
def prepared(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The checkerboard, prepared."""
    out = tmp_path_factory.mktemp("prepared")
    prepare.prepare(export, out, prepare.Config())
    return prepare.read(out)
