"""The check of a cell's rate: what its same-data control lost at the cell's largest volume."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings import validity
from harness.analysis.statistics.multiple import holm

CONTROL: dict[str, Any] = {"is_control": True, "data": "base"}


def row(cell: str, task: str, delta: float | None, half: float = 0.01, p: float = 0.5, **more: Any) -> dict[str, Any]:
    """Return one finding; a control has the same labels and data of its own."""
    common: dict[str, Any] = {"cell": cell, "role": "probe", "suite": "s", "task": task, "volume": 8, "higher_is_better": True}
    common |= {"margin": 0.02, "is_control": False, "model": "m", "tuning": "full", "trajectory": "shared"}
    common |= {"learning_rate": 1e-3, "data": "people"}
    ends = {"delta_low": None, "delta_high": None} if delta is None else {"delta_low": delta - half, "delta_high": delta + half}
    return common | {"before": 1.0, "delta": delta, **ends, "p_value": p, "p_mid": None} | more


def checked(*rows: dict[str, Any]) -> pd.DataFrame:
    numbers = dict.fromkeys(("delta", "delta_low", "delta_high", "p_value", "p_mid", "margin"), "Float64")
    return validity.checks(pd.DataFrame(rows).astype(numbers))


def cell(*tasks: str, **more: Any) -> list[dict[str, Any]]:
    return [row("c", task, -0.3, **more) for task in tasks]


def of_cell(found: pd.DataFrame, names: list[str]) -> list[Any]:
    return [found[name]["c"] for name in names]


@pytest.mark.parametrize(
    ("delta", "half", "p", "expected"),
    [
        (-0.03, 0.02, 0.01, "too high"),  # beyond the margin, and not 0
        (-0.03, 0.04, 0.2, "not settled"),  # beyond the margin, and may be 0
        (-0.015, 0.004, 0.001, "passed"),  # a loss inside the margin
        (-0.015, 0.01, 0.01, "not settled"),
        (-0.02, 0.01, 0.001, "not settled"),  # the margin itself is not more than the margin
        (0.3, 0.05, 0.001, "passed"),  # a gain
        (0.0, 0.02, 1.0, "passed"),
    ],
)
def test_the_margin_and_zero_decide(delta: float, half: float, p: float, expected: str) -> None:
    found = checked(*cell("a"), row("k", "a", delta, half, p, **CONTROL))
    assert found["control_check"].to_dict() == {"c": expected}
    assert of_cell(found, ["control", "task", "volume"]) == ["k", "a", 8]


def test_a_loss_is_better_lower() -> None:
    """Of nats per token, more is a loss."""
    of: dict[str, Any] = {"higher_is_better": False}
    assert checked(*cell("a", **of), row("k", "a", 0.03, 0.02, 0.01, **CONTROL | of))["control_check"]["c"] == "too high"
    assert checked(*cell("a", **of), row("k", "a", -0.3, 0.02, 0.01, **CONTROL | of))["control_check"]["c"] == "passed"


def test_tasks_and_means_are_one_family() -> None:
    """Two tasks and their mean: p of 0.02 is 0.06 by Holm, 0.016 is 0.048."""
    assert holm([0.02, 0.5, 0.5])[0][0] == pytest.approx(0.06)
    for p, expected in {0.02: "not settled", 0.016: "too high"}.items():
        tasks = [row("k", "a", -0.03, 0.02, p, **CONTROL), row("k", "b", 0.0, **CONTROL), row("k", "*", -0.015, **CONTROL)]
        assert checked(*cell("*", "a", "b"), *tasks)["control_check"]["c"] == expected


def test_the_mean_decides_where_no_task_does() -> None:
    tasks = [row("k", task, -0.03, 0.04, 0.2, **CONTROL) for task in "ab"]
    found = checked(*cell("*", "a", "b"), *tasks, row("k", "*", -0.03, 0.01, 0.001, **CONTROL))
    assert of_cell(found, ["control_check", "task"]) == ["too high", "*"]


def test_the_row_of_a_suite_of_one_task_is_no_second_test() -> None:
    """Its p of 0.04 would be 0.08 if it counted twice."""
    alike = [row("k", task, -0.03, 0.02, 0.04, **CONTROL) for task in ("*", "a")]
    assert checked(*cell("*", "a"), *alike)["control_check"]["c"] == "too high"


def test_the_largest_loss_is_named() -> None:
    tasks = [row("k", "a", -0.05, 0.01, 0.001, **CONTROL), row("k", "b", -0.2, 0.01, 0.001, **CONTROL)]
    assert of_cell(checked(*cell("a", "b"), *tasks), ["task", "delta"]) == ["b", -0.2]


def test_only_the_cells_largest_volume_is_read() -> None:
    early = [*cell("a"), row("k", "a", -0.3, 0.01, 0.001, **CONTROL)]
    late = [*cell("a", volume=16), row("k", "a", 0.0, volume=16, **CONTROL)]
    assert checked(*early, *late)["control_check"]["c"] == "passed"


def test_a_control_that_was_not_measured_has_not_passed() -> None:
    """At the volume, or on one of the tasks."""
    assert checked(*cell("a", volume=16), row("k", "a", 0.0, **CONTROL))["control_check"]["c"] == "not settled"
    assert checked(*cell("a", "b"), row("k", "a", 0.0, **CONTROL))["control_check"]["c"] == "not settled"
    assert checked(*cell("a"), row("k", "a", None, **CONTROL))["control_check"]["c"] == "not settled"


def test_what_cannot_be_lost_is_not_read() -> None:
    """A divergence suite has no margin; a target is not a probe."""
    every: list[dict[str, Any]] = [{"margin": None}, {"role": "target"}]
    for more in every:
        assert checked(*cell("a", **more), row("k", "a", -0.3, 0.01, 0.001, **CONTROL | more)).empty


def test_a_control_at_another_rate_is_none() -> None:
    other = row("k", "a", 0.0, **CONTROL | {"learning_rate": 2e-3})
    assert checked(*cell("a"), other).empty
    assert checked(*cell("a")).empty


def test_what_may_be_ranked() -> None:
    """Not controls, what did not act, nor rates that are too high unless these are asked for."""
    rows = pd.DataFrame({"is_control": [True, False, False, False, None], "acted": [None, False, None, True, None]}, dtype="boolean")
    rows["control_check"] = pd.array([None, "passed", "too high", "not settled", None], dtype="string")
    assert validity.ranked(rows, any_rate=False).tolist() == [False, False, False, True, True]
    assert validity.ranked(rows, any_rate=True).tolist() == [False, False, True, True, True]


def test_all_runs_of_a_cell_count() -> None:
    """With independent trajectories, each volume has its own."""
    found = pd.DataFrame({"control_check": ["too high", "too high", "passed"], "run_ids": ["a,b", "c,b", "d"]}, dtype="string")
    assert validity.runs_too_high(found) == {"a", "b", "c"}
