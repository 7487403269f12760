"""One conformance suite for every retrieval model, then what is special about each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from marquee_models import (
    arrays,
    retrieval_content,
    retrieval_ease,
    retrieval_ials,
    retrieval_likes,
    retrieval_similar,
    retrieval_transitions,
)
from marquee_models.arrays import F32, Links
from marquee_models.prepare import Prepared

Scorer = Callable[[list[int]], F32]


def dense(links: Links) -> F32:
    size = len(links.offsets) - 1
    matrix = sp.csr_matrix((links.weight, links.item.astype(np.int64), links.offsets), shape=(size, size))
    result: F32 = matrix.toarray()
    return result


def ease(prepared: Prepared, export: Path, models: Path) -> Scorer:
    weights = dense(retrieval_ease.write(prepared, models, retrieval_ease.Config(regularization=1.0)))
    return lambda profile: weights[profile].sum(axis=0)


def ease_by_neighbourhoods(prepared: Prepared, export: Path, models: Path) -> Scorer:
    config = retrieval_ease.Config(regularization=1.0, dense_items_max=0, neighbourhood_items=6)
    weights = dense(retrieval_ease.write(prepared, models, config))
    return lambda profile: weights[profile].sum(axis=0)


def transitions(prepared: Prepared, export: Path, models: Path) -> Scorer:
    weights = dense(retrieval_transitions.write(prepared, models, retrieval_transitions.Config()))
    return lambda profile: weights[profile].sum(axis=0)


def similar(prepared: Prepared, export: Path, models: Path) -> Scorer:
    weights = dense(retrieval_similar.write(prepared, models, retrieval_similar.Config(shrinkage=1.0)))
    return lambda profile: weights[profile].sum(axis=0)


def ials(prepared: Prepared, export: Path, models: Path) -> Scorer:
    config = retrieval_ials.Config(factors=2, regularization=0.1)
    items = retrieval_ials.write(prepared, models, config)["items"]

    def score(profile: list[int]) -> F32:
        row = sp.csr_matrix((np.ones(len(profile)), ([0] * len(profile), profile)), shape=(1, len(items)))
        user: F32 = retrieval_ials.fold_in(items, row, config.alpha, config.regularization)[0]
        return items @ user

    return score


def content(prepared: Prepared, export: Path, models: Path) -> Scorer:
    fitted = retrieval_content.write(export, prepared.items, models, retrieval_content.Config(dimensions=4))
    assert fitted is not None
    tokens = retrieval_content.read_tokens(export, prepared.items).matrix
    vectors: F32 = tokens @ (fitted["idf"][:, None] * fitted["projection"])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda profile: vectors @ vectors[profile].sum(axis=0)


MODELS = [ease, ease_by_neighbourhoods, transitions, similar, ials, content]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
class TestEveryModel:
    def test_finds_the_rest_of_the_colour(
        self, model: Callable[..., Scorer], prepared: Prepared, export: Path, tmp_path: Path
    ) -> None:
        score = model(prepared, export, tmp_path)
        for profile in ([0, 2, 4], [1, 3, 5], [10, 12]):
            scores = score(profile)
            unseen = np.setdiff1d(np.arange(prepared.items), profile)
            best = unseen[np.argsort(-scores[unseen], kind="stable")[:3]]
            assert (best % 2 == profile[0] % 2).all(), (profile, best)

    def test_two_fits_write_the_same_bytes(
        self, model: Callable[..., Scorer], prepared: Prepared, export: Path, tmp_path: Path
    ) -> None:
        model(prepared, export, tmp_path / "one")
        model(prepared, export, tmp_path / "two")
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()

    def test_survives_a_log_without_events(
        self, model: Callable[..., Scorer], prepared: Prepared, export: Path, tmp_path: Path
    ) -> None:
        scores = model(prepared.until(0), export, tmp_path)([0])
        assert np.isfinite(scores).all()

    def test_leaves_one_whole_file_and_nothing_else(
        self, model: Callable[..., Scorer], prepared: Prepared, export: Path, tmp_path: Path
    ) -> None:
        model(prepared, export, tmp_path)
        (path,) = tmp_path.iterdir()
        assert path.suffix == ".safetensors"


def test_ease_equals_its_formula(prepared: Prepared) -> None:
    matrix = prepared.matrix()
    inverse = np.linalg.inv((matrix.T @ matrix).toarray().astype(np.float64) + 3.0 * np.eye(prepared.items))
    expected = inverse / -np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(retrieval_ease.dense_weights(matrix, matrix, 3.0), expected, atol=1e-6)


def test_with_targets_of_its_own_each_column_is_a_ridge_regression_on_the_others() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((60, 6)) < 0.5).astype(np.float64)
    y = x * (rng.random((60, 6)) < 0.5)
    expected = np.zeros((6, 6))
    for j in range(6):
        others = np.delete(np.arange(6), j)
        left = x[:, others].T @ x[:, others] + 3.0 * np.eye(5)
        expected[others, j] = np.linalg.solve(left, x[:, others].T @ y[:, j])
    matrix, targets = sp.csr_matrix(x), sp.csr_matrix(y)
    np.testing.assert_allclose(retrieval_ease.dense_weights(matrix, targets, 3.0), expected, atol=1e-6)
    near = retrieval_ease.neighbourhood_weights(matrix, targets, 3.0, 6).toarray()
    np.testing.assert_allclose(near, expected, atol=1e-6)


def test_similarity_is_the_shrunk_cosine(prepared: Prepared) -> None:
    weights = dense(retrieval_similar.fit(prepared, retrieval_similar.Config(shrinkage=10.0)))
    matrix = prepared.matrix().toarray()
    common, users_of = matrix[:, 0] @ matrix[:, 2], matrix.sum(axis=0)
    assert weights[0, 2] == pytest.approx(common / (np.sqrt(users_of[0] * users_of[2]) + 10))


def test_a_neighbourhood_of_all_items_is_ease(prepared: Prepared) -> None:
    rng = np.random.default_rng(0)
    matrix = sp.csr_matrix((rng.random((60, 12)) < 0.5).astype(np.float32))
    whole = retrieval_ease.neighbourhood_weights(matrix, matrix, 3.0, 12).toarray()
    np.testing.assert_allclose(whole, retrieval_ease.dense_weights(matrix, matrix, 3.0), atol=1e-5)


def test_a_transition_weighs_one_over_its_distance_and_is_shrunk_by_row(prepared: Prepared) -> None:
    config = retrieval_transitions.Config(window_items=2, shrinkage=10.0)
    # User 0 alone, who walks 0, 2, 4, 6 ...
    first = Prepared(prepared.items, prepared.users, *(column[prepared.user == 0] for column in columns(prepared)))
    weights = dense(retrieval_transitions.fit(first, config))
    assert weights[0, 2] == pytest.approx(1 / 11.5)
    assert weights[0, 4] == pytest.approx(0.5 / 11.5)
    assert weights[2, 0] == 0


def columns(prepared: Prepared) -> list[Any]:
    names = ("user", "item", "weight", "rating", "seen", "interaction", "time_ms")
    return [getattr(prepared, name) for name in names]


@pytest.mark.parametrize("positive_only", [True, False])
def test_folding_in_a_training_user_gives_its_factor(prepared: Prepared, positive_only: bool) -> None:
    config = retrieval_ials.Config(factors=6, positive_only=positive_only)
    fitted = retrieval_ials.fit(prepared, config)
    y = fitted["items"].astype(np.float64)
    for user in (0, 7, 39):
        profile = np.unique(prepared.item[prepared.user == user])
        known = y[profile]
        extra = np.full(len(profile), config.alpha)  # w = 1 for each of them here
        left = y.T @ y + known.T @ np.diag(extra) @ known + config.regularization * np.eye(y.shape[1])
        expected = np.linalg.inv(left) @ (known.T @ extra)
        np.testing.assert_allclose(fitted["users"][user], expected, rtol=1e-5, atol=1e-6)


def test_the_library_and_the_exact_half_step_agree(prepared: Prepared) -> None:
    # After enough iterations implicit's user factors are at the same fixed point, up to the stated common factor.
    from implicit.als import AlternatingLeastSquares

    matrix = prepared.matrix()
    confidence = matrix.copy()
    confidence.data[:] = 6.0
    model = AlternatingLeastSquares(
        factors=4, regularization=1.0, alpha=1.0, iterations=60, random_state=1, use_cg=False, num_threads=1
    )
    model.fit(confidence, show_progress=False)
    ours = retrieval_ials.fold_in(np.asarray(model.item_factors), matrix, 5.0, 1.0)
    np.testing.assert_allclose(ours * 6 / 5, model.user_factors, rtol=1e-2, atol=1e-3)


def test_likes_are_the_latest_opinion_newest_first(prepared: Prepared) -> None:
    row = Prepared(
        items=5,
        users=2,
        user=np.array([1, 1, 1, 1, 0], np.uint32),
        item=np.array([3, 2, 3, 4, 1], np.uint32),
        weight=np.array([1, 1, -1, 0.5, 0], np.float32),
        rating=np.full(5, np.nan, np.float32),
        seen=np.ones(5, bool),
        interaction=np.ones(5, bool),
        time_ms=np.arange(5, dtype=np.int64),
    )
    likes = retrieval_likes.fit(row, retrieval_likes.Config())
    assert likes["offsets"].tolist() == [0, 0, 2]
    assert likes["item"].tolist() == [4, 2]
    assert likes["time_ms"].tolist() == [3, 1]
    np.testing.assert_allclose(likes["weight"], [0.5, np.exp(-1 / 50)], rtol=1e-6)
    assert retrieval_likes.fit(row, retrieval_likes.Config(user_items_max=1))["item"].tolist() == [4]


def test_top_columns_are_in_order_and_ties_go_to_the_lower_column() -> None:
    scores = np.array([[1, 3, 2, 3, 0], [0, 0, 0, 0, 5]], np.float32)
    assert arrays.top_columns(scores, 3).tolist()[0] == [1, 3, 2]
    assert arrays.top_columns(scores, 9).tolist() == [[1, 3, 2, 0, 4], [4, 0, 1, 2, 3]]


def test_links_that_increase_within_a_row_are_refused() -> None:
    links = Links(np.array([0, 2], np.int64), np.array([0, 0], np.uint32), np.array([1, 2], np.float32))
    with pytest.raises(arrays.BadArrays, match="increases within a row"):
        arrays.check_links("x", links, 1, 1, 10)


def test_nothing_that_is_not_finite_is_written(tmp_path: Path) -> None:
    with pytest.raises(arrays.BadArrays, match="not finite"):
        arrays.save(tmp_path / "bad.safetensors", {"a": np.array([1.0, np.nan], np.float32)})
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_what_the_library_reads(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    written: arrays.Arrays = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3),
        "empty": np.zeros((0, 4), np.float32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "bytes": np.arange(3, dtype=np.uint8),
    }
    path = tmp_path / "x.safetensors"
    arrays.save(path, written, {"k": "v", "l": "w"})
    read = load_file(path)
    assert read.keys() == written.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(read[name], array)
    assert arrays.metadata_of(path) == {"k": "v", "l": "w"}
