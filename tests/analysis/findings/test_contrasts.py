from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.contrasts import COLUMNS, trajectories
from tests.support.comparisons import Made, counted


def cell(lost: int, gained: int, seeds: int) -> dict[int, dict[str, dict[str, list[list[float]]]]]:
    return {8: {"target": {"a": counted(10, gained, seeds)}, "probe": {"b": counted(20, lost, seeds, -1), "c": counted(40, 0, seeds)}}}


def compared(made: Made) -> pd.DataFrame:
    found = trajectories(made.findings, made.table, made)
    assert list(found.columns) == COLUMNS
    return found


def test_independent_runs_are_compared_with_the_shared_one() -> None:
    """Shared loses 2 of 20 items, independent 4: the difference is −0.1 on the task.

    The suite, a mean with a task without change, has half of that.
    """
    made = Made()
    made.add("s", cell(2, 5, 3), seeds=range(3))
    made.add("i", cell(4, 8, 3), seeds=range(3), trajectory="independent")
    found = compared(made).set_index(["suite", "task"])
    assert found["difference"].to_dict() == pytest.approx(
        {("target", "a"): 0.3, ("target", "*"): 0.3, ("probe", "b"): -0.1, ("probe", "c"): 0.0, ("probe", "*"): -0.05}
    )
    row: Any = found.loc[("probe", "b")]
    assert (row.shared_delta, row.independent_delta) == pytest.approx((-0.1, -0.2))
    assert (row.shared_cell, row.independent_cell, row.volume, row.seeds, row.varies) == ("s", "i", 8, 3, "seeds and items")
    assert row.low < -0.1 < row.high


@pytest.mark.parametrize("labels", [{}, {"learning_rate": 0.1}, {"epochs": 2}, {"data": "other"}])
def test_only_cells_that_differ_in_trajectory_alone_are_compared(labels: dict[str, Any]) -> None:
    """Cells with another rate, other epochs or data are not compared.

    Without independent runs the table is empty.
    """
    made = Made()
    made.add("s", cell(2, 5, 1))
    made.add("i", cell(4, 8, 1), trajectory="independent" if labels else "shared", **labels)
    assert compared(made).empty


def test_other_items_have_a_reason_and_no_difference() -> None:
    """One side was measured on another set of items."""
    made = Made()
    made.add("s", cell(2, 5, 1))
    made.add("i", cell(4, 8, 1), trajectory="independent", items="other")
    found = compared(made)
    assert found["difference"].isna().all()
    assert set(found["note"]) == {"the two trajectories were measured on different items"}


def test_the_two_changes_are_over_the_seeds_that_are_compared() -> None:
    """Seeds without a counterpart are left out, with a note.

    Seeds 0 to 2 lose 2 of 20 items on the shared trajectory and 4 on the independent one. Shared
    seeds 3 and 4 lose 10.
    """
    made = Made()
    shared = [*counted(20, 2, 3, -1), *counted(20, 10, 2, -1)]
    made.add("s", {8: {"target": {"a": counted(10, 5, 5)}, "probe": {"b": shared, "c": counted(40, 0, 5)}}}, seeds=range(5))
    made.add("i", cell(4, 8, 3), seeds=range(3), trajectory="independent")
    row: Any = compared(made).set_index(["suite", "task"]).loc[("probe", "b")]
    assert (row.shared_delta, row.independent_delta, row.difference) == pytest.approx((-0.1, -0.2, -0.1))
    assert row.note == "shared: seed 3, 4 left out"


def test_trajectories_whose_rate_is_too_high_are_not_compared() -> None:
    """Unless the experiment asks for any rate."""
    made = Made()
    made.add("s", cell(2, 5, 3), seeds=range(3), control_check="too high")
    made.add("i", cell(4, 8, 3), seeds=range(3), trajectory="independent")
    assert compared(made).empty
    assert len(trajectories(made.findings, made.table, made, any_rate=True))
