"""Matplotlib figures as SVG inside a page: the page's font and colours, unique ids."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_BLACK = re.compile(r"#000000\b")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_FONT = re.compile(r"\bfont: (?:(bold|[1-9]00) )?([0-9.]+px) [^;]*")
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


def inline(figure: Figure, prefix: str, title: str, description: str) -> tuple[Markup, set[str]]:
    """Return a figure as an ``<svg>`` element, and the colours that a dark page replaces.

    Args:
        figure: drawn on white with black text.
        prefix: of every id in it; unique on the page.
        title: its short name, which screen readers read first.
        description: what the figure shows, in words.

    Returns:
        The element, with ``role="img"``. Black is the page's text colour; another colour
        ``#rrggbb`` is ``var(--c-rrggbb, #rrggbb)``.
    """
    root = ElementTree.fromstring(_drawn(figure))
    for parent in list(root.iter()):
        for child in [*parent.findall(f"{{{_SVG}}}metadata"), *parent.findall(f"{{{_SVG}}}style")]:
            parent.remove(child)
    colours: set[str] = set()
    for element in root.iter():
        _adapt(element, prefix, colours)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    labels = {"title": f"{prefix}-title", "desc": f"{prefix}-desc"}
    root.attrib |= {
        "role": "img",
        "fill": "currentColor",
        "aria-labelledby": " ".join(labels.values()),
        "preserveAspectRatio": "xMidYMid meet",
    }
    for place, (tag, text) in enumerate([("title", title), ("desc", description)]):
        label = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": labels[tag]})
        label.text = text
        root.insert(place, label)
    ElementTree.register_namespace("", _SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode")), colours


def _drawn(figure: Figure) -> bytes:
    target = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "harness", "svg.fonttype": "none"}):
        figure.savefig(target, format="svg", transparent=True, metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"]))
    return target.getvalue()


def _adapt(element: ElementTree.Element, prefix: str, colours: set[str]) -> None:
    """Prefix an element's ids and references, and let the page set its colours and font."""
    if _LINK in element.attrib:
        element.attrib["href"] = element.attrib.pop(_LINK)
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, f"{prefix}-{value}")
        elif name == "href" and value.startswith("#"):
            element.set(name, f"#{prefix}-{value[1:]}")
        elif name == "style":
            element.set(name, _style(value, prefix, colours))
        elif "url(#" in value:
            element.set(name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value))


def _style(style: str, prefix: str, colours: set[str]) -> str:
    found = _REFERENCE.sub(rf"url(#{prefix}-\1)", _BLACK.sub("currentColor", style))
    found = _FONT.sub(lambda match: f"font-size: {match[2]}" + (f"; font-weight: {match[1]}" if match[1] else ""), found)
    colours |= set(_COLOUR.findall(found))
    return _COLOUR.sub(lambda match: f"var(--c-{match[0][1:]}, {match[0]})", found)
