"""The ranker on rows whose right order is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marquee_models import arrays, ranker_xgboost
from marquee_models.arrays import Arrays
from marquee_models.ranker_xgboost import Config, Rows

COLUMNS = ["useful", "noise", "sometimes_unknown"]
QUICK = Config(trees_max=30, patience_trees=5, rows_per_leaf_min=1.0, threads=1, l2=1.0, golden_rows=64)


def rows_file(path: Path, moments: int = 60, size: int = 20) -> Path:
    """The best "useful" of each moment is positive; a third of the last column is unknown."""
    random = np.random.default_rng(0)
    features = random.random((moments * size, 3)).astype(np.float32)
    features[random.random(len(features)) < 0.3, 2] = np.nan
    best = features[:, 0].reshape(moments, size).argmax(axis=1) + np.arange(moments) * size
    label = np.zeros(len(features), np.float32)
    label[best] = 3
    written: Arrays = {
        "features": features,
        "label": label,
        "group": np.full(moments, size, np.uint32),
        "user": (np.arange(moments) % 7).astype(np.uint32),
        "time_ms": np.arange(moments, dtype=np.int64),
        "blend": np.zeros(len(features), np.float32),
        "item": np.zeros(len(features), np.uint32),
    }
    arrays.save_rows(path, written, {"columns": json.dumps(COLUMNS)})
    return path


def test_learns_what_is_useful_and_exports_what_it_learned(tmp_path: Path) -> None:
    card = ranker_xgboost.write(rows_file(tmp_path / "rows.safetensors"), tmp_path, tmp_path / "work", QUICK)
    assert max(card["importance"], key=card["importance"].__getitem__) == "useful"
    assert card["validation_ndcg_at_10"] > 0.8
    assert card["onnx_difference_max"] < 1e-5

    import onnxruntime

    golden = arrays.load(tmp_path / "golden.safetensors", {"features": "float32", "scores": "float32"})
    session = onnxruntime.InferenceSession(tmp_path / "ranker.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"features": golden["features"]})
    assert golden["features"].shape == (64, 3)
    assert np.isnan(golden["features"]).any()
    np.testing.assert_allclose(scores, golden["scores"], atol=1e-5)


def test_two_fits_give_the_same_trees(tmp_path: Path) -> None:
    rows = ranker_xgboost.read_rows(rows_file(tmp_path / "rows.safetensors"))
    first, second = (bytes(ranker_xgboost.fit(rows, QUICK).booster.save_raw()) for _ in range(2))
    assert first == second


def test_rows_without_a_positive_teach_nothing(tmp_path: Path) -> None:
    rows = ranker_xgboost.read_rows(rows_file(tmp_path / "rows.safetensors"))
    blank = Rows(rows.columns, rows.features, np.zeros_like(rows.label), rows.group, rows.user, rows.time_ms)
    with pytest.raises(ranker_xgboost.NothingToLearn, match="0 moments with a positive"):
        ranker_xgboost.fit(blank, QUICK)


def test_rows_too_few_for_any_split_teach_nothing(tmp_path: Path) -> None:
    rows = ranker_xgboost.read_rows(rows_file(tmp_path / "rows.safetensors"))
    with pytest.raises(ranker_xgboost.NothingToLearn, match="too few"):
        ranker_xgboost.fit(rows, replace(QUICK, rows_per_leaf_min=1e6))


def test_thinning_keeps_all_positives_and_the_order(tmp_path: Path) -> None:
    rows = ranker_xgboost.read_rows(rows_file(tmp_path / "rows.safetensors"))
    thin = rows.thinned(4, seed=1)
    assert (thin.group == 5).all()
    assert (thin.label > 0).sum() == (rows.label > 0).sum()
    row = {tuple(values): number for number, values in enumerate(np.nan_to_num(rows.features, nan=-1).tolist())}
    numbers = [row[tuple(values)] for values in np.nan_to_num(thin.features, nan=-1).tolist()]
    assert numbers == sorted(numbers)


def test_groups_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    path = rows_file(tmp_path / "rows.safetensors")
    found = arrays.load(path, {"features": "float32", "label": "float32", "user": "uint32", "time_ms": "int64"})
    arrays.save_rows(path, {**found, "group": np.ones(3, np.uint32)}, {"columns": json.dumps(COLUMNS)})
    with pytest.raises(arrays.BadArrays, match="does not add up"):
        ranker_xgboost.read_rows(path)
