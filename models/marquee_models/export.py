"""Export rankers to ONNX, in the form that the engine's `rank` module loads.

An export is checked before it gets its name: the declared names and shapes, and the scores of onnxruntime
against the native predictor's. A file that exists is a file that was checked.

How: the trees of the booster's JSON become one TreeEnsembleRegressor node. XGBoost goes left when `value < threshold`
(BRANCH_LT) and sends an unknown value where `default_left` says. No converter is needed: onnxmltools refuses
`XGBRanker`, silently exports a raw `rank:ndcg` booster as a classifier with NaN scores, and brings 40 MB along.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import xgboost

from marquee_models.arrays import F32

INPUT = "features"
OUTPUT = "score"
BATCH = "N"
NODE_ATTRIBUTES = (
    *("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids"),
    "missing_value_tracks_true",
)
DIFFERENCE_MAX = 1e-5
PROBE_ROWS = 2048
# Objectives whose prediction is the plain sum of the trees. Others transform it (logistic, log link),
# which would make the exported score something else than the native prediction.
IDENTITY_OBJECTIVES = ("rank:ndcg", "rank:map", "rank:pairwise", "reg:squarederror", "reg:absoluteerror")


class ExportError(Exception):
    """The booster cannot be exported, or the export does not score as the booster does."""


@dataclass(frozen=True)
class Report:
    """What was exported and how well it agrees. `difference_max` is absolute, over `rows` probe rows."""

    path: Path
    columns: tuple[str, ...]
    trees: int
    depth_max: int
    rows: int
    difference_max: float
    size_bytes: int


def export_xgboost(
    booster_json_path: str | os.PathLike[str],
    columns: Sequence[str],
    out_path: str | os.PathLike[str],
) -> Report:
    """Write the booster as ONNX: input "features" f32 [N, columns], output "score" f32 [N, 1].

    `columns` are the feature names in the order of the training matrix. Raises ExportError, and leaves
    `out_path` as it was, when the booster is no ranker of these columns or the scores differ by more than
    DIFFERENCE_MAX (times the score, where that is above 1).
    """
    document = json.loads(Path(booster_json_path).read_text())
    _check_booster(document, columns)
    booster = xgboost.Booster(model_file=booster_json_path)
    # Names are checked above; the probe rows have none.
    booster.feature_names = None
    booster.feature_types = None

    model = _model(document["learner"], len(columns))
    _check_signature(model, len(columns))
    content = model.SerializeToString()

    trees = document["learner"]["gradient_booster"]["model"]["trees"]
    rows = probe_rows(trees, len(columns))
    difference = _difference_max(content, booster, rows)

    out = Path(out_path)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(out)
    depth = max(_depth(tree) for tree in trees)
    return Report(out, tuple(columns), len(trees), depth, len(rows), difference, len(content))


def _check_booster(document: dict[str, Any], columns: Sequence[str]) -> None:
    learner = document["learner"]
    if learner["gradient_booster"]["name"] != "gbtree":
        raise ExportError(f"the booster is {learner['gradient_booster']['name']}, not gbtree")
    objective = learner["objective"]["name"]
    if objective not in IDENTITY_OBJECTIVES:
        raise ExportError(f"the objective {objective} transforms its scores; use one of {IDENTITY_OBJECTIVES}")
    if not learner["gradient_booster"]["model"]["trees"]:
        raise ExportError("the booster has no trees")
    parameters = learner["learner_model_param"]
    if int(parameters["num_feature"]) != len(columns):
        raise ExportError(f"the booster has {parameters['num_feature']} columns, not {len(columns)}")
    if int(parameters["num_target"]) != 1:
        raise ExportError(f"the booster has {parameters['num_target']} targets, not one")
    if len(set(columns)) != len(columns):
        raise ExportError("two columns have one name")
    named = learner.get("feature_names") or []
    if named and list(named) != list(columns):
        raise ExportError("the columns are not those that the booster was trained with, in its order")
    if "c" in (learner.get("feature_types") or []):
        raise ExportError("categorical columns cannot be exported")


def _model(learner: dict[str, Any], width: int) -> onnx.ModelProto:
    """One node, with the batch dimension declared. Node numbers are XGBoost's own; a leaf's value is its condition."""
    trees = learner["gradient_booster"]["model"]["trees"]
    nodes: dict[str, list[Any]] = {name: [] for name in NODE_ATTRIBUTES}
    leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for number, tree in enumerate(trees):
        for node, left in enumerate(tree["left_children"]):
            is_leaf = left == -1
            value = tree["split_conditions"][node]
            values = {
                "treeids": number,
                "nodeids": node,
                "featureids": 0 if is_leaf else tree["split_indices"][node],
                "modes": "LEAF" if is_leaf else "BRANCH_LT",
                "values": 0.0 if is_leaf else value,
                "truenodeids": 0 if is_leaf else left,
                "falsenodeids": 0 if is_leaf else tree["right_children"][node],
                "missing_value_tracks_true": 0 if is_leaf else int(tree["default_left"][node]),
            }
            for name, part in values.items():
                nodes[name].append(part)
            if is_leaf:
                for name, part in {"treeids": number, "nodeids": node, "ids": 0, "weights": value}.items():
                    leaves[name].append(part)
    float32 = onnx.TensorProto.FLOAT
    ensemble = onnx.helper.make_node(
        "TreeEnsembleRegressor",
        [INPUT],
        [OUTPUT],
        name="ranker",
        domain="ai.onnx.ml",
        n_targets=1,
        post_transform="NONE",
        base_values=[_base_score(learner)],
    )
    for prefix, lists in (("nodes", nodes), ("target", leaves)):
        ensemble.attribute.extend(
            onnx.helper.make_attribute(f"{prefix}_{name}", values) for name, values in lists.items()
        )
    graph = onnx.helper.make_graph(
        [ensemble],
        "ranker",
        [onnx.helper.make_tensor_value_info(INPUT, float32, [BATCH, width])],
        [onnx.helper.make_tensor_value_info(OUTPUT, float32, [BATCH, 1])],
    )
    versions = [onnx.helper.make_opsetid("ai.onnx.ml", 1)]
    return onnx.helper.make_model(graph, opset_imports=versions, ir_version=8, producer_name="marquee")


def _base_score(learner: dict[str, Any]) -> float:
    """XGBoost 3 writes it as a vector in text: "[5E-1]"."""
    return float(learner["learner_model_param"]["base_score"].strip("[]"))


def _check_signature(model: onnx.ModelProto, width: int) -> None:
    onnx.checker.check_model(model)
    operators = [node.op_type for node in model.graph.node]
    if operators != ["TreeEnsembleRegressor"]:
        raise ExportError(f"the conversion made {operators} instead of one TreeEnsembleRegressor")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = [(value.name, value.type, value.shape) for value in (*session.get_inputs(), *session.get_outputs())]
    wanted = [(INPUT, "tensor(float)", [BATCH, width]), (OUTPUT, "tensor(float)", [BATCH, 1])]
    if seen != wanted:
        raise ExportError(f"the model's inputs and outputs are {seen}, not {wanted}")


def probe_rows(trees: list[dict[str, Any]], width: int) -> F32:
    """Rows that visit many leaves: random numbers, unknowns (NaN), and values equal to a threshold or one
    float beside it, where `<` and `<=` part. `trees` are those of the booster's JSON. Deterministic."""
    rng = np.random.default_rng(0)
    thresholds: list[list[float]] = [[] for _ in range(width)]
    for tree in trees:
        for feature, value, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        ):
            if left != -1:
                thresholds[feature].append(value)
    rows = np.empty((PROBE_ROWS, width), dtype=np.float32)
    for column, values in enumerate(thresholds):
        known = np.array(sorted(set(values)) or [0.0], dtype=np.float32)
        picked = rng.choice(known, PROBE_ROWS)
        beside = np.nextafter(picked, rng.choice(np.array([-np.inf, np.inf], dtype=np.float32), PROBE_ROWS))
        spread = float(known.std()) or 1.0
        noise = (picked + rng.normal(0.0, spread, PROBE_ROWS)).astype(np.float32)
        unknown = np.full(PROBE_ROWS, np.nan, dtype=np.float32)
        kind = rng.choice(4, PROBE_ROWS, p=[0.35, 0.15, 0.35, 0.15])
        rows[:, column] = np.choose(kind, [picked, beside, noise, unknown])
    rows[0] = np.nan
    rows[1] = 0.0
    return rows


def _difference_max(content: bytes, booster: xgboost.Booster, rows: F32) -> float:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (scores,) = session.run([OUTPUT], {INPUT: rows})
    native = booster.predict(xgboost.DMatrix(rows))
    if scores.shape != (len(rows), 1) or native.shape != (len(rows),):
        raise ExportError(f"the scores have the shape {scores.shape}, the booster's {native.shape}")
    if not np.isfinite(scores).all():
        raise ExportError("the model gives scores that are not finite")
    difference = np.abs(scores[:, 0].astype(np.float64) - native)
    scaled = difference / np.maximum(1.0, np.abs(native))
    worst = int(scaled.argmax())
    if scaled[worst] > DIFFERENCE_MAX:
        raise ExportError(f"probe row {worst} scores {scores[worst, 0]} in ONNX and {native[worst]} in XGBoost")
    return float(difference.max())


def _depth(tree: dict[str, Any]) -> int:
    """Steps from the root to the deepest leaf. In a booster's JSON, parents precede their children."""
    depths = [0] * len(tree["left_children"])
    for node, (left, right) in enumerate(zip(tree["left_children"], tree["right_children"], strict=True)):
        if left != -1:
            depths[left] = depths[right] = depths[node] + 1
    return max(depths)
