#!/usr/bin/env python3
"""Stands in for the binary `marquee` where only the pipeline's own logic is tested: order, restarts, gate, exit codes.

State is a folder beside this file's copy: `log/` (an export), `serving`, `calls`, `quality` (the NDCG@10 it reports;
`quality.VERSION` for one bundle alone).
Imports little, as it starts many times.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

COLUMNS = ["item_popularity", "position"]
HOME = Path(__file__).parent


def option(name: str, default: str | None = None) -> str:
    if name in sys.argv:
        return sys.argv[sys.argv.index(name) + 1]
    assert default is not None, name
    return default


def export() -> None:
    out, until = Path(option("--out")), int(option("--until", str(2**62)))
    # As the binary does: an export is replaced, another folder is not touched.
    assert not out.exists() or (out / "export.json").exists()
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(HOME / "log", out)
    events = load_file(out / "events.safetensors")
    keep = events["time_ms"] < until
    save_file({name: array[keep] for name, array in events.items()}, out / "events.safetensors")
    about = json.loads((out / "export.json").read_text())
    about["events"] = int(keep.sum())
    (out / "export.json").write_text(json.dumps(about))


def bundle_build() -> None:
    out = Path(option("--out"))
    version = f"{len(list(out.iterdir())):03d}"
    shutil.copytree(option("--models"), out / version)
    print("building", version, sep="\n")


def bundle_list() -> None:
    serving = HOME / "serving"
    found = [{"version": serving.read_text(), "serving": True}] if serving.exists() else []
    print(json.dumps(found))


def replay() -> None:
    random = np.random.default_rng(0)
    features = random.random((8000, 2)).astype(np.float32)
    written: dict[str, Any] = {
        "features": features,
        "label": (features[:, 0] > 0.8).astype(np.float32),
        "group": np.full(400, 20, np.uint32),
        "user": np.arange(400, dtype=np.uint32),
        "time_ms": np.arange(400, dtype=np.int64),
    }
    save_file(written, option("--out"), {"columns": json.dumps(COLUMNS)})
    print("8000 rows of 400 moments")


def moments_of(path: Path) -> None:
    events = load_file(HOME / "log" / "events.safetensors")
    at = int(option("--from"))
    users = np.unique(events["user"])
    before = [np.flatnonzero((events["user"] == user) & (events["time_ms"] < at)) for user in users]
    entries = np.concatenate(before)
    written: dict[str, Any] = {
        "user": users.astype(np.uint32),
        "time_ms": np.full(len(users), at, np.int64),
        "offsets": np.concatenate([[0], np.cumsum([len(rows) for rows in before])]).astype(np.int64),
        "item": events["item"][entries],
        "weight": events["weight"][entries],
    }
    save_file(written, path)


def evaluate() -> None:
    if "--moments-out" in sys.argv:
        moments_of(Path(option("--moments-out")))
    if "--moments-only" in sys.argv:
        return
    own = HOME / f"quality.{Path(option('--bundle', 'none')).name}"
    quality = float((own if own.exists() else HOME / "quality").read_text())
    scores = {"ranked": quality, "blend": quality, "popular": 0.1} if "--bundle" in sys.argv else {}
    if "--lists" in sys.argv:
        scores |= {path.stem: 0.05 for path in Path(option("--lists")).iterdir()}
    lists = {}
    for name, score in scores.items():
        per_user = {metric: [score, score] for metric in ("ndcg_at_10", "recall_at_20")}
        means = {"ndcg_at_10": score, "recall_at_20": score, "coverage": 0.5, "novelty": 5.0}
        lists[name] = {**means, "per_user": per_user}
    bounds = {"from_ms": int(option("--from")), "until_ms": int(option("--until"))}
    found = {"bundle": "x", **bounds, "moments": 4, "users": 2, "lists": lists, "recall_at_500": {"union": 0.9}}
    Path(option("--out")).write_text(json.dumps(found))


def main() -> None:
    command = " ".join(word for word in sys.argv[1:3] if not word.startswith("-"))
    with (HOME / "calls").open("a") as calls:
        calls.write(command + "\n")
    if command == "bundle activate":
        (HOME / "serving").write_text(sys.argv[3])
    elif command == "bundle publish":
        with (HOME / "published").open("a") as published:
            published.write(Path(sys.argv[3]).name + "\n")
    elif command == "artifacts put":
        assert Path(sys.argv[3]).is_file()
        with (HOME / "kept").open("a") as kept:
            kept.write(" ".join([sys.argv[4], option("--name")]) + "\n")
    else:
        commands = {"bundle build": bundle_build, "bundle list": bundle_list}
        plain = {"export": export, "replay": replay, "evaluate": evaluate}
        commands.get(command, plain.get(command.split()[0], lambda: sys.exit(2)))()


if __name__ == "__main__":
    main()
