"""The table of laws: their standing, and the naive baseline next to their held-out errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.report import evidence
from harness.report.content import CellView
from harness.report.sections import fits
from tests.support.grids import grid


def test_the_declared_law_is_first_and_each_law_is_next_to_its_baseline(tmp_path: Path) -> None:
    """Seeds lose 4k + seed of 40 at the k-th of five volumes.

    So the mean of the volume before errs by 0.1 at the largest, on average over seeds.
    """
    experiment = grid(tmp_path / "g", seeds=3, volumes=(8, 16, 32, 64, 128))
    declared = {"declared": {"headline": "old", "law": "power"}}
    experiment.write_manifest(dict.fromkeys(experiment.run_ids(), declared), keep=False)
    found = evidence.gather(experiment)
    view = fits.table(found)
    assert view is not None
    assert view.data is not None
    titles = [group.title for group in view.groups]
    assert titles[0] == "power (declared beforehand)"
    others = [f"{law} (exploratory: not declared beforehand)" for law in ("hill", "saturating_power")]
    assert titles[1:] == [*others, "laws that these points cannot determine"]
    assert "The experiment declared the law power beforehand; the others are exploratory." in view.caption
    row = view.data.iloc[0]
    assert (row["law"], row["declared"]) == ("power", True)
    assert row["naive_largest_volume"] == pytest.approx(0.1)
    apart = row["error_largest_volume"] - 0.1
    told = f"predicts {'worse' if apart > 0 else 'better'} than the last volume, by {abs(apart):.3g}"
    assert row["compared_largest_volume"] == told
    cell = view.rows[0][3]
    assert isinstance(cell, CellView)
    assert cell.text == told
    assert cell.note == f"largest volume: error {row['error_largest_volume']:.3g}, naive error 0.1"


def test_laws_that_cannot_be_fitted_are_one_row(tmp_path: Path) -> None:
    """Three points of one size and one training loss; no divergence was measured."""
    found = evidence.gather(grid(tmp_path / "g", seeds=1, volumes=(8, 16, 32)))
    view = fits.table(found)
    assert view is not None
    names, *_, reasons = view.rows[-1]
    assert names == "injection, shifted_power, linear, kl"
    assert isinstance(reasons, CellView)
    assert reasons.note.startswith("3 points; injection needs 2 values of params_total; shifted_power needs ")
    assert reasons.note.endswith("kl needs kl, which no point has")
