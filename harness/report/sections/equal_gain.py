"""Forgetting at equal gain: a fair comparison of methods that learn at different speeds."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.findings.equal_gain import FIRST_MORE, UNKNOWN
from harness.analysis.findings.method_pairs import PLAIN
from harness.analysis.findings.paths import forgetting
from harness.report import words
from harness.report.content import CellView, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import sized
from harness.report.drawing import Place, columns_for, dashes, plain, shortened, small_multiples
from harness.report.evidence import Evidence
from harness.report.palette import GREY, ONE_COLOUR
from harness.report.tables import DisplayUnit

MAX_ROWS = 200
MAX_PANELS = 12
MAX_LINES = 20
"""More lines in a panel would hide each other."""

LINES_PER_PANEL = 5
"""Lines that fit a panel of the usual height."""

MAX_PAIR = 56
"""Characters of two methods' names that fit the width of a panel."""

INTRO = (
    "A method that learns faster also forgets faster. So two methods are compared where they have learned equally much: the area between"
    " their curves of loss against gain, over the gains that both reach (the lowest tenth aside), divided by its width. Each interval lets"
    " gain and loss vary together."
)

BEST = (
    "Where no mitigation was run at several learning rates, numbers of epochs or trajectories, a mitigation is compared with whichever of"
    " these loses least at each gain."
)


@dataclass(frozen=True)
class Forest:
    """A panel: the differences of one model, one line per pair.

    Attributes:
        rows: the pairs.
        loss: the unit of the loss.
    """

    rows: pd.DataFrame
    loss: DisplayUnit


def equal_gain(evidence: Evidence) -> Section | None:
    """Return the forgetting of each pair of methods where both have gained equally much."""
    frame = evidence.equal_gain
    if frame.empty:
        return None
    frame = frame.sort_values(["params_total", "model"], kind="stable")
    view = _figure(evidence, frame)
    table = _table(evidence, frame)
    drawn = [one for one in (view, _curves(evidence, frame)) if one is not None]
    intro = f"{INTRO} {BEST}" if _several(frame).any() else INTRO
    return Section(id="equal-gain", title="Forgetting at equal gain", intro=intro, figures=drawn, tables=[table])


def _several(frame: pd.DataFrame) -> pd.Series:
    """Return whether a side of each pair has several cells."""
    return frame["first_cell"].str.contains(",", regex=False) | frame["second_cell"].str.contains(",", regex=False)


def _units(evidence: Evidence, frame: pd.DataFrame) -> tuple[DisplayUnit, DisplayUnit]:
    first = frame.iloc[0]
    gain, loss = (evidence.panel_of[str(first[name]), "*"].unit for name in ["target_suite", "headline_suite"])
    return gain, loss


def _figure(evidence: Evidence, frame: pd.DataFrame) -> FigureView | None:
    """Return a forest plot: differences with intervals, one panel per model."""
    rows = frame[frame["difference"].notna()]
    if rows.empty:
        return None
    _, loss = _units(evidence, rows)
    pairs = rows[["first", "second"]].drop_duplicates()
    title = "first − second" if len(pairs) > 1 else f"{pairs['first'].iloc[0]} − {pairs['second'].iloc[0]}"
    suite = str(rows["headline_suite"].iloc[0])
    rows = rows.assign(_within=[_within(evidence, row) for _, row in rows.iterrows()])
    panels = list(rows.groupby(["model", "_within"], sort=False))
    places = [
        Place(
            Forest(group.head(MAX_LINES), loss),
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
        f"{row['model']}, {_pair(row)}: {words.amount(row['difference'], loss, sign=True)}" for _, row in rows.head(12).iterrows()
    )
    notes = [
        words.drawn(len(places), len(panels), "panels"),
        f"{MAX_LINES} of up to {most:,} pairs per panel are drawn; all are in equal_gain.csv." if most > MAX_LINES else "",
    ]
    over = " or ".join(sorted(set(rows["varies"].dropna())))
    return FigureView(
        name="equal_gain",
        title=f"Loss on {suite} at equal gain, {title}",
        description=f"Difference of loss on {suite}, {title}, in {loss.name}. {differences}.",
        caption=" ".join(
            [
                "One line per pair: the mean difference of loss at equal gain; right of zero the first method forgets more, left of"
                " zero the second."
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
    """Return the shared part of the style names of all cells of a pair, such as ``lora``."""
    cells = ",".join(str(row[name]) for name in ("first_cell", "second_cell")).split(",")
    first, *others = [evidence.by_cell[cell].style_name.split(" · ") for cell in cells]
    return " · ".join(word for word in first if all(word in other for other in others))


def _pair(row: pd.Series) -> str:
    """Return the two methods' names; mitigations without the words ``mitigation=``."""
    return " − ".join(str(row[name]).removeprefix("mitigation=").removesuffix(", mitigation=none") for name in ("first", "second"))


def _draw(axes: Axes, forest: Forest) -> None:
    scale, rows = forest.loss.scale, forest.rows
    axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
    margin = rows["margin"].dropna()
    if len(margin):
        axes.axvspan(-float(margin.iloc[0]) * scale, float(margin.iloc[0]) * scale, color=GREY, alpha=0.15, linewidth=0, zorder=0)
    for place, (_, row) in enumerate(rows.iterrows()):
        if not pd.isna(row["low"]):
            axes.hlines([place], [float(row["low"]) * scale], [float(row["high"]) * scale], color=ONE_COLOUR, linewidth=1.8, alpha=0.6)
        axes.plot([float(row["difference"]) * scale], [place], color=ONE_COLOUR, marker="o", markersize=5, linestyle="", zorder=4)
        name = plain(shortened(_pair(row), MAX_PAIR))  # too long for tick labels
        axes.text(0.01, place - 0.22, name, transform=axes.get_yaxis_transform(), fontsize=8, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlabel(plain(f"difference of loss ({forest.loss.name})"))


@dataclass(frozen=True)
class Curves:
    """A panel: the curves of loss against gain of one pair, and the area between them."""

    row: pd.Series
    points: pd.DataFrame
    target: DisplayUnit
    probe: DisplayUnit


SIDES = {"first": (ONE_COLOUR, "solid"), "second": (GREY, "6 3")}
"""Colour and line of both methods of a pair."""


def _curves(evidence: Evidence, frame: pd.DataFrame) -> FigureView | None:
    """Return the curves behind the differences, one panel per pair."""
    rows = frame[frame["difference"].notna()]
    if rows.empty:
        return None
    gain, loss = _units(evidence, rows)
    places = []
    for _, row in rows.head(MAX_PANELS).iterrows():
        of = Curves(row, evidence.frontier, gain, loss)
        places.append(Place(of, sized(str(row["model"]), row["params_total"]), shortened(_named(evidence, row), MAX_PAIR)))
    columns = columns_for(len(places))
    pairs = rows[["first", "second"]].drop_duplicates()
    names = {side: str(pairs[side].iloc[0]) if len(pairs) == 1 else side for side in SIDES}
    legend = [Mark(label=names[side], colour=colour, line=line) for side, (colour, line) in SIDES.items()]
    legend.append(Mark(label="area compared", colour=GREY, line="band"))
    whole, alone = small_multiples(places, _draw_curves, legend, "", columns=columns)
    target, probe = str(rows["target_suite"].iloc[0]), str(rows["headline_suite"].iloc[0])
    return FigureView(
        name="equal_gain_curves",
        title="The curves that are compared",
        description=f"Loss on {probe} against gain on {target} of both methods of each pair, and the area between them.",
        caption=" ".join(
            [
                "One panel per pair: loss against gain, one line per cell, volumes as points, from the untuned model at zero.",
                "The shaded area, divided by its width, is the difference.",
                words.drawn(len(places), len(rows), "pairs"),
            ]
        ).strip(),
        figure=whole,
        panels=alone,
        legend=legend,
        columns=columns,
    )


def _draw_curves(axes: Axes, one: Curves) -> None:
    levels = np.linspace(float(one.row["range_low"]), float(one.row["range_high"]), 200)
    least = []
    for side, (colour, line) in SIDES.items():
        read = []
        for cell in str(one.row[f"{side}_cell"]).split(","):
            points = one.points[one.points["cell"] == cell].sort_values("volume")
            gains, losses = ([0.0, *points[name].astype(float)] for name in ("gain", "forgetting"))
            x, y = np.multiply(gains, one.target.scale), np.multiply(losses, one.probe.scale)
            axes.plot(x, y, color=colour, linestyle=dashes(line), linewidth=1.2, marker=".")
            read.append([forgetting(gains, losses, level) for level in levels])
        least.append(np.fmin.reduce(np.array(read), axis=0))
    low, high = (of * one.probe.scale for of in least)
    axes.fill_between(levels * one.target.scale, low, high, color=GREY, alpha=0.2, linewidth=0)
    axes.set_xlabel(plain(f"gain ({one.target.name})"))
    axes.set_ylabel(plain(f"loss ({one.probe.name})"))


def _named(evidence: Evidence, row: pd.Series) -> str:
    """Return a pair's name with what its methods share, such as ``lora: none − replay``."""
    return ": ".join(filter(None, [_within(evidence, row), _pair(row)]))


def _table(evidence: Evidence, frame: pd.DataFrame) -> TableView:
    gain, loss = _units(evidence, frame)
    first = frame.iloc[0]
    most = frame["tests"].max()
    basis = words.shared_basis(frame)
    rows: list[list[CellView | str]] = []
    several = len(frame[["first", "second"]].drop_duplicates()) > 1
    for _, row in frame.head(MAX_ROWS).iterrows():
        verdict = words.text(row["verdict"])
        kind = "kept" if verdict == "alike" else "unclear" if verdict == "not enough evidence" else ""
        ends = [words.amount(row[name], gain) for name in ("range_low", "range_high") if not pd.isna(row[name])]
        difference = words.with_ends(row, "difference", loss, low="low", high="high", sign=True)
        own_basis = "" if pd.isna(row["difference"]) or basis else words.difference_basis(row)
        rows.append(
            [
                sized(str(row["model"]), row["params_total"]),
                ": ".join(filter(None, [_within(evidence, row) if several else "", _pair(row)])),
                CellView(" to ".join(ends) or words.UNKNOWN, words.sortable(row["range_high"])),
                words.amount_cell(row["first_forgetting"], loss),
                words.amount_cell(row["second_forgetting"], loss),
                CellView(difference, words.sortable(row["difference"]), note=own_basis),
                CellView(_verdict(row) or words.UNKNOWN, verdict, kind, words.text(row["note"])),
            ]
        )
    pairs = list(dict.fromkeys(str(row[1]) for row in rows))
    pair = f" First − second: {pairs[0]}." if len(pairs) == 1 else ""
    if pair:
        rows = [[row[0], *row[2:]] for row in rows]
    titles = ["model", *([] if pair else ["first − second"]), "gains", "first lost", "second lost", "difference", "verdict"]
    return TableView(
        name="equal_gain",
        columns=[ColumnView(title=title, is_number=title in _NUMBERS, is_prose=title == "verdict") for title in titles],
        rows=rows,
        caption=f"Mean loss on {first['headline_suite']} of two methods over the same gains on {first['target_suite']}; positive: the first"
        f" forgets more.{pair} Gain in {gain.name}, loss in {loss.name}.{f' Intervals: {basis}.' if basis else ''}"
        f"{'' if pd.isna(most) or most < 2 else f' Verdicts of a pair are adjusted over its {most} models (Holm).'}"
        f"{'' if pair else ' Verdicts are not adjusted over pairs: of 20 pairs that are alike, one is expected to be called different.'}",
        data=frame,
        shown=words.excerpt(MAX_ROWS, len(frame), "rows", "equal_gain.csv"),
    )


_NUMBERS = {"gains", "first lost", "second lost", "difference"}


def _verdict(row: pd.Series) -> str:
    """Return the verdict; on a comparison with the best of several cells, in full words."""
    verdict, first, second = (words.text(row[name]) for name in ("verdict", "first", "second"))
    runs = " (these runs)" if verdict and verdict != UNKNOWN and words.held_by(row) else ""
    if verdict == FIRST_MORE and f"{PLAIN}, best of" in first and f"{PLAIN}, best of" not in second:
        count, every, settings = _BEST.findall(first)[-1]
        tried = {"rates": "rate", "numbers of epochs": "number of epochs", "trajectories": "trajectory"}
        tried["settings"] = "rate, number of epochs or trajectory"
        at = " or ".join(tried[one] for one in settings.split(" and "))
        where = f"{count} of {every} settings" if every else f"any {at}"
        return f"better than no mitigation at {where} tried{runs}"
    return f"{verdict}{runs}"


_BEST = re.compile(r"best of (\d+)(?: of (\d+))? (.+)")
"""Number of cells, that of all where some are left out, and the settings in which they differ."""
