"""The content of a page before it becomes HTML: sections of figures, tables and sentences.

Any part may be empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICT_KINDS = {"lost": "lost", "gained": "gained", "kept": "kept", "not enough evidence": "unclear"}
"""Verdict → kind of the table cell that shows it."""


class CellView(NamedTuple):
    """A cell of a table.

    Attributes:
        text: several lines are shown one below the other.
        sort: number or text that the cell is sorted by; None sorts it by its text.
        kind: a verdict (``lost``, ``gained``, ``kept``, ``unclear``), which the page shows by shape
            and colour; ``strong`` for a heading; or empty.
        note: small text after the main text.
        more: small text that a click opens.
    """

    text: str
    sort: float | str | None = None
    kind: str = ""
    note: str = ""
    more: str = ""


class RowGroup(NamedTuple):
    """A group of rows of a table from row ``at`` on, with its heading.

    Rows are sorted within their group.
    """

    at: int
    title: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class ColumnView:
    """A column of a table.

    Attributes:
        title: its heading.
        is_number: whether it holds numbers, which are aligned right.
        meaning: explanation, shown as the heading's tooltip.
        is_prose: whether it holds sentences.
    """

    title: str
    is_number: bool = False
    meaning: str = ""
    is_prose: bool = False


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table of the page.

    Attributes:
        name: stem of its files; empty if it is shown on the page only.
        columns: headings.
        rows: cells, one per column; a plain text is a cell without a sort key.
        caption: what the table shows, with the level of its intervals and what they are over.
        sortable: whether a click on a heading sorts it.
        searchable: whether it has a search field.
        matrix: whether it is a heat map: its first column names the rows, every other cell is
            coloured by its kind.
        data: content of its CSV file, with every digit; None writes what is shown.
        shown: how much of the whole is shown; empty if all of it is.
        groups: headings between the rows, by place; the first one at row 0.
    """

    name: str
    columns: Sequence[ColumnView]
    rows: Sequence[Sequence[CellView | str]]
    caption: str = ""
    sortable: bool = True
    searchable: bool = False
    matrix: bool = False
    data: pd.DataFrame | None = None
    shown: str = ""
    groups: Sequence[RowGroup] = ()


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An entry of a figure's legend: a label with its colour, line and marker."""

    label: str
    colour: str = "#000000"
    line: str = ""
    marker: str = ""


@dataclass(frozen=True, kw_only=True)
class FigureView:
    """A figure of the page and of the folder.

    Attributes:
        name: stem of its files.
        title: its subject, in a few words.
        description: what the figure shows, in words, for readers who cannot see it.
        caption: meaning of bars, bands and marks, with level and number of seeds and items.
        figure: the whole figure with its legend, as it is written to PNG, SVG and PDF.
        panels: the same panel by panel, without legend; the page places as many next to each other
            as fit. If empty, the page shows the whole figure.
        legend: of the panels.
        columns: most panels next to each other.
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
    """Items whose answer changed, for browsing.

    Attributes:
        rows: as returned by ``harness.analysis.table.items.changed_items``, with a column ``cell``
            that names the method.
        shown: how much of the whole is shown, and where the whole is.
    """

    rows: pd.DataFrame
    shown: str = ""


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
        title: heading of the page.
        subtitle: small text below it.
        headline: the answer, in large type: validity first where it fails.
        notes: further sentences on the answer, in small type.
        facts: key figures, in one line: name → value.
        sections: in the order of the page.
        files: further tables of the folder, not shown on the page: file name → frame.
    """

    title: str
    subtitle: str = ""
    headline: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
