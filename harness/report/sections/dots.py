"""Gain and loss of every method side by side, as points with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.report import words
from harness.report.content import VERDICT_KINDS, FigureView, Mark, Section
from harness.report.drawing import plain, shortened
from harness.report.evidence import Evidence
from harness.report.palette import GREY, METHODS
from harness.report.summary import MethodRow, Summary, summary
from harness.report.tables import Panel, possible_ends

MAX_ROWS = 40
ROW_INCHES, NAME_INCHES = 0.25, 0.062
MAX_NAME = 52

COLOURS = {"lost": METHODS[1], "gained": METHODS[0], "kept": METHODS[2], "unclear": GREY}
"""Kind of a verdict → colour."""

MARKERS = {"lost": "v", "gained": "^", "kept": "s", "unclear": "o"}
_LABELS = {"lost": "lost", "gained": "gained", "kept": "kept", "unclear": "not enough evidence"}


def dots(evidence: Evidence) -> Section | None:
    """Return gain and loss of each method, in the order of the first table."""
    found = summary(evidence)
    panels = [panel for panel in (found.gain, *found.losses[:1]) if panel]
    rows = [row for row in found.rows if row.gain is not None or (row.losses and row.losses[0] is not None)]
    if len(rows) < 2 or not panels:
        return None
    shown = rows[:MAX_ROWS]
    names = [shortened(row.name, MAX_NAME) for row in shown]
    width = 1.0 + NAME_INCHES * max(map(len, names)) + 2.4 * len(panels)
    figure = Figure(figsize=(width, 0.9 + ROW_INCHES * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    kinds: dict[str, None] = {}
    for panel, drawn in zip(panels, axes, strict=True):
        is_gain = panel is found.gain
        changes = [row.gain if is_gain else row.losses[0] for row in shown]
        kinds |= dict.fromkeys(_draw(drawn, panel, changes, panel.sign if is_gain else -panel.sign, evidence, shown))
        drawn.set_xlabel(plain(f"{'gain' if is_gain else 'loss'} on {panel.suite} ({panel.unit.name})"), fontsize=8.5)
    axes[0].set_yticks(range(len(shown)), [plain(name) for name in names], fontsize=8)
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    legend = [Mark(label=_LABELS[kind], colour=COLOURS[kind], marker=MARKERS[kind]) for kind in _LABELS if kind in kinds]
    return Section(
        id="dots",
        title="Gain and loss",
        figures=[
            FigureView(
                name="methods_figure",
                title="Every method: gain and loss" if len(panels) > 1 else f"Every method: {'gain' if found.gain else 'loss'}",
                description="; ".join(f"{name}: {_in_words(row, found)}" for name, row in zip(names[:12], shown, strict=False)),
                caption=f"Lines are {evidence.level} intervals; the grey band is the margin."
                f" {words.drawn(len(shown), len(rows), 'methods', 'methods.csv')}".rstrip(),
                figure=figure,
                legend=legend,
            )
        ],
    )


def _draw(
    axes: Axes, panel: Panel, changes: Sequence[pd.Series | None], sign: float, evidence: Evidence, rows: Sequence[MethodRow]
) -> list[str]:
    """Draw a column of changes, turned by ``sign``; return the kinds of their verdicts."""
    scale, kinds = panel.unit.scale, []
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
    margins = [float(change["margin"]) for change in changes if change is not None and not pd.isna(change["margin"])]
    if margins:
        axes.axvspan(-margins[0] * scale, margins[0] * scale, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    for place, (change, row) in enumerate(zip(changes, rows, strict=True)):
        if change is None:
            continue
        withheld = evidence.withheld(row.one.cell)
        kind = "unclear" if withheld else VERDICT_KINDS.get(words.text(change["verdict"]), "unclear")
        kinds.append(kind)
        if not pd.isna(change["delta_low"]):
            ends = sorted(
                sign * end * scale for end in possible_ends(change["delta_low"], change["delta_high"], change["before"], panel.unit)
            )
            axes.hlines([place], ends[0], ends[1], color=COLOURS[kind], linewidth=1.8, alpha=0.6, zorder=3)
        value = sign * float(change["delta"]) * scale
        axes.plot([value], [place], color=COLOURS[kind], marker=MARKERS[kind], markersize=5, linestyle="", zorder=4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY)
    axes.tick_params(axis="y", length=0)
    return kinds


def _in_words(row: MethodRow, found: Summary) -> str:
    """Return gain and loss in words, for readers who cannot see the figure."""
    parts = []
    if found.gain and row.gain is not None:
        parts.append(f"gain {words.amount(found.gain.sign * float(row.gain['delta']), found.gain.unit)}")
    if found.losses and row.losses[0] is not None:
        panel = found.losses[0]
        parts.append(f"loss {words.amount(-panel.sign * float(row.losses[0]['delta']), panel.unit)}")
    return ", ".join(parts)
