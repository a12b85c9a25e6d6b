from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.frame import table
from harness.records import Experiment
from harness.report import curves, figures, tables
from tests.analysis.fabricate import Task, flipped, share, write_run


def grid(folder: Path, *, models: int, tunings: list[str], mitigations: list[str], seeds: int) -> pd.DataFrame:
    experiment = Experiment(folder)
    before = [Task(suite="new", task="n", values=share(2, 40)), Task(suite="old", task="o", values=share(36, 40))]
    for model, tuning, mitigation, seed in itertools.product(range(models), tunings, mitigations, range(seeds)):
        points = {
            volume: [
                Task(suite="new", task="n", values=flipped(share(2, 40), lost=0, gained=9 * k)),
                Task(suite="old", task="o", values=flipped(share(36, 40), lost=4 * k + seed, gained=0)),
            ]
            for k, volume in enumerate([8, 32, 128], start=1)
        }
        labels = {"model": f"m{model}", "tuning": tuning, "mitigation": mitigation}
        name = f"m{model}{tuning}{mitigation}{seed}"
        roles = {"new": "target", "old": "probe"}
        write_run(experiment, name, before=before, points=points, roles=roles, labels=labels, seed=seed, params_total=10 ** (4 + model))
    return table(experiment)


def panel_axes(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def numbers(data: Any) -> list[float]:
    return [float(value) for value in data]


def test_forgetting_draws_what_the_table_says(tmp_path: Path) -> None:
    """One line a series: the change in points at every volume, 0 first, on an axis in units; a zero line."""
    (axes,) = panel_axes(figures.forgetting(grid(tmp_path / "g", models=1, tunings=["full"], mitigations=["none"], seeds=1)))
    drawn = [line for line in axes.lines if line.get_marker() == "o"]
    assert [numbers(line.get_ydata()) for line in drawn] == [pytest.approx([0.0, -10.0, -20.0, -30.0])]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "8", "32", "128"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("change in acc (points)", "volume (target rows, log scale)")


def test_colour_is_size_and_line_is_tuning(tmp_path: Path) -> None:
    """Four sizes and two tunings: eight lines, four colours, two styles, all named in one legend outside the data."""
    figure = figures.forgetting(grid(tmp_path / "g", models=4, tunings=["full", "lora"], mitigations=["none"], seeds=1))
    (axes,) = panel_axes(figure)
    drawn = [line for line in axes.lines if line.get_marker() in {"o", "s"}]
    assert len(drawn) == 8
    assert len({line.get_color() for line in drawn}) == 4
    assert {(line.get_linestyle(), line.get_marker()) for line in drawn} == {("-", "o"), ("--", "s")}
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()][:6] == [
        "m0 (10k)",
        "m1 (100k)",
        "m2 (1M)",
        "m3 (10M)",
        "full",
        "lora",
    ]


def test_many_ways_of_training_get_a_row_each(tmp_path: Path) -> None:
    """Two tunings and two mitigations: four rows for forgetting; for the trade-off a row a model."""
    rows = grid(tmp_path / "g", models=2, tunings=["full", "lora"], mitigations=["none", "replay"], seeds=1)
    assert [axes.get_title() for axes in panel_axes(figures.forgetting(rows))] == [
        "old: full · no mitigation",
        "old: full · replay",
        "old: lora · no mitigation",
        "old: lora · replay",
    ]
    assert [axes.get_title() for axes in panel_axes(figures.tradeoff(rows))] == ["old: m0", "old: m1"]


@pytest.mark.parametrize(
    ("seeds", "words", "has_bars"), [(1, "over items, one seed", True), (2, "no intervals", False), (3, "seeds and items", True)]
)
def test_the_figure_says_what_its_bars_are(tmp_path: Path, seeds: int, words: str, has_bars: bool) -> None:
    """One seed: items; two: no interval; three: seeds and items. The protocol version stands in the corner."""
    rows = grid(tmp_path / "g", models=1, tunings=["full"], mitigations=["none"], seeds=seeds)
    figure = figures.forgetting(rows)
    assert figure is not None
    note = figure.texts[0].get_text()
    assert words in note
    assert "protocol 2" in note
    (panel,) = tables.panels(rows, "probe")
    (one,) = curves.series(rows)
    curve = curves.curve_of(panel, one.rows, "delta")
    assert curve.centre[-1] == pytest.approx(-30 - 2.5 * (seeds - 1) / 2)
    assert math.isnan(curve.low[-1]) != has_bars


def test_the_interval_over_seeds_is_at_least_as_wide_as_that_over_items(tmp_path: Path) -> None:
    """Half-width √((t s/√k)² + items²), with t(2) = 4.303 and s = 2.5 points by hand."""
    rows = grid(tmp_path / "g", models=1, tunings=["full"], mitigations=["none"], seeds=3)
    (panel,), (one,) = tables.panels(rows, "probe"), curves.series(rows)
    curve = curves.curve_of(panel, one.rows, "delta")
    items = rows.query("volume == 128 and task == 'o'")
    below = float((items["delta"] - items["delta_low"]).mean()) * 100
    assert curve.centre[-1] - curve.low[-1] == pytest.approx(math.hypot(4.3027 * 2.5 / math.sqrt(3), below), abs=1e-3)


def test_the_tradeoff_is_oriented_so_that_more_is_better(rows: pd.DataFrame) -> None:
    """Nats that fall are drawn to the right; what was lost is drawn down."""
    axes = panel_axes(figures.tradeoff(rows))[0]
    path = next(line for line in axes.lines if len(numbers(line.get_xdata())) == 3)
    assert all(x > 0 for x in numbers(path.get_xdata())[1:])
    assert all(y < 0 for y in numbers(path.get_ydata())[1:])
    assert axes.get_xlabel() == "math_nll: fall in nats per token"


def test_there_is_no_figure_without_data(rows: pd.DataFrame) -> None:
    """No probe, no target, or no measured point."""
    assert figures.forgetting(rows[rows["role"] == "target"]) is None
    assert figures.learning(rows[rows["role"] == "probe"]) is None
    assert figures.tradeoff(rows[rows["role"] == "probe"]) is None
    assert figures.forgetting(rows[rows["status"] == "failed"]) is None


def test_names_are_never_read_as_mathematics(tmp_path: Path, rows: pd.DataFrame) -> None:
    """A model whose name is a formula is drawn, not parsed; the same figure gives the same bytes."""
    hostile = rows.assign(model=r"$\frac$")
    for name in ["a", "b"]:
        figure = figures.learning(hostile)
        assert figure is not None
        figures.save(figure, tmp_path / name)
    for suffix in ["png", "svg"]:
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
