"""Make ranker.onnx and ranker.json: a small XGBoost ranker on synthetic numbers, and its own scores.

Run from the repository root, with models/ on the path and its dependencies installed:
    PYTHONPATH=models python engine/tests/golden/make.py
The data are random numbers, so the files carry nobody's licence.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import xgboost
from marquee_models.export import export_xgboost, probe_rows

HERE = Path(__file__).parent
COLUMNS = ["rank_a", "score_a", "popularity", "age", "affinity", "hour"]
ROWS = 150


def main() -> None:
    rng = np.random.default_rng(7)
    features = rng.normal(size=(4000, len(COLUMNS))).astype(np.float32)
    features[:, 5] = rng.integers(0, 24, 4000)
    features[rng.random(features.shape) < 0.15] = np.nan
    filled = np.nan_to_num(features, nan=0.3)
    labels = (filled[:, 0] * filled[:, 1] + filled[:, 2] > 0.5).astype(int) + (filled[:, 3] > 1.0)
    matrix = xgboost.DMatrix(features, label=labels, feature_names=COLUMNS)
    matrix.set_group([40] * 100)
    parameters = {"objective": "rank:ndcg", "max_depth": 5, "eta": 0.3, "nthread": 1, "seed": 7}
    booster = xgboost.train(parameters, matrix, 20)

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "booster.json"
        booster.save_model(path)
        trees = json.loads(path.read_text())["learner"]["gradient_booster"]["model"]["trees"]
        report = export_xgboost(path, COLUMNS, HERE / "ranker.onnx")
    rows = probe_rows(trees, len(COLUMNS))[:ROWS]
    scores = booster.predict(xgboost.DMatrix(rows, feature_names=COLUMNS))
    # JSON has no NaN: unknown is null. A float32 printed as a double reads back exactly.
    listed = [[None if np.isnan(x) else float(x) for x in row] for row in rows]
    golden = {"columns": COLUMNS, "rows": listed, "scores": [float(s) for s in scores]}
    (HERE / "ranker.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(report)


if __name__ == "__main__":
    main()
