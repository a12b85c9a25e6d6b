"""The search of learning rates: target and same-data control against the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.findings import learning_rates
from harness.analysis.table.columns import SUITE_TASK
from harness.config.resolution import Candidate, SearchedRate
from harness.config.strict import plain as plain_values
from harness.report import words
from harness.report.content import CellView, ColumnView, FigureView, Mark, RowGroup, Section, TableView
from harness.report.drawing import Place, columns_for, dashes, plain, small_multiples
from harness.report.evidence import Evidence
from harness.report.palette import GREY, METHODS
from harness.report.tables import Panel

MAX_PANELS = 24
MAX_TICKS = 9

_TARGET = Mark(label="target", colour=METHODS[0], line="solid", marker="o")
_BEST = Mark(label="best score on the target", colour=METHODS[0], line="1.5 3")
_CONTROL = Mark(label="same-data control, mean of the probe tasks", colour=METHODS[1], line="solid", marker="s")
_FAILS = Mark(label="does not pass", colour=METHODS[1], marker="hollow")
_WORST = Mark(label="same-data control, its worst task", colour=METHODS[1], line="1.5 3")
_USED = Mark(label="rate used", colour=GREY, line="4 2")


def rates(evidence: Evidence) -> Section | None:
    """Return the curve of each searched combination; None for an experiment that is no search."""
    if not evidence.rates:
        return None
    intro = (
        "The rate used is the smallest whose score on the target is within one standard error of the best: the error of their difference,"
        " over seeds and items. Where it does not pass, it is the next lower rate that does: one whose same-data control is not too high,"
        " and whose loss on each probe task, and their mean, is smaller than the margin by a standard error. Scores are on select items, at"
        " the largest volume."
    )
    notes = [f"{_name(rate)}, {rate.data}: {remark}." for rate in evidence.rates for remark in learning_rates.remarks(rate)]
    figures, tables = [_figure(evidence)], [_table(evidence)]
    return Section(id="rates", title="Learning rates", intro=intro, figures=figures, tables=tables, notes=notes)


def _name(rate: SearchedRate) -> str:
    return " · ".join([rate.model, rate.tuning, *([rate.mitigation] if rate.mitigation != "none" else [])])


@dataclass(frozen=True)
class _Curve:
    """A panel: a searched combination and what its control is read on.

    Attributes:
        rate: the combination.
        panel: of its target suite.
        whole: probe suite whose mean is shown; None without a control.
        tasks: its tasks, of which the worst is shown.
        every: all rates of the figure, which have ticks.
    """

    rate: SearchedRate
    panel: Panel
    whole: Panel | None
    tasks: Sequence[Panel]
    every: Sequence[float]

    @property
    def has_one_unit(self) -> bool:
        """Whether target and control can share an axis."""
        return self.whole is not None and self.whole.unit.name == self.panel.unit.name

    def worst(self, one: Candidate) -> tuple[float, str] | None:
        """Return the change of the control's worst task, in its own sign, and the task."""
        known = [(panel.sign * one.control[panel.task], panel) for panel in self.tasks if panel.task in one.control]
        value, panel = min(known, key=lambda pair: pair[0], default=(math.nan, None))
        return (panel.sign * value, panel.task) if panel else None


def _figure(evidence: Evidence) -> FigureView:
    drawn = evidence.rates[:MAX_PANELS]
    every = sorted({rate for one in drawn for rate in one.candidates})
    places = [Place(_curve(evidence, rate, every), _name(rate), rate.data, shares="all") for rate in drawn]
    legend = [_TARGET, _BEST, _USED]
    if any(place.subject.has_one_unit for place in places):
        legend += [_CONTROL, _FAILS]
    if any(place.subject.has_one_unit and place.subject.tasks for place in places):
        legend.append(_WORST)
    columns = columns_for(len(places))
    bars = "bars: one standard error of the difference from the best"
    whole, panels = small_multiples(places, _draw, legend, bars, columns=columns)
    used = "; ".join(f"{_name(rate)}: {rate.learning_rate:g} used, {rate.best:g} best" for rate in drawn[:12])
    cut = words.drawn(len(drawn), len(evidence.rates), "panels")
    return FigureView(
        name="rates",
        title="Target and same-data control by learning rate",
        description=f"Change on the target and of the same-data control on the probes, against the learning rate. {used}.",
        caption=" ".join(
            filter(
                None,
                [
                    "Change since before training, mean over seeds. A rate whose bar reaches the dotted line is within one standard error"
                    " of the best.",
                    cut,
                ],
            )
        ),
        figure=whole,
        panels=panels,
        legend=legend,
        columns=columns,
    )


def _curve(evidence: Evidence, rate: SearchedRate, every: Sequence[float] = ()) -> _Curve:
    asked = {name for one in rate.curve for name in one.control}
    suites = [suite for suite, task in evidence.panel_of if suite in asked and task == SUITE_TASK]
    suites.sort(key=lambda suite: suite != evidence.headline)
    whole = evidence.panel_of[suites[0], SUITE_TASK] if suites else None
    tasks = [panel for panel in evidence.panel_of.values() if whole and panel.suite == whole.suite and panel.task in asked]
    return _Curve(rate, evidence.panel_of[rate.suite, SUITE_TASK], whole, tasks, every)


def _draw(axes: Axes, curve: _Curve) -> None:
    """Draw changes against the rate on axes, with labels and units."""
    rate, scale, before = curve.rate, curve.panel.unit.scale, curve.rate.before or 0.0
    at = np.log2([one.learning_rate for one in rate.curve])
    gains = np.array([(one.score - before) * scale for one in rate.curve])
    errors = np.array([(one.behind_stderr or 0.0) * scale for one in rate.curve])
    axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    best = next(gain for one, gain in zip(rate.curve, gains, strict=True) if one.learning_rate == rate.best)
    axes.axhline(best, color=_BEST.colour, linewidth=1, linestyle=dashes(_BEST.line), zorder=1, gid="best")
    axes.axvline(math.log2(rate.learning_rate), color=_USED.colour, linewidth=1.1, linestyle=dashes(_USED.line), zorder=1, gid="used")
    axes.plot(at, gains, color=_TARGET.colour, linewidth=1.5, marker=_TARGET.marker, markersize=4.2, zorder=4, gid="target")
    axes.vlines(at, gains - errors, gains + errors, color=_TARGET.colour, linewidth=1.3, alpha=0.7, zorder=3)
    if curve.whole and curve.has_one_unit:
        suite = curve.whole.suite
        _draw_control(axes, curve, suite, [(place, one) for place, one in zip(at, rate.curve, strict=True) if suite in one.control])
    exponent = math.floor(math.log10(min(curve.every)) + 1e-9)
    ticks = curve.every[:: math.ceil(len(curve.every) / MAX_TICKS)]
    axes.set_xticks(np.log2(ticks), [f"{tick / 10.0**exponent:.4g}" for tick in ticks])
    axes.set_xlim(math.log2(min(curve.every)) - 0.3, math.log2(max(curve.every)) + 0.3)
    axes.set_xlabel(f"learning rate (× 1e{exponent}, log scale)")
    axes.set_ylabel(plain(f"change in {words.unit_name(curve.panel)}"))
    axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.3)
    axes.set_axisbelow(True)


def _draw_control(axes: Axes, curve: _Curve, suite: str, known: Sequence[tuple[float, Candidate]]) -> None:
    scale, at = curve.panel.unit.scale, [place for place, _ in known]
    values = [one.control[suite] * scale for _, one in known]
    axes.plot(at, values, color=_CONTROL.colour, linewidth=1.3, zorder=3, gid="control")
    for place, value, (_, one) in zip(at, values, known, strict=True):
        marker, fill = (_CONTROL.marker, _CONTROL.colour) if one.passes else ("o", "white")
        axes.plot([place], [value], color=_CONTROL.colour, marker=marker, markersize=4.2, markerfacecolor=fill, zorder=4)
    worst = [(place, found[0] * scale) for place, one in known if (found := curve.worst(one))]
    axes.plot(*zip(*worst, strict=True) if worst else ((), ()), color=_WORST.colour, linewidth=1, linestyle=dashes(_WORST.line), zorder=2)


def _table(evidence: Evidence) -> TableView:
    """Return one row per combination and candidate."""
    rows, groups = list[list[CellView | str]](), list[RowGroup]()
    for rate in evidence.rates:
        groups.append(RowGroup(len(rows), f"{_name(rate)}, {rate.data}"))
        curve = _curve(evidence, rate)
        rows += [_row(curve, one) for one in rate.curve]
    data = pd.DataFrame(
        [
            {key: getattr(rate, key) for key in [*learning_rates.KEYS, "suite", "metric", "volume", "before"]}
            | {"used": one.learning_rate == rate.learning_rate, "rule": one.learning_rate == rate.rule}
            | {name: value for name, value in plain_values(one).items() if name != "control"}
            | {f"control_{name}": value for name, value in one.control.items()}
            for rate in evidence.rates
            for one in rate.curve
        ]
    )
    return TableView(
        name="rates",
        columns=[
            ColumnView(title="learning rate", is_number=True, meaning="with the best rate, that of the rule, and that which is used"),
            ColumnView(title="score on the target", is_number=True, meaning="mean over seeds ± one standard error over seeds and items"),
            ColumnView(title="behind the best", is_number=True, meaning="difference ± its standard error, on the same items"),
            ColumnView(title="control", is_number=True, meaning="change of the same-data control, mean of the probe tasks"),
            ColumnView(title="its worst task", is_number=True),
            ColumnView(title="control check", meaning="too high: lost more than the margin, and not by chance; not settled: may have"),
        ],
        rows=rows,
        groups=groups,
        caption="All rates that were tried, on select items. ± is one standard error.",
        data=data,
    )


def _row(curve: _Curve, one: Candidate) -> list[CellView | str]:
    rate, unit = curve.rate, curve.panel.unit
    marks = {"best": rate.best, "rule": rate.rule, "used": rate.learning_rate}
    mark = ", ".join(name for name, of in marks.items() if of == one.learning_rate)
    control, worst = one.control.get(curve.whole.suite) if curve.whole else None, curve.worst(one)
    of = curve.whole.unit if curve.whole else unit
    return [
        CellView(f"{one.learning_rate:g}", one.learning_rate, kind="strong" if "used" in mark else "", note=mark),
        CellView(f"{words.amount(one.score, unit)} ± {words.amount(one.stderr, unit)}", one.score),
        CellView(f"{words.amount(one.behind, unit)} ± {words.amount(one.behind_stderr, unit)}", one.behind),
        words.amount_cell(control, of, sign=True),
        CellView(words.amount(worst[0], of, sign=True), worst[0], note=worst[1]) if worst else words.UNKNOWN,
        CellView(one.control_check or words.UNKNOWN, note="" if one.passes else "does not pass"),
    ]
