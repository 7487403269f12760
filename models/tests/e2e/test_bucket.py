"""The pipeline and a server over a bucket, against the real S3 server that `make services` starts."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from tests.e2e.conftest import pipeline
from tests.e2e.house import House


def test_the_pipeline_publishes_into_a_bucket_and_a_server_serves_from_it(trained: House, tmp_path: Path) -> None:
    bucket = os.environ.get("MARQUEE_TEST_S3")
    assert bucket, "MARQUEE_TEST_S3 is not set: run `make test`, or start `make services` first"
    folder = tmp_path / "house"
    shutil.copytree(trained.folder, folder)
    settings = {"MARQUEE_ARTIFACTS__URL": f"{bucket}/pipeline-{os.getpid()}-{time.time_ns()}"}
    settings["MARQUEE_ARTIFACTS__CACHE_FOLDER"] = str(folder / "cache")
    house = House(folder, trained.binaries, settings)
    assert house.bundles() == []
    done = pipeline(house)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    (bundle,) = house.bundles()
    assert bundle["serving"] and bundle["has_ranker"], bundle
    # The bundle that the pipeline built in a folder is not needed any more.
    shutil.rmtree(folder / "bundles")
    with house.server() as server:
        slate = server.service("RecommendationService").Recommend(user_id="u1", count=5)
        assert slate.bundle_version == bundle["version"], slate
    assert Path(house.run("bundle", "fetch", bundle["version"]).strip()).is_relative_to(folder / "cache")
