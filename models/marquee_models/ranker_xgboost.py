"""The ranker: XGBoost LambdaMART on the rows of `marquee replay`, exported to ONNX.

Newest moments are held back to choose the number of trees; then all rows are fitted with that number. Fixed seed, fixed
threads and the `hist` method: the same rows give the same trees. Features come from Rust and are not touched here.

Writes `ranker.onnx`, and `golden.safetensors`: real rows with XGBoost's own scores, which the engine must reproduce
whenever it loads the bundle.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost

from marquee_models import arrays
from marquee_models.arrays import F32, F64, I64, U32, Bools


@dataclass(frozen=True)
class Config:
    """Settings of the ranker."""

    trees_max: int = 250
    depth_max: int = 3
    learning_rate: float = 0.05
    rows_per_leaf_min: float = 20.0
    rows_share: float = 0.7
    columns_share: float = 0.5
    l2: float = 10.0
    bins: int = 64
    # Labels above 0 count alike; else by their grade.
    binary_label: bool = True
    # Random rows without a positive label kept in each moment; all the others are.
    negatives_per_moment_max: int = 80
    # Pairs are drawn from the top this many of each list as it stands.
    pairs_top: int = 20
    # Label l gains 2^l - 1 (true) or l (false).
    exponential_gain: bool = False
    # A moment weighs (moments of its user)^-this: 0 is moments alike, 1 is users alike.
    user_weight_power: float = 0.5
    # Share of the moments, the newest, that choose the number of trees.
    validation_share: float = 0.2
    # Stop when NDCG@10 there has not risen for this many trees.
    patience_trees: int = 100
    # Fit again on all rows with the number of trees found.
    refit: bool = True
    golden_rows: int = 256
    seed: int = 1
    threads: int = 2


@dataclass(frozen=True)
class Rows:
    """Training rows, grouped by moment."""

    columns: list[str]
    features: F32
    label: F32
    group: U32
    user: U32
    time_ms: I64

    def select(self, groups: Bools) -> Rows:
        """The rows of some groups."""
        rows = np.repeat(groups, self.group)
        return Rows(
            self.columns,
            self.features[rows],
            self.label[rows],
            self.group[groups],
            self.user[groups],
            self.time_ms[groups],
        )

    def with_positives(self) -> Rows:
        """Without the groups that have no positive row: they teach a ranker nothing."""
        ends = np.cumsum(self.group.astype(np.int64))
        positives = np.concatenate([[0], np.cumsum(self.label > 0)])
        return self.select(positives[ends] > positives[ends - self.group])

    def thinned(self, negatives_max: int, seed: int) -> Rows:
        """All positive rows, and at most so many random others of each group; the order stays."""
        group = np.repeat(np.arange(len(self.group)), self.group)
        draw = np.random.default_rng(seed).random(len(group))
        draw[self.label > 0] = -1.0
        order = np.lexsort([draw, group])
        starts = np.repeat(np.cumsum(self.group.astype(np.int64)) - self.group, self.group)
        positives = np.bincount(group, weights=self.label > 0, minlength=len(self.group)).astype(np.int64)
        keep = np.zeros(len(group), dtype=bool)
        keep[order] = np.arange(len(group)) - starts < np.repeat(positives + negatives_max, self.group)
        counts = np.bincount(group[keep], minlength=len(self.group)).astype(np.uint32)
        return Rows(self.columns, self.features[keep], self.label[keep], counts, self.user, self.time_ms)


class NothingToLearn(Exception):
    """The rows teach nothing; the bundle goes without a ranker. The message says why in plain words."""


def read_rows(path: Path) -> Rows:
    """What `marquee replay` wrote."""
    wanted = {"features": "float32", "label": "float32", "group": "uint32", "user": "uint32", "time_ms": "int64"}
    found = arrays.load(path, wanted)
    columns = json.loads(arrays.metadata_of(path)["columns"])
    features, label, group = found["features"], found["label"], found["group"]
    arrays.require(features.ndim == 2 and features.shape[1] == len(columns), path, "features", f"is {features.shape}")
    arrays.require(label.shape == (len(features),), path, "label", f"has shape {label.shape}")
    arrays.require(int(group.sum()) == len(features), path, "group", "does not add up to the number of rows")
    arrays.require(bool(np.isfinite(label).all() and (label >= 0).all()), path, "label", "holds a bad label")
    arrays.require(not bool(np.isinf(features).any()), path, "features", "holds an infinite number")
    return Rows(columns, features, label, group, found["user"], found["time_ms"])


@dataclass(frozen=True)
class Fitted:
    """The booster and what is to be said of it."""

    booster: xgboost.Booster
    trees: int
    validation_ndcg_at_10: float
    importance: dict[str, float]


def fit(rows: Rows, config: Config) -> Fitted:
    """Raises `NothingToLearn` when no row is positive, or no feature tells positive rows from others."""
    rows = rows.with_positives()
    if len(rows.group) < 2:
        raise NothingToLearn(f"no ranker: {len(rows.group)} moments with a positive event in the training window")
    order = np.argsort(rows.time_ms, kind="stable")
    held_back = np.zeros(len(order), dtype=bool)
    held_back[order[len(order) - max(1, int(len(order) * config.validation_share)) :]] = True
    newest = _matrix(rows.select(held_back), config)
    thinned = rows.thinned(config.negatives_per_moment_max, config.seed)
    booster = xgboost.train(
        _parameters(config),
        _matrix(thinned.select(~held_back), config),
        num_boost_round=config.trees_max,
        evals=[(newest, "newest")],
        early_stopping_rounds=config.patience_trees,
        verbose_eval=False,
    )
    trees, score = int(booster.best_iteration) + 1, float(booster.best_score)
    if config.refit:
        booster = xgboost.train(_parameters(config), _matrix(thinned, config), num_boost_round=trees)
    else:
        booster = booster[:trees]
    found = booster.get_score(importance_type="total_gain")
    gain = np.array([found.get(name, 0.0) for name in rows.columns], dtype=np.float64)
    if gain.sum() == 0:
        # All rows would score alike and the slate's order be arbitrary.
        raise NothingToLearn(f"no ranker: {len(rows.features)} rows are too few for any feature to tell them apart")
    importance = dict(zip(rows.columns, (gain / gain.sum()).tolist(), strict=True))
    return Fitted(booster, trees, score, dict(sorted(importance.items(), key=lambda entry: -entry[1])))


def _parameters(config: Config) -> dict[str, Any]:
    return {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "tree_method": "hist",
        "max_bin": config.bins,
        "max_depth": config.depth_max,
        "eta": config.learning_rate,
        "min_child_weight": config.rows_per_leaf_min,
        "subsample": config.rows_share,
        "colsample_bytree": config.columns_share,
        "lambda": config.l2,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": config.pairs_top,
        "ndcg_exp_gain": config.exponential_gain,
        "seed": config.seed,
        "nthread": config.threads,
    }


def _matrix(rows: Rows, config: Config) -> xgboost.DMatrix:
    label = (rows.label > 0).astype(np.float32) if config.binary_label else rows.label
    matrix = xgboost.DMatrix(
        rows.features, label=label, missing=np.nan, feature_names=rows.columns, nthread=config.threads
    )
    matrix.set_group(rows.group)
    moments_of_user = np.bincount(rows.user)[rows.user]
    weight: F64 = moments_of_user.astype(np.float64) ** -config.user_weight_power
    matrix.set_weight(weight / weight.mean())
    return matrix


def golden(rows: Rows, booster: xgboost.Booster, config: Config) -> dict[str, F32]:
    """Real rows, half of them with unknown values if there are, and the native scores [rows, 1]."""
    shuffled = np.random.default_rng(config.seed).permutation(len(rows.features))
    unknown = np.isnan(rows.features[shuffled]).any(axis=1)
    with_unknown, known = shuffled[unknown], shuffled[~unknown]
    half = config.golden_rows // 2
    chosen = np.concatenate([with_unknown[:half], known, with_unknown[half:]])[: config.golden_rows]
    features = np.ascontiguousarray(rows.features[np.sort(chosen)])
    matrix = xgboost.DMatrix(features, missing=np.nan, feature_names=rows.columns)
    scores: F32 = booster.predict(matrix, output_margin=True).astype(np.float32).reshape(-1, 1)
    return {"features": features, "scores": scores}


def write(rows_path: Path, models: Path, work: Path, config: Config) -> dict[str, Any]:
    """Fits, exports, checks; answers what the model card says of the ranker."""
    from marquee_models.export import export_xgboost

    rows = read_rows(rows_path)
    fitted = fit(rows, config)
    work.mkdir(parents=True, exist_ok=True)
    native = work / "ranker.json"
    fitted.booster.save_model(native)
    report = export_xgboost(native, rows.columns, models / "ranker.onnx")
    arrays.save_rows(
        models / "golden.safetensors",
        golden(rows, fitted.booster, config),
        {"columns": json.dumps(rows.columns)},
    )
    return {
        "settings": asdict(config),
        "rows": len(rows.features),
        "moments": len(rows.group),
        "moments_with_a_positive": len(rows.with_positives().group),
        "positives": int((rows.label > 0).sum()),
        "trees": fitted.trees,
        "validation_ndcg_at_10": fitted.validation_ndcg_at_10,
        "onnx_difference_max": float(report.difference_max),
        "importance": fitted.importance,
    }


def main() -> None:
    """`python -m marquee_models.ranker_xgboost ROWS MODELS WORK`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    print(json.dumps(write(arguments.rows, arguments.models, arguments.work, Config()), indent=2))


if __name__ == "__main__":
    main()
