"""The p-values that verdicts rest on, and verdicts that are counted over cells."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from harness.analysis.findings.verdicts import counted, judge, p_of
from harness.analysis.statistics import stats
from harness.records.schema import Declared

LOST, GAINED, KEPT, UNKNOWN = "lost", "gained", "kept", "not enough evidence"
TASK = {"role": "probe", "suite": "s", "metric": "acc", "higher_is_better": True, "stderr": 0.01, "df": math.inf}
TASK |= {"delta": -0.2, "delta_low": -0.3, "delta_high": -0.1}


def test_one_seed_is_decided_by_the_mid_p() -> None:
    """7 against 1: exact p 18/256 = 0.070, mid-p 18/256 − 8/256 = 0.039; without a mid-p, p."""
    exact, middle = stats.mcnemar(7, 1), stats.mcnemar_mid(7, 1)
    assert [exact, middle] == pytest.approx([18 / 256, 10 / 256])
    rows = [TASK | {"task": "*", "p_value": exact, "p_mid": p} for p in (middle, None)]
    found = judge(pd.DataFrame(rows).astype({"p_mid": "Float64"}), Declared())
    assert found["verdict"].tolist() == [LOST, UNKNOWN]
    assert [p_of(row) for _, row in found.iterrows()] == pytest.approx([middle, exact])


def test_holm_adjusts_the_mid_p_of_tasks() -> None:
    """Mid-p 0.01 and 0.03 of two tasks become 0.02 and 0.03, whatever their exact p."""
    found = judge(pd.DataFrame([TASK | {"task": f"t{p}", "p_value": 0.5, "p_mid": p} for p in (0.01, 0.03)]), Declared())
    assert found["p_holm"].tolist() == pytest.approx([0.02, 0.03])
    assert [p_of(row) for _, row in found.iterrows()] == pytest.approx([0.02, 0.03])


@pytest.mark.parametrize("count", [60, 200, 800])
@pytest.mark.parametrize("moves", [0.02, 0.1, 0.4])
def test_the_mid_p_keeps_to_five_percent(count: int, moves: float) -> None:
    """Exact probability of p < 0.05 where lost and gained are equally likely, by enumeration.

    The number of changed items is binomial, and so is that of the lost ones among them.
    """
    called = 0.0
    for changed in range(count + 1):
        share = distributions.binom.pmf(changed, count, moves)
        if share > 1e-7:
            lost = np.arange(changed + 1)
            small = np.array([stats.mcnemar_mid(int(one), int(changed - one)) < 0.05 for one in lost])
            called += share * distributions.binom.pmf(lost, changed, 0.5)[small].sum()
    assert called <= 0.0501


@pytest.mark.parametrize(
    ("found", "p_values", "expected"),
    [
        ([LOST, LOST, LOST], [0.04, 0.04, 0.04], [LOST, LOST, LOST]),  # each by its own test: nothing to adjust
        ([LOST, GAINED], [0.04, 0.04], [LOST, GAINED]),
        ([LOST, LOST, UNKNOWN], [0.001, 0.03, 0.5], [LOST, UNKNOWN, UNKNOWN]),  # 2 · 0.03
        ([LOST, LOST, UNKNOWN], [0.001, 0.02, 0.5], [LOST, LOST, UNKNOWN]),
        ([KEPT, LOST], [0.9, 0.04], [KEPT, UNKNOWN]),  # a margin is no test of no change, but counts in the family
        ([KEPT, KEPT], [0.9, 0.8], [KEPT, KEPT]),
        ([None, "worse"], [math.nan, 0.04], [UNKNOWN, "worse"]),  # one test
        (["worse", "better", "alike"], [0.01, 0.03, 0.5], ["worse", UNKNOWN, "alike"]),
    ],
)
def test_counts_of_some_cells_are_adjusted(found: list[str | None], p_values: list[float], expected: list[str]) -> None:
    """Holm over all cells that are counted, unless the test of every cell finds a change."""
    assert counted(found, np.array(p_values)) == expected
