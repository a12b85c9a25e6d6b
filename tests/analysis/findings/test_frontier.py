from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.frontier import COLUMNS, frontier
from tests.support.comparisons import Made, counted


def cell(gains: dict[int, int], losses: dict[int, int]) -> dict[int, dict[str, dict[str, list[list[float]]]]]:
    """Return suites of ten items: gained on the target, lost on the probe."""
    return {v: {"target": {"a": counted(10, gains[v])}, "probe": {"b": counted(10, losses[v], sign=-1)}} for v in gains}


def of(found: pd.DataFrame, column: str) -> dict[tuple[str, int], Any]:
    return dict(zip(zip(found["cell"], found["volume"], strict=True), found[column], strict=True))


def test_a_point_is_on_the_frontier_unless_another_is_as_good_in_both() -> None:
    """Only LoRA's first point and full's second are on the frontier.

    Full gains 2 and 6 and loses 3 and 5; LoRA gains 3 and 5 and loses 1 and 5.
    """
    made = Made()
    made.add("full", cell({1: 2, 2: 6}, {1: 3, 2: 5}))
    made.add("lora", cell({1: 3, 2: 5}, {1: 1, 2: 5}), tuning="lora")
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): False, ("full", 2): True, ("lora", 1): True, ("lora", 2): False}


def test_the_untuned_model_is_a_point_too() -> None:
    """It dominates a method that gains nothing and forgets."""
    made = Made()
    made.add("full", cell({1: 0}, {1: 2}))
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): False}


def test_gain_and_forgetting_follow_the_direction_of_the_metric() -> None:
    """A loss that falls by 0.3 is a gain of 0.3.

    Accuracy that falls by 0.2 is forgetting of 0.2. The ends of the interval swap with the sign.
    """
    made = Made()
    made.add("full", {4: {"target": {"a": counted(10, 3, sign=-1)}, "probe": {"b": counted(10, 2, sign=-1)}}}, better={"target": False})
    row = frontier(made.findings).iloc[0]
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx((0.3, 0.1, 0.4))  # delta −0.3 in [−0.4, −0.1]
    assert (row.forgetting, row.forgetting_low, row.forgetting_high) == pytest.approx((0.2, 0.0, 0.3))
    assert (row.target_suite, row.headline_suite, row.flops) == ("target", "probe", 1e6)


def test_controls_are_left_out_and_models_are_judged_separately() -> None:
    """Neither a better control nor a better point of another model dominates a cell."""
    made = Made()
    made.add("full", cell({1: 2}, {1: 3}))
    made.add("control", cell({1: 9}, {1: 0}), data="base", is_control=True)
    made.add("large", cell({1: 9}, {1: 0}), model="large", params_total=2000)
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): True, ("large", 1): True}


def test_without_a_headline_or_a_target_there_is_no_frontier() -> None:
    """The table is then empty, with every column."""
    made = Made()
    made.add("full", cell({1: 2}, {1: 3}))
    for changes in ({"is_headline": False}, {"role": "probe"}):
        found = frontier(made.findings.assign(**changes).astype({"is_headline": "boolean", "role": "string"}))
        assert list(found.columns) == COLUMNS
        assert found.empty
