"""Colours of figures, legible in grey and to colour-blind readers, for light and dark pages."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np

GREY = "#767676"
ONE_COLOUR = "#21618c"
METHODS = ["#0072b2", "#d55e00", "#009e73", "#aa3377", "#b8860b", "#4477aa"]
"""Blue, vermilion, bluish green, purple, dark yellow, steel (Okabe & Ito 2008, darkened for
contrast with white)."""

DARK_PAGE = "#14171a"
MAX_SIZES = 12
MIN_CONTRAST = 4.5
"""Contrast of a drawn mark with a dark page; WCAG 2.2 requires 3 for graphics."""


def sizes(count: int) -> list[str]:
    """Return one colour per model size, small to large, dark to light."""
    return [ONE_COLOUR] if count == 1 else [_viridis(x) for x in np.linspace(0.0, 0.82, count)]


def on_dark(colour: str) -> str:
    """Return the colour that replaces a figure's colour on a dark page."""
    return _TWINS.get(colour) or _lightened(colour)


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    bright, dark = sorted([_luminance(first), _luminance(second)], reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _viridis(x: float) -> str:
    return mpl.colors.to_hex(mpl.colormaps["viridis"](x))


def _twins() -> dict[str, str]:
    """Return colour of a size → its replacement on a dark page, in equal order."""
    found: dict[str, str] = {}
    for count in range(MAX_SIZES, 1, -1):
        found |= dict(zip(sizes(count), [_viridis(x) for x in np.linspace(0.42, 1.0, count)], strict=True))
    return found


def _luminance(colour: str) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return float(np.dot([0.2126, 0.7152, 0.0722], parts))


def _lightened(colour: str) -> str:
    start = np.array(mpl.colors.to_rgb(colour))
    for share in np.linspace(0.0, 1.0, 21):
        mixed = mpl.colors.to_hex(tuple(start + (1.0 - start) * share))
        if contrast(mixed, DARK_PAGE) >= MIN_CONTRAST:
            return mixed
    return "#ffffff"


_TWINS = _twins()
