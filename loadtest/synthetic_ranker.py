"""The ranker of a synthetic catalogue: 300 trees of depth 6 on the rows that `marquee-loadtest generate` wrote.

Trained by XGBoost on features that the engine computed, so that thresholds are those of real columns; exported, checked
and proven by golden rows as every ranker. The booster stays beside it, for whoever compares predictors.

    models/.venv/bin/python loadtest/synthetic_ranker.py ROWS.safetensors MODELS
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import xgboost

from marquee_models import arrays, export, ranker_xgboost

TREES = 300
DEPTH = 6
GOLDEN_ROWS = 256


def train(rows: ranker_xgboost.Rows) -> xgboost.Booster:
    """LambdaMART; leaves small enough that the trees fill their depth."""
    matrix = xgboost.DMatrix(rows.features, label=rows.label, missing=np.nan, feature_names=rows.columns)
    matrix.set_group(rows.group)
    parameters = {
        "objective": "rank:ndcg",
        "tree_method": "hist",
        "max_bin": 64,
        "max_depth": DEPTH,
        "eta": 0.05,
        "min_child_weight": 0.01,
        "subsample": 0.7,
        "colsample_bytree": 0.5,
        "lambda": 1.0,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "ndcg_exp_gain": False,
        "seed": 1,
        "nthread": 2,
    }
    return xgboost.train(parameters, matrix, num_boost_round=TREES)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    rows = ranker_xgboost.read_rows(arguments.rows)
    booster = train(rows)
    native = arguments.models / "booster.json"
    booster.save_model(native)
    report = export.export_xgboost(native, rows.columns, arguments.models / "ranker.onnx")
    if (report.trees, report.depth_max) != (TREES, DEPTH):
        raise SystemExit(f"{report.trees} trees of depth {report.depth_max}, not {TREES} of {DEPTH}: too few rows")
    config = ranker_xgboost.Config(golden_rows=GOLDEN_ROWS)
    golden = ranker_xgboost.golden(rows, booster, config)
    arrays.save_rows(arguments.models / "golden.safetensors", golden, {"columns": json.dumps(rows.columns)})
    document = json.loads(native.read_text(encoding="utf-8"))
    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    leaves = np.mean([sum(left == -1 for left in tree["left_children"]) for tree in trees])
    print(
        f"{report.trees} trees of depth {report.depth_max}, {leaves:.0f} leaves each, {len(rows.columns)} columns, "
        f"{len(rows.features):,} rows; largest difference of the export {report.difference_max:.1e}"
    )


if __name__ == "__main__":
    main()
