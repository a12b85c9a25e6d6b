from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes

from harness.analysis.fits.all_laws import Fitted
from harness.report import curves, evidence, figures, svg
from harness.report.content import FigureView
from harness.report.evidence import Evidence
from harness.report.sections import fits, learning
from tests.support.grids import grid


def forgetting(found: Evidence, **more: Any) -> FigureView:
    view = figures.against_volume("forgetting", found.every, found.probes, "delta", table=found.table, title="t", **more)
    assert view is not None
    return view


def axes_of(view: FigureView) -> list[Axes]:
    return view.figure.axes


def numbers(data: Any) -> list[float]:
    return [float(value) for value in data]


def thick(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() not in {"None", ""}]


def test_forgetting_draws_what_the_findings_say(tmp_path: Path) -> None:
    """One line per series: the change in points at every volume, 0 first.

    Bars are the findings' intervals.
    """
    found = evidence.gather(grid(tmp_path / "g"))
    view = forgetting(found)
    (axes,) = axes_of(view)
    (line,) = thick(axes)
    assert numbers(line.get_ydata()) == pytest.approx([0.0, -10.0, -20.0, -30.0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "8", "32", "128"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("change in acc (points)", "volume (target rows, log scale)")
    rows = found.findings.query("suite == 'old' and task == '*'").sort_values("volume")
    collection: Any = axes.collections[0]
    bars = [segment[:, 1].tolist() for segment in collection.get_segments()]
    assert bars == [pytest.approx([100 * low, 100 * high]) for low, high in zip(rows["delta_low"], rows["delta_high"], strict=True)]
    assert "−30.0 at 128 rows" in view.description


def test_learning_draws_the_value_with_guessing(tmp_path: Path) -> None:
    """Values 2, 11, 20 and 29 of 40; guessing, 25 points, is dotted."""
    found = evidence.gather(grid(tmp_path / "g"))
    view = figures.against_volume("learning", found.every, found.targets, "after", table=found.table, title="t")
    assert view is not None
    (axes,) = axes_of(view)
    assert numbers(thick(axes)[0].get_ydata()) == pytest.approx([5.0, 27.5, 50.0, 72.5])
    assert [numbers(line.get_ydata())[0] for line in axes.lines if line.get_gid() == "guessing"] == [pytest.approx(25.0)]
    assert "guessing" in [mark.label for mark in view.legend]


def test_colour_is_size_and_line_is_tuning(tmp_path: Path) -> None:
    """Two sizes and two tunings share a panel: four lines, two colours, two styles."""
    found = evidence.gather(grid(tmp_path / "g", models=2, tunings=("full", "lora")))
    view = forgetting(found)
    (axes,) = axes_of(view)
    drawn = thick(axes)
    assert len(drawn) == 4
    assert len({line.get_color() for line in drawn}) == 2
    assert {line.get_marker() for line in drawn} == {"o", "s"}
    assert [mark.label for mark in view.legend][:4] == ["m0 (10k)", "m1 (100k)", "full", "lora"]


def test_many_curves_get_one_panel_per_method(tmp_path: Path) -> None:
    """Three sizes and two tunings: one panel per tuning, on the same axes.

    The page has them one by one.
    """
    found = evidence.gather(grid(tmp_path / "g", models=3, tunings=("full", "lora")))
    view = forgetting(found)
    titles = [axes.get_title(loc="left") for axes in axes_of(view)]
    assert titles == ["old\nfull", "old\nlora"]
    assert len({axes.get_ylim() for axes in axes_of(view)}) == 1
    assert [panel.axes[0].get_title(loc="left") for panel in view.panels] == titles
    assert {panel.axes[0].get_ylim() for panel in view.panels} == {axes_of(view)[0].get_ylim()}


@pytest.mark.parametrize(
    ("seeds", "words"), [(1, "one seed, bars: 95% intervals over items"), (3, "means of 3 seeds, bars: 95% intervals over seeds and items")]
)
def test_the_figure_says_what_its_bars_are(tmp_path: Path, seeds: int, words: str) -> None:
    """One seed: over items; three: over seeds and items, each seed a thin line."""
    found = evidence.gather(grid(tmp_path / "g", seeds=seeds))
    view = forgetting(found)
    assert words in view.caption
    thin = [line for line in axes_of(view)[0].lines if line.get_linewidth() == 0.5]
    assert len(thin) == (seeds if seeds > 1 else 0)
    assert numbers(thick(axes_of(view)[0])[0].get_ydata())[-1] == pytest.approx(-30 - 2.5 * (seeds - 1) / 2)


def test_a_fitted_law_is_drawn_with_its_band_and_held_out_points(tmp_path: Path) -> None:
    """Forgetting of 0.1 at every volume is −10 points on the axis.

    The point of the largest volume is hollow, the others are filled.
    """
    found = evidence.gather(grid(tmp_path / "g"))

    def band(at: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"value": 0.1, "low": 0.08, "high": 0.13}, index=at.index)

    one = SimpleNamespace(law="power", where={}, suite="old", fit=SimpleNamespace(band=band))
    view = forgetting(found, fits={found.every[0].cell: one})
    (axes,) = axes_of(view)
    curve = next(line for line in axes.lines if len(numbers(line.get_xdata())) == 40)
    assert set(numbers(curve.get_ydata())) == {-10.0}
    collection: Any = axes.collections[0]
    ends = collection.get_paths()[0].vertices[:, 1]
    assert (float(ends.min()), float(ends.max())) == pytest.approx((-13.0, -8.0))
    full, hollow = thick(axes)
    assert (full.get_markerfacecolor(), hollow.get_markerfacecolor()) == (found.every[0].colour, "none")
    assert numbers(hollow.get_ydata()) == pytest.approx([-30.0])
    assert "Hollow points" in view.caption


def test_the_laws_of_an_experiment_reach_their_curves(tmp_path: Path) -> None:
    """Each size has its own law, found by the labels that distinguish cells.

    Without a declared law of volume it has a plateau.
    """
    experiment = grid(tmp_path / "g", models=2, seeds=3, volumes=(8, 16, 32, 64, 128))
    found = evidence.gather(experiment)
    for declared, drawn in [(None, "hill"), ("injection", "hill"), ("power", "power")]:
        told = dataclasses.replace(found, declared=dataclasses.replace(found.declared, law=declared))
        laws = fits.by_cell(told)
        assert {one.law for one in laws.values()} == {drawn}
        assert {cell: one.where["model"] for cell, one in laws.items()} == {one.cell: one.model for one in found.every}


def test_no_law_is_drawn_through_three_volumes(tmp_path: Path) -> None:
    """Hill has as many parameters; the page says so in its place. Four volumes are enough."""
    found = evidence.measured(grid(tmp_path / "g", seeds=1, volumes=(8, 16, 32)))
    fit: Any = SimpleNamespace()
    few, enough = (Fitted("hill", {}, "old", pd.DataFrame({"volume": [8, 16, 32, 64][:count]}), fit, "") for count in (3, 4))
    told = dataclasses.replace(found, fitted=[few])
    section = learning.forgetting(told)
    assert section is not None
    assert (fits.by_cell(told), list(section.notes)) == ({}, ["No law is drawn: that takes 4 volumes or more."])
    told = dataclasses.replace(found, fitted=[enough])
    assert (fits.by_cell(told), fits.not_drawn(told)) == ({found.every[0].cell: enough}, "")


def test_there_is_no_figure_without_data(small: Evidence) -> None:
    """No suite to show, or no series."""
    assert figures.against_volume("f", small.every, [], "delta", title="t") is None
    assert figures.against_volume("f", [], small.probes, "delta", title="t") is None


def test_names_are_never_read_as_mathematics(tmp_path: Path) -> None:
    """A model whose name is a formula is drawn, not parsed.

    The same figure gives the same bytes.
    """
    for name in ["a", "b"]:
        found = evidence.gather(grid(tmp_path / name / "g", texts={"model": r"$\frac$"}))
        (tmp_path / name).mkdir(exist_ok=True)
        figures.save(forgetting(found).figure, tmp_path / name / "f")
    for suffix in ["png", "svg", "pdf"]:
        assert (tmp_path / "a" / f"f.{suffix}").read_bytes() == (tmp_path / "b" / f"f.{suffix}").read_bytes()


def test_inline_svg_has_ids_of_its_own_and_the_colours_of_the_page(tmp_path: Path) -> None:
    """Every id has the prefix, every reference an id; black is the text colour."""
    found = evidence.gather(grid(tmp_path / "g"))
    text, colours = svg.inline(forgetting(found).panels[0], "p-1", "a < b", "description")
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert ids
    assert all(name.startswith("p-1-") for name in ids)
    references = re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", text)
    assert {a or b for a, b in references} <= set(ids)
    assert "#000000" not in text
    assert "currentColor" in text
    assert "a &lt; b" in text
    assert found.every[0].colour in colours
    assert f"var(--c-{found.every[0].colour[1:]}, {found.every[0].colour})" in text


def test_a_bounded_selection_is_even_over_sizes(tmp_path: Path) -> None:
    """Of ten sizes eight are drawn, the smallest and the largest included."""
    found = evidence.gather(grid(tmp_path / "g", models=10, volumes=(8,)))
    kept, left_out = curves.chosen(found.every)
    assert kept[0].model == "m0"
    assert kept[-1].model == "m9"
    assert (len(kept), left_out) == (8, "8 of 10 methods are drawn; all are in findings.csv.")
