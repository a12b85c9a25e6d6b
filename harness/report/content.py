"""What a page holds, before it is HTML: sections of figures, tables, items and sentences.

Any part may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure


class Cell(NamedTuple):
    """A cell of a table: its text (several lines stand below each other), the number or text that it is sorted by, and what is below it.

    ``kind`` is a verdict (``lost``, ``gained``, ``kept``, ``unclear``), ``strong`` for a heading or
    empty; the page shows it by shape and colour. ``note`` stands below in small, ``more`` is opened
    by a click.
    """

    text: str
    sort: float | str | None = None
    kind: str = ""
    note: str = ""
    more: str = ""


class ColumnGroup(NamedTuple):
    """Rows of a table that belong together, from row ``at`` on: a heading and a sentence on them.

    They are sorted within the group.
    """

    at: int
    title: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """A column: its heading, whether it holds numbers (set to the right) or sentences, and what it means (shown when pointed at)."""

    title: str
    is_number: bool = False
    meaning: str = ""
    is_prose: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table of the page.

    Attributes:
        name: stem of its files; empty where the page alone shows it.
        columns: headings.
        rows: cells, one a column; plain text is a cell without a number.
        caption: what it shows, at which level, over what.
        sortable: whether a click on a heading sorts it.
        searchable: whether it has a field that narrows its rows.
        matrix: whether it is a heat map: its first column names rows, every other cell is judged by
            its kind.
        data: what its CSV and Markdown files hold, every digit kept; None writes what is shown.
        shown: how much of the whole this is; empty where it is all.
        groups: headings between the rows, by place; the first at row 0.
    """

    name: str
    columns: Sequence[ColumnView]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    sortable: bool = True
    searchable: bool = False
    matrix: bool = False
    data: pd.DataFrame | None = None
    shown: str = ""
    groups: Sequence[ColumnGroup] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An entry of a figure's legend: a colour, a line, a marker, and what they stand for."""

    label: str
    colour: str = "#000000"
    line: str = ""
    marker: str = ""


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure of the page and of the folder.

    Attributes:
        name: stem of its files.
        title: what is drawn, in a few words.
        description: what is to be seen, for who cannot see it.
        caption: what bars, bands and marks are, with level and number of seeds and items.
        figure: the whole, with its legend: what is written as PNG, SVG and PDF.
        panels: the same panel by panel, without legend, which the page sets side by side as there
            is room; empty: the page shows the whole.
        legend: of the panels.
        columns: panels that belong side by side where there is room.
    """

    name: str
    title: str
    description: str
    figure: Figure
    caption: str = ""
    panels: Sequence[Figure] = ()
    legend: Sequence[Mark] = ()
    columns: int = 3


@dataclass(frozen=True, kw_only=True)
class ItemsView:
    """Items whose answer changed, to be looked through.

    Attributes:
        rows: as ``harness.analysis.table.items.changed_items`` gives them, with a column ``cell``,
            which says whose items they are.
        shown: how much of the whole this is, and where the whole lies.
    """

    rows: pd.DataFrame
    shown: str = ""


@dataclass(frozen=True, kw_only=True)
class FindingView:
    """A finding in a sentence, with what it is to be measured against.

    Attributes:
        verdict: ``lost``, ``gained``, ``kept``, ``not enough evidence`` or empty.
        floors: seed spread and same-data control, or that they were not measured.
        value, low, high: the change and its interval, in the unit shown; None where there is none.
        margin: half-width of what does not matter, in the same unit.
    """

    sentence: str
    verdict: str = ""
    floors: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the page."""

    id: str
    title: str
    intro: str = ""
    figures: Sequence[FigureView] = ()
    tables: Sequence[TableView] = ()
    items: ItemsView | None = None
    notes: Sequence[str] = ()
    code: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.intro or self.figures or self.tables or self.items or self.notes or self.code)


@dataclass(frozen=True, kw_only=True)
class Content:
    """A page.

    Attributes:
        headline: the first sentences, set large.
        findings: the sentences below them, each with its verdict and interval.
        axis: what the intervals beside the findings are drawn on, such as ``change in acc
            (points)``.
        facts: a few words and numbers at the top: name → value.
        files: further tables of the folder that the page does not show: file name → frame.
    """

    title: str
    subtitle: str = ""
    headline: Sequence[str] = ()
    findings: Sequence[FindingView] = ()
    axis: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
