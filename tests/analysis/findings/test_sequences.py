"""Sequences of stages: metrics of a matrix computed by hand, and of fabricated runs."""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.analysis.findings import sequences
from harness.analysis.findings.sequences import COLUMNS, METRICS, Stages, stages_of
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.schema import Declared
from harness.records.writer import ExperimentWriter
from tests.support.experiments import Task, share, write_run

R = np.array(
    [
        [0.10, 0.20, 0.10],  # before any stage
        [0.80, 0.30, 0.10],  # after stage 1
        [0.50, 0.90, 0.20],  # after stage 2
        [0.60, 0.45, 0.70],  # after stage 3
    ]
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acc", (0.60 + 0.45 + 0.70) / 3),
        ("learned", (0.80 + 0.90 + 0.70) / 3),
        ("bwt_tminus1", ((0.60 - 0.80) + (0.45 - 0.90)) / 2),  # −0.325; divided by T it would be −0.2167
        ("fwt_tminus1", ((0.30 - 0.20) + (0.20 - 0.10)) / 2),
        ("forget_max_excl_last", ((0.80 - 0.60) + (0.90 - 0.45)) / 2),
        ("forget_first_minus_last", ((0.80 - 0.60) + (0.90 - 0.45)) / 2),
        # stage 1: after stage 2 lost 0.3/0.8, after stage 3 0.2/0.8, mean 31.25%; stage 2: 0.45/0.9
        # = 50%
        ("fg_over_stages", (31.25 + 50.0) / 2),
    ],
)
def test_each_metric_agrees_with_a_computation_by_hand(name: str, value: float) -> None:
    """All seven metrics are computed on a matrix of three stages."""
    assert METRICS[name](R) == pytest.approx(value)
    assert len(METRICS) == 7


def test_the_conventions_differ_where_a_stage_is_best_later() -> None:
    """A score of 0.8, 0.9, 0.6 is 0.3 below its best, 0.2 below its first.

    A score of 0.5, then 0.7, is 0.2 better than before, so forgetting is −0.2. A maximum over all
    stages would give 0.
    """
    better = R.copy()
    better[2, 0] = 0.9
    assert sequences.forget_max_excl_last(better) == pytest.approx((0.3 + 0.45) / 2)
    assert sequences.forget_first_minus_last(better) == pytest.approx((0.2 + 0.45) / 2)
    best_last = np.array([[0.0, 0.0], [0.5, 0.1], [0.7, 0.8]])
    assert sequences.forget_max_excl_last(best_last) == pytest.approx(-0.2)


def test_the_sign_of_a_loss_is_reversed_and_a_score_of_0_has_no_percent() -> None:
    """Nats that rise from 2.0 to 2.5 are 25% lost."""
    turned = -np.array([[4.0, 4.0], [2.0, 4.0], [2.5, 1.0]])
    assert sequences.fg_over_stages(turned) == pytest.approx(25.0)
    assert sequences.bwt_tminus1(turned) == pytest.approx(-0.5)
    assert math.isnan(sequences.fg_over_stages(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])))


def test_stages_are_read_from_a_configuration() -> None:
    """A single number of rows is that of every stage."""
    assert stages_of({"data": {"stages": ["a", "b", "c"], "stage_rows": [8]}}) == Stages(("a", "b", "c"), (8, 16, 24))
    assert stages_of({"data": {"stages": ["a", "b"], "stage_rows": [8, 16]}}) == Stages(("a", "b"), (8, 24))
    assert stages_of({"data": {"volumes": [8]}}) is None
    assert stages_of({}) is None


ONES = {0: (4, 8), 8: (32, 12), 16: (20, 36)}
"""Volume → items right of 40 on suites a and b: before, after stage a and after stage b."""


def experiment(folder: Path, seeds: int = 3) -> ExperimentWriter:
    """Return an experiment with two stages of 8 rows.

    Seed s has s more items right on a after stage b; the probe loses 10 of 40 in stage b.
    """
    found = ExperimentWriter(folder / "e")

    def tasks(volume: int, more: int = 0) -> list[Task]:
        a, b = ONES[volume]
        probe = Task(suite="old", task="o", values=share(26 if volume == 16 else 36, 40))
        return [Task(suite="a", task="ta", values=share(a + more, 40)), Task(suite="b", task="tb", values=share(b, 40)), probe]

    for seed in range(seeds):
        write_run(
            found,
            f"r{seed}",
            before=tasks(0),
            points={8: tasks(8), 16: tasks(16, seed)},
            roles={"a": "target", "b": "target", "old": "probe"},
            labels={"data": "sequence[stages=a>b]"},
            seed=seed,
        )
    return found


def read(found: ExperimentWriter, stages: Stages | None = None) -> pd.DataFrame:
    rows = table(found)
    of_run = dict.fromkeys(rows["run_id"].unique(), stages or Stages(("a", "b"), (8, 16)))
    return sequences.sequences(rows, Changes(found), Declared(headline="old"), of_run)


def of_acc(found: pd.DataFrame) -> dict[Hashable, Any]:
    return found[found["measure"] == "acc"].to_dict("records")[0]


def test_the_matrix_of_fabricated_runs(tmp_path: Path) -> None:
    """Entries are means over seeds, and BWT is −0.275 ± 4.3027 · 0.025/√3.

    BWT of seed s is (20 + s − 32)/40.
    """
    found = read(experiment(tmp_path))
    assert list(found.columns) == list(COLUMNS)
    entries = found[found["measure"] == "R"].set_index(["after_stage", "suite"])["value"]
    assert entries[0, "a"] == pytest.approx(0.1)
    assert entries[2, "a"] == pytest.approx(21 / 40)
    assert entries[1, "b"] == pytest.approx(0.3)
    row = found[found["measure"] == "bwt_tminus1"].iloc[0]
    assert (row["value"], row["seeds"], row["level"]) == (pytest.approx(-0.275), 3, 0.95)
    assert row["low"] == pytest.approx(-0.275 - 4.302653 * 0.025 / math.sqrt(3))
    assert found[found["measure"] == "fwt_tminus1"]["value"].item() == pytest.approx(0.1)
    assert found[found["measure"] == "acc"]["value"].item() == pytest.approx((21 / 40 + 0.9) / 2)


def test_a_change_is_since_the_own_stage_and_for_a_probe_since_before(tmp_path: Path) -> None:
    """After stage b, suite a has lost 11 of 40 items since its own stage.

    The probe has lost 10 of 40 since before; b has no change at its own stage.
    """
    found = read(experiment(tmp_path))
    rows = {(row["after_stage"], row["suite"]): row for row in found[found["measure"] == "R"].to_dict("records")}
    a, old = rows[2, "a"], rows[2, "old"]
    assert [a["change"], old["change"]] == pytest.approx([-11 / 40, -0.25])
    assert [a["verdict"], old["verdict"]] == ["lost", "lost"]
    assert all(pd.isna(rows[key]["change"]) for key in [(1, "a"), (1, "b"), (2, "b"), (0, "old")])
    assert [a["stage"], a["own_stage"], pd.isna(old["own_stage"]), pd.isna(rows[0, "a"]["stage"])] == ["b", 1, True, True]


def test_few_seeds_have_no_interval_and_a_seed_that_lacks_a_stage_is_left_out(tmp_path: Path) -> None:
    """Two seeds have a mean without an interval.

    A third seed without the second stage is left out and named.
    """
    found = experiment(tmp_path, seeds=2)
    row = of_acc(read(found))
    assert [row["seeds"], pd.isna(row["low"]), pd.isna(row["note"])] == [2, True, True]
    tasks = [Task(suite=suite, task=f"t{suite}", values=share(4, 40)) for suite in "ab"]
    roles = {"a": "target", "b": "target"}
    write_run(found, "r9", before=tasks, points={8: tasks}, roles=roles, labels={"data": "sequence[stages=a>b]"}, seed=9)
    row = of_acc(read(found))
    assert (row["seeds"], row["note"]) == (2, "seed 9 left out, which lacks a stage or its suite")


def test_without_the_suite_of_a_stage_there_is_no_number(tmp_path: Path) -> None:
    """The row has a note; runs without stages have no rows."""
    found = experiment(tmp_path, seeds=1)
    rows = read(found, Stages(("a", "z"), (8, 16)))
    assert rows["value"].isna().all()
    assert rows["note"].tolist() == ["no seed has the suites of all stages at every stage's end"]
    assert sequences.sequences(table(found), Changes(found), Declared(), {}).empty
