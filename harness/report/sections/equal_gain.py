"""Forgetting at equal gain: a fair comparison of methods that learn at different speeds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from harness.report import words
from harness.report.content import CellView, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import sized
from harness.report.drawing import Place, columns_for, plain, shortened, small_multiples
from harness.report.evidence import Evidence
from harness.report.palette import GREY, ONE_COLOUR
from harness.report.tables import DisplayUnit

MAX_ROWS = 200
MAX_PANELS = 12
MAX_LINES = 20
"""More lines in a panel would hide each other."""

LINES_PER_PANEL = 5
"""Lines that fit a panel of the usual height."""

MIDDLE = 0.5
"""The level of gain, as a share of the range that both methods reach, at which several pairs are
drawn."""

MAX_PAIR = 56
"""Characters of two methods' names that fit the width of a panel."""

INTRO = (
    "A method that learns faster also forgets faster. Methods are therefore compared where they have learned equally much: at three"
    " levels within the range of gain that both reach, without extrapolation. Each interval lets gain and forgetting vary together."
)


@dataclass(frozen=True)
class Forest:
    """A panel: the differences of one model, one line each.

    A line is named by its level of gain, or by its pair if there are several.
    """

    rows: pd.DataFrame
    has_pairs: bool
    suite: str
    gain: DisplayUnit
    loss: DisplayUnit
    title: str


def equal_gain(evidence: Evidence) -> Section | None:
    """Return the forgetting of each pair of methods where both have gained equally much."""
    frame = evidence.equal_gain
    if frame.empty:
        return None
    frame = frame.sort_values(["params_total", "model"], kind="stable")
    view = _figure(evidence, frame)
    table = _table(evidence, frame)
    return Section(id="equal-gain", title="Forgetting at equal gain", intro=INTRO, figures=[view] if view else [], tables=[table])


def _units(evidence: Evidence, frame: pd.DataFrame) -> tuple[DisplayUnit, DisplayUnit]:
    first = frame.iloc[0]
    gain, loss = (evidence.panel_of[str(first[name]), "*"].unit for name in ["target_suite", "headline_suite"])
    return gain, loss


def _figure(evidence: Evidence, frame: pd.DataFrame) -> FigureView | None:
    """Return a forest plot: differences with intervals, one panel per model."""
    rows = frame[frame["difference"].notna()]
    if rows.empty:
        return None
    gain, loss = _units(evidence, rows)
    pairs = rows[["first", "second"]].drop_duplicates()
    has_pairs = len(pairs) > 1
    if has_pairs:
        rows = rows[rows["share"] == MIDDLE]
    title = "first − second" if has_pairs else f"{pairs['first'].iloc[0]} − {pairs['second'].iloc[0]}"
    suite = str(rows["headline_suite"].iloc[0])
    rows = rows.assign(_within=[_within(evidence, row) for _, row in rows.iterrows()])
    panels = list(rows.groupby(["model", "_within"], sort=False))
    places = [
        Place(
            Forest(group.head(MAX_LINES), has_pairs, suite, gain, loss, title),
            sized(str(model), group["params_total"].iloc[0]),
            str(within),
            shares=min(len(group), MAX_LINES),
        )
        for (model, within), group in panels[:MAX_PANELS]
    ]
    most = max(len(group) for _, group in panels)
    margin = rows["margin"].dropna()
    legend = [Mark(label="difference with its interval", colour=ONE_COLOUR, line="solid", marker="o")]
    legend += [Mark(label="negligible", colour=GREY, line="band")] if len(margin) else []
    columns = columns_for(len(places))
    note = f"lines: {words.percent(rows['level'].iloc[0])} intervals"
    tall = max(1.0, min(most, MAX_LINES) / LINES_PER_PANEL)
    whole, alone = small_multiples(places, _draw, legend, note, columns=columns, tall=tall)
    differences = "; ".join(
        f"{row['model']} at a gain of {words.amount(row['gain'], gain)}: {words.amount(row['difference'], loss, sign=True)}"
        for _, row in rows.head(12).iterrows()
    )
    notes = [
        words.drawn(len(places), len(panels), "panels"),
        f"{MAX_LINES} of up to {most:,} pairs per panel are drawn; all are in equal_gain.csv." if most > MAX_LINES else "",
    ]
    lines = "pair, at the middle level of gain" if has_pairs else "level of gain"
    over = " or ".join(sorted(set(rows["varies"].dropna())))
    return FigureView(
        name="equal_gain",
        title=f"Loss on {suite} at equal gain, {title}",
        description=f"Difference of loss on {suite}, {title}, in {loss.name}. {differences}.",
        caption=" ".join(
            [
                f"One line per {lines}; right of zero the first method forgets more, left of zero the second."
                f" {words.percent(rows['level'].iloc[0])} intervals over {over}.",
                *filter(None, notes),
            ]
        ),
        figure=whole,
        panels=alone,
        legend=legend,
        columns=columns,
    )


def _within(evidence: Evidence, row: pd.Series) -> str:
    """Return the shared part of the style names of a pair, such as ``lora``."""
    sides = [evidence.by_cell[str(row[name])].style_name.split(" · ") for name in ("first_cell", "second_cell")]
    return " · ".join(word for word in sides[0] if word in sides[1])


def _pair(row: pd.Series) -> str:
    """Return the two methods' names; mitigations without the words ``mitigation=``."""
    return " − ".join(str(row[name]).removeprefix("mitigation=").removesuffix(", mitigation=none") for name in ("first", "second"))


def _draw(axes: Axes, forest: Forest) -> None:
    scale, rows = forest.loss.scale, forest.rows
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
    margin = rows["margin"].dropna()
    if len(margin):
        axes.axvspan(-float(margin.iloc[0]) * scale, float(margin.iloc[0]) * scale, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    names = []
    for place, (_, row) in enumerate(rows.iterrows()):
        names.append(_pair(row) if forest.has_pairs else f"at {words.amount(row['gain'], forest.gain, sign=True)}")
        if not pd.isna(row["low"]):
            axes.hlines([place], [float(row["low"]) * scale], [float(row["high"]) * scale], color=ONE_COLOUR, linewidth=1.8, alpha=0.6)
        axes.plot([float(row["difference"]) * scale], [place], color=ONE_COLOUR, marker="o", markersize=5, linestyle="", zorder=4)
    if forest.has_pairs:  # names too long for tick labels
        axes.set_yticks([])
        for place, name in enumerate(names):
            axes.text(0.01, place - 0.22, plain(shortened(name, MAX_PAIR)), transform=axes.get_yaxis_transform(), fontsize=7.5, va="bottom")
    else:
        axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlabel(plain(f"difference of loss ({forest.loss.name})"))


def _table(evidence: Evidence, frame: pd.DataFrame) -> TableView:
    gain, loss = _units(evidence, frame)
    first = frame.iloc[0]
    basis = words.shared_basis(frame)
    rows: list[list[CellView | str]] = []
    several = len(frame[["first", "second"]].drop_duplicates()) > 1
    for _, row in frame.head(MAX_ROWS).iterrows():
        verdict = words.text(row["verdict"])
        kind = "kept" if verdict == "alike" else "unclear" if verdict == "not enough evidence" else ""
        difference = words.with_ends(row, "difference", loss, low="low", high="high", sign=True)
        own_basis = "" if pd.isna(row["difference"]) or basis else words.difference_basis(row)
        rows.append(
            [
                sized(str(row["model"]), row["params_total"]),
                ": ".join(filter(None, [_within(evidence, row) if several else "", _pair(row)])),
                words.amount_cell(row["gain"], gain),
                words.amount_cell(row["first_forgetting"], loss),
                words.amount_cell(row["second_forgetting"], loss),
                CellView(difference, words.sortable(row["difference"]), note=own_basis),
                CellView(verdict or words.UNKNOWN, verdict, kind, words.text(row["note"])),
            ]
        )
    pairs = list(dict.fromkeys(str(row[1]) for row in rows))
    pair = f" First − second: {pairs[0]}." if len(pairs) == 1 else ""
    if pair:
        rows = [[row[0], *row[2:]] for row in rows]
    titles = ["model", *([] if pair else ["first − second"]), "at a gain of", "first lost", "second lost", "difference", "verdict"]
    return TableView(
        name="equal_gain",
        columns=[ColumnView(title=title, is_number=title in _NUMBERS, is_prose=title == "verdict") for title in titles],
        rows=rows,
        caption=f"Loss on {first['headline_suite']} of two methods at equal gain on {first['target_suite']}; positive: the first forgets"
        f" more.{pair} Gain in {gain.name}, loss in {loss.name}.{f' Intervals: {basis}.' if basis else ''} Verdicts are not adjusted for"
        " the number of pairs and levels.",
        data=frame,
        shown=words.excerpt(MAX_ROWS, len(frame), "rows", "equal_gain.csv"),
    )


_NUMBERS = {"at a gain of", "first lost", "second lost", "difference"}
