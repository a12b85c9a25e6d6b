"""The wheel with the extra `measure` in its lowest versions: `make test-install`."""

from __future__ import annotations

import json

import pytest

from tests.install.conftest import Installed

pytest.importorskip("torch", reason="this environment has no extra")


def test_two_models_are_compared(harness: Installed) -> None:
    """Models are pretrained, measured through lm-eval and compared item by item."""
    done = harness("compare", "nursery-smoke-a", "nursery-smoke-b", "--suites", "tinyworld", "--json", "--output", "page")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found
    assert (harness.folder / "page" / "index.html").is_file()
    again = harness("compare", "nursery-smoke-a", "nursery-smoke-a", "--suites", "tinyworld", "--max-loss", "0.01")
    assert again.returncode == 0, again.stderr


def test_a_prompt_is_shown(harness: Installed) -> None:
    """Tasks, tokenizer and chat templates work without training libraries."""
    done = harness("prompt", "tinyworld", "model=nursery-smoke-a")
    assert done.returncode == 0, done.stderr
    assert "tinyworld" in done.stdout


def test_training_needs_its_own_extra(harness: Installed) -> None:
    """`run` names what is missing, not the first import that fails."""
    done = harness("run", "model=nursery-smoke-a")
    said = "harness: run: needs trl, which is not installed; fix: pip install -e '.[train]', in the checkout of forgetting-harness\n"
    assert (done.returncode, done.stderr) == (2, said)
