from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from harness.analysis.findings.equal_gain import COLUMNS, SHARES, equal_gain
from harness.analysis.statistics import two_level
from harness.records.schema import Declared
from tests.support.comparisons import DECLARED, Made, counted

N = 100


def cell(points: dict[int, tuple[int, int]], seeds: int = 1) -> dict[int, dict[str, dict[str, list[list[float]]]]]:
    """Return suites of 100 items: volume → (gained on the target, lost on the probe)."""
    return {v: {"target": {"a": counted(N, up, seeds)}, "probe": {"b": counted(N, down, seeds, -1)}} for v, (up, down) in points.items()}


def compared(made: Made, declared: Declared = DECLARED) -> pd.DataFrame:
    found = equal_gain(made.table, made, declared, findings=made.findings)
    assert list(found.columns) == list(COLUMNS)
    return found


def pair(full: dict[int, tuple[int, int]], lora: dict[int, tuple[int, int]]) -> pd.DataFrame:
    made = Made()
    made.add("f", cell(full))
    made.add("l", cell(lora), tuning="lora")
    return compared(made)


def test_two_methods_are_compared_at_equal_gain() -> None:
    """The gains are 0.15, 0.3 and 0.45, the quarters of 0 to 0.6.

    Full has the points (0.4, 0.1), (0.8, 0.5), LoRA (0.2, 0.02), (0.6, 0.1).
    """
    found = pair({8: (40, 10), 16: (80, 50)}, {8: (20, 2), 16: (60, 10)})
    assert found["share"].tolist() == list(SHARES)
    assert found["gain"].tolist() == pytest.approx([0.15, 0.3, 0.45])
    assert found["first_forgetting"].tolist() == pytest.approx([0.0375, 0.075, 0.15])  # 0.1·15/40, 0.1·30/40, 0.1 + 0.4·5/40
    assert found["second_forgetting"].tolist() == pytest.approx([0.015, 0.04, 0.07])  # 0.02·15/20, 0.02 + 0.08·10/40, 0.02 + 0.08·25/40
    assert found["difference"].tolist() == pytest.approx([0.0225, 0.035, 0.08])
    assert (found["first_between"].tolist(), found["second_between"].tolist()) == (["0–8", "0–8", "8–16"], ["0–8", "8–16", "8–16"])
    row = found.iloc[2]
    assert (row["first"], row["second"], row["first_cell"], row["second_cell"]) == ("full", "lora", "f", "l")
    assert (row.varies, row.seeds, row.no_common_range, row.non_monotone) == ("items", 1, False, False)
    assert (row.range_high, row.first_reach, row.second_reach) == pytest.approx((0.6, 0.8, 0.6))
    assert pd.isna(row.note)
    assert "full: below its smallest volume" in found["note"].iloc[0]


def test_of_many_methods_each_is_compared_with_the_plain_one() -> None:
    """Each mitigation is compared with the plain arm of its tuning.

    The two plain arms are compared with each other.
    """
    made = Made()
    for tuning in ("full", "lora"):
        for mitigation in ("none", "replay", "kl", "ewc"):
            anchor: dict[str, Any] = {"anchor": "base"} if mitigation == "replay" else {}
            made.add(f"{tuning}-{mitigation}", cell({8: (40, 10)}), tuning=tuning, mitigation=mitigation, **anchor)
    found = compared(made)
    pairs = set(zip(found["first_cell"], found["second_cell"], strict=True))
    assert pairs == {("full-none", "lora-none")} | {
        (f"{tuning}-none", f"{tuning}-{mitigation}") for tuning in ("full", "lora") for mitigation in ("replay", "kl", "ewc")
    }
    assert len(found) == 3 * len(pairs)


def test_a_plain_arm_of_the_same_rate_is_preferred() -> None:
    """Without a plain arm of the tuning, its first arm is used."""
    made = Made()
    for rate in (0.1, 0.01):
        made.add(f"none-{rate}", cell({8: (40, 10)}), learning_rate=rate)
    others: dict[str, dict[str, Any]] = {
        "a": {"learning_rate": 0.01},
        "b": {"learning_rate": 0.5},
        "c": {"tuning": "lora"},
        "d": {"tuning": "lora"},
        "e": {"tuning": "lora"},
    }
    for name, labels in others.items():
        made.add(name, cell({8: (40, 10)}), mitigation=name, **labels)
    found = compared(made)
    assert set(zip(found["first_cell"], found["second_cell"], strict=True)) == {
        ("none-0.01", "a"),
        ("none-0.1", "b"),
        ("c", "d"),
        ("c", "e"),
    }


def test_a_method_that_did_not_act_is_not_compared() -> None:
    """Too few of its generated rows were accepted, so it does not represent its method."""
    made = Made()
    made.add("none", cell({8: (40, 10)}))
    made.add("sdft", cell({8: (40, 10)}), mitigation="sdft", acted=False)
    made.add("self_output", cell({8: (40, 10)}), mitigation="self_output", acted=True)
    found = compared(made)
    assert set(found["second_cell"]) == {"self_output"}


def test_the_interval_follows_gain_and_forgetting_of_seeds_and_items() -> None:
    """The interval is that of the linearised numbers, widened by Tango's at no change."""
    draw = np.random.default_rng(3)
    arrays = {name: draw.integers(-1, 2, (4, N)).astype(float) for name in ["fp", "lp"]}
    arrays |= {name: (draw.random((4, N)) < share).astype(float) for name, share in [("ft", 0.5), ("lt", 0.4)]}
    made = Made()
    for name in "fl":
        changes = {8: {"target": {"a": arrays[f"{name}t"]}, "probe": {"b": arrays[f"{name}p"]}}}
        made.add(name, changes, seeds=range(4), tuning="full" if name == "f" else "lora")
    row = compared(made).iloc[1]
    level = min(arrays["ft"].mean(), arrays["lt"].mean()) / 2
    linear = {}
    for name in "fl":
        gain, lost = arrays[f"{name}t"], -arrays[f"{name}p"]
        share, slope = level / gain.mean(), lost.mean() / gain.mean()
        linear[name] = (2 * share * lost, -2 * share * slope * gain)  # two tasks with equal weight: each twice its part
    parts = [a - b for a, b in zip(linear["f"], linear["l"], strict=True)]
    want = two_level.estimate(parts, binary=False)
    z2 = distributions.norm.ppf(0.975) ** 2
    half = math.hypot((want.high - want.low) / 2, z2 / (N + z2))
    difference = level * (-arrays["fp"].mean() / arrays["ft"].mean() + arrays["lp"].mean() / arrays["lt"].mean())
    assert (row.gain, row.difference) == pytest.approx((level, difference))
    assert (row.low, row.high) == pytest.approx((difference - half, difference + half))
    assert (row.varies, row.seeds, row.level) == ("seeds and items", 4, 0.95)
    assert row.df == pytest.approx(want.df)


def test_nothing_forgotten_on_either_side_still_has_an_interval() -> None:
    """For 0 of 100 items, the half-width is Tango's, 3.84 / 103.84 = 0.037.

    That is not enough evidence for ±0.02, but enough for ±0.05.
    """
    made = Made()
    made.add("f", cell({8: (40, 0)}))
    made.add("l", cell({8: (40, 0)}), tuning="lora")
    row = compared(made).iloc[1]
    assert (row.difference, row.low, row.high) == pytest.approx((0.0, -0.0369935, 0.0369935), abs=1e-6)
    assert row.verdict == "not enough evidence"
    assert compared(made, Declared(headline="probe", margins={"probe": 0.05})).iloc[1]["verdict"] == "alike"


def test_a_clear_difference_has_a_verdict() -> None:
    """One side forgets half of the items, the other none."""
    assert pair({8: (40, 50)}, {8: (40, 0)})["verdict"].tolist()[1:] == ["first forgets more"] * 2
    assert pair({8: (40, 0)}, {8: (40, 50)})["verdict"].tolist()[1:] == ["second forgets more"] * 2


def test_a_gain_that_falls_is_flagged_and_read_at_its_first_crossing() -> None:
    """Full gains 0.4, then 0.2; its gain of 0.3 is before volume 8."""
    row = pair({8: (40, 10), 16: (20, 50)}, {8: (60, 10)}).iloc[2]
    assert (row.gain, row.first_between, row.first_forgetting) == (pytest.approx(0.3), "0–8", pytest.approx(0.075))
    assert row.non_monotone
    assert "full: gain falls from volume 8 to 16" in row.note


def test_methods_without_a_common_range_have_no_number() -> None:
    """If LoRA never gains, there is one row with a note."""
    found = pair({8: (40, 10)}, {8: (0, 10)})
    assert len(found) == 1
    assert found["no_common_range"].all()
    assert found[["gain", "difference", "low", "high", "verdict"]].isna().all(axis=None)
    assert found["note"].iloc[0] == "lora: no gain at any volume, so no level that both reach"


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        ({"tuning": "lora"}, 1),
        ({"mitigation": "replay"}, 1),
        ({"variant": "rank=4"}, 1),
        ({"learning_rate": 0.1}, 0),
        ({"tuning": "lora", "data": "other"}, 0),
        ({"tuning": "lora", "trajectory": "independent"}, 0),
        ({"tuning": "lora", "model": "large"}, 0),
        ({"tuning": "lora", "is_control": True}, 0),
    ],
)
def test_pairs_differ_only_in_method(labels: dict[str, Any], pairs: int) -> None:
    """Another learning rate is not another method.

    Other data, trajectories and models are not compared; controls are left out.
    """
    made = Made()
    made.add("f", cell({8: (40, 10)}))
    made.add("o", cell({8: (40, 10)}), **labels)
    assert len(compared(made)) == pairs * len(SHARES)


def test_other_items_are_never_paired() -> None:
    """Another set of items of the same size gives a note and no numbers."""
    made = Made()
    made.add("f", cell({8: (40, 10)}))
    made.add("l", cell({8: (40, 10)}), tuning="lora", items="other")
    found = compared(made)
    assert found["note"].tolist() == ["the two methods were measured on different items"]
    assert found["gain"].isna().all()


def test_a_seed_that_lacks_a_volume_is_left_out_on_both_sides() -> None:
    """If LoRA's seed 1 lacks volume 16, three pairs remain, with notes."""
    made = Made()
    made.add("f", cell({8: (20, 5), 16: (40, 10)}, 4), seeds=range(4))
    made.add("l", cell({8: (20, 5), 16: (40, 10)}, 4), seeds=range(4), tuning="lora", missing=[(1, 16)])
    row = compared(made).iloc[2]
    assert row.seeds == 3
    assert row.note == "full: seed 1 left out, which the other lacks; lora: seed 1 left out, which lacks a volume"


def test_few_common_seeds_count_as_independent() -> None:
    """Seeds 0, 1, 2 and 2, 3, 4 are not paired: three per side."""
    made = Made()
    made.add("f", cell({8: (40, 10)}, 3), seeds=(0, 1, 2))
    made.add("l", cell({8: (40, 10)}, 3), seeds=(2, 3, 4), tuning="lora")
    assert compared(made)["seeds"].tolist() == [3, 3, 3]
    assert compared(made)["varies"].unique().tolist() == ["seeds and items"]


def test_without_a_headline_there_is_nothing_to_compare() -> None:
    """The table is then empty, with every column."""
    made = Made()
    made.add("f", cell({8: (40, 10)}))
    made.add("l", cell({8: (40, 10)}), tuning="lora")
    found = equal_gain(made.table, made, DECLARED, findings=made.findings.assign(is_headline=False))
    assert found.empty
