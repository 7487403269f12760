"""What must not be in here."""

from __future__ import annotations

import re
from pathlib import Path

MODELS = Path(__file__).parents[1]


def test_there_is_no_pickle() -> None:
    word = re.compile(r"^\s*(import|from)\s+(pickle|joblib|dill|cloudpickle|shelve)\b|allow_pickle\s*=\s*True", re.M)
    for path in (MODELS / "marquee_models").glob("*.py"):
        assert not word.search(path.read_text()), path


def test_the_lock_names_no_host_but_pypi() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (MODELS / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_only_parquet_needs_polars_and_only_binary_calls_the_binary() -> None:
    for path in (MODELS / "marquee_models").glob("*.py"):
        text = path.read_text()
        assert path.stem == "parquet" or "import polars" not in text, path
        assert path.stem == "binary" or "subprocess" not in text, path
