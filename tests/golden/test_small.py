from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.table.columns import COLUMNS
from harness.analysis.table.frame import table
from harness.records.store import Experiment

HERE = Path(__file__).parent


def test_a_recorded_experiment_gives_the_recorded_table(tmp_path: Path) -> None:
    """No number of the table changes unintentionally.

    After an intended change: a new PROTOCOL_VERSION, and ``python -m tests.golden.record_small``.
    """
    expected = pd.read_csv(HERE / "small.csv", dtype=COLUMNS)
    shutil.copytree(HERE / "small", tmp_path / "small")  # a table writes caches next to the records
    pd.testing.assert_frame_equal(table(Experiment(tmp_path / "small")), expected, rtol=1e-9)


def test_the_recorded_table_agrees_with_numbers_computed_by_hand() -> None:
    """Full, 32 rows: facts 20/24 lost 4, gained 1, so −3/24.

    Sums 9/12 lost 2, so −2/12; the suite is their mean.
    """
    rows = pd.read_csv(HERE / "small.csv", dtype=COLUMNS).query("run_id == 'full000' and volume == 32").set_index("task")
    old = rows[rows["suite"] == "old"]
    assert old.loc["facts", "delta"] == pytest.approx(-3 / 24)
    assert old.loc["sums", "delta"] == pytest.approx(-2 / 12)
    assert old.loc["*", "delta"] == pytest.approx((-3 / 24 - 2 / 12) / 2)
