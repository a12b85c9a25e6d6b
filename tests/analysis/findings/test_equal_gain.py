from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from harness.analysis.findings import equal_gain as module
from harness.analysis.findings.envelope import over
from harness.analysis.findings.equal_gain import COLUMNS, equal_gain
from harness.analysis.findings.paths import Path
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


def test_two_methods_are_compared_over_the_gains_that_both_reach() -> None:
    """The range is 0.06 to 0.6, LoRA's reach.

    Full has the points (0.4, 0.1), (0.8, 0.5): the trapezoids from 0.06 to 0.4 and from 0.4 to 0.6
    have areas 0.34 · 0.0575 and 0.2 · 0.2. LoRA has (0.2, 0.02), (0.6, 0.1): 0.14 · 0.013 and 0.4 ·
    0.06.
    """
    found = pair({8: (40, 10), 16: (80, 50)}, {8: (20, 2), 16: (60, 10)})
    assert len(found) == 1
    row: Any = found.iloc[0]
    assert (row.range_low, row.range_high, row.first_reach, row.second_reach) == pytest.approx((0.06, 0.6, 0.8, 0.6))
    assert row.first_forgetting == pytest.approx((0.34 * 0.0575 + 0.2 * 0.2) / 0.54)
    assert row.second_forgetting == pytest.approx((0.14 * 0.013 + 0.4 * 0.06) / 0.54)
    assert row.difference == pytest.approx(row.first_forgetting - row.second_forgetting)
    assert (row["first"], row["second"], row["first_cell"], row["second_cell"]) == ("full", "lora", "f", "l")
    assert (row.varies, row.seeds, row.no_common_range, row.non_monotone) == ("items", 1, False, False)
    assert row.note == (
        "full: 63% of the range is below its smallest volume, on a straight line from (0, 0);"
        " lora: 26% of the range is below its smallest volume, on a straight line from (0, 0)"
    )


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
    assert len(found) == len(pairs)


def test_without_a_plain_arm_of_its_tuning_a_method_is_compared_with_the_first_one() -> None:
    """Of seven methods, the three with LoRA have no plain arm."""
    made = Made()
    for name, tuning in {"none": "full", "a": "full", "b": "full", "e": "full", "c": "lora", "d": "lora", "f": "lora"}.items():
        made.add(name, cell({8: (40, 10)}), mitigation=name, tuning=tuning)
    found = compared(made)
    assert set(zip(found["first_cell"], found["second_cell"], strict=True)) == {
        *(("none", name) for name in "abe"),
        *(("c", name) for name in "df"),
    }


def test_a_mitigation_is_compared_with_the_best_of_none_at_each_gain() -> None:
    """At the low rate none forgets less, but reaches only 0.3; the range goes to 0.6.

    From 0.06 to 0.3 the least forgetting is 0.1 g, from 0.3 to 0.6 it is 0.5 g: its mean is 0.1 ·
    0.18 · 4/9 + 0.5 · 0.45 · 5/9. One of nine parts of the range is across 0.3, and belongs to the
    high rate. Replay has 0.2 g everywhere, so 0.066.
    """
    made = Made()
    made.add("low", cell({8: (30, 3)}, 3), seeds=range(3), learning_rate=0.001)
    made.add("high", cell({8: (60, 30)}, 3), seeds=range(3), learning_rate=0.01)
    made.add("replay", cell({8: (60, 12)}, 3), seeds=range(3), mitigation="replay", learning_rate=0.001)
    found = compared(made)
    assert len(found) == 1
    row: Any = found.iloc[0]
    assert (row["first"], row["second"]) == ("mitigation=none, best of 2 rates", "mitigation=replay")
    assert (row.first_cell, row.second_cell, row.range_high) == ("low,high", "replay", pytest.approx(0.6))
    assert row.first_forgetting == pytest.approx(0.1 * 0.18 * 4 / 9 + 0.5 * 0.45 * 5 / 9)
    assert row.second_forgetting == pytest.approx(0.066)


def test_numbers_of_epochs_are_compared_with_each_other_and_are_one_method_for_others() -> None:
    """A second number of epochs is a method of its own only where nothing but epochs differs."""
    made = Made()
    made.add("once", cell({8: (40, 10)}))
    made.add("thrice", cell({8: (60, 10)}), epochs=3)
    made.add("replay", cell({8: (60, 5)}), mitigation="replay")
    found = compared(made)
    assert found[["first", "second"]].to_numpy().tolist() == [
        ["epochs=1", "epochs=3"],
        ["mitigation=none, best of 2 numbers of epochs", "mitigation=replay"],
    ]


def test_numbers_of_epochs_are_compared_each_at_its_best_rate() -> None:
    """Two pairs, not one for each two of the six plain cells."""
    made = Made()
    for epochs in (1, 3):
        for rate in (0.001, 0.003, 0.01):
            made.add(f"{epochs}-{rate}", cell({8: (40, 10)}), epochs=epochs, learning_rate=rate)
    made.add("replay", cell({8: (60, 5)}), mitigation="replay")
    assert compared(made)[["first", "second"]].to_numpy().tolist() == [
        ["epochs=1, best of 3 rates", "epochs=3, best of 3 rates"],
        ["mitigation=none, best of 6 rates and numbers of epochs", "mitigation=replay"],
    ]


def test_a_mitigation_is_compared_with_independent_trajectories_of_none_too() -> None:
    """Three passes at a low rate have 0.05 g, the shared run 0.5 g, replay 0.2 g up to 0.6.

    Without the independent cell, none would have 0.165 over the range from 0.06 to 0.6.
    """
    made = Made()
    made.add("shared", cell({8: (60, 30)}, 3), seeds=range(3))
    made.add("passes", cell({8: (60, 3)}, 3), seeds=range(3), trajectory="independent", epochs=3, learning_rate=0.001)
    made.add("replay", cell({8: (60, 12)}, 3), seeds=range(3), mitigation="replay")
    found = compared(made)
    assert len(found) == 1
    row: Any = found.iloc[0]
    assert (row["first"], row["trajectory"]) == (
        "mitigation=none, best of 2 settings",
        "shared and independent",
    )
    assert (row.first_cell, row.second_cell) == ("shared,passes", "replay")
    assert (row.first_forgetting, row.second_forgetting) == pytest.approx((0.05 * 0.33, 0.2 * 0.33))
    assert row.verdict == "second forgets more"


def test_tunings_and_mitigations_are_compared_within_a_kind_of_trajectory() -> None:
    """Full on both trajectories and LoRA on one: LoRA is compared with the shared one alone.

    Of two mitigations on different trajectories, each is compared with every cell of none.
    """
    made = Made()
    made.add("full", cell({8: (40, 10)}))
    made.add("decayed", cell({8: (40, 5)}), trajectory="independent")
    made.add("lora", cell({8: (40, 8)}), tuning="lora")
    assert compared(made)[["first", "second", "first_cell", "second_cell", "trajectory"]].to_numpy().tolist() == [
        ["full", "lora", "full", "lora", "shared"]
    ]
    made = Made()
    made.add("full", cell({8: (40, 10)}))
    made.add("decayed", cell({8: (40, 5)}), trajectory="independent")
    made.add("kl", cell({8: (40, 8)}), mitigation="kl")
    made.add("l2", cell({8: (40, 8)}), mitigation="l2", trajectory="independent")
    assert compared(made)[["first_cell", "second_cell"]].to_numpy().tolist() == [["full,decayed", "kl"], ["full,decayed", "l2"]]


def test_rates_are_compared_with_the_searched_one_where_any_rate_is_asked_for() -> None:
    """Per tuning; without a searched rate, with the lowest. Otherwise rates are not compared."""
    made = Made()
    for tuning, searched in {"full": 0.002, "lora": None}.items():
        for rate in (0.001, 0.002, 0.004):
            made.add(f"{tuning}-{rate}", cell({8: (40, 10)}), tuning=tuning, learning_rate=rate, lr_tuned=rate == searched)
    asked = compared(made, dataclasses.replace(DECLARED, any_rate=True))
    assert asked[["first", "second", "first_cell", "second_cell"]].to_numpy().tolist() == [
        ["learning_rate=0.001", "learning_rate=0.002", "full-0.001", "full-0.002"],
        ["full, best of 3 rates", "lora, best of 3 rates", "full-0.001,full-0.002,full-0.004", "lora-0.001,lora-0.002,lora-0.004"],
        ["learning_rate=0.004", "learning_rate=0.002", "full-0.004", "full-0.002"],
        ["learning_rate=0.002", "learning_rate=0.001", "lora-0.002", "lora-0.001"],
        ["learning_rate=0.004", "learning_rate=0.001", "lora-0.004", "lora-0.001"],
    ]
    assert len(compared(made)) == 1


def test_a_rate_that_is_left_out_is_not_among_those_tried() -> None:
    """The low rate, which forgets nothing, has no seed with both volumes."""
    made = Made()
    points = {8: (30, 0), 16: (60, 0)}
    made.add("low", cell(points, 2), seeds=range(2), learning_rate=0.001, missing=[(0, 8), (1, 16)])
    made.add("high", cell({8: (30, 10), 16: (60, 30)}, 2), seeds=range(2))
    made.add("replay", cell({8: (30, 1), 16: (60, 2)}, 2), seeds=range(2), mitigation="replay")
    row = compared(made).iloc[0]
    assert (row["first"], row["first_cell"]) == ("mitigation=none, best of 1 of 2 rates", "high")
    assert "1 of 2 cells left out: no seed has a change at every volume" in row["note"]


def test_a_rate_of_one_seed_does_not_hide_how_the_seeds_of_others_vary() -> None:
    """It is left out, so the interval stays over seeds and items."""
    made = Made()
    made.add("searched", cell({8: (30, 0)}), seeds=range(1), learning_rate=0.001)
    made.add("main", cell({8: (60, 30)}, 3), seeds=range(3))
    made.add("replay", cell({8: (60, 2)}, 3), seeds=range(3), mitigation="replay")
    row = compared(made).iloc[0]
    assert (row["first"], row["first_cell"]) == ("mitigation=none, best of 1 of 2 rates", "main")
    assert (row["varies"], row["seeds"]) == (two_level.SEEDS_AND_ITEMS, 3)
    assert "1 of 2 cells left out: fewer than 3 seeds, which others have" in row["note"]


def test_cells_of_one_method_on_other_items_are_named() -> None:
    made = Made()
    made.add("low", cell({8: (30, 3)}), learning_rate=0.001, items="other")
    made.add("high", cell({8: (60, 30)}))
    made.add("replay", cell({8: (60, 12)}), mitigation="replay")
    assert compared(made)["note"].tolist() == ["mitigation=none, best of 2 rates: its cells were measured on different items"]


def test_a_gain_that_may_be_chance_is_noted() -> None:
    """One item of 100 more: what both reach is next to nothing."""
    note = str(pair({8: (60, 20)}, {8: (1, 20)}).iloc[0].note)
    assert "lora: its largest gain, 0.01, is not clearly above 0" in note
    assert "full: its largest gain" not in note


def test_a_path_that_was_chosen_by_chance_does_not_forget_too_little() -> None:
    """Of four paths that differ only by chance, the least forgetting is too little.

    Chosen by other seeds and items, it is the mean of the paths within its error.
    """
    draw = np.random.default_rng(1)

    def noisy() -> Path:
        gain, lost = ([[share + 0.1 * draw.normal(size=(3, 1)) + 0.3 * draw.normal(size=(3, 50))]] for share in (0.6, 0.3))
        return Path((8,), gain, lost)

    found = []
    for _ in range(100):
        paths = [noisy() for _ in range(4)]
        reach = min(path.reach for path in paths)
        alone = np.mean([over([path], (None, None), reach).value for path in paths])
        found.append([over(paths, (None, None), reach, by_others=by_others).value - alone for by_others in (True, False)])
    honest, naive = np.mean(found, axis=0)
    assert abs(honest) < 3 * np.std(found, axis=0)[0] / 10
    assert naive < -0.02


def test_the_interval_is_that_of_a_jackknife_over_seeds_and_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a seed or an item, the difference moves as the interval's variance says.

    The variance between seeds is not pooled here.

    Reference: the jackknife of the whole computation, crossings and range included, for seeds and
    for items; the rest's variance is taken off once.
    """
    monkeypatch.setattr(module, "pooled", lambda cells, _: [[None] * len(cell.means) for cell in cells])
    made, arrays = Made(), noisy_pair()
    for name, tuning in (("f", "full"), ("l", "lora")):
        made.add(name, changes_of(arrays[name]), seeds=range(4), tuning=tuning)
    row: Any = compared(made).iloc[0]

    def difference(keep: dict[str, np.ndarray], item: tuple[str, int] = ("", 0)) -> float:
        def values(name: str, volume: int, suite: str) -> np.ndarray:
            kept = arrays[name][volume][suite][keep[name]]
            return np.delete(kept, item[1], axis=1) if suite == item[0] else kept

        paths = [
            Path((8, 16), *([[values(name, volume, suite) * sign] for volume in (8, 16)] for suite, sign in (("target", 1), ("probe", -1))))
            for name in "fl"
        ]
        reach = min(path.reach for path in paths)
        first, second = (over([path], (None, None), reach).value for path in paths)
        return first - second

    every = {name: np.arange(4) for name in "fl"}
    assert row.difference == pytest.approx(difference(every))
    of_seeds = sum(
        3 / 4 * np.sum((left - left.mean()) ** 2)
        for name in "fl"
        for left in [np.array([difference(every | {name: np.delete(np.arange(4), seed)}) for seed in range(4)])]
    )
    of_items = sum(
        (N - 1) / N * np.sum((left - left.mean()) ** 2)
        for suite in ("target", "probe")
        for left in [np.array([difference(every, (suite, item)) for item in range(N)])]
    )
    least = two_level.unchanged([N])
    t = distributions.t.ppf(0.975, row.df)
    variance = (((row.high - row.low) / 2) ** 2 - least**2) / t**2
    assert max(of_seeds, of_items) < variance < of_seeds + of_items
    assert (row.varies, row.seeds, row.level) == ("seeds and items", 4, 0.95)


def noisy_pair() -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Return 0/1 changes of two methods: four seeds that differ, and N items."""
    draw = np.random.default_rng(3)
    shares = {"f": {8: (0.4, 0.15), 16: (0.7, 0.35)}, "l": {8: (0.3, 0.05), 16: (0.6, 0.15)}}
    return {
        name: {
            volume: {
                suite: sign * (draw.random((4, N)) < share + 0.05 * draw.normal(size=(4, 1)))
                for suite, sign, share in (("target", 1.0, up), ("probe", -1.0, down))
            }
            for volume, (up, down) in of.items()
        }
        for name, of in shares.items()
    }


def changes_of(arrays: dict[int, dict[str, np.ndarray]]) -> dict[int, dict[str, dict[str, Any]]]:
    return {volume: {"target": {"a": of["target"]}, "probe": {"b": of["probe"]}} for volume, of in arrays.items()}


def test_seeds_are_not_paired() -> None:
    """The order of one side's seeds changes nothing."""
    rows = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        made, arrays = Made(), noisy_pair()
        made.add("f", changes_of(arrays["f"]), seeds=range(4))
        made.add(
            "l",
            changes_of({v: {s: values[order] for s, values in of.items()} for v, of in arrays["l"].items()}),
            seeds=range(4),
            tuning="lora",
        )
        rows.append(compared(made).iloc[0])
    assert (rows[0].low, rows[0].high) == pytest.approx((rows[1].low, rows[1].high))


def test_verdicts_are_adjusted_over_models() -> None:
    """A pair that is run on three models has three tests; another pair has its own."""
    made = Made()
    for number, name in enumerate(("a", "b", "c")):
        for cells, tuning in (("f", "full"), ("l", "lora")):
            made.add(f"{name}{cells}", cell({8: (40, 14 if cells == "l" else 2)}), model=name, tuning=tuning)
        if not number:
            made.add("o", cell({8: (40, 10)}), model=name, mitigation="replay")
    found = compared(made)
    of = found[(found["first"] == "full") & (found["second"] == "lora")]
    assert of["tests"].tolist() == [3, 3, 3]
    assert of["p_holm"].tolist() == pytest.approx([min(1.0, 3 * p) for p in of["p_value"]])
    assert found[found["model"] == "a"]["tests"].tolist() == [3, 1, 1]


def test_nothing_forgotten_on_either_side_still_has_an_interval() -> None:
    """For 0 of 100 items, the half-width is Tango's, 3.84 / 103.84 = 0.037.

    That is not enough evidence for ±0.02, but enough for ±0.05.
    """
    made = Made()
    made.add("f", cell({8: (40, 0)}))
    made.add("l", cell({8: (40, 0)}), tuning="lora")
    row = compared(made).iloc[0]
    assert (row.difference, row.low, row.high) == pytest.approx((0.0, -0.0369935, 0.0369935), abs=1e-6)
    assert row.verdict == "not enough evidence"
    assert compared(made, Declared(headline="probe", margins={"probe": 0.05})).iloc[0]["verdict"] == "alike"


def test_a_clear_difference_has_a_verdict() -> None:
    """One side forgets half of the items, the other none."""
    assert pair({8: (40, 50)}, {8: (40, 0)})["verdict"].tolist() == ["first forgets more"]
    assert pair({8: (40, 0)}, {8: (40, 50)})["verdict"].tolist() == ["second forgets more"]


def test_a_gain_that_falls_is_flagged() -> None:
    """Full gains 0.4, then 0.2: its path up to 0.4 is the line to volume 8, mean 0.25 · 0.22."""
    row: Any = pair({8: (40, 10), 16: (20, 50)}, {8: (60, 10)}).iloc[0]
    assert row.first_forgetting == pytest.approx(0.055)
    assert row.non_monotone
    assert "full: gain falls from volume 8 to 16" in row.note


def test_methods_without_a_common_range_have_no_number() -> None:
    """If LoRA never gains, there is one row with a note."""
    found = pair({8: (40, 10)}, {8: (0, 10)})
    assert len(found) == 1
    assert found["no_common_range"].all()
    assert found[["range_high", "difference", "low", "high", "verdict"]].isna().all(axis=None)
    assert found["note"].iloc[0] == "lora: no gain at any volume, so no gain that both reach"


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
    assert len(compared(made)) == pairs


def test_other_items_are_never_paired() -> None:
    """Another set of items of the same size gives a note and no numbers."""
    made = Made()
    made.add("f", cell({8: (40, 10)}))
    made.add("l", cell({8: (40, 10)}), tuning="lora", items="other")
    found = compared(made)
    assert found["note"].tolist() == ["the two methods were measured on different items"]
    assert found["difference"].isna().all()


def test_a_seed_that_lacks_a_volume_is_left_out() -> None:
    """If LoRA's seed 1 lacks volume 16, LoRA has three seeds; full keeps its four."""
    made = Made()
    made.add("f", cell({8: (4, 1), 16: (40, 10)}, 4), seeds=range(4))
    made.add("l", cell({8: (4, 1), 16: (40, 10)}, 4), seeds=range(4), tuning="lora", missing=[(1, 16)])
    row: Any = compared(made).iloc[0]
    assert (row.seeds, row.varies) == (3, "seeds and items")
    assert row.note == "lora: seed 1 left out, which lacks a volume"


def test_without_a_headline_there_is_nothing_to_compare() -> None:
    """The table is then empty, with every column."""
    made = Made()
    made.add("f", cell({8: (40, 10)}))
    made.add("l", cell({8: (40, 10)}), tuning="lora")
    found = equal_gain(made.table, made, DECLARED, findings=made.findings.assign(is_headline=False))
    assert found.empty


def test_a_cell_whose_rate_is_too_high_is_not_compared() -> None:
    """Unless the experiment asks for any rate."""
    made = Made()
    made.add("f", cell({8: (40, 10)}), control_check="too high")
    made.add("l", cell({8: (40, 10)}), tuning="lora", control_check="not settled")
    assert compared(made).empty
    assert len(compared(made, dataclasses.replace(DECLARED, any_rate=True))) == 1
