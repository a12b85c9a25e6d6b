"""The claim block of an experiment, and the small tables that it is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pandas.testing import assert_frame_equal

from harness.analysis.claims import declaration, tables
from harness.config import paths
from harness.config.yaml_files import load_yaml
from harness.core.errors import ConfigError, RecordError
from harness.evaluation import suites
from tests.support import small_tables

BLOCK: dict[str, Any] = {
    "number": 1,
    "title": "A title",
    "papers": ["arXiv 1"],
    "statement": "It is so.",
    "refuted": "It is not.",
    "margin": 0.02,
    "limits": "Small.",
    "literature": "Said.",
    "headline": {"test": "equal_gain", "contrasts": [{"arm": "own", "than": "gold", "expect": "less"}]},
}


def test_a_block_is_read_with_its_tests() -> None:
    """No block is no claim; another text is another hash."""
    found = declaration.read(BLOCK, ["own", "gold"])
    assert found is not None
    assert (found.number, found.headline.named, found.also) == (1, ("own", "gold"), ())
    assert declaration.read(None, []) is None
    assert declaration.digest(BLOCK) == found.digest != declaration.digest(BLOCK | {"margin": 0.03})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nubmer": 1}, r"hydra.sweeper.claim.nubmer: got an unknown key"),
        ({"margin": 0}, r"margin: got 0.0; allowed: greater than 0"),
        ({"statement": " "}, r"statement: got ' '; allowed: a text"),
        (
            {"headline": {"test": "equal_gian"}},
            r"headline.test: got 'equal_gian'; allowed: equal_gain, change, order, prediction; fix: .*equal_gain",
        ),
        (
            {"headline": {"test": "equal_gain", "contrasts": [{"arm": "owm", "than": "gold", "expect": "less"}]}},
            r"headline: arm: got 'owm'; allowed: own, gold; fix: .*own",
        ),
        ({"headline": {"test": "order", "x": "target_nats", "suite": "s", "than": "none", "expect": "more"}}, r"arm: got 'none'"),
        (
            {"headline": {"test": "change", "contrasts": [{"arm": "own", "suite": "s", "expect": "fewer"}]}},
            r"contrasts\[0\].expect: got 'fewer'; allowed: more, less, alike, no more, no less",
        ),
    ],
)
def test_a_wrong_block_is_one_clear_line(changed: dict[str, Any], message: str) -> None:
    """Unknown keys, tests, arms and expectations."""
    with pytest.raises(ConfigError, match=message):
        declaration.read(BLOCK | changed, ["own", "gold"])


def test_an_arm_of_a_coefficient_is_one_of_its_arm() -> None:
    """Its run is derived, so that the experiment does not name it."""
    contrasts = [{"arm": "own[coefficient=0.5]", "suite": "s", "expect": "more"}]
    found = declaration.read(BLOCK | {"headline": {"test": "change", "contrasts": contrasts}}, ["own"])
    assert found is not None
    assert found.headline.named == ("own[coefficient=0.5]",)


def test_the_shipped_claims_read_suites_of_their_experiments() -> None:
    """Thirteen claims, numbered from 1."""
    found = declaration.shipped()
    assert [claim.number for claim in found.values()] == list(range(1, 14))
    for name, claim in found.items():
        values = load_yaml(paths.members(declaration.FOLDER)[name])
        arms = values["hydra"]["sweeper"].get("arms", {}).values()
        targets = [*values.get("target_suites", ()), *(arm.get("target_suites", "[]").strip("[]") for arm in arms), "tinyworld-people"]
        for test in (claim.headline, *claim.also):
            assert {*test.suites} <= {*targets, *values["probe_suites"]}, name
            assert [suites.load(suite).name for suite in test.suites] == [*test.suites]


def test_small_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    """No folder is no table; a damaged one is one line."""
    pair = {"model": "m", "first_cell": "a", "second_cell": "b", "difference": 0.25, "note": None}
    made = small_tables.tables([small_tables.finding("a", -0.125)], [pair], declared="x", runs=3)
    assert tables.read(tmp_path / "a") is None
    tables.write(made, tmp_path / "a")
    found = tables.read(tmp_path / "a")
    assert found is not None
    assert_frame_equal(found.findings, made.findings)
    assert_frame_equal(found.equal_gain, made.equal_gain)
    assert found.about == {"declared": "x", "runs": 3}
    (tmp_path / "a" / "equal_gain.csv").unlink()
    with pytest.raises(RecordError, match="cannot be read"):
        tables.read(tmp_path / "a")
