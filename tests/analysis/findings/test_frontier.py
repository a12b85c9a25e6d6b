from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.frontier import COLUMNS, frontier
from tests.support.comparisons import Made, counted


def cell(gains: dict[int, int], losses: dict[int, int]) -> dict[int, dict[str, dict[str, list[list[float]]]]]:
    """Ten items a suite: gained on the target, lost on the probe."""
    return {v: {"target": {"a": counted(10, gains[v])}, "probe": {"b": counted(10, losses[v], sign=-1)}} for v in gains}


def of(found: pd.DataFrame, column: str) -> dict[tuple[str, int], Any]:
    return dict(zip(zip(found["cell"], found["volume"], strict=True), found[column], strict=True))


def test_a_point_is_on_the_frontier_unless_another_is_as_good_in_both() -> None:
    """Full gains 2 and 6 for 3 and 5 lost.

    LoRA 3 and 5 for 1 and 5: only LoRA's first and full's second stand.
    """
    made = Made()
    made.add("full", cell({1: 2, 2: 6}, {1: 3, 2: 5}))
    made.add("lora", cell({1: 3, 2: 5}, {1: 1, 2: 5}), tuning="lora")
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): False, ("full", 2): True, ("lora", 1): True, ("lora", 2): False}


def test_leaving_a_model_untuned_is_a_point_too() -> None:
    """A method that gains nothing and forgets is worse than none.

    Alone, it would be on the frontier.
    """
    made = Made()
    made.add("full", cell({1: 0}, {1: 2}))
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): False}


def test_both_are_turned_so_that_the_words_hold() -> None:
    """A loss that falls by 0.3 is a gain of 0.3.

    Accuracy that falls by 0.2 forgets 0.2; the ends change places with the sign.
    """
    made = Made()
    made.add("full", {4: {"target": {"a": counted(10, 3, sign=-1)}, "probe": {"b": counted(10, 2, sign=-1)}}}, better={"target": False})
    row = frontier(made.findings).iloc[0]
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx((0.3, 0.1, 0.4))  # delta −0.3 in [−0.4, −0.1]
    assert (row.forgetting, row.forgetting_low, row.forgetting_high) == pytest.approx((0.2, 0.0, 0.3))
    assert (row.target_suite, row.headline_suite, row.flops) == ("target", "probe", 1e6)


def test_controls_are_left_out_and_models_are_judged_apart() -> None:
    """A control would dominate the one real cell of a model.

    Another model's better point does not.
    """
    made = Made()
    made.add("full", cell({1: 2}, {1: 3}))
    made.add("control", cell({1: 9}, {1: 0}), data="base", is_control=True)
    made.add("large", cell({1: 9}, {1: 0}), model="large", params_total=2000)
    assert of(frontier(made.findings), "is_frontier") == {("full", 1): True, ("large", 1): True}


def test_without_a_headline_or_a_target_there_is_no_frontier() -> None:
    """Nothing declared: an empty table with every column."""
    made = Made()
    made.add("full", cell({1: 2}, {1: 3}))
    for changes in ({"is_headline": False}, {"role": "probe"}):
        found = frontier(made.findings.assign(**changes).astype({"is_headline": "boolean", "role": "string"}))
        assert list(found.columns) == COLUMNS
        assert found.empty
