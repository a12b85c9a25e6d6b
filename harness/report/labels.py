"""Names next to the points of a panel, placed so that none covers another or a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.textpath import TextPath

from harness.report.drawing import plain, shortened
from harness.report.palette import GREY

SIZE = 8
"""Of the text, in points."""

MOST = 24
"""Characters of a name."""

_LINE, _POINT = 1.25 * SIZE, 4.0
"""Height of a line, and half the width of a mark, in points."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points."""


def place(axes: Axes, points: Sequence[tuple[float, float, str]], others: Sequence[tuple[float, float]] = ()) -> dict[str, Box]:
    """Write a name next to each point, further away with a thin line where it is crowded.

    Args:
        axes: with its final limits and place in the figure.
        points: x, y and name, in the units of the axes.
        others: points without a name, which none covers either.

    Returns:
        Name → its box, in points from the figure's corner. A name without a free place is left out.
    """
    scale = 72.0 / axes.figure.dpi
    at, rest = ([scale * axes.transData.transform(one[:2]) for one in of] for of in (points, others))
    taken: list[Box] = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in (*at, *rest)]
    left, bottom, right, top = (scale * float(end) for end in axes.bbox.extents)
    inside: Box = (left, bottom, right, top)
    found = {}
    for (x, y), (data_x, data_y, name) in zip(at, points, strict=True):
        text = shortened(name, MOST)
        for far, box in _boxes(x, y, TextPath((0, 0), plain(text), size=SIZE).get_extents().width + 2):
            if _is_within(box, inside) and not any(_overlap(box, other) for other in taken):
                line: dict[str, Any] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
                offset = (box[0] - x, (box[1] + box[3]) / 2 - y)
                where: dict[str, Any] = {"xycoords": "data", "textcoords": "offset points", "va": "center", "zorder": 6}
                axes.annotate(plain(text), (data_x, data_y), offset, fontsize=SIZE, arrowprops=line if far else None, **where)
                taken.append(box)
                found[name] = box
                break
    return found


def _boxes(x: float, y: float, width: float) -> Iterator[tuple[bool, Box]]:
    """Yield places for a text around a point, near ones first, and whether each takes a line."""
    for distance in (6.0, 14.0, 24.0, 36.0, 50.0, 66.0, 84.0):
        for angle in np.deg2rad([0, 180, 45, -45, 135, -135, 90, -90, 22, -22, 158, -158, 67, -67, 113, -113]):
            across, up = distance * float(np.cos(angle)), distance * float(np.sin(angle))
            left = x + across - (width if across < -1 else 0.0 if across > 1 else width / 2)
            yield distance > 14, (left, y + up - _LINE / 2, left + width, y + up + _LINE / 2)


def _is_within(box: Box, outer: Box) -> bool:
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
