"""The page of a search of learning rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.report import evidence
from harness.report.evidence import Evidence
from harness.report.sections import rates
from tests.support.experiments import share
from tests.support.searches import N, search

TRIED = {0.001: [share(100, N)], 0.01: [share(200, N)], 0.1: [share(300, N)], 1.0: [share(200, N)]}
LOST = {0.001: 0, 0.01: 4, 0.1: 90, 1.0: 200}


def test_target_and_control_are_drawn_against_the_rate(tmp_path: Path) -> None:
    """In points of change: 25, 50, 75, 50 gained; the control lost 0, 1, 22.5, 50."""
    section = rates.rates(evidence.gather(search(tmp_path / "x", TRIED, lost=LOST)))
    assert section is not None
    (figure,) = section.figures
    (axes,) = figure.panels[0].axes
    drawn = {line.get_gid(): np.asarray(line.get_ydata(), dtype=float) for line in axes.lines if line.get_gid()}
    assert drawn["target"] == pytest.approx([25, 50, 75, 50])
    assert drawn["control"] == pytest.approx([0, -1, -22.5, -50])
    assert drawn["best"] == pytest.approx([75, 75])
    used = next(line for line in axes.lines if line.get_gid() == "used")
    assert 2.0 ** np.asarray(used.get_xdata(), dtype=float)[0] == pytest.approx(0.01)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10", "100", "1000"]
    (table,) = section.tables
    texts = [[cell if isinstance(cell, str) else f"{cell.text} {cell.note}".strip() for cell in row] for row in table.rows]
    assert [row[0] for row in texts] == ["0.001", "0.01 used", "0.1 best, rule", "1"]
    assert [row[-1] for row in texts] == ["passed", "not settled", "too high does not pass", "too high does not pass"]
    assert section.notes == [
        "tiny-a · full, people: the same-data control lost too much at 0.1: 0.01, the next lower rate that passes, is used."
    ]


def test_a_search_without_controls_has_a_curve(tmp_path: Path) -> None:
    found = evidence.gather(search(tmp_path / "x", TRIED))
    section = rates.rates(found)
    assert section is not None
    assert [mark.label for mark in section.figures[0].legend] == ["target", "best score on the target", "rate used"]


def test_only_a_search_has_the_section(small: Evidence, tmp_path: Path) -> None:
    """Neither an experiment of one rate nor one on reported items is a search."""
    assert rates.rates(small) is None
    assert rates.rates(evidence.gather(search(tmp_path / "x", TRIED, items="report"))) is None
    assert rates.rates(evidence.gather(search(tmp_path / "y", {0.001: TRIED[0.001]}))) is None
