"""What any team would try first, on the same moments as the engine: the lists that `marquee evaluate` puts beside ours.

popularity, item-kNN and iALS (library `implicit`), EASE, EASE with recency, transitions. Each has the same number of
settings to choose from. They are tried on the validation period, scored by `marquee evaluate` (metrics are defined in
Rust alone), and the best by NDCG@10 is used on the test period. What a user has seen is never answered.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from marquee_models import arrays, moments, prepare, retrieval_ease, retrieval_transitions
from marquee_models.arrays import F32, F64, I64, U32
from marquee_models.moments import Moments
from marquee_models.prepare import DAY_MS, Prepared

LENGTH = 20
NONE = np.uint32(0xFFFF_FFFF)
BLOCK = 512
TRIALS = 12

Settings = dict[str, Any]
Scorer = Callable[[Moments], F32]
"""Scores of every item (questions x items); above 0 means recommended."""


@dataclass(frozen=True)
class Training:
    """What a baseline is fitted on, and the whole log for those that read the clock (popularity of the day)."""

    prepared: Prepared
    log: Prepared | None
    threads: int = 2


def popularity(training: Training, settings: Settings) -> Scorer:
    """Interactions, or positive ones, halved every so many days, as of the moment's day where the log is given."""
    log = training.log or training.prepared
    keep = log.interaction & (log.weight > 0) if settings["positive"] else log.interaction
    item, day = log.item[keep].astype(np.int64), (log.time_ms[keep] // DAY_MS).astype(np.int64)
    half_life = settings["half_life_days"]

    @cache
    def on(today: int) -> F32:
        # Whole days before today only: the same count for everybody that day.
        end = int(np.searchsorted(day, today, side="left"))
        weight = np.ones(end) if half_life is None else np.exp2((day[:end] - today) / half_life)
        return np.bincount(item[:end], weights=weight, minlength=log.items).astype(np.float32)

    def score(asked: Moments) -> F32:
        return np.stack([on(int(today)) for today in asked.time_ms // DAY_MS])

    return score


def item_knn(training: Training, settings: Settings) -> Scorer:
    """`implicit`'s item-item neighbours, summed over the whole profile, or weighted exp(-position / decay)."""
    from implicit.nearest_neighbours import CosineRecommender, TFIDFRecommender
    from implicit.utils import ParameterWarning

    kinds = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender}
    model = kinds[settings["weighting"]](K=settings["neighbours"], num_threads=training.threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ParameterWarning)  # about a matrix format inside the library
        model.fit(training.prepared.matrix(), show_progress=False)
    similarity = model.similarity.tocsr()
    return lambda asked: _dense(asked.matrix(_recency(asked, settings["decay_items"])) @ similarity)


def _recency(asked: Moments, decay_items: float | None) -> F64 | None:
    return None if decay_items is None else np.exp(-asked.positions() / decay_items)


def ials(training: Training, settings: Settings) -> Scorer:
    """`implicit`'s ALS; a profile is folded in by the library itself."""
    from implicit.als import AlternatingLeastSquares

    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings["factors"],
            alpha=settings["alpha"],
            regularization=settings["regularization"],
            iterations=15,
            random_state=1,
            num_threads=training.threads,
        )
        model.fit(training.prepared.matrix(), show_progress=False)
    known = np.bincount(training.prepared.matrix().indices, minlength=training.prepared.items) > 0

    def score(asked: Moments) -> F32:
        with threadpool_limits(1, "blas"):
            users = model.recalculate_user(np.arange(len(asked)), asked.matrix())
        scores: F32 = np.asarray(users) @ np.asarray(model.item_factors).T
        # Shifted above 0, which keeps the order: factor scores have no natural zero.
        scores = scores - scores.min(axis=1, keepdims=True) + 1.0
        scores[:, ~known] = 0.0
        return scores

    return score


def ease(training: Training, settings: Settings) -> Scorer:
    """EASE over all or positive interactions of the whole profile, or over all weighted exp(-position / decay)."""
    positive = settings.get("positive", False)
    kept, weights = _ease_weights(training, positive, settings["regularization"])

    def score(asked: Moments) -> F32:
        recency = _recency(asked, settings.get("decay_items"))
        if positive:
            recency = (asked.weight > 0).astype(np.float64)
        scores = np.zeros((len(asked), asked.items), np.float32)
        scores[:, kept] = _dense(asked.matrix(recency)[:, kept] @ weights)
        return scores

    return score


_EASE: dict[tuple[int, bool, float], tuple[I64, F32 | sp.csr_matrix]] = {}


def _ease_weights(training: Training, positive: bool, regularization: float) -> tuple[I64, F32 | sp.csr_matrix]:
    # The trials of EASE with recency share inverses.
    key = (id(training.prepared), positive, regularization)
    if key not in _EASE:
        config = retrieval_ease.Config
        matrix = training.prepared.matrix(positive=positive)
        kept = retrieval_ease.kept_items(matrix, config.users_min)
        matrix = matrix[:, kept]
        if len(kept) <= config.dense_items_max:
            weights = retrieval_ease.dense_weights(matrix, matrix, regularization)
        else:
            size = config.neighbourhood_items
            weights = retrieval_ease.neighbourhood_weights(matrix, matrix, regularization, size)
        # One inverse at a time: they are large.
        _EASE.clear()
        _EASE[key] = kept, weights
    return _EASE[key]


def transitions(training: Training, settings: Settings) -> Scorer:
    """What follows the newest 30 items within the next seven, weighted exp(-position / decay)."""
    config = retrieval_transitions.Config(shrinkage=settings["shrinkage"], row_entries_max=training.prepared.items)
    links = retrieval_transitions.fit(training.prepared, config)
    size = training.prepared.items
    weights = sp.csr_matrix((links.weight, links.item.astype(np.int64), links.offsets), shape=(size, size))

    def score(asked: Moments) -> F32:
        position = asked.positions()
        recency: F64 = np.where(position < 30, np.exp(-position / settings["decay_items"]), 0.0)
        return _dense(asked.matrix(recency) @ weights)

    return score


def _dense(scores: F32 | sp.csr_matrix) -> F32:
    return np.asarray(scores if isinstance(scores, np.ndarray) else scores.toarray(), dtype=np.float32)


def _grid(**choices: list[Any]) -> list[Settings]:
    """All combinations, which must be as many as every other baseline gets."""
    combinations: list[Settings] = [{}]
    for name, values in choices.items():
        combinations = [{**settings, name: value} for settings in combinations for value in values]
    if len(combinations) != TRIALS:
        raise ValueError(f"{len(combinations)} trials, expected {TRIALS}")
    return combinations


@dataclass(frozen=True)
class Baseline:
    """How it is fitted, and the settings to choose from."""

    fit: Callable[[Training, Settings], Scorer]
    trials: list[Settings]


BASELINES: dict[str, Baseline] = {
    "popularity": Baseline(
        popularity, _grid(positive=[False, True], half_life_days=[None, 365.0, 90.0, 30.0, 7.0, 1.0])
    ),
    "item_knn": Baseline(
        item_knn, _grid(weighting=["cosine", "tfidf"], neighbours=[50, 200, 1000], decay_items=[None, 10.0])
    ),
    "ials": Baseline(ials, _grid(factors=[16, 32, 64], alpha=[2.0, 5.0], regularization=[5.0, 20.0])),
    "ease": Baseline(ease, _grid(positive=[False, True], regularization=[30.0, 100.0, 300.0, 600.0, 1000.0, 3000.0])),
    "ease_recency": Baseline(ease, _grid(regularization=[300.0, 1000.0, 3000.0], decay_items=[5.0, 10.0, 20.0, 50.0])),
    "transitions": Baseline(transitions, _grid(shrinkage=[10.0, 30.0, 100.0], decay_items=[3.0, 6.0, 12.0, 24.0])),
}


def lists(score: Scorer, asked: Moments, fallback: F32) -> U32:
    """The best unseen items of every question, best first; places that no score above 0 fills follow `fallback`."""
    answers = np.full((len(asked), LENGTH), NONE, dtype=np.uint32)
    places = min(LENGTH, asked.items)
    filler = 1e-6 * (1.0 + fallback) / (1.0 + fallback.max(initial=0.0))
    for start in range(0, len(asked), BLOCK):
        part = asked.part(start, min(start + BLOCK, len(asked)))
        scores = score(part)
        # Into (1, 2], above the filler whatever the model's scale; ties go to the lower row.
        scores = np.where(scores > 0, 1.0 + scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-30), filler)
        scores[moments.seen_mask(part)] = -1.0
        answers[start : start + len(part), :places] = _top(scores, places)
    return answers


def _top(scores: F32, places: int) -> U32:
    """Columns of the largest values above 0 in order, ties by column."""
    candidates = np.argpartition(-scores, places - 1, axis=1)[:, :places]
    # argpartition breaks ties at the border as it likes: take everything above the border value, then by column.
    border = np.take_along_axis(scores, candidates, axis=1).min(axis=1, keepdims=True)
    answers = np.full((len(scores), places), NONE, dtype=np.uint32)
    for row, (values, least) in enumerate(zip(scores, border[:, 0], strict=True)):
        columns = np.flatnonzero(values >= least)
        best: I64 = columns[np.argsort(-values[columns], kind="stable")][:places]
        best = best[values[best] > 0]
        answers[row, : len(best)] = best
    return answers


def write_lists(
    training: Training, asked: Moments, chosen: dict[str, list[tuple[str, Settings]]], out: Path
) -> Iterator[str]:
    """Writes OUT/LABEL.safetensors for every (label, settings) of every baseline; answers labels as they are done."""
    fallback = np.bincount(training.prepared.item[training.prepared.interaction], minlength=training.prepared.items)
    for name, runs in chosen.items():
        for label, settings in runs:
            score = BASELINES[name].fit(training, settings)
            answers = lists(score, asked, fallback.astype(np.float32))
            arrays.save(out / f"{label}.safetensors", {"items": answers}, {"settings": json.dumps(settings)})
            yield label
        _EASE.clear()


def all_trials() -> dict[str, list[tuple[str, Settings]]]:
    """Every baseline's trials, labelled NAME@NUMBER."""
    return {
        name: [(f"{name}@{number}", settings) for number, settings in enumerate(baseline.trials)]
        for name, baseline in BASELINES.items()
    }


def choose(ndcg_at_10: dict[str, float]) -> dict[str, Settings]:
    """The best trial of every baseline by the validation period's NDCG@10 of each label; ties to the earlier."""
    return {
        name: max(enumerate(baseline.trials), key=lambda trial: (ndcg_at_10[f"{name}@{trial[0]}"], -trial[0]))[1]
        for name, baseline in BASELINES.items()
    }


def read_moments(path: Path, fit_export: Path, log_export: Path) -> tuple[Moments, Prepared]:
    """The moments of `marquee evaluate --moments-out` and the log up to their end, by the item rows of `fit_export`."""
    log = moments.log_on_rows_of(log_export, fit_export)
    if "offsets" in arrays.names_in(path):
        return moments.read(path, log.items), log
    asked = arrays.load(path, {"user": "uint32", "time_ms": "int64"})
    return moments.from_log(asked["user"], asked["time_ms"], log), log


def main() -> None:
    """`python -m marquee_models.baselines --fit-export D --prepared D --log-export D --moments F --out D [...]`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit-export", type=Path, required=True, help="export that the bundle was built on")
    parser.add_argument("--prepared", type=Path, required=True, help="the same, prepared")
    parser.add_argument("--log-export", type=Path, required=True, help="export that reaches to the last moment")
    parser.add_argument("--moments", type=Path, required=True)
    parser.add_argument("--settings", type=Path, help="chosen settings by baseline; without it all trials run")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    asked, log = read_moments(arguments.moments, arguments.fit_export, arguments.log_export)
    runs = all_trials()
    if arguments.settings:
        settings = json.loads(arguments.settings.read_text(encoding="utf-8"))
        runs = {name: [(name, settings[name])] for name in BASELINES}
    training = Training(prepare.read(arguments.prepared), log)
    for label in write_lists(training, asked, runs, arguments.out):
        print(label)


if __name__ == "__main__":
    main()
