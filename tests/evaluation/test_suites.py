"""Suite files and the choice of items."""

from __future__ import annotations

from typing import Literal

import pytest

from harness.config import paths
from harness.core.errors import ConfigError, EvaluationError
from harness.data.tinyworld.questions import items
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.evaluator import prepare
from harness.evaluation.suites import Suite, choose, load

ROLES: tuple[Literal["report", "select"], ...] = ("report", "select")

NUMBERS: list[dict[str, object]] = [{"report": {}}, {"report": {"t": 0}}, {"select": {"t": 1.5}}, {"select": {"t": True}}, {"select": None}]


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


def test_items_of_one_cluster_are_never_in_both_sets() -> None:
    """To choose on one of five facts about a person is to have seen the others."""
    of = suite(report=None, select=7)

    def part(role: Literal["report", "select"], limit: int | None = None) -> list[int]:
        return choose(of, "t", 40, str, role, limit, lambda index: str(index // 5))

    select, report = part("select"), part("report")
    assert len(select) == 7
    assert len({index // 5 for index in select}) == 2
    assert len(report) == 30  # the six other clusters whole; three items of the two are in neither
    assert not {index // 5 for index in select} & {index // 5 for index in report}
    assert set(part("report", 10)) < set(report)
    assert len({index // 5 for index in part("report", 10)}) > 2  # a limit is not a limit of clusters


def test_a_document_without_a_cluster_is_one_by_itself() -> None:
    """Items that do not cluster are split as if nothing did."""
    alone = [choose(suite(), "t", 40, str, role, None, lambda index: None) for role in ROLES]
    assert alone == [choose(suite(), "t", 40, str, role) for role in ROLES]


def test_clusters_without_select_items_do_not_change_the_choice() -> None:
    of = suite(select=0)
    assert choose(of, "t", 40, str, "report", None, lambda index: str(index // 5)) == choose(of, "t", 40, str, "report")


def test_tasks_may_differ_in_their_numbers_of_items() -> None:
    """A task without an entry reports all of its items, and has none to select on."""
    of = suite(report={"t": 4}, select={"t": 2})
    assert [len(choose(of, "t", 20, str, role)) for role in ROLES] == [4, 2]
    assert len(choose(of, "u", 20, str, "report")) == 20
    with pytest.raises(EvaluationError, match="select: got 0 items"):
        choose(of, "u", 20, str, "select")


def test_the_worlds_probes_and_people_are_split_by_person() -> None:
    """No person and no sum is in both sets, and the sets have the sizes of the suites."""
    sizes = {"tinyworld": {"facts": (400, 240), "arithmetic": (240, 160), "grammar": (280, 120)}, "tinyworld-people": {"people": (80, 80)}}
    for name, parts in sizes.items():
        report, select = (prepare(load(name), HfEvaluation(items=role)).items for role in ROLES)
        for part, (reported, selected) in parts.items():
            task, questions = f"tinyworld_{part}", items(part)
            assert (len(report[task]), len(select[task])) == (reported, selected)
            assert not set(report[task]) & set(select[task])
            alike = [{questions[index].get("person", questions[index].get("sum", index)) for index in of[task]} for of in (report, select)]
            assert not alike[0] & alike[1]


@pytest.mark.parametrize(
    ("changes", "role", "size", "word"),
    [({"select": 0}, "select", 10, "select"), ({}, "report", 3, "more than the 3 items")],
)
def test_a_role_without_items_is_refused(changes: dict[str, object], role: str, size: int, word: str) -> None:
    """No silent empty evaluation."""
    with pytest.raises(EvaluationError, match=word):
        choose(suite(**changes), "t", size, str, role)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"tasks": ()}, {"kind": "likelihood"}, {"chance": 2.0}, {"chance": "coin"}, {"report": 0}, {"select": -1}, *NUMBERS]
)
def test_a_suite_out_of_range_is_refused(changes: dict[str, object]) -> None:
    """A suite file is checked when it is read."""
    with pytest.raises(ConfigError, match="suite s"):
        suite(**changes)


@pytest.mark.parametrize("changes", [{"chance": None}, {"higher_is_better": False}])
def test_nats_of_choices_are_lower_is_better_and_have_their_own_level_of_guessing(changes: dict[str, object]) -> None:
    """Either setting alone is rejected: the other keeps its default, which is accuracy's."""
    with pytest.raises(ConfigError, match="nats_per_token"):
        suite(metric="nats_per_token", **changes)


def test_an_unknown_suite_is_named_with_those_there_are() -> None:
    """The error lists the suites and suggests the nearest."""
    with pytest.raises(ConfigError, match="did you mean 'tinyworld'"):
        load("tinywrold")
