"""Users' Parquet becomes the documented import layout."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from marquee_models import parquet


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_items_keep_lists_and_attributes_and_lose_nulls(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "id": [949, 950],
            "title": ["Heat", None],
            "year": [1995, None],
            "genres": [["Crime", "Drama"], []],
            "attr.mpaa": ["R", None],
            "created": [datetime(1995, 12, 15), None],
        }
    )
    frame.write_parquet(tmp_path / "items.parquet")
    assert parquet.main(["import", str(tmp_path / "items.parquet"), "--out", str(tmp_path / "out")]) == 0
    assert lines(tmp_path / "out" / "items.jsonl") == [
        {
            "id": "949",
            "title": "Heat",
            "year": 1995,
            "genres": ["Crime", "Drama"],
            "created_ms": 818985600000,
            "attributes": {"mpaa": "R"},
        },
        {"id": "950", "genres": []},
    ]


def test_events_get_times_in_milliseconds_whatever_their_unit(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 1, 18, 30, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        frame = pl.DataFrame({"who": [7], "item_id": ["949"], "type": ["rating"], "value": [4.5], "time": [moment]})
        frame = frame.with_columns(pl.col("time").dt.cast_time_unit(unit))
        frame.write_parquet(tmp_path / "events-1.parquet")
        arguments = ["import", str(tmp_path / "events-1.parquet"), "--out", str(tmp_path), "--rename", "who=user_id"]
        assert parquet.main(arguments) == 0
        assert lines(tmp_path / "events-1.jsonl") == [
            {"user_id": "7", "item_id": "949", "type": "rating", "value": 4.5, "time_ms": 1714588200000}
        ]


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (pl.DataFrame({"id": ["1"], "titel": ["Heat"]}), "unknown columns titel"),
        (pl.DataFrame({"id": ["1"], "created": [5]}), "`created` is Int64"),
    ],
)
def test_columns_that_do_not_fit_are_named(
    frame: pl.DataFrame, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame.write_parquet(tmp_path / "items.parquet")
    assert parquet.main(["import", str(tmp_path / "items.parquet"), "--out", str(tmp_path / "out")]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "items.jsonl").exists()


def test_a_file_that_is_not_parquet_fails_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "items.parquet").write_text("no")
    assert parquet.main(["import", str(tmp_path / "items.parquet"), "--out", str(tmp_path / "out")]) == 1
    assert "failed:" in capsys.readouterr().err
