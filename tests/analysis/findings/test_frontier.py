from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from harness.analysis.findings.frontier import COLUMNS, frontier
from tests.support.comparisons import Made, counted

N = 400


def cell(gains: dict[int, int], losses: dict[int, int], n: int = N) -> dict[int, dict[str, dict[str, list[list[float]]]]]:
    """Return suites of n items: gained on the target, lost on the probe."""
    return {v: {"target": {"a": counted(n, gains[v])}, "probe": {"b": counted(n, losses[v], sign=-1)}} for v in gains}


def of(found: pd.DataFrame, column: str) -> dict[tuple[str, int], Any]:
    return dict(zip(zip(found["cell"], found["volume"], strict=True), found[column], strict=True))


def places(made: Made) -> dict[tuple[str, int], Any]:
    return of(frontier(made.findings, made), "frontier")


def test_points_are_clearly_on_or_off_the_frontier_or_neither() -> None:
    """LoRA's second point gains more and loses less than both of full; its first loses least."""
    made = Made()
    made.add("full", cell({1: 80, 2: 160}, {1: 100, 2: 200}))
    made.add("lora", cell({1: 40, 2: 240}, {1: 0, 2: 40}), tuning="lora")
    assert places(made) == {("full", 1): "off", ("full", 2): "off", ("lora", 1): "on", ("lora", 2): "on"}


def test_with_few_items_nothing_is_clear() -> None:
    """The same shares of 20 items."""
    made = Made()
    made.add("full", cell({1: 4, 2: 8}, {1: 5, 2: 10}, n=20))
    made.add("lora", cell({1: 2, 2: 7}, {1: 0, 2: 6}, n=20), tuning="lora")
    assert set(places(made).values()) == {"unclear"}


def test_a_difference_inside_the_margin_beats_nothing() -> None:
    """Of 100,000 items, a gain of 1 point more at equal loss is negligible: both are on.

    A gain of 3 points more is not.
    """
    made = Made()
    made.add("full", cell({1: 20_000}, {1: 500}, n=100_000))
    made.add("lora", cell({1: 21_000}, {1: 500}, n=100_000), tuning="lora")
    assert places(made) == {("full", 1): "on", ("lora", 1): "on"}
    made.add("both", cell({1: 24_500}, {1: 500}, n=100_000), tuning="both")
    assert places(made) == {("full", 1): "off", ("lora", 1): "off", ("both", 1): "on"}


def test_independent_trajectories_are_rivals_of_shared_ones() -> None:
    """Three passes on an independent trajectory gain more than replay and lose less."""
    made = Made()
    made.add("passes", cell({1: 160}, {1: 20}), trajectory="independent", epochs=3, learning_rate=0.001)
    made.add("replay", cell({1: 120}, {1: 100}), mitigation="replay")
    assert places(made) == {("passes", 1): "on", ("replay", 1): "off"}


def test_the_untuned_model_is_a_point_too() -> None:
    """It beats a method that gains nothing and forgets."""
    made = Made()
    made.add("full", cell({1: 0}, {1: 200}))
    assert places(made) == {("full", 1): "off"}


def test_points_of_other_items_are_not_compared() -> None:
    """Without common items, nothing is known of the difference."""
    made = Made()
    made.add("full", cell({1: 80}, {1: 200}))
    made.add("lora", cell({1: 200}, {1: 0}), tuning="lora", items="other")
    assert set(places(made).values()) == {"unclear"}


def test_gain_and_forgetting_follow_the_direction_of_the_metric() -> None:
    """A loss that falls by 0.3 is a gain of 0.3.

    Accuracy that falls by 0.2 is forgetting of 0.2. The ends of the interval swap with the sign.
    """
    made = Made()
    made.add("full", {4: {"target": {"a": counted(10, 3, sign=-1)}, "probe": {"b": counted(10, 2, sign=-1)}}}, better={"target": False})
    row = frontier(made.findings, made).iloc[0]
    assert (row.gain, row.gain_low, row.gain_high) == pytest.approx((0.3, 0.1, 0.4))  # delta −0.3 in [−0.4, −0.1]
    assert (row.forgetting, row.forgetting_low, row.forgetting_high) == pytest.approx((0.2, 0.0, 0.3))
    assert (row.target_suite, row.headline_suite, row.flops) == ("target", "probe", 1e6)


def test_controls_are_left_out_and_models_are_judged_separately() -> None:
    """Neither a better control nor a better point of another model dominates a cell."""
    made = Made()
    made.add("full", cell({1: 80}, {1: 60}))
    made.add("control", cell({1: 300}, {1: 0}), data="base", is_control=True)
    made.add("large", cell({1: 300}, {1: 0}), model="large", params_total=2000)
    assert places(made) == {("full", 1): "on", ("large", 1): "on"}


def test_a_method_that_did_not_act_has_no_place_and_beats_nothing() -> None:
    """Its rows are nearly all plain ones."""
    made = Made()
    made.add("none", cell({1: 80}, {1: 60}))
    made.add("sdft", cell({1: 300}, {1: 0}), mitigation="sdft", acted=False)
    found = places(made)
    assert found["none", 1] == "on"
    assert pd.isna(found["sdft", 1])


def test_without_a_headline_or_a_target_there_is_no_frontier() -> None:
    """The table is then empty, with every column."""
    made = Made()
    made.add("full", cell({1: 2}, {1: 3}))
    for changes in ({"is_headline": False}, {"role": "probe"}):
        found = frontier(made.findings.assign(**changes).astype({"is_headline": "boolean", "role": "string"}), made)
        assert list(found.columns) == COLUMNS
        assert found.empty


def test_a_cell_whose_rate_is_too_high_has_no_place_and_is_no_rival() -> None:
    """LoRA would beat full; it does where the experiment asks for any rate."""
    made = Made()
    made.add("full", cell({1: 80, 2: 160}, {1: 100, 2: 200}))
    made.add("lora", cell({1: 40, 2: 240}, {1: 0, 2: 40}), tuning="lora", control_check="too high")
    found = of(frontier(made.findings, made), "frontier")
    assert found[("full", 2)] == "on"
    assert pd.isna(found[("lora", 2)])
    assert of(frontier(made.findings, made, any_rate=True), "frontier")[("full", 2)] == "off"


def test_where_every_rate_is_too_high_no_cell_has_a_place() -> None:
    made = Made()
    made.add("full", cell({1: 80}, {1: 100}), control_check="too high")
    assert frontier(made.findings, made)["frontier"].isna().all()
