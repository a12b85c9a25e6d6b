"""Loss on the headline suite against the cost of training, one panel per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from harness.report import figures, words
from harness.report.content import FigureView, Mark
from harness.report.curves import Series
from harness.report.drawing import Place, columns_for, plain, small_multiples
from harness.report.evidence import Evidence
from harness.report.methods import methods
from harness.report.palette import GREY
from harness.report.tables import Panel

COSTS = {"flops": "floating-point operations", "wall_seconds": "training time (seconds)"}
"""Costs by preference; the first that is known for every curve is drawn. Time comes last: it
depends on the machine and its load."""

MAX_PANELS = 12


@dataclass(frozen=True)
class CostPanel:
    """A panel: the methods of one model, and cell → mark."""

    every: Sequence[Series]
    marks: Mapping[str, Mark]
    panel: Panel
    cost: str


def loss_by_cost(evidence: Evidence) -> FigureView | None:
    """Return the figure; None without a headline suite or a cost known for every curve."""
    suite = evidence.headline
    found = methods([one for one in evidence.proper if suite and len(one.on(suite))])
    kept = found.drawn
    if not suite or not kept:
        return None
    cost = next((name for name in COSTS if all(_known(one, suite, name) for one in kept)), "")
    if not cost:
        return None
    panel = evidence.panel_of[suite, "*"]
    drawn = found.panels[:MAX_PANELS]
    places = [Place(CostPanel(shown.every, found.marks, panel, cost), shown.title, shown.subtitle, shares="all") for shown in drawn]
    columns = columns_for(len(places))
    level = evidence.level
    whole, alone = small_multiples(places, _draw, found.legend, f"bars: {level} intervals", columns=columns)
    ends = "; ".join(
        f"{one.short}: lost {words.amount(_loss(one, panel).iloc[-1], panel.unit)} at {words.scientific(_spent(one, panel, cost).iloc[-1])}"
        for one in kept[:12]
    )
    notes = [figures.CUT if panel.unit.name == "points" else "", found.left_out, words.drawn(len(drawn), len(found.panels), "panels")]
    return FigureView(
        name="cost",
        title=f"Loss on {suite} by {COSTS[cost]}",
        description=f"Loss on {suite} in {panel.unit.name} against {COSTS[cost]}, volumes as a path. {ends}.",
        caption=" ".join(
            [
                "Lower: less was lost; further left: it cost less. A point is a volume; its cost is that of training up to it, mean over"
                f" seeds. Bars: {level} intervals.",
                *filter(None, notes),
            ]
        ),
        figure=whole,
        panels=alone,
        legend=found.legend,
        columns=columns,
    )


def _known(one: Series, suite: str, cost: str) -> bool:
    values = _at(one, suite)[cost]
    return bool(values.notna().all() and (values.astype(float) > 0).all())


def _at(one: Series, suite: str) -> pd.DataFrame:
    rows = one.rows
    return rows[(rows["suite"] == suite) & (rows["task"] == "*")].dropna(subset=["delta"]).drop_duplicates("volume")


def _spent(one: Series, panel: Panel, cost: str) -> pd.Series:
    return _at(one, panel.suite)[cost].astype(float)


def _loss(one: Series, panel: Panel) -> pd.Series:
    return _at(one, panel.suite)["delta"].astype(float) * -panel.sign


def _draw(axes: Axes, shown: CostPanel) -> None:
    panel, scale = shown.panel, shown.panel.unit.scale
    sign = -panel.sign
    axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    for one in shown.every:
        mark, rows = shown.marks[one.cell], _at(one, panel.suite)
        x, y = _spent(one, panel, shown.cost), _loss(one, panel) * scale
        low, high = figures.possible(rows["delta_low"], rows["delta_high"], rows["before"], panel)
        axes.plot(x, y, color=mark.colour, linewidth=1.2, marker=mark.marker, markersize=4.5, zorder=4)
        axes.vlines(x, low * sign * scale, high * sign * scale, color=mark.colour, linewidth=1.1, alpha=0.55, zorder=3)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10.0, numticks=5))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(plain(f"{COSTS[shown.cost]}, log scale"))
    axes.set_ylabel(plain(f"loss on {panel.suite} ({panel.unit.name})"))
    axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.3)
    axes.set_axisbelow(True)
