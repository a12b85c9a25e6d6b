"""The shipped suite files, against the task files of the installed lm-eval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from harness.analysis.statistics import stats
from harness.config import composition, paths
from harness.evaluation import evaluator, task_index
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.samples import PER_TOKEN
from harness.evaluation.suites import Suite, load

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

OURS = [name for name in paths.members("benchmarks/suites") if not name.startswith("tinyworld")]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    """Index lm-eval's own task files, which takes seconds, and ours."""
    return task_index._both()


def leaves(manager: TaskManager, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the leaf tasks of a task, group or tag with their configuration, without data."""
    entry = manager.task_index[name]
    if entry.kind.name == "TASK":
        yield name, entry.cfg
        return
    for part in sorted(entry.tags) if entry.kind.name == "TAG" else entry.cfg["task"]:
        yield from leaves(manager, part if isinstance(part, str) else part["task"])


@pytest.mark.parametrize("suite", [suite for suite in map(load, OURS) if suite.kind == "lm_eval"], ids=lambda suite: suite.name)
def test_tasks_metrics_and_filters_exist(manager: TaskManager, suite: Suite) -> None:
    """Every task exists, with the suite's metric and filter, and takes its number of shots."""
    for task in suite.tasks:
        assert task in manager.task_index
        for name, config in leaves(manager, task):
            metrics = [entry["metric"] for entry in config["metric_list"]]
            assert suite.metric in [*metrics, *([PER_TOKEN] if config["output_type"] == "multiple_choice" else [])], name
            assert suite.filter in ([entry["name"] for entry in config.get("filter_list", [])] or ["none"]), name
            assert not suite.num_fewshot or config.get("num_fewshot") != 0, name
            assert (suite.chance == "choices") == (config["output_type"] == "multiple_choice"), name


def test_the_nats_of_answers_are_on_the_items_whose_accuracy_is_measured() -> None:
    """No item of one suite can be chosen on while the other reports it."""
    one, other = (evaluator.prepare(load(name), HfEvaluation()) for name in ("tinyworld", "tinyworld_answers"))
    assert other.items == {task: one.items[task] for task in ("tinyworld_facts", "tinyworld_arithmetic")}


def test_all_items_of_math_decide_its_margin() -> None:
    """They do with 12% changed answers; 50 items do not even with none."""
    found = stats.difference_interval([79], [79], [1319])
    assert -0.02 < found.low < found.high < 0.02
    assert stats.difference_interval([0], [0], [50]).high == pytest.approx(0.071, abs=0.001)
    assert load("math").report is None


@pytest.mark.hub
@pytest.mark.parametrize(
    ("name", "items"),
    [
        (
            "commonsense",
            {
                "bigbench_social_iqa_multiple_choice": 100,
                "bigbench_strategyqa_multiple_choice": 100,
                "bigbench_general_knowledge_multiple_choice": 70,
            },
        ),
        ("values", {"bigbench_hhh_alignment_multiple_choice": 100, "bigbench_bbq_lite_json_multiple_choice": 100}),
        ("medicine", {"pubmedqa": 100}),
        ("math", {"gsm8k": 1319}),
        ("math_nll", {"gsm8k": 64}),
        ("english_offline", {"english-offline": 256}),
    ],
)
def test_suites_are_prepared_from_real_data(name: str, items: dict[str, int]) -> None:
    """Their tasks load and have as many distinct items as the file says."""
    suite = load(name)
    rows = () if suite.kind == "lm_eval" else composition.member("data", str(suite.data)).rows(suite.split)
    prepared = evaluator.prepare(suite, HfEvaluation(), rows)
    assert {task: len(chosen) for task, chosen in prepared.items.items()} == items
    for task, chosen in prepared.items.items():
        assert max(Counter(chosen).values()) == 1, task
