"""Small multiples: panels as one figure for files, and one by one for the page."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from harness.report.content import Mark
from harness.report.palette import GREY

PANEL_INCHES = (3.35, 2.55)
MARGINS = {"left": 0.19, "right": 0.985, "bottom": 0.19, "top": 0.84}
"""The same around every panel, so that panels in a column are aligned."""
MAX_COLUMNS = 3
MAX_TITLE = 38
"""Characters of a title that fit the width of a panel."""

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Place(Generic[Subject]):
    """A panel to be drawn.

    Attributes:
        subject: what is drawn on it.
        title: first line of its title.
        subtitle: second line of its title.
        shares: panels with the same value have the same axis limits.
    """

    subject: Subject
    title: str
    subtitle: str = ""
    shares: Hashable = ""


def columns_for(panels: int) -> int:
    """Return how many panels are placed next to each other."""
    return 2 if panels in {2, 4} else MAX_COLUMNS


def small_multiples(
    places: Sequence[Place[Subject]],
    draw: Callable[[Axes, Subject], None],
    marks: Sequence[Mark],
    note: str,
    columns: int = MAX_COLUMNS,
    tall: float = 1.0,
) -> tuple[Figure, list[Figure]]:
    """Draw panels in reading order.

    Args:
        places: the panels; those with equal ``shares`` get the same limits.
        draw: draws a subject on axes, with labels and units.
        marks: the legend of the whole figure.
        note: at the foot of the whole figure: the meaning of bars and bands.
        columns: most panels next to each other in the whole figure.
        tall: height of a panel, as a multiple of the usual one.

    Returns:
        The whole figure, and each panel as a separate figure.
    """
    columns = min(len(places), columns)
    rows = math.ceil(len(places) / columns)
    width, inches = PANEL_INCHES[0], PANEL_INCHES[1] * tall
    height = max(inches * rows + 0.3, _legend_inches(marks))
    whole = Figure(
        figsize=(width * columns + 2.3, height), layout=ConstrainedLayoutEngine(rect=(0.0, 0.2 / height, 1.0, 1.0 - 0.2 / height))
    )
    FigureCanvasAgg(whole)
    drawn = [_drawn(whole.add_subplot(rows, columns, index + 1), place, draw) for index, place in enumerate(places)]
    limits = _limits(places, drawn)
    panels = []
    for axes, place in zip(drawn, places, strict=True):
        axes.set(**limits[place.shares])
        alone = Figure(figsize=(width, inches))
        FigureCanvasAgg(alone)
        alone.subplots_adjust(**MARGINS | {"bottom": MARGINS["bottom"] / tall, "top": 1.0 - (1.0 - MARGINS["top"]) / tall})
        _drawn(alone.add_subplot(), place, draw).set(**limits[place.shares])
        panels.append(alone)
    whole.legend(handles=[handle(mark) for mark in marks], loc="outside right upper", frameon=False, fontsize=8, handlelength=3.0)
    whole.text(0.995, 0.008, plain(note), ha="right", va="bottom", fontsize=6.5, color=GREY)
    whole.draw_without_rendering()
    whole.set_layout_engine(None)  # any engine, even "none", would draw the figure twice for each file format
    return whole, panels


def _legend_inches(marks: Sequence[Mark]) -> float:
    """Return the height that keeps the legend above the note at the foot."""
    return 0.5 + sum(0.04 + 0.12 * len(wrapped(mark.label).splitlines()) for mark in marks)


def _drawn(axes: Axes, place: Place[Subject], draw: Callable[[Axes, Subject], None]) -> Axes:
    draw(axes, place.subject)
    title = "\n".join(plain(shortened(line)) for line in (place.title, place.subtitle) if line)
    axes.set_title(title, fontsize=9.5, loc="left", linespacing=1.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(labelsize=8, color=GREY)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    return axes


def shortened(text: str, most: int = MAX_TITLE) -> str:
    """Return a text of at most ``most`` characters; a long one loses its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 + 1 :]}"


def wrapped(text: str, most: int = MAX_TITLE) -> str:
    """Return a legend's text in lines of at most ``most`` characters.

    Lines are broken at spaces and after commas; a longer word loses its middle.
    """
    lines = [""]
    for piece in re.split(r"(?<=[ ,])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > most:
            lines[-1] = lines[-1].rstrip()
            lines.append("")
        lines[-1] += piece
    return "\n".join(shortened(line, most) for line in lines)


def _limits(places: Sequence[Place[Subject]], drawn: Sequence[Axes]) -> dict[Hashable, dict[str, Any]]:
    found: dict[Hashable, dict[str, Any]] = {}
    for axes, place in zip(drawn, places, strict=True):
        known = found.get(place.shares)
        ends = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
        if known:
            ends = {name: (min(low, known[name][0]), max(high, known[name][1])) for name, (low, high) in ends.items()}
        found[place.shares] = ends
    return found


def handle(mark: Mark) -> Line2D | Patch:
    """Return the Matplotlib legend entry of a mark."""
    if mark.line in {"band", "swatch"}:
        return Patch(facecolor=mark.colour, alpha=0.25 if mark.line == "band" else 1.0, linewidth=0, label=plain(wrapped(mark.label)))
    entry = Line2D([], [], color=mark.colour, linestyle=dashes(mark.line), markersize=4.5, linewidth=1.4, label=plain(wrapped(mark.label)))
    entry.set_marker("o" if mark.marker == "hollow" else mark.marker)
    entry.set_markerfacecolor("none" if mark.marker == "hollow" else mark.colour)
    return entry


def dashes(line: str) -> Any:
    """Return the Matplotlib line style of dashes in SVG notation."""
    if line in {"", "solid"}:
        return "-" if line else ""
    return (0, tuple(float(length) / 1.5 for length in line.split()))


def plain(text: str) -> str:
    """Return a text in which Matplotlib finds no mathematics."""
    return text.replace("$", r"\$")
