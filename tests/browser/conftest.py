"""A headless Chromium and pages for the browser tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.report import html, page
from tests.support.grids import grid

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium or Chrome on PATH; no browser is downloaded."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {', '.join(NAMES)} on PATH; fix: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; fix: pip install '.[dev]'")
    with sync_api.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two sizes, two tunings and three seeds."""
    return page.write(grid(tmp_path_factory.mktemp("browser") / "g", models=2, tunings=("full", "lora"), seeds=3, volumes=(8, 16, 32)))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page in which every text tries to run or fetch something."""
    from tests.report.test_html import hostile_content

    folder = tmp_path_factory.mktemp("hostile")
    html.write(hostile_content(), folder)
    return folder / "index.html"
