from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from harness.analysis.table import items
from harness.report import html, palette
from harness.report.content import CellView, ColumnView, Content, FigureView, ItemsView, Section, TableView
from tests.support.grids import Page

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    '" onmouseover="alert(1)',
    "a\u2028b</title>",
    "]]><!--",
]


def changed(texts: list[str]) -> pd.DataFrame:
    rows = [
        {"suite": "s", "task": text, "prompt": text, "target": text, "answer_before": text, "answer_after": text}
        | {"confidence_before": 0.9, "confidence_after": 0.1, "confidence_lost": 0.8, "outcome": "lost"}
        for text in texts
    ]
    return pd.DataFrame(rows, columns=list(items.COLUMNS)).astype(items.COLUMNS)


def hostile_content() -> Content:
    texts = HOSTILE
    figure = Figure()
    figure.add_subplot().set_title(texts[0])
    return Content(
        title=texts[0],
        subtitle=texts[1],
        headline=texts,
        notes=texts,
        facts={text: text for text in texts},
        sections=[
            Section(
                id="one",
                title=texts[0],
                intro=texts[2],
                figures=[FigureView(name="f", title=texts[0], description=texts[1], caption=texts[2], figure=figure)],
                tables=[
                    TableView(
                        name="t",
                        columns=[ColumnView(title=text, meaning=text) for text in texts],
                        rows=[[CellView(t, t, t, t) for t in texts]],
                    )
                ],
                items=ItemsView(rows=changed(texts).assign(cell=texts), shown=texts[3]),
                notes=texts,
                code=texts[0],
            )
        ],
    )


def test_hostile_text_stays_text() -> None:
    """Hostile texts add no script, handler or element, and can be read."""
    found = Page(html.render(hostile_content()))
    kinds = [attributes.get("type") for tag, attributes in found.elements if tag == "script"]
    assert sorted(map(str, kinds)) == ["None", "application/json"]
    assert [tag for tag, _ in found.elements if tag in {"img", "iframe", "object", "base", "form"}] == []
    assert [name for _, attributes in found.elements for name in attributes if name.startswith("on")] == []
    assert "{{ 7 * 7 }}{% raw %}" in found.text
    assert "<img src=x onerror=alert(1)>" in found.text


def test_items_are_json_that_cannot_end_its_element() -> None:
    """The data are unchanged, except for invisible marks."""
    found = Page(html.render(hostile_content()))
    data = json.loads(found.scripts[0])
    prompts = [row[data["columns"].index("prompt")] for row in data["rows"]]
    assert prompts == [text.replace("\u2028", "⟨U+2028⟩") for text in HOSTILE]
    assert "<" not in found.scripts[0]
    assert "&" not in found.scripts[0]


def test_the_policy_allows_this_script_only() -> None:
    """No requests; the script by the hash of its bytes."""
    found = Page(html.render(Content(title="t")))
    (policy,) = [attributes["content"] for tag, attributes in found.elements if attributes.get("http-equiv") == "Content-Security-Policy"]
    (script,) = found.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in unescape(str(policy)).split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": f"'sha256-{digest}'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_fetched() -> None:
    """No loading attribute has an address outside the page."""
    found = Page(html.render(hostile_content()))
    loads = [
        str(attributes[name]) for tag, attributes in found.elements for name in ("src", "href", "srcset", "data") if attributes.get(name)
    ]
    files = [str(attributes["href"]) for tag, attributes in found.elements if tag == "a" and "download" in attributes]
    assert all(re.fullmatch(r"[\w-]+\.(png|svg|pdf|csv|md|parquet)", name) for name in files)
    assert {"f.png", "t.csv", "items.csv"} <= set(files)
    assert all(address.startswith(("#", "data:,")) for address in loads if address not in files)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("a\u202eb", "a⟨U+202E⟩b"),
        ("\x00\x1b[0m", "⟨U+0000⟩⟨U+001B⟩[0m"),
        ("é 漢字 ع 👩‍👩‍👧", "é 漢字 ع 👩‍👩‍👧"),
    ],
)
def test_hidden_marks_are_shown(text: str, shown: str) -> None:
    """Direction and control marks are shown by their code; letters and joined emoji stay."""
    assert html.visible(text) == shown


def test_long_texts_are_cut_and_say_so() -> None:
    """A long prompt is shortened on the page."""
    content = Content(title="t", sections=[Section(id="i", title="i", items=ItemsView(rows=changed(["x" * 5000]).assign(cell="c")))])
    data = json.loads(Page(html.render(content)).scripts[0])
    assert data["rows"][0][data["columns"].index("prompt")] == "x" * html.MAX_TEXT + " …"


def test_tables_are_written_as_csv_and_markdown(tmp_path: Path) -> None:
    """Without separate data, the texts shown; with them, all digits."""
    shown = TableView(name="a", columns=[ColumnView(title="x|y")], rows=[[CellView("1.0", 1.0)]])
    whole = TableView(name="b", columns=[ColumnView(title="x")], rows=[["1"]], data=pd.DataFrame({"x": [1.23456789]}))
    html.write(Content(title="t", sections=[Section(id="s", title="s", tables=[shown, whole])]), tmp_path)
    assert (tmp_path / "a.csv").read_text() == "x|y\n1.0\n"
    assert (tmp_path / "a.md").read_text() == "| x\\|y |\n| --- |\n| 1.0 |\n"
    assert (tmp_path / "b.csv").read_text() == "x\n1.23456789\n"


def test_an_empty_page_is_a_page() -> None:
    """Without content: a title and no section."""
    found = Page(html.render(Content(title="nothing", sections=[Section(id="s", title="empty")])))
    assert "nothing" in found.text
    assert "empty" not in found.text


@pytest.mark.parametrize("count", [1, 2, 4, 8, 12])
def test_colours_stand_out_on_white_and_on_dark(count: int) -> None:
    """At least 3 to 1 for each size and method; sizes differ on both pages."""
    light = palette.sizes(count)
    dark = [palette.on_dark(colour) for colour in light]
    assert len(set(light)) == len(set(dark)) == count
    assert all(palette.contrast(colour, palette.DARK_PAGE) >= 3 for colour in [*dark, *map(palette.on_dark, palette.METHODS)])
    assert all(palette.contrast(colour, "#ffffff") >= 3 for colour in palette.METHODS)


def test_contrast_is_that_of_wcag() -> None:
    """Black on white is 21:1; #767676 is 4.54:1, the lightest grey above 4.5."""
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)
