"""Parquet in and out; the only module that needs polars (`pip install marquee-models[parquet]`).

    python -m marquee_models.parquet import items.parquet events.parquet --out FOLDER [--rename movie=item_id]
    python -m marquee_models.parquet rows rows.safetensors --out rows.parquet

`import` writes the layout that `marquee import --layout marquee` reads (docs/data.md) as JSON lines, one file for each
Parquet file, whose name must begin with items, users or events. Columns bear the layout's names; `attr.NAME` is an
attribute; lists stay lists; ids of any integer type become text; a date or timestamp column becomes milliseconds UTC
(one without a time zone is taken as UTC). An unknown column is an error: name it with --rename, or leave it out with
--drop. Checking rows is left to the import: it counts and quarantines what it refuses.

`rows` turns the training rows of `marquee replay` into a table for people.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from marquee_models import arrays, ranker_xgboost

BATCH_ROWS = 100_000

IDS = {"id", "user_id", "anonymous_id", "session_id", "item_id", "slate_id"}
KNOWN = {
    "items": {
        *("id", "title", "year", "genres", "cast", "directors", "tags", "text"),
        *("available_from_ms", "available_until_ms", "hidden", "created_ms", "attributes"),
    },
    "users": {"id", "attributes"},
    "events": {
        *("id", "user_id", "anonymous_id", "session_id", "item_id", "type", "value", "watched_seconds"),
        *("time_ms", "surface", "slate_id", "position", "query"),
    },
}
# Time columns may come under their plain names, as dates or timestamps.
TIMES = {
    "items": {"available_from": "available_from_ms", "available_until": "available_until_ms", "created": "created_ms"},
    "users": {},
    "events": {"time": "time_ms"},
}


class BadColumns(ValueError):
    """A file's columns do not fit the layout; the message names them."""


def convert(path: Path, out: Path, rename: dict[str, str], drop: set[str]) -> int:
    """Writes OUT/STEM.jsonl; answers the number of rows."""
    kind = next((kind for kind in KNOWN if path.stem.startswith(kind)), None)
    if kind is None:
        raise BadColumns(f"{path}: the name must begin with items, users or events")
    frame = pl.scan_parquet(path)
    schema = frame.collect_schema()
    names = {name: rename.get(name, name) for name in schema.names() if name not in drop}
    targets = {old: TIMES[kind].get(new, new) for old, new in names.items()}
    attributes = {old for old, new in targets.items() if new.startswith("attr.") and kind != "events"}
    unknown = sorted(old for old, new in targets.items() if old not in attributes and new not in KNOWN[kind])
    if unknown:
        raise BadColumns(f"{path}: unknown columns {', '.join(unknown)}; --rename or --drop them")
    if len(set(targets.values())) < len(targets):
        raise BadColumns(f"{path}: two columns go by one name: {targets}")
    frame = frame.select(
        [_in_milliseconds(pl.col(old), schema[old], path, old).alias(new) for old, new in targets.items()]
    )
    count = 0
    with arrays.replacing(out / f"{path.stem}.jsonl") as partial, partial.open("w", encoding="utf-8") as lines:
        for row in _rows(frame):
            lines.write(json.dumps(_line(row), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _in_milliseconds(column: pl.Expr, dtype: pl.DataType, path: Path, name: str) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return column.dt.timestamp("ms")
    if dtype == pl.Date:
        return column.cast(pl.Datetime("ms")).dt.timestamp("ms")
    if name in ("time", "available_from", "available_until", "created"):
        raise BadColumns(f"{path}: `{name}` is {dtype}, not a date or timestamp; numbers go by the name {name}_ms")
    return column


def _rows(frame: pl.LazyFrame) -> Iterator[dict[str, Any]]:
    length = int(frame.select(pl.len()).collect().item())
    for start in range(0, length, BATCH_ROWS):
        yield from frame.slice(start, BATCH_ROWS).collect().iter_rows(named=True)


def _line(row: dict[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if name.startswith("attr."):
            attributes[name.removeprefix("attr.")] = _plain(value)
        elif name == "attributes":
            attributes |= {key: _plain(one) for key, one in value.items() if one is not None}
        elif name in IDS:
            line[name] = str(value)
        else:
            line[name] = _plain(value)
    if attributes:
        line["attributes"] = attributes
    return line


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(one) for one in value if one is not None]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value


def rows_for_people(rows: Path, out: Path) -> int:
    """Training rows as a table: user, moment, label, then every feature by name."""
    found = ranker_xgboost.read_rows(rows)
    frame = pl.DataFrame(
        {
            "user": found.user.repeat(found.group),
            "time": found.time_ms.repeat(found.group),
            "label": found.label,
            **{name: found.features[:, index] for index, name in enumerate(found.columns)},
        }
    ).with_columns(pl.col("time").cast(pl.Datetime("ms", "UTC")))
    with arrays.replacing(out) as partial:
        frame.write_parquet(partial)
    return len(frame)


def _pairs(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise argparse.ArgumentTypeError(f"{text!r} is not OLD=NEW")
    return old, new


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m marquee_models.parquet", description="Parquet in and out.")
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="users' Parquet to the layout of `marquee import`")
    importing.add_argument("files", type=Path, nargs="+")
    importing.add_argument("--out", type=Path, required=True)
    importing.add_argument("--rename", type=_pairs, action="append", default=[], metavar="OLD=NEW")
    importing.add_argument("--drop", action="append", default=[], metavar="COLUMN")
    rows = commands.add_parser("rows", help="training rows to Parquet")
    rows.add_argument("rows", type=Path)
    rows.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "rows":
            print(f"{rows_for_people(chosen.rows, chosen.out):,} rows in {chosen.out}")
            return 0
        for path in chosen.files:
            count = convert(path, chosen.out, dict(chosen.rename), set(chosen.drop))
            print(f"{count:>12,} rows of {path}")
        print(f"next: marquee import --layout marquee {chosen.out}")
    except (BadColumns, arrays.BadArrays, pl.exceptions.PolarsError, OSError) as failed:
        print(f"failed: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
