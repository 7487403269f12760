"""Moments, baselines and the report's arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from marquee_models import arrays, baselines, gate, moments, report
from marquee_models.arrays import F32, U32
from marquee_models.moments import Moments
from marquee_models.prepare import Prepared
from tests.conftest import EVENTS_OF_USER, MINUTE_MS, START_MS


@pytest.fixture(scope="module")
def asked(prepared: Prepared) -> Moments:
    """Every user, asked half way through the log."""
    time_ms = np.full(prepared.users, START_MS + EVENTS_OF_USER // 2 * MINUTE_MS, np.int64)
    return moments.from_log(np.arange(prepared.users, dtype=np.uint32), time_ms, prepared)


def test_a_profile_holds_what_came_strictly_before_newest_first(asked: Moments) -> None:
    # User 0 walks 0, 2, 4 ...: at the moment of the event with item 8 that one is not in.
    assert asked.part(0, 1).item.tolist() == [6, 4, 2, 0]
    assert asked.part(0, 1).positions().tolist() == [0, 1, 2, 3]


def test_a_repeated_item_counts_once_by_its_latest_event() -> None:
    log = Prepared(
        items=3,
        users=1,
        user=np.zeros(4, np.uint32),
        item=np.array([0, 1, 0, 2], np.uint32),
        weight=np.array([1, 1, -1, 1], np.float32),
        rating=np.full(4, np.nan, np.float32),
        seen=np.ones(4, bool),
        interaction=np.ones(4, bool),
        time_ms=np.arange(4, dtype=np.int64),
    )
    found = moments.from_log(np.zeros(1, np.uint32), np.array([3]), log)
    assert (found.item.tolist(), found.weight.tolist()) == ([0, 1], [-1, 1])


def test_moments_from_a_file_are_those_from_the_log(asked: Moments, prepared: Prepared, tmp_path: Path) -> None:
    # The engine writes profiles oldest first.
    reversed_rows = [asked.part(row, row + 1) for row in range(len(asked))]
    arrays.save(
        tmp_path / "moments.safetensors",
        {
            "user": asked.user,
            "time_ms": asked.time_ms,
            "offsets": asked.offsets,
            "item": np.concatenate([row.item[::-1] for row in reversed_rows]),
            "weight": np.concatenate([row.weight[::-1] for row in reversed_rows]),
        },
    )
    read = moments.read(tmp_path / "moments.safetensors", prepared.items)
    np.testing.assert_array_equal(read.item, asked.item)
    np.testing.assert_array_equal(read.offsets, asked.offsets)


@pytest.mark.parametrize("name", sorted(baselines.BASELINES))
def test_every_baseline_answers_unseen_items_and_most_find_the_colour(
    name: str, asked: Moments, prepared: Prepared
) -> None:
    training = baselines.Training(prepared, None, threads=1)
    settings = dict(baselines.BASELINES[name].trials[0])
    settings |= {"regularization": 1.0} if name.startswith("ease") else {}
    settings |= {"factors": 2, "regularization": 0.1} if name == "ials" else {}
    score = baselines.BASELINES[name].fit(training, settings)
    answers = baselines.lists(score, asked, np.ones(prepared.items, np.float32))
    assert answers.shape == (len(asked), baselines.LENGTH)
    for row in range(len(asked)):
        listed = answers[row][answers[row] != baselines.NONE]
        assert len(np.unique(listed)) == len(listed)
        assert not np.isin(listed, asked.part(row, row + 1).item).any()
        if name != "popularity":
            assert (listed[:2] % 2 == row % 2).all(), (name, row, listed)


def test_all_baselines_have_equal_numbers_of_trials() -> None:
    assert {len(baseline.trials) for baseline in baselines.BASELINES.values()} == {baselines.TRIALS}


def test_the_best_trial_is_chosen_and_ties_go_to_the_earlier() -> None:
    scores = {label: 0.1 for runs in baselines.all_trials().values() for label, _ in runs}
    scores["ease@3"] = 0.2
    chosen = baselines.choose(scores)
    assert chosen["ease"] == baselines.BASELINES["ease"].trials[3]
    assert chosen["ials"] == baselines.BASELINES["ials"].trials[0]


def test_places_that_no_score_fills_follow_popularity() -> None:
    def nothing(part: Moments) -> F32:
        return np.zeros((len(part), 4), np.float32)

    empty: U32 = np.zeros(0, np.uint32)
    one = Moments(
        4, np.zeros(1, np.uint32), np.zeros(1, np.int64), np.zeros(2, np.int64), empty, empty.astype(np.float32)
    )
    answers = baselines.lists(nothing, one, np.array([1, 5, 0, 3], np.float32))
    assert answers[0, :5].tolist() == [1, 3, 0, 2, baselines.NONE]


def made(ranked: float, **lists: float) -> report.Report:
    def one(score: float) -> dict[str, object]:
        per_user = {metric: [score * 0.5, score * 1.5] for metric in ("ndcg_at_10", "recall_at_20")}
        return {"ndcg_at_10": score, "recall_at_20": score, "coverage": 0.5, "novelty": 3.0, "per_user": per_user}

    found = {name: one(score) for name, score in {"ranked": ranked, **lists}.items()}
    return {"from_ms": 0, "until_ms": 1, "moments": 9, "users": 2, "lists": found, "recall_at_500": {"union": 0.9}}


def test_a_paired_ratio_of_proportional_lists_has_no_spread() -> None:
    found = report.ratio(np.array([0.2, 0.4, 0.9]), np.array([0.1, 0.2, 0.45]))
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))


def test_the_interval_covers_the_ratio_and_narrows_with_users() -> None:
    random = np.random.default_rng(0)
    widths = []
    for users in (50, 5000):
        theirs = random.random(users)
        found = report.ratio(1.2 * theirs + 0.1 * random.standard_normal(users), theirs)
        assert found.low < 1.2 < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 5


def test_the_table_names_the_best_baseline_and_the_ratio_to_it() -> None:
    summary = report.summarise(made(0.2, ease=0.16, popular=0.1))
    assert summary["best_baseline"] == "ease"
    table = report.markdown(summary)
    assert "| ease (best baseline) | 0.1600 | 0.1600 | 0.500 | 3.00 | 1.250 [1.250, 1.250] |" in table
    assert "| union | 0.900 |" in table
    assert "| mean of 2 |  |  |  |  | 1.250 |" in report.rolling([summary, summary])


def test_the_gate_refuses_what_is_worse_beyond_the_margin() -> None:
    config = gate.Config(margin=0.03)
    assert gate.judge(made(0.2, blend=0.18), None, config).publish
    assert gate.judge(made(0.195), made(0.2), config).publish
    refused = gate.judge(made(0.19), made(0.2), config)
    assert not refused.publish
    assert "serving bundle" in refused.reasons[0]
    assert not gate.judge(made(0.1, blend=0.2), None, config).publish
    assert not gate.judge(made(0.1, popular=0.11), None, config).publish
