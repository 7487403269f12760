"""From files to a slate over gRPC, with the real binary, the real pipeline and a client in another language."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.e2e import catalogue
from tests.e2e.conftest import pipeline
from tests.e2e.house import TOKEN, House

CLIENT_TOUR = Path(__file__).resolve().parents[3] / "server" / "tests" / "client_tour" / "tour.py"


def test_an_import_takes_the_good_rows_and_keeps_the_others_with_a_reason(imported: tuple[House, str, int]) -> None:
    house, told, events = imported
    status = json.loads(house.run("status", "--json"))
    assert status["counts"]["items"] == len(catalogue.KINDS) * catalogue.ITEMS_OF_KIND
    assert status["counts"]["events"] == events
    kept = [line for path in (house.folder / "quarantine").iterdir() for line in path.read_text().splitlines()]
    assert len(kept) == len(catalogue.BAD_EVENTS), told
    assert all(json.loads(line)["reason"] for line in kept)


def test_importing_again_changes_nothing(imported: tuple[House, str, int], tmp_path: Path) -> None:
    house, _, _ = imported
    before = json.loads(house.run("status", "--json"))["counts"]
    house.run("import", "--quarantine", tmp_path / "refused.jsonl", house.folder / "catalogue")
    assert json.loads(house.run("status", "--json"))["counts"] == before


def test_the_pipeline_publishes_a_bundle_with_a_ranker_once(trained: House) -> None:
    serving = next(bundle for bundle in trained.bundles() if bundle["serving"])
    assert serving["has_ranker"], serving
    assert serving["metrics"]["ndcg_at_10"] > serving["metrics"]["ndcg_at_10.popular"] > 0.0, serving
    assert (trained.folder / "bundles" / serving["version"] / "card.md").is_file()
    again = pipeline(trained)
    assert again.returncode == 0, again.stderr[-4000:]
    assert trained.serving() == serving["version"], "the same log gave another bundle"


def test_a_liking_user_gets_more_of_the_kind(furnish: Callable[..., House]) -> None:
    house = furnish()
    with house.server() as server:
        recommendations, events = server.service("RecommendationService"), server.service("EventService")
        liked = [f"i{number * len(catalogue.KINDS) + 2}" for number in range(5)]
        before = recommendations.Recommend(user_id="newcomer", count=10)
        written = events.RecordEvents(
            events=[{"id": f"n-{item}", "user_id": "newcomer", "item_id": item, "type": 5} for item in liked]
        )
        ask = {"user_id": "newcomer", "count": 10, "write_token": written.write_token, "require_fresh": True}
        after = recommendations.Recommend(**ask)

        def of_kind(slate: object) -> int:
            return sum(int(result.item_id[1:]) % len(catalogue.KINDS) == 2 for result in slate.results)  # type: ignore[attr-defined]

        assert not after.HasField("degraded"), after
        assert of_kind(after) >= 7 > of_kind(before), (before, after)
        assert not {result.item_id for result in after.results} & set(liked)
        with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as page:
            metrics = page.read().decode()
        assert 'marquee_calls_total{method="Recommend",code="OK"} 2' in metrics, metrics[:2000]


def test_a_foreign_client_takes_the_whole_tour(furnish: Callable[..., House], trained: House) -> None:
    house = furnish()
    training = trained.folder / "training"
    data, models = training / "log" / "export", training / "live" / "models"
    words = ("--data", data, "--models", models, "--out", house.folder / "bundles", "--version", "zz-second")
    house.run("bundle", "build", *words)
    house.run("bundle", "activate", "zz-second")
    with house.server() as server:
        addresses = ["--public", server.public, "--admin", server.admin, "--token", TOKEN, "--rollback"]
        done = subprocess.run(
            [sys.executable, str(CLIENT_TOUR), *addresses], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "the tour is complete" in done.stdout and "rolled back" in done.stdout


def test_a_bundle_that_was_touched_is_refused_while_the_old_one_serves(
    furnish: Callable[..., House], trained: House
) -> None:
    house = furnish()
    old = house.serving()
    training = trained.folder / "training"
    data, models = training / "log" / "export", training / "live" / "models"
    words = ("--data", data, "--models", models, "--out", house.folder / "bundles", "--version", "zz-second")
    house.run("bundle", "build", *words)
    second = house.folder / "bundles" / "zz-second"
    with house.server() as server:
        admin, recommendations = server.admin_service(), server.service("RecommendationService")

        def must_be_refused(what: str) -> None:
            with pytest.raises(grpc.RpcError) as refused:
                admin.ActivateBundle(version="zz-second")
            assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION, f"{what}: {refused.value}"
            assert refused.value.details(), what
            assert recommendations.Recommend(user_id="u1", count=5, bypass_cache=True).bundle_version == old, what

        for path in sorted(second.iterdir()):
            good = path.read_bytes()
            flipped = bytearray(good)
            flipped[len(flipped) // 2] ^= 0x10
            path.write_bytes(flipped)
            must_be_refused(f"a flipped bit in {path.name}")
            path.write_bytes(good[:-1])
            must_be_refused(f"{path.name} cut by a byte")
            path.write_bytes(good)
        told = house.try_run("bundle", "verify", "zz-second")
        assert told.returncode == 0, told.stderr
        assert admin.ActivateBundle(version="zz-second").serving_version == "zz-second"
        assert recommendations.Recommend(user_id="u1", count=5, bypass_cache=True).bundle_version == "zz-second"


def test_a_bad_config_is_told_all_at_once(binaries: Path, tmp_path: Path) -> None:
    settings = {"MARQUEE_SERVER__LISTEN": "nowhere", "MARQUEE_LIMITS__COUNT_MAX": "0"}
    told = House(tmp_path, binaries, settings).try_run("serve")
    assert told.returncode == 64
    assert "server.listen" in told.stderr and "limits.count_max" in told.stderr, told.stderr


def test_real_ratings_are_imported(binaries: Path, tmp_path: Path) -> None:
    data = os.environ.get("MARQUEE_DATA")
    if not data:
        pytest.skip("MARQUEE_DATA is not set: ml-latest-small is not there")
    house = House(tmp_path, binaries)
    house.run("import", "--layout", "movielens", Path(data) / "ml-latest-small")
    counts = json.loads(house.run("status", "--json"))["counts"]
    assert (counts["items"], counts["events"]) == (9742, 100836)
