"""The search of learning rates: target and same-data control against the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.findings import learning_rates, validity
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
_TOO_HIGH = Mark(label="control too high", colour=METHODS[1], marker="hollow")
_WORST = Mark(label="same-data control, its worst task", colour=METHODS[1], line="1.5 3")
_USED = Mark(label="rate used", colour=GREY, line="4 2")


def rates(evidence: Evidence) -> Section | None:
    """Return the curve of each searched combination; None for an experiment that is no search."""
    if not evidence.rates:
        return None
    intro = (
        "The rate used is the smallest whose score on the target is within one standard error of the best: the error of their difference,"
        " over seeds and items. Where the same-data control of that rate is too high (it lost more than the margin), it is the next lower"
        " rate where it is not. Scores are on select items, at the largest volume."
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
        whole: probe suite whose mean is drawn; empty where the control has another unit.
        tasks: tasks of which the worst is drawn.
        every: all rates of the figure, which have ticks.
    """

    rate: SearchedRate
    panel: Panel
    whole: str
    tasks: Sequence[tuple[str, float]]
    every: Sequence[float]


def _figure(evidence: Evidence) -> FigureView:
    drawn = evidence.rates[:MAX_PANELS]
    every = sorted({rate for one in drawn for rate in one.candidates})
    places = [Place(_curve(evidence, rate, every), _name(rate), rate.data, shares="all") for rate in drawn]
    legend = [_TARGET, _BEST, _USED]
    if any(place.subject.whole for place in places):
        legend += [_CONTROL, _TOO_HIGH]
    if any(place.subject.tasks for place in places):
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


def _curve(evidence: Evidence, rate: SearchedRate, every: Sequence[float]) -> _Curve:
    panel = evidence.panel_of[rate.suite, "*"]
    asked = list(dict.fromkeys(name for one in rate.curve for name in one.control))
    alike = [(of, name) for name in asked for of in evidence.panel_of if name == (of[0] if of[1] == "*" else of[1])]
    shown = [(name, evidence.panel_of[of].sign, of[1] == "*") for of, name in alike if evidence.panel_of[of].unit.name == panel.unit.name]
    suites = sorted((name for name, _, is_suite in shown if is_suite), key=lambda name: name != evidence.headline)
    tasks = [(name, sign) for name, sign, is_suite in shown if not is_suite]
    return _Curve(rate, panel, suites[0] if suites else "", tasks, every)


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
    known = [(place, one) for place, one in zip(at, rate.curve, strict=True) if curve.whole in one.control]
    if known:
        _draw_control(axes, curve, known)
    exponent = math.floor(math.log10(min(curve.every)) + 1e-9)
    ticks = curve.every[:: math.ceil(len(curve.every) / MAX_TICKS)]
    axes.set_xticks(np.log2(ticks), [f"{tick / 10.0**exponent:.3g}" for tick in ticks])
    axes.set_xlim(math.log2(min(curve.every)) - 0.3, math.log2(max(curve.every)) + 0.3)
    axes.set_xlabel(f"learning rate (× 1e{exponent}, log scale)")
    axes.set_ylabel(plain(f"change in {words.unit_name(curve.panel)}"))
    axes.grid(axis="y", color=GREY, linewidth=0.4, alpha=0.3)
    axes.set_axisbelow(True)


def _draw_control(axes: Axes, curve: _Curve, known: Sequence[tuple[float, Candidate]]) -> None:
    scale, at = curve.panel.unit.scale, [place for place, _ in known]
    values = [one.control[curve.whole] * scale for _, one in known]
    axes.plot(at, values, color=_CONTROL.colour, linewidth=1.3, zorder=3, gid="control")
    for place, value, (_, one) in zip(at, values, known, strict=True):
        fill = "none" if one.control_check == validity.TOO_HIGH else _CONTROL.colour
        axes.plot([place], [value], color=_CONTROL.colour, marker=_CONTROL.marker, markersize=4.2, markerfacecolor=fill, zorder=4)
    if curve.tasks:
        worst = [min((sign * one.control.get(name, math.nan), sign) for name, sign in curve.tasks) for _, one in known]
        lines = [sign * value * scale for value, sign in worst]
        axes.plot(at, lines, color=_WORST.colour, linewidth=1, linestyle=dashes(_WORST.line), zorder=2, gid="worst")


def _table(evidence: Evidence) -> TableView:
    """Return one row per combination and candidate."""
    rows, groups = list[list[CellView | str]](), list[RowGroup]()
    for rate in evidence.rates:
        groups.append(RowGroup(len(rows), f"{_name(rate)}, {rate.data}"))
        rows += [_row(evidence, rate, one) for one in rate.curve]
    names = {"suite": "suite", "metric": "metric", "volume": "volume"}
    data = pd.DataFrame(
        [
            {key: getattr(rate, key) for key in [*learning_rates.KEYS, *names]}
            | {"before": rate.before, "used": one.learning_rate == rate.learning_rate, "rule": one.learning_rate == rate.rule}
            | {name: value for name, value in plain_values(one).items() if name != "control"}
            | {f"control_{name}": value for name, value in one.control.items()}
            for rate in evidence.rates
            for one in rate.curve
        ]
    )
    return TableView(
        name="rates",
        columns=[
            ColumnView(title="learning rate", is_number=True),
            ColumnView(title="score on the target", is_number=True, meaning="mean over seeds ± one standard error over seeds and items"),
            ColumnView(title="behind the best", is_number=True, meaning="difference ± its standard error, on the same items"),
            ColumnView(title="control", is_prose=True, meaning="change of the same-data control on each probe suite and task"),
            ColumnView(title="control check", meaning="too high: lost more than the margin; not settled: its interval reaches beyond"),
            ColumnView(title="", meaning="the best rate, the one of the rule, and the one that is used"),
        ],
        rows=rows,
        groups=groups,
        caption="All rates that were tried, on select items. ± is one standard error.",
        data=data,
    )


def _row(evidence: Evidence, rate: SearchedRate, one: Candidate) -> list[CellView | str]:
    unit = evidence.panel_of[rate.suite, "*"].unit
    units = {of[0] if of[1] == "*" else of[1]: panel.unit for of, panel in evidence.panel_of.items()}
    control = ", ".join(f"{name} {words.amount(value, units.get(name, unit), sign=True)}" for name, value in one.control.items())
    marks = {"best": rate.best, "rule": rate.rule, "used": rate.learning_rate}
    mark = ", ".join(name for name, of in marks.items() if of == one.learning_rate)
    return [
        CellView(f"{one.learning_rate:g}", one.learning_rate),
        CellView(f"{words.amount(one.score, unit)} ± {words.amount(one.stderr, unit)}", one.score),
        CellView(f"{words.amount(one.behind, unit)} ± {words.amount(one.behind_stderr, unit)}", one.behind),
        control,
        one.control_check,
        CellView(mark, kind="strong" if "used" in mark else ""),
    ]
