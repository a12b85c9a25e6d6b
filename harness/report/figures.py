"""Figures: tidy table in, matplotlib Figure out. Nothing is drawn without its data, units and intervals.

Colour is model size (dark to light, legible to colour-blind readers and in grey), line and marker are what else was varied. One seed:
bars are 95% intervals over items. Three seeds or more: their mean with 95% intervals over seeds and items, each seed a thin line; two:
no bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from harness.report.curves import MIN_SEEDS, Column, Series, curve_of, series
from harness.report.tables import Panel, panels

GREY = "#767676"
DOTTED = (0, (1, 2))
PANEL_INCHES = (3.3, 2.75)
MAX_COLUMNS = 3
MAX_SEEDED = 4
MAX_STYLES = 2
"""More ways of training than this would hide each other on one panel."""


@dataclass(frozen=True)
class Place:
    """Axes with what is drawn on them."""

    axes: Axes
    panel: Panel
    every: list[Series]
    title: str


def forgetting(table: pd.DataFrame) -> Figure | None:
    """Draw the change on each probe against volume; None where there is no probe."""
    return _against_volume(table, "probe", "delta")


def learning(table: pd.DataFrame) -> Figure | None:
    """Draw the value of each target against volume, with the level of guessing; None where there is no target."""
    return _against_volume(table, "target", "value")


def _against_volume(table: pd.DataFrame, role: str, column: Column) -> Figure | None:
    shown, every, volumes = panels(table, role), series(table), _volumes(table)
    if not shown or not every:
        return None
    figure, places = _grid(shown, every, "style_name")
    for place in places:
        _curves(place, column, volumes)
        _guessing(place, column)
        _decorate(place, _measured(place.panel, "change in " if column == "delta" else ""), "volume (target rows, log scale)")
        place.axes.set_xticks([_position(volume, volumes) for volume in volumes], [f"{volume:,}" for volume in volumes])
        if place.panel.unit.name == "points":  # no share of items changes by more than all of them, whatever an interval over seeds says
            low, high = place.axes.get_ylim()
            place.axes.set_ylim(max(low, -102.0), min(high, 102.0))
        place.axes.set_xlim(-0.35, _position(max(volumes), volumes) + 0.35)
    drawn = any(line.get_gid() == "guessing" for place in places for line in place.axes.lines)
    label = "guessing" if column == "value" else "down to guessing"
    _finish(figure, table, every, [Line2D([], [], color=GREY, linestyle=DOTTED, linewidth=1, label=label)] if drawn else [])
    return figure


def tradeoff(table: pd.DataFrame) -> Figure | None:
    """Draw the change on each probe against that on the first target, a path from before to the largest volume for each series.

    Both axes are oriented so that more is better: right has learned more, up has kept more.
    """
    targets, probes, every = panels(table, "target"), panels(table, "probe"), series(table)
    if not targets or not probes or not every:
        return None
    figure, places = _grid(probes, every, "model")
    for place in places:
        for line in (place.axes.axhline, place.axes.axvline):
            line(0.0, color=GREY, linewidth=0.8, zorder=1)
        for one in place.every:
            _path(place.axes, one, targets[0], place.panel)
        _decorate(place, _oriented(place.panel), f"{targets[0].label}: {_oriented(targets[0])}")
    _finish(figure, table, every, [Line2D([], [], color=GREY, marker=".", linestyle="", label="larger marker:\nlarger volume")])
    return figure


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem.png`` (150 dots an inch) and ``stem.svg``; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "harness"}):
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def _volumes(table: pd.DataFrame) -> list[int]:
    return sorted({int(v) for v in table["volume"].dropna()})


def _position(volume: int, volumes: Sequence[int]) -> float:
    """Return where a volume stands on the axis: logarithmic in units of the mean step, with 0 one step before the smallest."""
    positive = [v for v in volumes if v]
    step = math.log2(max(positive) / min(positive)) / (len(positive) - 1) if len(positive) > 1 else 1.0
    return 0.0 if volume == 0 else math.log2(volume / min(positive)) / step + 1.0


def _curves(place: Place, column: Column, volumes: Sequence[int]) -> None:
    axes, every = place.axes, place.every
    if column == "delta":
        axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    for index, one in enumerate(every):
        curve = curve_of(place.panel, one.rows, column)
        shift = (index - (len(every) - 1) / 2) * min(0.06, 0.4 / len(every))
        at = [_position(volume, volumes) + (shift if volume else 0.0) for volume in curve.volumes]
        if len(curve.seeds) > 1:
            for values in curve.seeds:
                axes.plot(at, values.tolist(), color=one.colour, linestyle=one.line, linewidth=0.5, alpha=0.4, zorder=2)
        axes.plot(at, curve.centre, color=one.colour, linestyle=one.line, linewidth=1.4, marker=one.marker, markersize=4, zorder=4)
        axes.vlines(at, curve.low, curve.high, color=one.colour, linewidth=1.2, alpha=0.65, zorder=3)


def _guessing(place: Place, column: Column) -> None:
    """Mark the value of guessing, or how far each model can fall until it only guesses, where that is near what was seen."""
    low, high = place.axes.get_ylim()
    levels = {}
    for one in place.every:
        rows = place.panel.rows(one.rows[one.rows["volume"] == 0])
        level = (rows["chance"] - (rows["value"] if column == "delta" else 0.0)).astype(float).mean() * place.panel.unit.scale
        levels[one.colour if column == "delta" else GREY] = float(level)
    known = {colour: level for colour, level in levels.items() if level <= (high if column == "value" else 0.0)}
    if known and max(known.values()) >= low - 0.25 * (high - low):
        for colour, level in known.items():
            place.axes.axhline(level, color=colour, linewidth=1, linestyle=DOTTED, zorder=1, gid="guessing")


def _path(axes: Axes, one: Series, target: Panel, probe: Panel) -> None:
    def oriented(panel: Panel, suffix: str) -> pd.DataFrame:
        sign, curve = 1.0 if panel.higher_is_better else -1.0, curve_of(panel, one.rows, "delta")
        ends = pd.DataFrame({"centre": curve.centre, "low": curve.low, "high": curve.high}, index=curve.volumes)
        return (ends * sign).add_suffix(suffix)

    both = oriented(target, "_x").join(oriented(probe, "_y"), how="inner")
    x, y = both["centre_x"], both["centre_y"]
    axes.plot(x, y, color=one.colour, linestyle=one.line, linewidth=1.1, zorder=3)
    axes.scatter(x, y, s=np.linspace(8, 55, len(x)), color=[one.colour], marker=one.marker, linewidths=0, zorder=4)
    axes.hlines(y, both["low_x"], both["high_x"], color=one.colour, linewidth=0.7, alpha=0.4, zorder=2)
    axes.vlines(x, both["low_y"], both["high_y"], color=one.colour, linewidth=0.7, alpha=0.4, zorder=2)


def _grid(shown: Sequence[Panel], every: Sequence[Series], split: Literal["style_name", "model"]) -> tuple[Figure, list[Place]]:
    """Lay panels out in reading order; with more than MAX_STYLES ways of training, a row for each of them (or each model).

    Curves over several seeds have thin lines beside them and wider bars: more than MAX_SEEDED of them get a row a way, too.
    """
    names = list(dict.fromkeys(getattr(one, split) for one in every))
    seeded = any(one.rows["seed"].nunique() > 1 for one in every) and len(every) > MAX_SEEDED and split == "style_name"
    by_row = (len({one.style_name for one in every}) > MAX_STYLES or seeded) and len(names) > 1
    columns = len(shown) if by_row else min(len(shown), 2 if len(shown) == 4 else MAX_COLUMNS)
    rows = len(names) if by_row else math.ceil(len(shown) / columns)
    height = PANEL_INCHES[1] * rows + 0.35
    layout = ConstrainedLayoutEngine(rect=(0.0, 0.2 / height, 1.0, 1.0 - 0.2 / height))
    figure = Figure(figsize=(PANEL_INCHES[0] * columns + 2.2, height), layout=layout)
    FigureCanvasAgg(figure)
    groups = [[one for one in every if getattr(one, split) == name] for name in names] if by_row else [list(every)]
    places: list[Place] = []
    for group in groups:
        for panel in shown:
            above = places[len(places) - len(shown)].axes if group is not groups[0] else None
            axes = figure.add_subplot(rows, columns, len(places) + 1, sharex=above, sharey=above)
            places.append(Place(axes, panel, group, f"{panel.label}: {getattr(group[0], split)}" if by_row else panel.label))
    return figure, places


def _measured(panel: Panel, before: str) -> str:
    better = "" if panel.higher_is_better else "less is better"
    notes = ", ".join(filter(None, ["points" if panel.unit.name == "points" else "", better]))
    return f"{before}{panel.metric if panel.unit.name == 'points' else panel.unit.name}" + (f" ({notes})" if notes else "")


def _oriented(panel: Panel) -> str:
    if panel.unit.name == "points":
        return f"change in {panel.metric} (points)"
    return f"{'gain' if panel.higher_is_better else 'fall'} in {panel.unit.name}"


def _decorate(place: Place, y_label: str, x_label: str) -> None:
    axes = place.axes
    axes.set_title(_text(place.title), fontsize=9)
    axes.set_ylabel(_text(y_label), fontsize=8)
    axes.set_xlabel(_text(x_label), fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7.5)


def _finish(figure: Figure, table: pd.DataFrame, every: Sequence[Series], notes: Sequence[Line2D]) -> None:
    """Put the legend, and a note on what the bars are, outside the data."""
    figure.legend(handles=_handles(every, table) + list(notes), loc="outside right upper", frameon=False, fontsize=8, handlelength=3.2)
    versions = ", ".join(str(version) for version in table["protocol_version"].dropna().unique())
    untuned = "" if table["lr_tuned"].fillna(True).all() else "learning rate not tuned: not a method comparison; "
    figure.text(0.995, 0.008, f"{untuned}{_bars(table)}; protocol {versions}", ha="right", va="bottom", fontsize=6.5, color=GREY)


def _handles(every: Sequence[Series], table: pd.DataFrame) -> list[Line2D]:
    models = {one.model: one.colour for one in every}
    styles = {one.style_name: (one.line, one.marker) for one in every}
    sizes = table.groupby("model")["params_total"].max()
    by_model = [Line2D([], [], color=colour, linewidth=3, label=_text(_sized(model, sizes[model]))) for model, colour in models.items()]
    by_style = [
        Line2D([], [], color="#333333", linestyle=line, marker=marker, markersize=4, linewidth=1.4, label=_text(name))
        for name, (line, marker) in styles.items()
    ]
    return by_model + by_style


def _sized(model: str, params: Any) -> str:
    if pd.isna(params):
        return model
    units = [(1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")]
    size, letter = next((size, letter) for size, letter in units if float(params) >= size or size == 1.0)
    name = model if len(model) <= 24 else model.rsplit("/", 1)[-1]
    name = name if len(name) <= 30 else f"…{name[-29:]}"
    return f"{name} ({float(params) / size:.3g}{letter})"


def _bars(table: pd.DataFrame) -> str:
    seeds = int(table["seed"].nunique())
    if seeds <= 1:
        return "bars: 95% intervals over items, one seed"
    many = "bars: 95% intervals over seeds and items" if seeds >= MIN_SEEDS else "no intervals over so few"
    return f"thick: mean of {seeds} seeds, thin: each seed, {many}"


def _text(text: str) -> str:
    """Keep matplotlib from reading mathematics into names."""
    return text.replace("$", r"\$")
