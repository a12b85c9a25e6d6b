"""What learning costs in forgetting: the frontier of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.statistics.stats import Floats
from harness.report import figures, words
from harness.report.content import Cell, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import Series
from harness.report.drawing import Place, plain, small_multiples
from harness.report.evidence import IDLE, Evidence
from harness.report.methods import methods
from harness.report.palette import GREY
from harness.report.tables import Panel

MAX_ROWS = 200


@dataclass(frozen=True)
class Paths:
    """A panel of the frontier: one model's points, a path a way of training, and its marks by cell.

    ``before`` is by cell and suite.
    """

    rows: pd.DataFrame
    marks: Mapping[str, Mark]
    target: Panel
    probe: Panel
    before: Mapping[tuple[str, str], float]


def frontier(evidence: Evidence) -> Section | None:
    """Return the scatter of gain and forgetting, a panel a model, a path a way of training from small to large volumes."""
    points = evidence.frontier
    if points.empty:
        return None
    found = methods(evidence.proper)
    kept = found.drawn
    points = points[points["cell"].isin(found.marks)]
    target, probe = str(points["target_suite"].iloc[0]), str(points["headline_suite"].iloc[0])
    panels = evidence.panel_of[target, "*"], evidence.panel_of[probe, "*"]
    before = {(one.cell, panel.suite): _before(one, panel.suite) for one in kept for panel in panels}
    places = [
        Place(Paths(points[points["cell"].isin(cells)], found.marks, *panels, before), panel.title, panel.subtitle, shares="all")
        for panel in sorted(found.panels, key=lambda panel: evidence.by_size(panel.every[0]))
        if points["cell"].isin(cells := {one.cell for one in panel.every}).any()
    ]
    columns = 2 if len(places) in {2, 4} else 3
    legend = [*found.legend, Mark(label="on the frontier", marker="o"), Mark(label="not on it", marker="hollow")]
    level = words.percent(evidence.findings["level"].dropna().iloc[0]) if evidence.findings["level"].notna().any() else "-"
    whole, alone = small_multiples(places, _draw, legend, f"lines: {level} intervals", columns=columns)
    ends = points.sort_values("volume", kind="stable").drop_duplicates("cell", keep="last")
    said = "; ".join(
        f"{evidence.by_cell[str(row['cell'])].short}: gained {words.amount(row['gain'], panels[0].unit)},"
        f" lost {words.amount(row['forgetting'], panels[1].unit)}"
        for _, row in ends.head(12).iterrows()
    )
    view = FigureView(
        name="tradeoff",
        title="Learning against forgetting",
        description=f"Gain on {target} to the right, loss on {probe} upward, volumes as a path. At the largest volume, {said}.",
        caption=f"Right has learned more, low has kept more; larger points are larger volumes, thin lines {level} intervals. Filled points"
        f" are on the frontier of their model: no other gains at least as much and forgets no more. {figures.CUT} {found.left_out}".strip(),
        figure=whole,
        panels=alone,
        legend=legend,
        columns=columns,
    )
    return Section(id="frontier", title="Learning against forgetting", figures=[view], tables=[_frontier_table(evidence, *panels)])


def _draw(axes: Axes, paths: Paths) -> None:
    gain, loss = paths.target.unit.scale, paths.probe.unit.scale
    for line in (axes.axhline, axes.axvline):
        line(0.0, color=GREY, linewidth=0.8, zorder=1)
    for cell, rows in paths.rows.sort_values("volume", kind="stable").groupby("cell", sort=False):
        mark = paths.marks[str(cell)]
        x, y = rows["gain"].astype(float) * gain, rows["forgetting"].astype(float) * loss
        axes.plot([0.0, *x], [0.0, *y], color=mark.colour, linewidth=1.0, alpha=0.55, zorder=2)
        for index, (at_x, at_y, best) in enumerate(zip(x, y, rows["is_frontier"], strict=True)):
            size = 14 + 36 * (index + 1) / len(rows)
            fill = mark.colour if best else "none"
            axes.scatter([at_x], [at_y], s=size, facecolors=fill, edgecolors=mark.colour, marker=mark.marker, linewidths=1.1, zorder=4)
        style: dict[str, Any] = {"color": mark.colour, "linewidth": 0.8, "alpha": 0.5, "zorder": 3}
        axes.hlines(y, *_bars(rows, "gain", paths.target, paths.before[str(cell), paths.target.suite], better=True), **style)
        axes.vlines(x, *_bars(rows, "forgetting", paths.probe, paths.before[str(cell), paths.probe.suite], better=False), **style)
    axes.set_xlabel(plain(f"gain on {paths.target.suite} ({paths.target.unit.name})"))
    axes.set_ylabel(plain(f"loss on {paths.probe.suite} ({paths.probe.unit.name})"))


def _before(one: Series, suite: str) -> float:
    return float(one.on(suite)["before"].astype(float).mean())


def _bars(rows: pd.DataFrame, name: str, panel: Panel, before: float, *, better: bool) -> tuple[Floats, Floats]:
    """Return the ends of intervals of a gain or a loss as they are drawn: in the metric's unit, a share no further than it can go."""
    low, high = (rows[f"{name}_{end}"].astype(float).to_numpy() for end in ("low", "high"))
    turned = panel.higher_is_better != better  # a loss of a share is its change with the sign turned
    ends = (-high, -low) if turned else (low, high)
    low, high = figures.possible(*ends, np.full(len(rows), before), panel)
    return (-high * panel.unit.scale, -low * panel.unit.scale) if turned else (low * panel.unit.scale, high * panel.unit.scale)


def _frontier_table(evidence: Evidence, target: Panel, probe: Panel) -> TableView:
    rows: list[list[Cell | str]] = []
    place = {one.cell: number for number, one in enumerate(evidence.every)}
    ordered = evidence.frontier.assign(_place=evidence.frontier["cell"].map(place)).sort_values(["_place", "volume"], kind="stable")
    for _, row in ordered.head(MAX_ROWS).iterrows():
        one = evidence.by_cell[str(row["cell"])]
        rows.append(
            [
                one.short,
                Cell(f"{int(row['volume']):,}", int(row["volume"])),
                Cell(words.with_ends(row, "gain", target.unit), float(row["gain"])),
                Cell(words.with_ends(row, "forgetting", probe.unit), float(row["forgetting"])),
                Cell(IDLE if str(row["cell"]) in evidence.idle else "yes" if row["is_frontier"] else "no"),
                Cell(words.duration(row["wall_seconds"]), words.sortable(row["wall_seconds"])),
            ]
        )
    titles = ["way of training", "volume", f"gain ({target.unit.name})", f"loss ({probe.unit.name})", "on it", "training time"]
    numeric = set(titles) - {"way of training", "on it"}
    shown = f"{MAX_ROWS} of {count} points; all of them are in the files." if (count := len(evidence.frontier)) > MAX_ROWS else ""
    return TableView(
        name="frontier",
        columns=[ColumnView(title=title, is_number=title in numeric, meaning=_MEANINGS.get(title, "")) for title in titles],
        rows=rows,
        caption=f"Gain on {target.suite} and loss on {probe.suite} with their intervals, whether the point is on the frontier, and the"
        " time of training up to it; other costs are in frontier.csv.",
        data=evidence.frontier,
        shown=shown,
    )


_MEANINGS = {
    "on it": "on the frontier: no other point of its model gains at least as much and forgets no more",
    "training time": "mean over seeds, without evaluation",
}
