"""The bundle's ranker, by onnxruntime or by XGBoost's own predictor, one thread each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import xgboost

from catalogue import F32, read_arrays

Score = Callable[[F32], F32]
DIFFERENCE_MAX = 1e-5


def load(folder: Path, predictor: str) -> Score:
    """Scores of feature rows. Refuses a predictor that disagrees with the bundle's golden rows."""
    score = {"onnx": _onnxruntime, "xgboost": _xgboost}[predictor](folder / "ranker.onnx")
    golden, _ = read_arrays(folder / "golden.safetensors")
    wanted = golden["scores"][:, 0]
    difference = np.abs(score(golden["features"]) - wanted) / np.maximum(1.0, np.abs(wanted))
    if difference.max() > DIFFERENCE_MAX:
        raise SystemExit(f"{predictor} scores the golden rows otherwise, by up to {difference.max()}")
    return score


def _onnxruntime(file: Path) -> Score:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (name,) = (put.name for put in session.get_inputs())
    outputs = [put.name for put in session.get_outputs()][:1]

    def score(features: F32) -> F32:
        scores: F32 = session.run(outputs, {name: features})[0][:, 0]
        return scores

    return score


def _xgboost(file: Path) -> Score:
    booster = xgboost.Booster({"nthread": 1})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as written:
        json.dump(booster_of(file), written)
        written.flush()
        booster.load_model(written.name)
    booster.set_param({"nthread": 1})

    def score(features: F32) -> F32:
        scores: F32 = booster.inplace_predict(features, predict_type="margin", validate_features=False)
        return scores

    return score


def booster_of(file: Path) -> dict[str, Any]:
    """The ONNX trees as the JSON of an XGBoost model: the way of `marquee_models/export.py` back."""
    model = onnx.load(file)
    (node,) = model.graph.node
    part = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    columns = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    leaves = dict(
        zip(zip(part["target_treeids"], part["target_nodeids"], strict=True), part["target_weights"], strict=True)
    )
    trees: dict[int, list[int]] = {}
    for at, tree in enumerate(part["nodes_treeids"]):
        trees.setdefault(tree, []).append(at)
    written = [_tree(number, nodes, part, leaves, columns) for number, nodes in enumerate(trees.values())]
    base = (part.get("base_values") or [0.0])[0]
    gbtree = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(written))},
        "iteration_indptr": list(range(len(written) + 1)),
        "tree_info": [0] * len(written),
        "trees": written,
    }
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {"model": gbtree, "name": "gbtree"},
            "learner_model_param": {
                "base_score": str(base),
                "boost_from_average": "1",
                "num_class": "0",
                "num_feature": str(columns),
                "num_target": "1",
            },
            "objective": {"name": "reg:squarederror", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": [3, 2, 0],
    }


def _tree(
    number: int, nodes: list[int], part: dict[str, Any], leaves: dict[tuple[int, int], float], columns: int
) -> dict[str, Any]:
    name = part["nodes_treeids"][nodes[0]]
    place = {part["nodes_nodeids"][at]: new for new, at in enumerate(nodes)}
    is_leaf = [part["nodes_modes"][at] == b"LEAF" for at in nodes]
    if not all(leaf or part["nodes_modes"][at] == b"BRANCH_LT" for leaf, at in zip(is_leaf, nodes, strict=True)):
        raise SystemExit("the ranker's trees compare otherwise than XGBoost's")
    left = [-1 if leaf else place[part["nodes_truenodeids"][at]] for leaf, at in zip(is_leaf, nodes, strict=True)]
    right = [-1 if leaf else place[part["nodes_falsenodeids"][at]] for leaf, at in zip(is_leaf, nodes, strict=True)]
    parents = [2_147_483_647] * len(nodes)
    for new, (low, high) in enumerate(zip(left, right, strict=True)):
        if low >= 0:
            parents[low] = parents[high] = new
    conditions = [
        leaves[name, part["nodes_nodeids"][at]] if leaf else part["nodes_values"][at]
        for leaf, at in zip(is_leaf, nodes, strict=True)
    ]
    size = len(nodes)
    return {
        "base_weights": [0.0] * size,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": [int(part["nodes_missing_value_tracks_true"][at]) for at in nodes],
        "id": number,
        "left_children": left,
        "loss_changes": [0.0] * size,
        "parents": parents,
        "right_children": right,
        "split_conditions": conditions,
        "split_indices": [int(part["nodes_featureids"][at]) for at in nodes],
        "split_type": [0] * size,
        "sum_hessian": [1.0] * size,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(columns),
            "num_nodes": str(size),
            "size_leaf_vector": "1",
        },
    }
