"""A page as one HTML file without requests, and its folder of files.

Text from data sets and configurations reaches the page in two ways only: through templates, which
escape everything, and as JSON in an element that no browser executes, from which the script makes
text nodes. A Content-Security-Policy allows this page's own script, by its hash, and no requests:
even if escaping failed, foreign text could neither run nor fetch anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.core import streams
from harness.report import palette, svg, tables
from harness.report.content import CellView, Content, FigureView, ItemsView, TableView
from harness.report.figures import save

TEMPLATES = Path(__file__).parent / "templates"

HIDDEN = re.compile(f"{streams.HIDDEN.pattern}|[\ud800-\udfff]")

MAX_TEXT = 600
"""Characters of an item's text on the page; samples.parquet has the whole text."""


def render(content: Content) -> str:
    """Return a page as HTML: one file without requests, reproducible byte for byte."""
    script = _own_file("page.js")
    figures, colours = _figures(content)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["cell"] = lambda value: isinstance(value, CellView)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        content=content,
        sections=[section for section in content.sections if not section.is_empty],
        figures=figures,
        style=Markup(_own_file("page.css") + _dark(colours)),
        script=Markup(script),
        script_hash=digest,
        items_json=_items_json,
    )


def write(content: Content, folder: Path) -> Path:
    """Write a page and its files into an existing folder.

    Returns:
        The path of ``index.html``.
    """
    for section in content.sections:
        for figure in section.figures:
            save(figure.figure, folder / figure.name)
        for view in section.tables:
            if view.name:
                _write_table(view, folder)
        if section.items is not None and len(section.items.rows):
            tables.write(section.items.rows, folder / "items.csv")
    for name, frame in content.files.items():
        tables.write(frame, folder / name)
    path = folder / "index.html"
    path.write_text(render(content), encoding="utf-8")
    return path


def data_json(value: Any) -> Markup:
    """Return JSON for a ``<script type="application/json">``: no value can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def visible(text: str) -> str:
    """Return a text with control and direction marks replaced by their code, as ``⟨U+202E⟩``."""
    return HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def _visible(value: Any) -> Any:
    """Make hidden marks of a template's values visible; markup comes from this package only."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _own_file(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _figures(content: Content) -> tuple[dict[str, list[Markup]], set[str]]:
    """Return figure name → its SVG elements, and the colours in all of them."""
    found: dict[str, list[Markup]] = {}
    colours: set[str] = set()
    for view in (view for section in content.sections for view in section.figures):
        colours |= {mark.colour for mark in view.legend}
        for number, figure in enumerate(view.panels or [view.figure]):
            title = _title_of(view, number)
            element, used = svg.inline(figure, f"{view.name}-{number}", title, view.description)
            found.setdefault(view.name, []).append(element)
            colours |= used
    return found, colours - {"#000000"}


def _title_of(view: FigureView, number: int) -> str:
    if not view.panels:
        return view.title
    titles = [axes.get_title(loc) for axes in view.panels[number].axes for loc in ("left", "center")]
    return ": ".join([view.title, *(title.replace("\\$", "$").replace("\n", ", ") for title in titles if title)])


def _dark(colours: set[str]) -> str:
    twins = "".join(f"--c-{colour[1:]}:{palette.on_dark(colour)};" for colour in sorted(colours))
    return f"@media screen and (prefers-color-scheme: dark){{:root{{{twins}}}}}\n"


def _items_json(view: ItemsView) -> Markup:
    rows = view.rows.astype(object).where(view.rows.notna(), None)
    values = [[_item_value(value) for value in row] for row in rows.itertuples(index=False)]
    return data_json({"columns": [str(name) for name in rows.columns], "rows": values})


def _item_value(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]} …")
    return round(float(value), 4) if isinstance(value, float) else value


def _write_table(view: TableView, folder: Path) -> None:
    columns = [column.title for column in view.columns]
    shown = [[(cell.text if isinstance(cell, CellView) else cell).replace("\n", "; ") for cell in row] for row in view.rows]
    if view.groups:
        titles = [[group.title for group in view.groups if group.at <= place][-1] for place in range(len(shown))]
        columns, shown = ["group", *columns], [[title, *row] for title, row in zip(titles, shown, strict=True)]
    data = pd.DataFrame(shown, columns=columns, dtype="string") if view.data is None else view.data
    tables.write(data, folder / f"{view.name}.csv")
    (folder / f"{view.name}.md").write_text(tables.markdown(columns, shown), encoding="utf-8")
