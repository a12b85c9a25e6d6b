"""Figures of the page: findings in, views out.

Nothing is drawn without its data, units and intervals.

Colour is model size (dark to light, legible to colour-blind readers and in grey), line and marker
are what else was varied; where sizes have panels of their own, colour and marker are the way of
training.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.report import words
from harness.report.content import FigureView, Mark
from harness.report.curves import MAX_STYLES, Series, chosen, legend
from harness.report.drawing import MAX_COLUMNS, Place, dashes, plain, small_multiples
from harness.report.methods import methods
from harness.report.palette import GREY
from harness.report.tables import Panel

MAX_PANELS = 24
MAX_TOGETHER = 5
"""More curves than this share no panel between several ways of training."""

MAX_SEED_LINES = 5

Column = Literal["delta", "after"]


@dataclass(frozen=True)
class Chart:
    """A panel of curves against volume.

    Attributes:
        controls: their same-data controls, drawn thin and grey.
        seeds: cell → a frame a seed with volume and value, drawn thin.
        fits: cell → what was fitted to it (``harness.analysis.fits.all_laws.Fitted``).
    """

    panel: Panel
    every: Sequence[Series]
    column: Column
    volumes: Sequence[int]
    controls: Sequence[Series] = ()
    seeds: Mapping[str, Sequence[pd.DataFrame]] = field(default_factory=dict)
    fits: Mapping[str, Any] = field(default_factory=dict)


def against_volume(
    name: str,
    every: Sequence[Series],
    shown: Sequence[Panel],
    column: Column,
    *,
    table: pd.DataFrame | None = None,
    fits: Mapping[str, Any] | None = None,
    title: str,
) -> FigureView | None:
    """Draw a change, or a value, against volume: a panel a suite or task, and a row of them a way of training where there are many.

    Args:
        name: stem of the files.
        every: series, of which at most curves.MAX_MODELS × curves.MAX_STYLES are drawn; controls
            lie in the panels of what they control.
        shown: suites and tasks.
        column: ``delta`` (since before) or ``after`` (the metric's value).
        table: the tidy table, for the thin line of each seed.
        fits: cell → Fitted, drawn on the panels of the suite it was fitted to.
        title: of the figure.
    """
    set_out = _set_out([one for one in [one for one in every if not one.is_control] or every if _is_on(one, shown)])
    kept, groups = [one for group in set_out.groups.values() for one in group], set_out.groups
    if not kept or not shown:
        return None
    volumes = sorted({0, *(int(v) for one in kept for v in one.rows["volume"])})
    places = []
    controls = {one.cell: one for one in every if one.is_control and one not in kept}
    thin = {} if set_out.is_crowded else seed_lines(table, kept, column)
    fits = {} if set_out.is_crowded else fits or {}
    for panel in shown:
        for heading, group in groups.items():
            seeds = {one.cell: thin.get((one.cell, panel.suite, panel.task), []) for one in group}
            beside = [controls[cell] for cell in dict.fromkeys(one.control for one in group) if cell in controls]
            beside = [one for one in beside if len(one.on(panel.suite, panel.task))]
            chart = Chart(panel, group, column, volumes, beside, seeds, _fits_on(fits, panel, group))
            places.append(Place(chart, panel.label, heading, (panel.suite, panel.task)))
    columns = len(groups) if 1 < len(groups) <= MAX_COLUMNS else 2 if len(places) in {2, 4} else MAX_COLUMNS
    cut = f" {MAX_PANELS} of {len(places)} panels are drawn." if len(places) > MAX_PANELS else ""
    places = places[:MAX_PANELS]
    marks, has_fits = [*set_out.legend], any(place.what.fits for place in places)
    if has_fits:
        marks += [Mark(label="fitted law, 90% band", line="band"), Mark(label="held out in turn", marker="hollow")]
    if any(place.what.controls for place in places):
        marks.append(CONTROL_MARK)
    if any(levels(place.what) for place in places):
        marks.append(Mark(label="guessing" if column == "after" else "down to guessing", colour=GREY, line="1.5 3"))
    whole, panels = small_multiples(places, draw_chart, marks, words.bars(kept, thin=not set_out.is_crowded), columns=columns)
    return FigureView(
        name=name,
        title=title,
        description=describe(kept, shown[0], column),
        caption=" ".join(
            filter(None, [_caption(kept, places, column, has_fits=has_fits, thin=not set_out.is_crowded), set_out.left_out + cut])
        ),
        figure=whole,
        panels=panels,
        legend=marks,
        columns=columns,
    )


def _is_on(one: Series, shown: Sequence[Panel]) -> bool:
    return any(len(one.on(panel.suite, panel.task)) for panel in shown)


@dataclass(frozen=True)
class _SetOut:
    """Curves as they are drawn: heading of a panel → its curves.

    Whether there are too many for bands and thin lines.
    """

    groups: Mapping[str, Sequence[Series]]
    legend: Sequence[Mark]
    left_out: str
    is_crowded: bool = False


def _set_out(every: Sequence[Series]) -> _SetOut:
    """Return which curves share a panel: all of them, or those of a way of training, or of one model with very many of a tuning."""
    if len({one.model for one in every}) == 1 and len({one.style_name for one in every}) > MAX_STYLES:
        found = methods(every)
        groups = {panel.subtitle: [_with_mark(one, found.marks[one.cell]) for one in panel.every] for panel in found.panels}
        return _SetOut(groups, found.legend, found.left_out, is_crowded=True)
    kept, left_out = chosen(every)
    styles = list(dict.fromkeys(one.style_name for one in kept))
    by_style = len(styles) > 1 and len(kept) > MAX_TOGETHER
    groups = {style: [one for one in kept if one.style_name == style] for style in styles} if by_style else {"": kept}
    return _SetOut(groups, legend(kept), left_out)


def _with_mark(one: Series, mark: Mark) -> Series:
    return dataclasses.replace(one, colour=mark.colour, line="solid", marker=mark.marker)


def describe(every: Sequence[Series], panel: Panel, column: Column) -> str:
    """Say in words what a figure of curves shows: where each ends."""
    said = []
    for one in every[:12]:
        rows = one.on(panel.suite, panel.task)
        if len(rows):
            last = rows.iloc[-1]
            said.append(f"{one.short}: {words.amount(last[column], panel.unit, sign=column == 'delta')} at {int(last['volume']):,} rows")
    what = "Change since before training" if column == "delta" else "Value"
    return f"{what} against volume of target rows. {panel.label}, {words.unit_name(panel)}: {'; '.join(said)}. All numbers: findings.csv."


def _caption(every: Sequence[Series], places: Sequence[Place[Chart]], column: Column, *, has_fits: bool, thin: bool) -> str:
    parts = [words.bars(every, thin=thin).capitalize() + "."]
    if column == "after":
        parts.append("The intervals are of the change since before, set at the value.")
    charts = [place.what for place in places]
    if any(chart.controls for chart in charts):
        parts.append("Thin grey lines are the same-data controls of the panel's curves, one a size.")
    drawn = [(one.on(chart.panel.suite, chart.panel.task), chart.panel) for chart in charts for one in chart.every]
    if any(is_cut(rows["delta_low"], rows["delta_high"], rows["before"], panel) for rows, panel in drawn):
        parts.append(CUT)
    if has_fits:
        parts.append("Curves with bands are the law c·volume^k fitted to each way of training, with 90% bands for the mean; the hollow")
        parts.append("points, at the largest volumes, were also left out in turn: the error of predicting them is in the table of fits.")
    return " ".join(parts)


CONTROL_MARK = Mark(label="same-data control", colour=GREY, line="solid")

CUT = "Bars end where a share can go no further, at 0 and 100; tables keep the intervals as they were computed."


def possible(low: Any, high: Any, before: Any, panel: Panel) -> tuple[Floats, Floats]:
    """Return an interval of changes cut to what is possible: a share of items ends between 0 and 1.

    Other metrics are left alone.

    Args:
        low: lower ends of intervals, in the metric's unit and sign.
        high: upper ends.
        before: the value before, from which no change leads below 0 or above 1.
        panel: whose metric it is.
    """
    ends = [np.asarray(pd.array(end, dtype="Float64").to_numpy(dtype=np.float64, na_value=np.nan)) for end in (low, high, before)]
    if panel.unit.name != "points":
        return ends[0], ends[1]
    return np.maximum(ends[0], -ends[2]), np.minimum(ends[1], 1.0 - ends[2])


def is_cut(low: Any, high: Any, before: Any, panel: Panel) -> bool:
    """Say whether any of these intervals reaches beyond what is possible."""
    ends = possible(low, high, before, panel)
    whole = [pd.array(end, dtype="Float64").to_numpy(dtype=np.float64, na_value=np.nan) for end in (low, high)]
    return bool((ends[0] > whole[0] + 1e-12).any() or (ends[1] < whole[1] - 1e-12).any())


def seed_lines(table: pd.DataFrame | None, every: Sequence[Series], column: Column) -> dict[tuple[str, str, str], list[pd.DataFrame]]:
    """Return, by cell of two to MAX_SEED_LINES seeds, suite and task, each seed's volumes and values, 0 first."""
    found: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    if table is None or table.empty:
        return found
    value = "delta" if column == "delta" else "value"
    cell_of = {run: one.cell for one in every for run in one.runs}
    rows = table[table["run_id"].isin(list(cell_of)) & table["primary"].fillna(False) & (table["status"] == "ok")]
    rows = rows[["run_id", "seed", "suite", "task", "volume", value]].dropna()
    rows = rows.assign(cell=rows["run_id"].map(cell_of), value=rows[value].astype(float)).drop_duplicates(
        ["cell", "seed", "suite", "task", "volume"]
    )
    for (cell, suite, task), group in rows.groupby(["cell", "suite", "task"], sort=False):
        seeds = [part[["volume", "value"]].sort_values("volume") for _, part in group.groupby("seed")]
        if 1 < len(seeds) <= MAX_SEED_LINES:
            found[str(cell), str(suite), str(task)] = seeds
    return found


def _fits_on(fits: Mapping[str, Any], panel: Panel, every: Sequence[Series]) -> dict[str, Any]:
    own = panel.task == SUITE_TASK or panel.label == panel.suite  # a suite of one task is that task
    cells = {one.cell for one in every}
    return {cell: one for cell, one in fits.items() if own and cell in cells and one.fit is not None and one.suite == panel.suite}


def position(volume: float, volumes: Sequence[int]) -> float:
    """Return where a volume stands on the axis: logarithmic in units of the mean step, with 0 one step before the smallest."""
    positive = [v for v in volumes if v]
    step = math.log2(max(positive) / min(positive)) / (len(positive) - 1) if len(positive) > 1 else 1.0
    return 0.0 if volume == 0 else math.log2(volume / min(positive)) / step + 1.0


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Draw curves against volume on axes, with labels and units."""
    panel, column = chart.panel, chart.column
    if column == "delta":
        axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    for control in chart.controls:
        _draw_control(axes, chart, control)
    for index, one in enumerate(chart.every):
        shift = (index - (len(chart.every) - 1) / 2) * min(0.06, 0.4 / len(chart.every))
        _draw_series(axes, chart, one, shift)
    _draw_levels(axes, chart)
    if panel.unit.name == "points":  # no share of items changes by more than all of them, whatever an interval says
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -102.0), min(high, 102.0))
    positions = [position(volume, chart.volumes) for volume in chart.volumes]
    axes.set_xticks(positions, [words.short_count(volume) for volume in chart.volumes])
    axes.set_xlim(-0.35, max(positions) + 0.35)
    axes.set_xlabel("volume (target rows, log scale)")
    before = "change in " if column == "delta" else ""
    axes.set_ylabel(plain(f"{before}{words.unit_name(panel)}"))
    axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.3)
    axes.set_axisbelow(True)


def _draw_series(axes: Axes, chart: Chart, one: Series, shift: float) -> None:
    panel, scale = chart.panel, chart.panel.unit.scale
    rows = one.on(panel.suite, panel.task)
    if rows.empty:
        return
    base = 0.0 if chart.column == "delta" else rows["before"].astype(float).to_numpy()
    low, high = possible(rows["delta_low"], rows["delta_high"], rows["before"], panel)
    ends = {name: (np.asarray(end) + base) * scale for name, end in [("delta", rows["delta"].astype(float)), ("low", low), ("high", high)]}
    first = 0.0 if chart.column == "delta" else float(np.mean(np.asarray(base))) * scale
    volumes = [int(v) for v in rows["volume"]]
    at = np.array([0.0, *(position(v, chart.volumes) + shift for v in volumes)])
    centre = np.array([first, *ends["delta"]])
    fitted = chart.fits.get(one.cell)
    style = {"color": one.colour, "linestyle": dashes(one.line)}
    for seed in chart.seeds.get(one.cell, ()):
        axes.plot([position(v, chart.volumes) for v in seed["volume"]], seed["value"] * scale, **style, linewidth=0.5, alpha=0.45, zorder=2)
    if fitted is None:
        axes.plot(at, centre, **style, linewidth=1.5, marker=one.marker, markersize=4.2, zorder=4)
    else:
        _draw_fit(axes, chart, one, fitted, shift)
        axes.plot(at[:-1], centre[:-1], color=one.colour, linestyle="", marker=one.marker, markersize=4.2, zorder=4)
        axes.plot(at[-1:], centre[-1:], color=one.colour, linestyle="", marker=one.marker, markersize=5, markerfacecolor="none", zorder=4)
    axes.vlines(at[1:], ends["low"], ends["high"], color=one.colour, linewidth=1.3, alpha=0.7, zorder=3)


def _draw_control(axes: Axes, chart: Chart, one: Series) -> None:
    rows = one.on(chart.panel.suite, chart.panel.task)
    base = 0.0 if chart.column == "delta" else float(rows["before"].astype(float).mean())
    values = np.array([0.0, *rows["delta"].astype(float)]) + base
    at = [position(volume, chart.volumes) for volume in [0, *map(int, rows["volume"])]]
    axes.plot(at, values * chart.panel.unit.scale, color=GREY, linewidth=0.9, alpha=0.75, zorder=2, gid="control")


def _draw_fit(axes: Axes, chart: Chart, one: Series, fitted: Any, shift: float) -> None:
    """Draw a law of forgetting (positive is worse) over the volumes it was fitted to, turned as the metric is."""
    positive = [v for v in chart.volumes if v]
    grid = np.geomspace(min(positive), max(positive), 40)
    sign = -chart.panel.unit.scale if chart.panel.higher_is_better else chart.panel.unit.scale
    columns = {"volume": grid} | {name: [value] * len(grid) for name, value in one.labels.items() if name in {"params_total"}}
    band = fitted.fit.band(pd.DataFrame(columns))
    at = [position(v, chart.volumes) + shift for v in grid]
    low, high = (band[name].astype(float).to_numpy() * sign for name in ["low", "high"])
    axes.fill_between(at, low, high, color=one.colour, alpha=0.13, linewidth=0, zorder=1)
    axes.plot(at, band["value"].astype(float).to_numpy() * sign, color=one.colour, linestyle=dashes(one.line), linewidth=1.3, zorder=3)


def levels(chart: Chart) -> dict[str, float]:
    """Return the value of guessing, or how far each size can fall until it only guesses, by colour.

    Where it is near what was seen.
    """
    found: dict[str, float] = {}
    seen: list[float] = [0.0] if chart.column == "delta" else []
    for one in chart.every:
        rows = one.on(chart.panel.suite, chart.panel.task)
        if rows.empty or rows["chance"].isna().any():
            continue
        chance, before = float(rows["chance"].iloc[0]), float(rows["before"].iloc[0])
        found[one.colour if chart.column == "delta" else GREY] = (
            chance - (before if chart.column == "delta" else 0.0)
        ) * chart.panel.unit.scale
        seen += [float(v) * chart.panel.unit.scale for v in (rows["delta"] if chart.column == "delta" else rows["after"])] + (
            [before * chart.panel.unit.scale] if chart.column == "after" else []
        )
    if not found:
        return {}
    room = 0.35 * ((max(seen) - min(seen)) or 1.0)
    near = max(found.values()) >= min(seen) - room and min(found.values()) <= max(seen) + room
    return found if near else {}


def _draw_levels(axes: Axes, chart: Chart) -> None:
    for colour, level in levels(chart).items():
        axes.axhline(level, color=colour, linewidth=1, linestyle=(0, (1, 2)), zorder=1, gid="guessing")


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem.png`` (150 dots an inch), ``stem.svg`` and ``stem.pdf``.

    The same figure gives the same bytes.
    """
    with mpl.rc_context({"svg.hashsalt": "harness", "pdf.fonttype": 42}):
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None, "ModDate": None})
