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
    """A panel: the methods of one model.

    Attributes:
        every: the methods.
        marks: cell → mark.
        rows: cell → its points on the headline suite, by volume.
        panel: of the headline suite.
        cost: column of the cost.
    """

    every: Sequence[Series]
    marks: Mapping[str, Mark]
    rows: Mapping[str, pd.DataFrame]
    panel: Panel
    cost: str


def loss_by_cost(evidence: Evidence) -> FigureView | None:
    """Return the figure; None without a headline suite or a cost known for every curve."""
    suite = evidence.headline
    measured = set(evidence.suite_rows(suite)["cell"]) if suite else set()
    found = methods([one for one in evidence.proper if one.cell in measured])
    kept = found.drawn
    if not suite or not kept:
        return None
    rows = {one.cell: _points(one, suite) for one in kept}
    cost = next((name for name in COSTS if all(_known(points, name) for points in rows.values())), "")
    if not cost:
        return None
    panel = evidence.panel_of[suite, "*"]
    drawn = found.panels[:MAX_PANELS]
    places = [Place(CostPanel(shown.every, found.marks, rows, panel, cost), shown.title, shown.subtitle, shares="all") for shown in drawn]
    columns = columns_for(len(places))
    level = evidence.level
    whole, alone = small_multiples(places, _draw, found.legend, f"bars: {level} intervals", columns=columns)
    ends = "; ".join(
        f"{one.short}: lost {words.amount(-panel.sign * last['delta'], panel.unit)} at {words.scientific(last[cost])}"
        for one, last in ((one, rows[one.cell].iloc[-1]) for one in kept[:12])
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


def _points(one: Series, suite: str) -> pd.DataFrame:
    rows = one.rows
    return rows[(rows["suite"] == suite) & (rows["task"] == "*")].dropna(subset=["delta"]).drop_duplicates("volume")


def _known(points: pd.DataFrame, cost: str) -> bool:
    return bool(points[cost].notna().all() and (points[cost].astype(float) > 0).all())


def _draw(axes: Axes, shown: CostPanel) -> None:
    panel, scale = shown.panel, shown.panel.unit.scale
    sign = -panel.sign
    axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    for one in shown.every:
        mark, rows = shown.marks[one.cell], shown.rows[one.cell]
        x, y = rows[shown.cost].astype(float), rows["delta"].astype(float) * sign * scale
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
