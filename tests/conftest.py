"""The surroundings of every test: no network, and neither the caches nor the settings of whoever runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tests"
"""Kept between test runs, for the tiny pretrained models; every test passes when it is empty."""

# Set on import, since the libraries read these when they are first imported; tests that start processes hand them on.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = os.environ.get("HARNESS_TEST_HUB") or str(CACHE / "huggingface")
os.environ["HARNESS_CACHE"] = str(CACHE / "harness")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("HARNESS_PATH", "HF_DATASETS_CACHE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``hub`` where there is none."""
    if item.get_closest_marker("hub") and not os.environ.get("HARNESS_TEST_HUB"):
        pytest.skip("needs a hub on disk: HARNESS_TEST_HUB names its folder (as HF_HOME would)")
