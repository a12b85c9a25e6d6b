"""Findings of a hand-made tidy table.

Cells, intervals over seeds, Holm, verdicts at their boundaries, controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.findings.finding_columns import COLUMNS, DESCRIPTIONS
from harness.analysis.findings.findings import findings, judge
from harness.analysis.statistics import stats, two_level
from harness.analysis.table.columns import COLUMNS as TABLE_COLUMNS
from harness.analysis.table.measure import TaskChange
from harness.records.schema import Declared

Key = tuple[str, int, str, str]

LABELS: dict[str, Any] = {
    "experiment": "e",
    "model": "tiny-a",
    "tuning": "full",
    "objective": "sft",
    "mitigation": "none",
    "data": "people",
}
LABELS |= {"trajectory": "shared", "epochs": 1, "status": "ok"}
RECORDED: dict[str, Any] = {"params_total": 1000, "params_trainable": 1000, "learning_rate": 0.001, "lr_tuned": True, "dtype": "float32"}


class Given:
    """Rows of a tidy table and their items, added run by run."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.changes: dict[Key, TaskChange] = {}

    def get(self, run_id: str, volume: int, suite: str, task: str) -> TaskChange | None:
        return self.changes.get((run_id, volume, suite, task))

    def run(self, run_id: str, seed: int, tasks: Mapping[str, Sequence[float]], *, suite: str = "s", volume: int = 8, **more: Any) -> None:
        """Add the rows of one run's point: its tasks and the suite's own.

        ``tasks`` has the change of each item, −1, 0 or 1.
        """
        items = more.pop("items", "same")
        common = LABELS | RECORDED | {"run_id": run_id, "seed": seed, "volume": volume, "suite": suite, "role": "probe", "metric": "acc"}
        common |= {"filter": "none", "primary": True, "higher_is_better": True, "steps": seed, "train_tokens": 100} | more
        found = []
        for task, changes in tasks.items():
            values = np.array(changes, dtype=float)
            lost, gained = int(np.sum(values < 0)), int(np.sum(values > 0))
            low, high = stats.difference_interval([lost], [gained], [len(values)])
            row = {"task": task, "n": len(values), "before": 0.5, "value": 0.5 + values.mean(), "delta": values.mean()}
            row |= {"delta_low": low, "delta_high": high, "lost": lost, "gained": gained, "p_value": stats.mcnemar(lost, gained)}
            found.append(common | row)
            self.changes[run_id, volume, suite, task] = TaskChange(items, values, None)
        means = {name: float(np.mean([row[name] for row in found])) for name in ("before", "value", "delta", "delta_low", "delta_high")}
        counts = {name: sum(row[name] for row in found) for name in ("n", "lost", "gained")}
        self.rows += [common | {"task": "*", "p_value": 0.5} | means | counts, *found]

    def failed(self, run_id: str, seed: int, **more: Any) -> None:
        self.rows.append(LABELS | {"run_id": run_id, "seed": seed, "status": "failed", "reason": "boom"} | more)

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({name: [row.get(name) for row in self.rows] for name in TABLE_COLUMNS}, dtype=object).astype(TABLE_COLUMNS)

    def found(self, declared: Declared | None = None) -> pd.DataFrame:
        return findings(self.table, self, declared or Declared())


def items(lost: int, gained: int, n: int = 40) -> list[float]:
    return [-1.0] * lost + [1.0] * gained + [0.0] * (n - lost - gained)


def only(frame: pd.DataFrame, **where: Any) -> pd.Series:
    """Return the one row that has these values."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def three_seeds() -> Given:
    given = Given()
    for seed, (a, b) in enumerate([((6, 1), (2, 2)), ((9, 0), (3, 1)), ((7, 2), (1, 4))]):
        given.run(f"r{seed}", seed, {"a": items(*a), "b": items(*b, n=20)})
    return given


def test_three_seeds_are_one_finding_over_seeds_and_items() -> None:
    """Changes of −5/40, −9/40, −5/40 have the mean −19/120.

    The interval and p are those of ``two_level`` for these items.
    """
    given = three_seeds()
    row = only(given.found(), task="a")
    expected = two_level.estimate([np.array([items(6, 1), items(9, 0), items(7, 2)])])
    assert (row["seeds"], row["missing"], row["run_ids"], row["n"]) == (3, 0, "r0,r1,r2", 40)
    assert row["delta"] == pytest.approx(-19 / 120)
    assert row["seed_spread"] == pytest.approx(math.sqrt(2 * (4 / 120) ** 2 + (8 / 120) ** 2) / math.sqrt(2))
    assert (row["delta_low"], row["delta_high"], row["stderr"], row["df"]) == pytest.approx(
        (expected.low, expected.high, expected.stderr, expected.df)
    )
    assert (row["p_value"], row["varies"], row["level"]) == (pytest.approx(expected.p_value), "seeds and items", 0.95)
    assert (row["lost"], row["gained"], row["before"], row["after"]) == pytest.approx((22 / 3, 1, 0.5, 0.5 - 19 / 120))
    assert (row["steps"], row["train_tokens"]) == (1.0, 100.0)
    assert pd.isna(row["flops"])
    assert pd.isna(row["p_mid"])


def test_a_suites_row_is_the_mean_of_its_tasks_with_equal_weight() -> None:
    """Items of both tasks are in one estimate, which is outside the family of tests."""
    frame = three_seeds().found()
    assert frame["task"].tolist() == ["*", "a", "b"]
    expected = two_level.estimate(
        [np.array([items(6, 1), items(9, 0), items(7, 2)]), np.array([items(*b, n=20) for b in [(2, 2), (3, 1), (1, 4)]])]
    )
    row = frame.iloc[0]
    assert (row["delta"], row["delta_low"], row["delta_high"]) == pytest.approx(expected[:1] + expected[3:5])
    assert row["p_value"] == pytest.approx(expected.p_value)
    assert pd.isna(row["p_holm"])
    assert pd.isna(row["tests"])


def test_cells_with_other_numbers_of_items_are_a_pool_of_their_own() -> None:
    """Three cells of 20 items leave the intervals of three cells of 400 as they are."""
    draw, few, many = np.random.default_rng(0), Given(), Given()
    for cell in range(6):
        for seed in range(3):
            n = 400 if cell < 3 else 20
            changes = {"a": items(int(draw.integers(n // 10, n // 4)), n // 20, n=n)}
            for given in (few, many) if cell < 3 else (many,):
                given.run(f"r{cell}{seed}", seed, changes, tuning=f"t{cell}", items=f"of {n}")
    columns = ["delta_low", "delta_high", "df", "seed_spread_pooled", "spread_used"]
    alone, together = few.found()[columns], many.found()
    assert together[together["n"] == 400][columns].reset_index(drop=True).equals(alone.reset_index(drop=True))


def test_the_spread_that_an_interval_takes_is_a_column() -> None:
    """A cell far above the others takes its own, over both volumes, not that of one volume."""
    draw, given = np.random.default_rng(1), Given()
    for cell in range(8):
        for seed in range(3):
            shift = 0
            for volume in (8, 16):
                shift += int(draw.integers(0, 60)) if cell == 0 else int(draw.integers(0, 3))
                given.run(f"r{cell}{seed}", seed, {"a": items(60 + shift, 0, n=400)}, tuning=f"t{cell}", volume=volume)
    found = given.found()
    far, rest = found[found["tuning"] == "t0"], found[found["tuning"] != "t0"]
    assert set(far["spread_used"]) == {"own"}
    assert not np.isclose(far["seed_spread_used"].astype(float), far["seed_spread"].astype(float)).any()
    assert set(rest["spread_used"]) == {"pooled"}
    assert rest["seed_spread_used"].equals(rest["seed_spread_pooled"])


def test_columns_are_as_specified_and_missing_is_na() -> None:
    """Columns have order, dtypes and descriptions; missing numbers are pd.NA."""
    frame = three_seeds().found()
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == COLUMNS
    assert all(DESCRIPTIONS.values())
    assert frame["control_delta"].isna().all()
    assert all(value is pd.NA for value in frame["control_delta"])
    empty = Given().found()
    assert (len(empty), list(empty)) == (0, list(COLUMNS))


def test_one_seed_keeps_the_tables_own_interval_and_p_value() -> None:
    """They are Tango's and McNemar's over items, with the paired standard error."""
    given = Given()
    given.run("r0", 0, {"a": items(9, 2)}, suite="s")
    row = only(given.found(), task="a")
    assert (row["delta_low"], row["delta_high"]) == stats.difference_interval([9], [2], [40])
    assert (row["p_value"], row["varies"], row["seeds"]) == (stats.mcnemar(9, 2), "items", 1)
    assert row["stderr"] == pytest.approx(np.std(items(9, 2), ddof=1) / math.sqrt(40))
    assert pd.isna(row["seed_spread"])


def test_two_seeds_are_over_items_alone() -> None:
    """Two seeds are too few to estimate the variation between seeds."""
    given = Given()
    given.run("r0", 0, {"a": items(9, 2)})
    given.run("r1", 1, {"a": items(5, 2)})
    row = only(given.found(), task="a")
    expected = two_level.estimate([np.array([items(9, 2), items(5, 2)])])
    assert (row["delta_low"], row["delta_high"], row["varies"]) == (pytest.approx(expected.low), pytest.approx(expected.high), "items")


def test_a_failed_seed_is_missing_and_not_averaged() -> None:
    """A seed that failed before its record is found by labels that all runs have."""
    given = three_seeds()
    given.rows = [row for row in given.rows if row["run_id"] != "r2"]
    given.failed("r2", 2)
    row = only(given.found(), task="a")
    assert (row["seeds"], row["missing"]) == (2, 1)
    assert row["delta"] == pytest.approx(-14 / 80)


def test_a_failed_run_of_other_labels_is_not_missing_here() -> None:
    """A failed LoRA run is not missing in the cell of full tuning.

    Nor is a failed run at another known rate.
    """
    given = three_seeds()
    given.failed("x", 7, tuning="lora")
    given.failed("y", 8, learning_rate=0.1)
    assert only(given.found(), task="a")["missing"] == 0


def test_a_task_that_failed_for_one_seed_is_missing_only_there() -> None:
    """If task b of seed 1 failed, b and the suite have two seeds."""
    given = three_seeds()
    for row in given.rows:
        if row["run_id"] == "r1" and row["task"] in {"b", "*"}:
            row |= dict.fromkeys(["value", "delta", "delta_low", "delta_high", "p_value", "lost", "gained", "before"]) | {
                "status": "failed",
                "n": 0,
            }
    frame = given.found()
    assert frame.set_index("task")["seeds"].to_dict() == {"*": 2, "a": 3, "b": 2}
    assert frame.set_index("task")["missing"].to_dict() == {"*": 1, "a": 0, "b": 1}
    expected = two_level.estimate([np.array([items(6, 1), items(7, 2)]), np.array([items(2, 2, n=20), items(1, 4, n=20)])])
    assert (frame.loc[0, "delta_low"], frame.loc[0, "delta_high"]) == pytest.approx((expected.low, expected.high))


def test_different_or_missing_items_leave_the_interval_empty() -> None:
    """Seeds measured on different items cannot be joined; their mean change remains."""
    given = three_seeds()
    given.changes["r1", 8, "s", "a"] = TaskChange("others", given.changes["r1", 8, "s", "a"].values, None)
    del given.changes["r2", 8, "s", "b"]
    frame = given.found()
    assert frame[["delta_low", "delta_high", "stderr", "p_value", "varies", "level", "verdict", "detectable"]].isna().all(axis=None)
    assert frame["delta"].notna().all()


def test_independent_volumes_are_one_cell() -> None:
    """Each volume is a separate run, and the cell is the whole curve."""
    given = Given()
    for volume in (8, 16):
        for seed in (0, 1, 2):
            if (volume, seed) != (16, 2):
                given.run(f"r{volume}-{seed}", seed, {"a": items(seed + volume // 8, 0)}, volume=volume, trajectory="independent")
    frame = given.found()
    assert frame["cell"].nunique() == 1
    assert frame.set_index(["volume", "task"])["missing"].to_dict() == {(8, "*"): 0, (8, "a"): 0, (16, "*"): 1, (16, "a"): 1}


def test_the_headline_is_the_declared_suites_own_row() -> None:
    """Its tasks and other suites are not the headline."""
    given = three_seeds()
    for seed in range(3):
        given.run(f"r{seed}", seed, {"c": items(1, 1)}, suite="other")
    frame = given.found(Declared(headline="s"))
    assert frame[frame["is_headline"]][["suite", "task"]].to_numpy().tolist() == [["s", "*"]]
    assert not given.found()["is_headline"].any()


def test_controls_are_in_the_rows_of_their_model_and_tuning() -> None:
    """The control has the same model, tuning and volume, and the contrast is the difference.

    LoRA has none, and neither has a volume at which the control was not run.
    """
    given = Given()
    for seed in range(3):
        given.run(f"r{seed}", seed, {"a": items(9, 0)})
        given.run(f"r{seed}", seed, {"a": items(9, 0)}, volume=16)
        given.run(f"l{seed}", seed, {"a": items(9, 0)}, tuning="lora")
        given.run(f"c{seed}", seed, {"a": items(1, seed)}, data="base")
    frame = given.found(Declared(control={"data": "base"}))
    control, treated = only(frame, task="a", data="base"), only(frame, task="a", data="people", tuning="full", volume=8)
    assert (control["is_control"], treated["is_control"]) == (True, False)
    assert treated["control_delta"] == control["delta"]
    assert treated["contrast"] == pytest.approx(treated["delta"] - control["delta"])
    others = frame[(frame["tuning"] == "lora") | (frame["volume"] == 16) | frame["is_control"]]
    assert others[["control_delta", "contrast", "contrast_low", "contrast_p", "contrast_verdict"]].isna().all(axis=None)
    assert given.found()["control_delta"].isna().all()


@pytest.mark.parametrize("other", [{"learning_rate": 0.1}, {"trajectory": "independent"}])
def test_a_control_at_another_rate_or_schedule_does_not_count(other: dict[str, Any]) -> None:
    """Another learning rate or schedule forgets differently."""
    given = Given()
    given.run("r", 0, {"a": items(9, 0)})
    given.run("c", 0, {"a": items(1, 0)}, data="base", **other)
    row = only(given.found(Declared(control={"data": "base"})), task="a", data="people")
    assert row["control_delta"] is pd.NA


def test_of_several_controls_the_most_similar_is_used() -> None:
    """A control with the same mitigation is preferred."""
    given = Given()
    given.run("r", 0, {"a": items(9, 0)}, mitigation="replay")
    given.run("c1", 0, {"a": items(1, 0)}, data="base")
    given.run("c2", 0, {"a": items(2, 0)}, data="base", mitigation="replay")
    row = only(given.found(Declared(control={"data": "base"})), task="a", data="people")
    assert row["control_delta"] == pytest.approx(-2 / 40)


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    common = {"role": "probe", "suite": "s", "task": "t", "metric": "acc", "higher_is_better": True, "stderr": 0.01, "df": math.inf}
    return pd.DataFrame([common | {"delta": (row["delta_low"] + row["delta_high"]) / 2, "p_value": 0.5} | dict(row) for row in rows])


@pytest.mark.parametrize(
    ("low", "high", "p_value", "better", "verdict"),
    [
        (-0.02, 0.02, 0.5, True, "kept"),  # the margin itself is inside
        (-0.0201, 0.01, 0.5, True, "not enough evidence"),
        (-0.019, -0.001, 0.0001, True, "kept"),  # margin first, whatever the p-value
        (-0.05, -0.001, 0.0499, True, "lost"),
        (-0.05, -0.001, 0.05, True, "not enough evidence"),
        (0.001, 0.05, 0.01, True, "gained"),
        (0.001, 0.05, 0.01, False, "lost"),  # less is better: a loss of nats that rose
        (-0.05, -0.001, 0.01, False, "gained"),
        (math.nan, math.nan, 0.01, True, ""),
    ],
)
def test_verdicts_depend_on_the_margin_first(low: float, high: float, p_value: float, better: bool, verdict: str) -> None:
    """After the margin (0.02 by default) come the p-value and the metric's direction."""
    found = judge(frame_of([{"delta_low": low, "delta_high": high, "p_value": p_value, "higher_is_better": better}]), Declared())
    assert found["verdict"].fillna("").tolist() == [verdict]
    assert found["margin"].tolist() == [0.02]


def test_margins_may_be_a_suites_own() -> None:
    """A suite in nats may have another margin than one in shares."""
    frame = frame_of([{"delta_low": -0.04, "delta_high": 0.04, "suite": suite} for suite in ("nats", "s")])
    found = judge(frame, Declared(margin=0.03, margins={"nats": 0.05}))
    assert found["margin"].tolist() == [0.05, 0.03]
    assert found["verdict"].tolist() == ["kept", "not enough evidence"]


def test_holm_goes_over_the_probe_tasks_of_one_cell_and_volume() -> None:
    """Three tasks with p 0.01, 0.02, 0.04 are adjusted to 0.03, 0.04, 0.04.

    Suites, targets, divergences and other volumes are not in the family.
    """
    ends = {"delta_low": -0.2, "delta_high": -0.1, "cell": "c", "volume": 8}
    rows = [ends | {"task": f"t{p}", "p_value": p} for p in (0.02, 0.01, 0.04)]
    rows += [ends | {"task": "*", "p_value": 0.03}, ends | {"role": "target", "p_value": 0.045}]
    rows += [ends | {"metric": "kl_base_tuned", "p_value": 0.001, "higher_is_better": False}, ends | {"volume": 16, "p_value": 0.03}]
    rows += [ends | {"cell": "d", "p_value": math.nan}]
    found = judge(frame_of(rows), Declared())
    assert found["p_holm"].tolist()[:3] == pytest.approx([0.04, 0.03, 0.04])
    assert found["p_holm"].tolist()[6] == pytest.approx(0.03)
    assert found["p_holm"].isna().tolist() == [False, False, False, True, True, True, False, True]
    assert found["tests"].dropna().tolist() == [3, 3, 3, 1]
    assert found["tests"].isna().tolist() == found["p_holm"].isna().tolist()
    assert found["verdict"].fillna("").tolist() == ["lost"] * 5 + ["", "lost", "not enough evidence"]
    assert pd.isna(found["margin"][5])


def test_adjustment_can_change_a_verdict() -> None:
    """A p of 0.03 is a loss alone, but not as one of two tests."""
    ends = {"delta_low": -0.2, "delta_high": -0.01}
    assert judge(frame_of([ends | {"p_value": 0.03}]), Declared())["verdict"].tolist() == ["lost"]
    pair = judge(frame_of([ends | {"p_value": 0.03}, ends | {"p_value": 0.2, "task": "u"}]), Declared())
    assert pair["verdict"].tolist() == ["not enough evidence"] * 2
    assert pair["tests"].tolist() == [2, 2]


def test_detectable_is_what_the_interval_and_the_family_allow() -> None:
    """With the half-width 1.96·0.01, a suite has 0.028 and each of two tasks more.

    For two tasks the bar is that of 0.025, z = 2.2414.
    """
    half = 1.959963984540054 * 0.01
    rows = [{"delta_low": -half, "delta_high": half, "task": task} for task in ("*", "t", "u")]
    found = judge(frame_of(rows), Declared())["detectable"].tolist()
    assert found == pytest.approx([0.0280159, (2.2414027 + 0.8416212) / 100, (2.2414027 + 0.8416212) / 100], rel=1e-5)


def test_a_divergence_has_its_numbers_and_no_verdict() -> None:
    """The distance of a model from its base can only grow, so nothing is lost."""
    given = Given()
    for seed in range(3):
        given.run(f"r{seed}", seed, {"a": items(0, 9)}, metric="kl_base_tuned", higher_is_better=False)
    frame = given.found()
    assert frame["delta_low"].notna().all()
    assert frame[["verdict", "p_holm", "tests", "margin"]].isna().all(axis=None)
