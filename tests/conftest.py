"""Environment of every test: no network, and none of the user's caches and settings."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.small_runs import Runs

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tests"
"""Kept between test runs, for the tiny pretrained models; every test passes when it is empty."""

# Set on import, since the libraries read these when they are first imported. Processes that tests
# start inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.environ.get("HARNESS_TEST_HUB") or str(CACHE / "huggingface")
os.environ["HARNESS_CACHE"] = str(CACHE / "harness")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("HARNESS_PATH", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``hub`` without one."""
    if item.get_closest_marker("hub") and not os.environ.get("HARNESS_TEST_HUB"):
        pytest.skip("needs a hub on disk: HARNESS_TEST_HUB names its folder (as HF_HOME would)")


MODEL_FOLDERS = {"benchmarks", "evaluation", "methods", "models", "packaging", "report", "run", "smoke", "training"}
"""Folders whose tests run models, draw pages or start processes: not in `make check`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of MODEL_FOLDERS, and of launchers."""
    tests = Path(__file__).parent
    for item in items:
        parts = item.path.relative_to(tests).parts
        if parts[0] in MODEL_FOLDERS or "launchers" in parts:
            item.add_marker("model")


@pytest.fixture(scope="module", autouse=True)
def frozen_imports() -> None:
    """Exclude imported modules from garbage collection, which would take 0.25 s each time."""
    gc.freeze()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of ``tests.support.small_runs``."""
    from tests.support import small_runs

    folder = tmp_path_factory.mktemp("models")
    small_runs.save_models(folder)
    return folder


@pytest.fixture
def runs(saved_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Small runs in an empty folder, see ``tests.support.small_runs``."""
    from tests.support import small_runs

    small_runs.own_folder(saved_models, tmp_path, monkeypatch)
    return small_runs.counted(monkeypatch)
