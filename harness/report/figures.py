"""Figures of curves against volume, drawn from findings.

Every curve has units and intervals. Colour means model size (dark to light, legible in grey and to
colour-blind readers), line and marker mean the method; if each size has its own panels, colour and
marker mean the method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.findings import validity
from harness.analysis.statistics.stats import Floats
from harness.analysis.table.columns import SUITE_TASK
from harness.report import axis, words
from harness.report.content import FigureView, Mark
from harness.report.curves import MAX_STYLES, Series, chosen, legend
from harness.report.drawing import MAX_COLUMNS, Place, columns_for, dashes, plain, small_multiples
from harness.report.methods import methods
from harness.report.palette import GREY
from harness.report.tables import Panel, possible_ends

if TYPE_CHECKING:
    from harness.analysis.fits.all_laws import Fitted
    from harness.analysis.fits.fitting import Fit

MAX_PANELS = 24
MAX_TOGETHER = 5
"""Several styles with more curves than this have one panel each."""

MAX_SEED_LINES = 5
MAX_NAMED = 4

Column = Literal["delta", "after"]


@dataclass(frozen=True)
class Chart:
    """A panel of curves against volume.

    Attributes:
        panel: the suite or task.
        every: the curves.
        column: the column of the findings that is drawn.
        volumes: all volumes of the figure, which have ticks.
        controls: the curves' same-data controls, drawn thin and grey.
        seeds: cell → one frame per seed with volume and value, drawn thin.
        fits: cell → the law fitted to it.
        unit: of the volumes.
    """

    panel: Panel
    every: Sequence[Series]
    column: Column
    volumes: Sequence[int]
    controls: Sequence[Series] = ()
    seeds: Mapping[str, Sequence[pd.DataFrame]] = field(default_factory=dict)
    fits: Mapping[str, Fit] = field(default_factory=dict)
    unit: str = "rows"


def against_volume(
    name: str,
    every: Sequence[Series],
    shown: Sequence[Panel],
    column: Column,
    *,
    table: pd.DataFrame | None = None,
    fits: Mapping[str, Fitted] | None = None,
    title: str,
) -> FigureView | None:
    """Draw a change or a value against volume, one panel per suite or task.

    If there are many curves, each panel becomes a row of panels, one per method.

    Args:
        name: stem of the files.
        every: series, of which at most curves.MAX_MODELS × curves.MAX_STYLES are drawn; controls
            are drawn in the panels of the methods that they control.
        shown: suites and tasks.
        column: ``delta`` (change since before training) or ``after`` (the metric's value).
        table: the tidy table, for the thin line of each seed.
        fits: cell → the law fitted to it, drawn on the panels of its suite.
        title: of the figure.
    """
    on = _cells_on(every, shown)
    layout = _layout([one for one in [one for one in every if not one.is_control] or every if one.cell in on])
    kept, groups = [one for group in layout.groups.values() for one in group], layout.groups
    if not kept or not shown:
        return None
    volumes = sorted({0, *(int(v) for one in kept for v in one.rows["volume"])})
    places, unit = [], axis.axis_unit(table)
    controls = {one.cell: one for one in every if one.is_control and one not in kept}
    thin = {} if layout.is_crowded else seed_lines(table, kept, column)
    fits = {} if layout.is_crowded else fits or {}
    for panel in shown:
        for heading, group in groups.items():
            seeds = {one.cell: thin.get((one.cell, panel.suite, panel.task), []) for one in group}
            own_controls = [controls[cell] for cell in dict.fromkeys(one.control for one in group) if cell in controls]
            own_controls = [one for one in own_controls if len(one.on(panel.suite, panel.task))]
            chart = Chart(panel, group, column, volumes, own_controls, seeds, _fits_on(fits, panel, group), unit)
            places.append(Place(chart, panel.label, heading, (panel.suite, panel.task)))
    columns = len(groups) if 1 < len(groups) <= MAX_COLUMNS else columns_for(len(places))
    cut = words.drawn(len(places[:MAX_PANELS]), len(places), "panels")
    places = places[:MAX_PANELS]
    marks, law = [*layout.legend], next((one.law for one in fits.values() if any(place.subject.fits for place in places)), None)
    if law:
        marks += [Mark(label="fitted law, 90% band", line="band"), Mark(label="held out in turn", marker="hollow")]
    if any(place.subject.controls for place in places):
        marks.append(CONTROL_MARK)
    if any(levels(place.subject) for place in places):
        marks.append(Mark(label="guessing" if column == "after" else "down to guessing", colour=GREY, line="1.5 3"))
    thin_seeds = not layout.is_crowded
    whole, panels = small_multiples(
        places, draw_chart, marks, words.bars(pd.concat([one.rows for one in kept]), thin=thin_seeds), columns=columns
    )
    caption = _caption(kept, [place.subject for place in places], column, law=law, thin=thin_seeds)
    return FigureView(
        name=name,
        title=title,
        description=describe(kept, shown[0], column, unit),
        caption=" ".join(filter(None, [caption, layout.left_out, cut])),
        figure=whole,
        panels=panels,
        legend=marks,
        columns=columns,
    )


def _cells_on(every: Sequence[Series], shown: Sequence[Panel]) -> set[str]:
    """Return the cells that have a change on any of these panels."""
    if not every:
        return set()
    rows = every[0].found[["cell", "suite", "task", "delta"]].dropna(subset=["delta"])
    wanted, seen = {(panel.suite, panel.task) for panel in shown}, rows[["cell", "suite", "task"]].drop_duplicates()
    return {str(cell) for cell, suite, task in seen.itertuples(index=False) if (suite, task) in wanted}


@dataclass(frozen=True)
class _Layout:
    """Curves arranged in panels.

    Attributes:
        groups: heading of a panel → its curves.
        legend: of the curves.
        left_out: a sentence on the methods that are not drawn.
        is_crowded: whether there are too many curves for bands and thin lines.
    """

    groups: Mapping[str, Sequence[Series]]
    legend: Sequence[Mark]
    left_out: str
    is_crowded: bool = False


def _layout(every: Sequence[Series]) -> _Layout:
    """Return the panels of curves: one for all, one per style, or one per tuning.

    One per tuning if a single model has more than MAX_STYLES styles.
    """
    if len({one.model for one in every}) == 1 and len({one.style_name for one in every}) > MAX_STYLES:
        found = methods(every)
        groups = {panel.subtitle: [_with_mark(one, found.marks[one.cell]) for one in panel.every] for panel in found.panels}
        return _Layout(groups, found.legend, found.left_out, is_crowded=True)
    kept, left_out = chosen(every)
    styles = list(dict.fromkeys(one.style_name for one in kept))
    by_style = len(styles) > 1 and len(kept) > MAX_TOGETHER
    groups = {style: [one for one in kept if one.style_name == style] for style in styles} if by_style else {"": kept}
    return _Layout(groups, legend(kept), left_out)


def _with_mark(one: Series, mark: Mark) -> Series:
    return dataclasses.replace(one, colour=mark.colour, line="solid", marker=mark.marker)


def describe(every: Sequence[Series], panel: Panel, column: Column, unit: str = "rows") -> str:
    """Return a description of a figure of curves: the end of each curve."""
    ends = []
    for one in every[:12]:
        rows = one.on(panel.suite, panel.task)
        if len(rows):
            last = rows.iloc[-1]
            ends.append(f"{one.short}: {words.amount(last[column], panel.unit, sign=column == 'delta')} at {int(last['volume']):,} {unit}")
    what = "Change since before training" if column == "delta" else "Value"
    against = "volume in target rows" if unit == "rows" else unit
    return f"{what} against {against}. {panel.label}, {words.unit_name(panel)}: {'; '.join(ends)}. All numbers: findings.csv."


def _caption(every: Sequence[Series], charts: Sequence[Chart], column: Column, *, law: str | None, thin: bool) -> str:
    parts = [words.bars(pd.concat([one.rows for one in every]), thin=thin).capitalize() + "."]
    if column == "after":
        parts.append("Intervals are those of the change since before training, drawn around the value.")
    if any(chart.controls for chart in charts):
        parts.append("Thin grey lines are the same-data controls of the panel's curves, one per size.")
    drawn = [(one.on(chart.panel.suite, chart.panel.task), chart.panel) for chart in charts for one in chart.every]
    if any(is_cut(rows["delta_low"], rows["delta_high"], rows["before"], panel) for rows, panel in drawn):
        parts.append(CUT)
    if high := [one.short for one in every if validity.is_too_high(one.rows).any()]:
        parts.append(f"Where the learning rate is too high, nothing follows for others: {words.listed(high, MAX_NAMED)}.")
    if law:
        parts.append(f"Curves with bands are the law {law} fitted to each method, with 90% bands for the mean.")
        parts.append("Hollow points (largest volumes) were also held out in turn; the table of fits shows the error of predicting them.")
    return " ".join(parts)


CONTROL_MARK = Mark(label="same-data control", colour=GREY, line="solid")

CUT = "Bars end at what is possible: a share between 0 and 100, nats above 0. Files of data have the uncut intervals."


def possible(low: Any, high: Any, before: Any, panel: Panel) -> tuple[Floats, Floats]:
    """Return intervals of changes cut to possible values, as ``tables.possible_ends``.

    Args:
        low: lower ends of intervals, in the metric's unit and sign.
        high: upper ends.
        before: the values before training.
        panel: of the metric.
    """
    return possible_ends(_floats(low), _floats(high), _floats(before), panel.unit)


def is_cut(low: Any, high: Any, before: Any, panel: Panel) -> bool:
    """Return whether any of these intervals exceeds the possible values."""
    ends = possible(low, high, before, panel)
    whole = [_floats(end) for end in (low, high)]
    return bool((ends[0] > whole[0] + 1e-12).any() or (ends[1] < whole[1] - 1e-12).any())


def _floats(values: Any) -> Floats:
    return np.asarray(pd.array(values, dtype="Float64").to_numpy(dtype=np.float64, na_value=np.nan))


def seed_lines(table: pd.DataFrame | None, every: Sequence[Series], column: Column) -> dict[tuple[str, str, str], list[pd.DataFrame]]:
    """Return (cell, suite, task) → one frame per seed with volumes and values, by volume.

    Cells of one seed, or of more than MAX_SEED_LINES, are left out.
    """
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
    keys = ["cell", "suite", "task"]
    rows = rows[rows.groupby(keys)["seed"].transform("nunique") <= MAX_SEED_LINES].sort_values("volume")
    for (cell, suite, task), group in rows.groupby(keys, sort=False):
        seeds = [part[["volume", "value"]] for _, part in group.groupby("seed")]
        if len(seeds) > 1:
            found[str(cell), str(suite), str(task)] = seeds
    return found


def _fits_on(fits: Mapping[str, Fitted], panel: Panel, every: Sequence[Series]) -> dict[str, Fit]:
    is_suite = panel.task == SUITE_TASK or panel.label == panel.suite  # a suite of one task equals that task
    cells = {one.cell for one in every}
    return {cell: one.fit for cell, one in fits.items() if is_suite and cell in cells and one.fit is not None and one.suite == panel.suite}


def position(volume: float, volumes: Sequence[int]) -> float:
    """Return the place of a volume on the axis.

    The axis is logarithmic, in units of the mean step; volume 0 is one step before the smallest.
    """
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
    if panel.unit.name == "points":  # a share cannot change by more than 100 points, though an interval may be wider
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -102.0), min(high, 102.0))
    positions = [position(volume, chart.volumes) for volume in chart.volumes]
    axes.set_xticks(positions, [words.short_count(volume) for volume in chart.volumes])
    axes.set_xlim(-0.35, max(positions) + 0.35)
    axes.set_xlabel(axis.axis_label(chart.unit))
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
    fit = chart.fits.get(one.cell)
    style = {"color": one.colour, "linestyle": dashes(one.line)}
    for seed in chart.seeds.get(one.cell, ()):
        axes.plot([position(v, chart.volumes) for v in seed["volume"]], seed["value"] * scale, **style, linewidth=0.5, alpha=0.45, zorder=2)
    if fit is None:
        axes.plot(at, centre, **style, linewidth=1.5, marker=one.marker, markersize=4.2, zorder=4)
    else:
        _draw_fit(axes, chart, one, fit, shift)
        axes.plot(at[:-1], centre[:-1], color=one.colour, linestyle="", marker=one.marker, markersize=4.2, zorder=4)
        axes.plot(at[-1:], centre[-1:], color=one.colour, linestyle="", marker=one.marker, markersize=5, markerfacecolor="none", zorder=4)
    axes.vlines(at[1:], ends["low"], ends["high"], color=one.colour, linewidth=1.3, alpha=0.7, zorder=3)


def _draw_control(axes: Axes, chart: Chart, one: Series) -> None:
    rows = one.on(chart.panel.suite, chart.panel.task)
    base = 0.0 if chart.column == "delta" else float(rows["before"].astype(float).mean())
    values = np.array([0.0, *rows["delta"].astype(float)]) + base
    at = [position(volume, chart.volumes) for volume in [0, *map(int, rows["volume"])]]
    axes.plot(at, values * chart.panel.unit.scale, color=GREY, linewidth=0.9, alpha=0.75, zorder=2, gid="control")


def _draw_fit(axes: Axes, chart: Chart, one: Series, fit: Fit, shift: float) -> None:
    """Draw a law of forgetting over its volumes, in the metric's own sign."""
    positive = [v for v in chart.volumes if v]
    grid = np.geomspace(min(positive), max(positive), 40)
    sign = -chart.panel.sign * chart.panel.unit.scale
    columns = {"volume": grid} | {name: [value] * len(grid) for name, value in one.labels.items() if name in {"params_total"}}
    band = fit.band(pd.DataFrame(columns))
    at = [position(v, chart.volumes) + shift for v in grid]
    ends = [-chart.panel.sign * band[name].astype(float).to_numpy() for name in ["low", "high"]]
    before = float(one.on(chart.panel.suite, chart.panel.task)["before"].astype(float).mean())
    low, high = possible(np.minimum(*ends), np.maximum(*ends), np.full(len(grid), before), chart.panel)
    axes.fill_between(at, low * chart.panel.unit.scale, high * chart.panel.unit.scale, color=one.colour, alpha=0.13, linewidth=0, zorder=1)
    axes.plot(at, band["value"].astype(float).to_numpy() * sign, color=one.colour, linestyle=dashes(one.line), linewidth=1.3, zorder=3)


def levels(chart: Chart) -> dict[str, float]:
    """Return colour → level of guessing; for changes, one level per model size.

    Empty if no level is near the values drawn, so that it does not stretch the axis.
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
    """Write ``stem.png`` (150 dpi), ``stem.svg`` and ``stem.pdf``, reproducible byte for byte."""
    with mpl.rc_context({"svg.hashsalt": "harness", "pdf.fonttype": 42}):
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None, "ModDate": None})
