"""Our ranker beside onnxruntime: the same ONNX file, the same rows, one thread each, in one run.

Trees: 300 of depth 6 over 85 columns, trained here by XGBoost on random rows with unknown values, exported as every
ranker is. Dense: a network of 168 -> 256 -> 128 -> 1 as PyTorch exports one, bare, and once with what deployed networks
have before it (unknown values filled, columns scaled) and behind it (a sigmoid). Scores are compared first. Then they
take turns on one core, since cores are not equally fast when a host lends them; times are what the thread used of the
processor, medians count.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import xgboost
from marquee_models.export import export_xgboost
from onnx import TensorProto, helper, numpy_helper

ROWS = 500
TREES, DEPTH, TREE_COLUMNS = 300, 6, 85
WIDTHS = (168, 256, 128, 1)
# A call of ours and one of theirs, this often in a row, so that a turn is long beside the clock's grain.
CALLS = 100

Array = np.ndarray


@dataclass(frozen=True)
class Model:
    """An ONNX file and rows to score."""

    name: str
    path: Path
    features: Array


def trees(folder: Path) -> Model:
    random = np.random.default_rng(7)
    columns = [f"c{at}" for at in range(TREE_COLUMNS)]
    rows = random.normal(size=(20_000, TREE_COLUMNS)).astype(np.float32)
    rows[random.random(rows.shape) < 0.1] = np.nan
    filled = np.nan_to_num(rows)
    label = (filled @ random.normal(size=TREE_COLUMNS) + filled[:, 0] * filled[:, 1] * 4 > 4).astype(int)
    matrix = xgboost.DMatrix(rows, label=label, feature_names=columns)
    matrix.set_group([100] * 200)
    parameters = {"objective": "rank:ndcg", "max_depth": DEPTH, "eta": 0.1, "min_child_weight": 0.01, "seed": 7}
    booster = xgboost.train(parameters, matrix, TREES)
    booster.save_model(folder / "booster.json")
    export_xgboost(folder / "booster.json", columns, folder / "trees.onnx")
    return Model(f"{TREES} trees", folder / "trees.onnx", rows[:ROWS])


def dense(folder: Path, *, is_deployed: bool) -> Model:
    random = np.random.default_rng(7)
    nodes, weights, value = [], [], "features"

    def constant(name: str, array: Array) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    features = random.normal(size=(ROWS, WIDTHS[0])).astype(np.float32)
    if is_deployed:
        features[random.random(features.shape) < 0.1] = np.nan
        unknown = node("IsNaN", [value], "unknown")
        value = node("Where", [unknown, constant("mean", random.normal(size=(1, WIDTHS[0]))), value], "filled")
        value = node("Sub", [value, "mean"], "centred")
        value = node("Div", [value, constant("deviation", 1 + random.random((1, WIDTHS[0])))], "scaled")
    for at, (inputs, outputs) in enumerate(itertools.pairwise(WIDTHS)):
        weight = constant(f"w{at}", random.normal(size=(outputs, inputs)) / np.sqrt(inputs))
        bias = constant(f"b{at}", random.normal(size=outputs))
        value = node("Gemm", [value, weight, bias], f"h{at}", transB=1)
        if outputs > 1:
            value = node("Relu", [value], f"r{at}")
    if is_deployed:
        value = node("Sigmoid", [value], "click")
    shape = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "dense",
        [shape("features", TensorProto.FLOAT, ["rows", WIDTHS[0]])],
        [shape(value, TensorProto.FLOAT, ["rows", 1])],
        weights,
    )
    path = folder / f"dense-{int(is_deployed)}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    name = " -> ".join(map(str, WIDTHS))
    return Model(f"{name}, filled and scaled" if is_deployed else name, path, features)


class Ours:
    """The example `ranker_peer`, asked line by line."""

    def __init__(self, binary: str, model: Model, folder: Path) -> None:
        features, self.out = folder / "features", folder / "scores"
        model.features.tofile(features)
        words = [binary, str(model.path), str(model.features.shape[1]), str(features)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def score(self, calls: int) -> tuple[float, Array]:
        assert self.process.stdin and self.process.stdout
        print(f"score {calls} {self.out}", file=self.process.stdin, flush=True)
        reply = self.process.stdout.readline()
        if not reply:
            raise SystemExit("ranker_peer left")
        return float(reply), np.fromfile(self.out, dtype=np.float32)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Theirs:
    """onnxruntime on one thread, all its optimisations on."""

    def __init__(self, model: Model) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        self.session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        self.inputs = {self.session.get_inputs()[0].name: model.features}

    def score(self, calls: int) -> tuple[float, Array]:
        start = time.thread_time()
        for _ in range(calls):
            (scores,) = self.session.run(None, self.inputs)
        return (time.thread_time() - start) * 1e6 / calls, scores.ravel()


def compare(model: Model, binary: str, folder: Path, rounds: int) -> float:
    ours, theirs = Ours(binary, model, folder), Theirs(model)
    difference = float(np.abs(ours.score(10)[1] - theirs.score(10)[1]).max())
    assert difference <= 1e-4, f"{model.name}: scores differ by {difference}"
    turns = [(ours.score(CALLS)[0], theirs.score(CALLS)[0]) for _ in range(rounds)]
    ours.close()
    our_us, their_us = (statistics.median(turn[at] for turn in turns) for at in (0, 1))
    print(f"{model.name:<40}{our_us:10.1f}{their_us:13.1f}{their_us / our_us:8.2f}{difference:12.1e}")
    return their_us / our_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, help="the example ranker_peer")
    parser.add_argument("--rounds", type=int, default=31)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{ROWS} rows, one thread each, {args.rounds} turns of {CALLS} calls, medians of CPU time")
    print(f"{'':<40}{'ours us':>10}{'onnxruntime':>13}{'times':>8}{'difference':>12}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [trees(folder), dense(folder, is_deployed=False), dense(folder, is_deployed=True)]
        for model in models:
            compare(model, args.ours, folder, args.rounds)


if __name__ == "__main__":
    main()
