"""The pipeline's order, restarts, gate and exit codes, over a stand-in for the binary."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from marquee_models import arrays, pipeline
from tests.conftest import checkerboard, write_export

STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with the stand-in, a log, and an NDCG@10 that it reports."""
    binary = tmp_path / "stand_in.py"
    binary.write_text(f"#!{sys.executable}\n" + STAND_IN.read_text().split("\n", 1)[1])
    binary.chmod(0o755)
    write_export(tmp_path / "log", checkerboard())
    (tmp_path / "quality").write_text("0.2")
    return tmp_path


def run(home: Path, *arguments: str) -> int:
    (home / "calls").unlink(missing_ok=True)
    where = ["--work", str(home / "work"), "--bundles", str(home / "bundles"), "--threads", "1"]
    return pipeline.main(["--marquee-bin", str(home / "stand_in.py"), *where, *arguments])


def calls(home: Path) -> list[str]:
    return (home / "calls").read_text().split("\n")


def test_a_life_from_the_first_bundle_to_a_refused_one(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # The first run publishes a bundle with all its files.
    assert run(home, "--baselines", "none") == 0
    serving = (home / "serving").read_text()
    names = {path.name for path in (home / "bundles" / serving).iterdir()}
    matrices = {"cooccurrence", "cooccurrence_liked", "transitions", "transitions_wide", "transitions_liked", "similar"}
    assert names == {f"{name}.safetensors" for name in matrices | {"embedding", "content", "likes", "golden"}} | {
        "ranker.onnx",
        "card.md",
        "training.json",
    }
    assert "| **ranked** | 0.2000 |" in (home / "bundles" / serving / "card.md").read_text()
    assert json.loads((home / "work" / "live" / "metrics.json").read_text())["ndcg_at_10"] == 0.2

    # It went to where bundles are kept, with what it was made from.
    assert (home / "published").read_text().split() == [serving]
    kept = {f"training {serving}/rows.safetensors", f"quarantine {serving}/quarantine.jsonl"}
    assert set((home / "kept").read_text().splitlines()) == kept

    # The second repeats nothing, but for what was lost.
    (home / "work" / "rows" / "models" / "similar.safetensors").unlink()
    assert run(home, "--baselines", "none") == 0
    assert (home / "work" / "rows" / "models" / "similar.safetensors").exists()
    assert not {"replay", "bundle build", "bundle publish", "bundle activate"} & set(calls(home))
    assert [path.name for path in (home / "bundles").iterdir()] == [serving]

    # The log changes; the serving bundle's backtest is better on the new period than the new one's.
    write_export(home / "log", {name: array[: len(array) // 2] for name, array in checkerboard().items()})
    twin = json.loads((home / "work" / "backtests" / f"{serving}.json").read_text())["folder"]
    (home / f"quality.{Path(twin).name}").write_text("0.25")
    capfd.readouterr()
    assert run(home, "--baselines", "none") == pipeline.EXIT_REFUSED
    told = capfd.readouterr().err
    assert "NOT PUBLISHED" in told
    assert "NDCG@10 0.2000 is 0.800 times that of the serving bundle's backtest (0.2500)" in told
    assert (home / "serving").read_text() == serving

    # Within the margin it serves.
    assert run(home, "--baselines", "none", "--margin", "0.25") == 0
    assert (home / "serving").read_text() != serving


def test_baselines_are_chosen_before_and_measured_on_the_test_period(home: Path) -> None:
    assert run(home, "--no-publish") == 0
    summary = json.loads((home / "work" / "summary.json").read_text())
    names = {"popularity", "item_knn", "ials", "ease", "ease_recency", "transitions"}
    assert names <= summary["lists"].keys()
    lists = arrays.load(home / "work" / "test" / "lists" / "ease.safetensors", {"items": "uint32"})["items"]
    assert lists.shape[1] == 20


def test_rolling_splits_end_in_one_table(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(home, "--baselines", "none", "--rolling", "2") == 0
    assert "| mean of 2 |" in capfd.readouterr().out
    assert len(json.loads((home / "work" / "rolling.json").read_text())) == 2


def test_a_missing_binary_is_a_failure_and_bad_arguments_are_told_apart(home: Path) -> None:
    assert pipeline.main(["--marquee-bin", str(home / "absent"), "--work", str(home / "work")]) == pipeline.EXIT_FAILED
    assert pipeline.main(["--no-such-thing"]) == pipeline.EXIT_USAGE


def test_settings_are_laid_over_the_recipe_and_misspelt_ones_are_named() -> None:
    over = {"retrieval": {"ease": {"cooccurrence": {"regularization": 300}}}, "ranker": {"depth_max": 2}}
    config = pipeline.overridden(pipeline.Config(), over, "settings")
    assert config.retrieval.ease["cooccurrence"].regularization == 300
    assert config.retrieval.ease["cooccurrence_liked"].regularization == 1000
    assert config.ranker.depth_max == 2
    with pytest.raises(ValueError, match=r"settings\.ranker\.depth: no such setting"):
        pipeline.overridden(pipeline.Config(), {"ranker": {"depth": 2}}, "settings")
    with pytest.raises(ValueError, match=r"settings\.ranker\.depth_max: must be like 3"):
        pipeline.overridden(pipeline.Config(), {"ranker": {"depth_max": "deep"}}, "settings")


@pytest.mark.parametrize("path", sorted((STAND_IN.parents[1] / "settings").iterdir()), ids=lambda path: path.name)
def test_the_settings_that_we_ship_are_settings(path: Path) -> None:
    pipeline.overridden(pipeline.Config(), json.loads(path.read_text()), "settings")


def test_an_empty_log_fails_in_plain_words(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(home / "log")
    write_export(home / "log", {name: array[:0] for name, array in checkerboard().items()})
    assert run(home) == pipeline.EXIT_FAILED
    assert "import some first" in capfd.readouterr().err
