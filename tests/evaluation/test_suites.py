"""Suite files and the choice of items."""

from __future__ import annotations

import pytest

from harness.config import paths
from harness.core.errors import ConfigError, EvaluationError
from harness.evaluation.suites import Suite, choose, load


@pytest.mark.parametrize("name", sorted(paths.members("benchmarks/suites")))
def test_every_suite_file_is_valid(name: str) -> None:
    """The strict reader accepts every yaml in benchmarks/suites."""
    suite = load(name)
    assert suite.name == name
    assert suite.metric


def suite(**changes: object) -> Suite:
    values: dict[str, object] = {"name": "s", "tasks": ("t",), "metric": "acc", "report": 5, "select": 3}
    return Suite(**(values | changes))  # type: ignore[arg-type]


def test_select_and_report_items_are_disjoint_and_stable() -> None:
    """Select items are never reported items, and both are the same every time."""
    report = choose(suite(), "t", 100, str, "report")
    select = choose(suite(), "t", 100, str, "select")
    assert (len(report), len(select)) == (5, 3)
    assert not set(report) & set(select)
    assert report == sorted(report)
    assert report == choose(suite(), "t", 100, str, "report")
    assert report != choose(suite(), "another task", 100, str, "report")


def test_items_are_a_seeded_sample_and_not_the_first() -> None:
    """The first N of a benchmark ordered by subject would be one subject."""
    assert choose(suite(), "t", 1000, str, "report") != [3, 4, 5, 6, 7]
    assert max(choose(suite(), "t", 1000, str, "report")) > 100


def test_repeated_documents_are_used_once() -> None:
    """Joins are by content hash, so a document must not occur twice."""
    chosen = choose(suite(report=None, select=0), "t", 10, lambda index: str(index % 4), "report")
    assert len(chosen) == 4
    assert len({index % 4 for index in chosen}) == 4
    assert chosen.repeated == 6
    assert choose(suite(report=None, select=0), "t", 10, str, "report").repeated == 0


def test_all_items_are_reported_when_no_number_is_given() -> None:
    """`report: null` is every item that is not a select item."""
    assert len(choose(suite(report=None), "t", 20, str, "report")) == 17


@pytest.mark.parametrize(
    ("changes", "role", "size", "word"),
    [({"select": 0}, "select", 10, "select"), ({}, "report", 3, "more than the 3 items")],
)
def test_a_role_without_items_is_refused(changes: dict[str, object], role: str, size: int, word: str) -> None:
    """No silent empty evaluation."""
    with pytest.raises(EvaluationError, match=word):
        choose(suite(**changes), "t", size, str, role)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"tasks": ()}, {"kind": "likelihood"}, {"chance": 2.0}, {"chance": "coin"}, {"report": 0}, {"select": -1}]
)
def test_a_suite_out_of_range_is_refused(changes: dict[str, object]) -> None:
    """A suite file is checked when it is read."""
    with pytest.raises(ConfigError, match="suite s"):
        suite(**changes)


def test_an_unknown_suite_is_named_with_those_there_are() -> None:
    """The error lists the suites and suggests the nearest."""
    with pytest.raises(ConfigError, match="did you mean 'tinyworld'"):
        load("tinywrold")
