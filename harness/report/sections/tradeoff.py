"""Learning against forgetting, and the frontier of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from harness.analysis.findings.frontier import OFF, ON, UNCLEAR, oriented
from harness.analysis.findings.method_pairs import PLAIN
from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.report import figures, labels, words
from harness.report.content import CellView, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import Series
from harness.report.drawing import Place, columns_for, dashes, plain, small_multiples
from harness.report.evidence import Evidence
from harness.report.methods import MethodPanel, methods
from harness.report.palette import GREY
from harness.report.tables import MAX_TASKS, Panel

MAX_ROWS = 200
MAX_PANELS = 24

BEATEN = (
    "A point is off it where another, or the untuned model, is better in gain or loss by more than the margin, and not worse in the"
    " other by more than the margin."
)

MAX_NAMED = 12
"""Methods of a panel whose points have their names; of more they have the numbers of the legend."""

TALL = 1.5
"""Height of panels with names, as a multiple of the usual one."""

_RATES = Mark(label="no mitigation, from the lowest to the highest rate", colour=GREY, line="6 3")

_FILLED = {ON: 1.0, UNCLEAR: 0.35, OFF: 0.0}
"""Opacity of a point."""


@dataclass(frozen=True)
class Paths:
    """A panel: the points of one model on one probe, one path per method.

    Attributes:
        rows: the points.
        marks: cell → mark.
        target: the suite of the gain.
        probe: the suite of the loss, or one of its tasks.
        before: (cell, panel) → value before training.
        rates: cells of no mitigation that differ only in their learning rate, from low to high.
    """

    rows: pd.DataFrame
    marks: Mapping[str, Mark]
    target: Panel
    probe: Panel
    before: Mapping[tuple[str, Panel], float]
    rates: Sequence[Sequence[str]] = ()


def frontier(evidence: Evidence) -> Section | None:
    """Return the figure of gain against forgetting and its table.

    There is one path per method from small to large volumes, and one row of panels per model: the
    headline suite, which is the mean of its tasks, and next to it each of them. Of too many models,
    the suite alone is drawn.
    """
    points = evidence.frontier
    if points.empty:
        return None
    found = methods(evidence.proper)
    kept = found.drawn
    points = points[points["cell"].isin(found.marks)]
    target, probe = str(points["target_suite"].iloc[0]), str(points["headline_suite"].iloc[0])
    panels = evidence.panel_of[target, "*"], evidence.panel_of[probe, "*"]
    tasks = _tasks(evidence, probe)
    whole = [panel for panel in sorted(found.panels, key=lambda panel: panel.every[0].size) if _has_points(points, panel)]
    drawn = [panels[1], *(tasks if len(whole) * (1 + len(tasks)) <= MAX_PANELS else [])]
    before = {(one.cell, panel): _before(one, panel) for one in kept for panel in [panels[0], *drawn]}
    places = []
    for panel in whole:
        rows = points[points["cell"].isin([one.cell for one in panel.every])]
        for shown in drawn:
            subtitle = " · ".join(filter(None, [panel.subtitle, shown.label if len(drawn) > 1 else ""]))
            of_panel = rows if shown is panels[1] else _on_task(evidence, rows, shown)
            paths = Paths(of_panel, found.marks, panels[0], shown, before, _over_rates(panel.every))
            places.append(Place(paths, panel.title, subtitle, shares="all"))
    columns = len(drawn) if len(drawn) > 1 else columns_for(len(places))
    numbers = _numbers(found.legend) if max(len(panel.every) for panel in whole) > MAX_NAMED else {}
    legend = [
        *(dataclasses.replace(mark, label=f"{numbers[mark.label]}: {mark.label}" if numbers else mark.label) for mark in found.legend),
        *([_RATES] if any(place.subject.rates for place in places) else []),
        Mark(label="clearly on the frontier", marker="o"),
        Mark(label="unclear (pale) or off it (hollow)", marker="hollow"),
        *([Mark(label="not ranked", marker="x")] if (unranked := points["frontier"].isna().any()) else []),
    ]
    level = evidence.level
    tall = TALL if max(len(panel.every) for panel in whole) > 1 else 1.0
    figure, alone = small_multiples(places, _draw, legend, f"lines: {level} intervals", columns=columns, tall=tall)
    for axes, place in zip([*figure.axes, *(one.axes[0] for one in alone)], [*places, *places], strict=True):
        if place.subject.probe is panels[1]:
            _name(axes, place.subject, numbers)
    ends = points.sort_values("volume", kind="stable").drop_duplicates("cell", keep="last")
    last_points = "; ".join(
        f"{evidence.by_cell[str(row['cell'])].short}: gained {words.amount(row['gain'], panels[0].unit)},"
        f" lost {words.amount(row['forgetting'], panels[1].unit)}"
        for _, row in ends.head(12).iterrows()
    )
    view = FigureView(
        name="tradeoff",
        title="Learning against forgetting",
        description=f"Gain on {target} to the right, loss on {probe} upward, volumes as a path. At the largest volume, {last_points}.",
        caption="Further right: more was learned; lower: less was lost. Larger points are larger volumes, the largest with its method's"
        f" {'number' if numbers else 'name'} if there is room, thin lines are"
        f" {level} intervals. Filled points are clearly on the frontier of their model, hollow ones clearly off it,"
        f" pale ones may be either{'; crosses are not ranked (see the table)' if unranked else ''}. {BEATEN}"
        f"{' Next to the mean is each of its tasks; a point keeps the fill that it has on the mean.' if len(drawn) > 1 else ''}"
        f" {figures.CUT} {found.left_out}".strip(),
        figure=figure,
        panels=alone,
        legend=legend,
        columns=columns,
    )
    return Section(id="frontier", title="Learning against forgetting", figures=[view], tables=[_frontier_table(evidence, *panels, tasks)])


def _numbers(marks: Sequence[Mark]) -> dict[str, str]:
    """Return name → number of each method of the legend."""
    return {mark.label: str(number) for number, mark in enumerate(marks, start=1)}


def _over_rates(every: Sequence[Series]) -> list[list[str]]:
    """Return the cells without a mitigation that differ only in rate, by rate."""
    groups: dict[tuple[str, ...], list[Series]] = {}
    for one in every:
        if str(one.labels["mitigation"]) == PLAIN and not pd.isna(one.labels["learning_rate"]):
            alike = tuple(str(one.labels[name]) for name in ["tuning", "objective", "data", "trajectory", "epochs"])
            groups.setdefault(alike, []).append(one)
    ordered = [sorted(ones, key=lambda one: float(one.labels["learning_rate"])) for ones in groups.values()]
    return [[one.cell for one in ones] for ones in ordered if len({one.labels["learning_rate"] for one in ones}) > 1]


def _ends(paths: Paths) -> dict[str, tuple[float, float]]:
    """Return cell → gain and loss at its largest volume, in the units shown."""
    last = paths.rows.sort_values("volume", kind="stable").drop_duplicates("cell", keep="last")
    scales = paths.target.unit.scale, paths.probe.unit.scale
    return {str(row["cell"]): (float(row["gain"]) * scales[0], float(row["forgetting"]) * scales[1]) for _, row in last.iterrows()}


def _name(axes: Axes, paths: Paths, numbers: Mapping[str, str]) -> None:
    """Write each method's name or number next to its point at the largest volume."""
    ends = _ends(paths)
    names = {cell: paths.marks[cell].label for cell in ends}
    first = next(iter(names.values()), "").split(" · ")[0] + " · "
    cut = first if len(names) > 1 and all(name.startswith(first) for name in names.values()) else ""
    texts = {cell: numbers.get(name) or name.removeprefix(cut).replace("learning rate ", "rate ") for cell, name in names.items()}
    every = zip(
        paths.rows["gain"].astype(float) * paths.target.unit.scale,
        paths.rows["forgetting"].astype(float) * paths.probe.unit.scale,
        strict=True,
    )
    labels.place(axes, [(*end, texts[cell]) for cell, end in ends.items()], list(every))


def _has_points(points: pd.DataFrame, panel: MethodPanel) -> bool:
    return bool(points["cell"].isin([one.cell for one in panel.every]).any())


def _tasks(evidence: Evidence, suite: str) -> list[Panel]:
    """Return the panels of a suite's tasks; none of a single one, or of more than MAX_TASKS."""
    tasks = [panel for (of, task), panel in evidence.panel_of.items() if of == suite and task != SUITE_TASK]
    return tasks if 1 < len(tasks) <= MAX_TASKS else []


def _on_task(evidence: Evidence, points: pd.DataFrame, task: Panel) -> pd.DataFrame:
    """Return the points with their loss on one task of the headline suite."""
    found = evidence.findings
    rows = found[(found["suite"] == task.suite) & (found["task"] == task.task) & found["delta"].notna()]
    losses = pd.concat([rows[["cell", "volume"]], oriented(rows, "forgetting", better=False)], axis=1)
    return points.drop(columns=["forgetting", "forgetting_low", "forgetting_high"]).merge(losses, on=["cell", "volume"])


def _draw(axes: Axes, paths: Paths) -> None:
    gain, loss = paths.target.unit.scale, paths.probe.unit.scale
    for line in (axes.axhline, axes.axvline):
        line(0.0, color=GREY, linewidth=0.8, zorder=1)
    ends = _ends(paths)
    for cells in paths.rates:
        known = [ends[cell] for cell in cells if cell in ends]
        axes.plot(*zip(*known, strict=True), color=GREY, linestyle=dashes(_RATES.line), linewidth=1.4, gid="rates", zorder=3)
    for cell, rows in paths.rows.sort_values("volume", kind="stable").groupby("cell", sort=False):
        mark = paths.marks[str(cell)]
        x, y = rows["gain"].astype(float) * gain, rows["forgetting"].astype(float) * loss
        axes.plot([0.0, *x], [0.0, *y], color=mark.colour, linewidth=1.0, alpha=0.55, zorder=2)
        for index, (at_x, at_y, place) in enumerate(zip(x, y, rows["frontier"].fillna(""), strict=True)):
            size = 14 + 36 * (index + 1) / len(rows)
            if not place:
                axes.scatter([at_x], [at_y], s=size, color=mark.colour, marker="x", linewidths=1.3, zorder=4)
                continue
            fill = to_rgba(mark.colour, _FILLED[place])
            axes.scatter([at_x], [at_y], s=size, facecolors=[fill], edgecolors=mark.colour, marker=mark.marker, linewidths=1.1, zorder=4)
        style: dict[str, Any] = {"color": mark.colour, "linewidth": 0.8, "alpha": 0.5, "zorder": 3}
        axes.hlines(y, *_bars(rows, "gain", paths.target, paths.before[str(cell), paths.target], better=True), **style)
        axes.vlines(x, *_bars(rows, "forgetting", paths.probe, paths.before[str(cell), paths.probe], better=False), **style)
    axes.set_xlabel(plain(f"gain on {paths.target.suite} ({paths.target.unit.name})"))
    on = f" on {paths.probe.suite}" if paths.probe.task == SUITE_TASK else ""  # the title names a task
    axes.set_ylabel(plain(f"loss{on} ({paths.probe.unit.name})"))


def _before(one: Series, panel: Panel) -> float:
    return float(one.on(panel.suite, panel.task)["before"].astype(float).mean())


def _bars(rows: pd.DataFrame, name: str, panel: Panel, before: float, *, better: bool) -> tuple[Floats, Floats]:
    """Return the ends of intervals as drawn: cut to possible values, in the unit shown."""
    low, high = (rows[f"{name}_{end}"].astype(float).to_numpy() for end in ("low", "high"))
    turned = panel.higher_is_better != better  # a loss of a share is its change with the opposite sign
    ends = (-high, -low) if turned else (low, high)
    low, high = figures.possible(*ends, np.full(len(rows), before), panel)
    return (-high * panel.unit.scale, -low * panel.unit.scale) if turned else (low * panel.unit.scale, high * panel.unit.scale)


def _frontier_table(evidence: Evidence, target: Panel, probe: Panel, tasks: Sequence[Panel]) -> TableView:
    rows: list[list[CellView | str]] = []
    ordered = evidence.in_page_order(evidence.frontier, by=["volume"])
    on_tasks = {
        task: {(row["cell"], row["volume"]): row for _, row in _on_task(evidence, evidence.frontier, task).iterrows()} for task in tasks
    }
    for _, row in ordered.head(MAX_ROWS).iterrows():
        one = evidence.by_cell[str(row["cell"])]
        rows.append(
            [
                one.short,
                words.volume_cell(row["volume"]),
                CellView(words.with_ends(row, "gain", target.unit, before=_before(one, target), turned=target.sign), float(row["gain"])),
                _loss_cell(row, probe, one),
                CellView(words.text(row["frontier"]) or evidence.mark(str(row["cell"]))),
                *(_loss_cell(on_task.get((row["cell"], row["volume"])), task, one) for task, on_task in on_tasks.items()),
                CellView(words.duration(row["wall_seconds"]), words.sortable(row["wall_seconds"])),
            ]
        )
    names = [task.label for task in tasks]
    titles = ["method", "volume", f"gain ({target.unit.name})", f"loss ({probe.unit.name})", "frontier", *names, "training time"]
    numeric = set(titles) - {"method", "frontier"}
    return TableView(
        name="frontier",
        columns=[ColumnView(title=title, is_number=title in numeric, meaning=_MEANINGS.get(title, "")) for title in titles],
        rows=rows,
        caption=f"Gain on {target.suite} and loss on {probe.suite}{', the mean of its tasks, and on each of them' if tasks else ''},"
        " with their intervals, whether the point is clearly on the frontier or"
        " clearly off it, and the training time up to it; other costs are in frontier.csv.",
        data=evidence.frontier,
        shown=words.excerpt(MAX_ROWS, len(evidence.frontier), "points", "frontier.csv"),
    )


def _loss_cell(row: pd.Series | None, panel: Panel, one: Series) -> CellView:
    if row is None:
        return CellView(words.UNKNOWN)
    text = words.with_ends(row, "forgetting", panel.unit, before=_before(one, panel), turned=-panel.sign)
    return CellView(text, float(row["forgetting"]))


_MEANINGS = {
    "frontier": "on or off: clearly so, at 95%; another point beats one that is off",
    "training time": "mean over seeds, without evaluation",
}
