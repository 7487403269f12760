"""One installation with the made-up catalogue, imported and trained once; tests work on copies of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import catalogue
from tests.e2e.house import House

MODELS = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def binaries() -> Path:
    """The folder of the binaries, from MARQUEE_BIN_DIR; `make test` sets it."""
    folder = os.environ.get("MARQUEE_BIN_DIR")
    if not folder:
        pytest.skip("MARQUEE_BIN_DIR is not set: no binary to test (make test sets it)")
    path = Path(folder)
    assert (path / "marquee").is_file(), f"there is no marquee in {path}"
    return path


@pytest.fixture(scope="session")
def imported(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[House, str, int]:
    """The installation with the catalogue in it; what the import printed; how many events were good."""
    folder = tmp_path_factory.mktemp("house")
    events = catalogue.write(folder / "catalogue")
    house = House(folder, binaries)
    return house, house.run("import", "--layout", "marquee", folder / "catalogue"), events


def pipeline(house: House) -> subprocess.CompletedProcess[str]:
    """The whole pipeline over an installation's log, as an operator would call it."""
    words = [sys.executable, "-m", "marquee_models.pipeline", "--marquee-bin", str(house.binaries / "marquee")]
    words += ["--work", str(house.folder / "training"), "--bundles", str(house.folder / "bundles")]
    words += ["--baselines", "none", "--margin", "0.2"]
    environment = {**house.environment(), "PYTHONPATH": str(MODELS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, cwd=house.folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def trained(imported: tuple[House, str, int]) -> House:
    """The installation after the whole pipeline."""
    house = imported[0]
    done = pipeline(house)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return house


@pytest.fixture
def furnish(trained: House, tmp_path: Path) -> Callable[..., House]:
    """A copy of the trained installation that a test may do anything to; with these settings on top."""

    def copy(**settings: str) -> House:
        folder = tmp_path / "house"
        folder.mkdir()
        for path in trained.folder.glob("marquee.db*"):
            shutil.copy2(path, folder / path.name)
        shutil.copytree(trained.folder / "bundles", folder / "bundles")
        return House(folder, trained.binaries, settings)

    return copy
