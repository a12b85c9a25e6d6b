"""What learning costs: the frontier of gain and forgetting, and forgetting where two methods have gained as much."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes

from harness.report import figures, words
from harness.report.content import Cell, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import chosen, sized
from harness.report.drawing import Place, plain, small_multiples
from harness.report.evidence import Evidence
from harness.report.palette import GREY
from harness.report.tables import Panel

MAX_ROWS = 200


@dataclass(frozen=True)
class Paths:
    """A panel of the frontier: one model's points, a path a way of training, and its marks by cell."""

    rows: pd.DataFrame
    marks: dict[str, Mark]
    target: Panel
    probe: Panel


def frontier(evidence: Evidence) -> Section | None:
    """Return the scatter of gain and forgetting, a panel a model, a path a way of training from small to large volumes."""
    points = evidence.frontier
    if points.empty:
        return None
    kept, left_out = chosen([one for one in evidence.every if not one.is_control])
    marks = figures.method_marks([one.style_name for one in kept])
    by_cell = {one.cell: marks[one.style_name] for one in kept}
    points = points[points["cell"].isin(by_cell)]
    target, probe = str(points["target_suite"].iloc[0]), str(points["headline_suite"].iloc[0])
    panels = evidence.panel_of[target, "*"], evidence.panel_of[probe, "*"]
    models = points.sort_values("params_total", kind="stable").drop_duplicates("model")
    places = [
        Place(Paths(points[points["model"] == row["model"]], by_cell, *panels), sized(str(row["model"]), row["params_total"]), shares="all")
        for _, row in models.iterrows()
    ]
    columns = 2 if len(places) in {2, 4} else 3
    legend = [*marks.values(), Mark(label="on the frontier", marker="o"), Mark(label="not on it", marker="hollow")]
    level = words.percent(evidence.findings["level"].dropna().iloc[0]) if evidence.findings["level"].notna().any() else "-"
    whole, alone = small_multiples(places, _draw, legend, f"lines: {level} intervals", columns=columns)
    ends = points.sort_values("volume", kind="stable").drop_duplicates("cell", keep="last")
    said = "; ".join(
        f"{evidence.by_cell[str(row['cell'])].short}: gained {words.amount(row['gain'], panels[0].unit)},"
        f" lost {words.amount(row['forgetting'], panels[1].unit)}"
        for _, row in ends.head(12).iterrows()
    )
    view = FigureView(
        name="tradeoff",
        title="Learning against forgetting",
        description=f"Gain on {target} to the right, loss on {probe} upward, volumes as a path. At the largest volume, {said}.",
        caption=f"Right has learned more, low has kept more; larger points are larger volumes, thin lines {level} intervals. Filled points"
        f" are on the frontier of their model: no other gains as much and forgets as little. {left_out}".strip(),
        figure=whole,
        panels=alone,
        legend=legend,
        columns=columns,
    )
    return Section(id="frontier", title="Learning against forgetting", figures=[view], tables=[_frontier_table(evidence, *panels)])


def _draw(axes: Axes, paths: Paths) -> None:
    gain, loss = paths.target.unit.scale, paths.probe.unit.scale
    for line in (axes.axhline, axes.axvline):
        line(0.0, color=GREY, linewidth=0.8, zorder=1)
    for cell, rows in paths.rows.sort_values("volume", kind="stable").groupby("cell", sort=False):
        mark = paths.marks[str(cell)]
        x, y = rows["gain"].astype(float) * gain, rows["forgetting"].astype(float) * loss
        axes.plot([0.0, *x], [0.0, *y], color=mark.colour, linewidth=1.0, alpha=0.55, zorder=2)
        for index, (at_x, at_y, best) in enumerate(zip(x, y, rows["is_frontier"], strict=True)):
            size = 14 + 36 * (index + 1) / len(rows)
            fill = mark.colour if best else "none"
            axes.scatter([at_x], [at_y], s=size, facecolors=fill, edgecolors=mark.colour, marker=mark.marker, linewidths=1.1, zorder=4)
        ends = {name: rows[name].astype(float) * scale for name, scale in {"gain_low": gain, "gain_high": gain}.items()}
        axes.hlines(y, ends["gain_low"], ends["gain_high"], color=mark.colour, linewidth=0.8, alpha=0.5, zorder=3)
        axes.vlines(
            x,
            rows["forgetting_low"].astype(float) * loss,
            rows["forgetting_high"].astype(float) * loss,
            color=mark.colour,
            linewidth=0.8,
            alpha=0.5,
        )
    axes.set_xlabel(plain(f"gain on {paths.target.suite} ({paths.target.unit.name})"))
    axes.set_ylabel(plain(f"loss on {paths.probe.suite} ({paths.probe.unit.name})"))


def _frontier_table(evidence: Evidence, target: Panel, probe: Panel) -> TableView:
    rows: list[list[Cell | str]] = []
    for _, row in evidence.frontier.head(MAX_ROWS).iterrows():
        one = evidence.by_cell[str(row["cell"])]
        rows.append(
            [
                one.short,
                Cell(f"{int(row['volume']):,}", int(row["volume"])),
                Cell(words.with_ends(row, "gain", target.unit), float(row["gain"])),
                Cell(words.with_ends(row, "forgetting", probe.unit), float(row["forgetting"])),
                Cell("yes" if row["is_frontier"] else "no"),
                Cell(words.duration(row["wall_seconds"]), words.sortable(row["wall_seconds"])),
                Cell(words.scientific(row["flops"]), words.sortable(row["flops"])),
                Cell(words.count(row["anchor_tokens"]), words.sortable(row["anchor_tokens"])),
            ]
        )
    titles = ["way of training", "volume", f"gain ({target.unit.name})", f"loss ({probe.unit.name})", "on the frontier"]
    titles += ["training time", "floating-point operations", "extra tokens"]
    numeric = set(titles) - {"way of training", "on the frontier"}
    shown = f"{MAX_ROWS} of {count} points; all of them are in the files." if (count := len(evidence.frontier)) > MAX_ROWS else ""
    return TableView(
        name="frontier",
        columns=[ColumnView(title=title, is_number=title in numeric, meaning=_MEANINGS.get(title, "")) for title in titles],
        rows=rows,
        caption=f"Gain on {target.suite} and loss on {probe.suite} with their intervals, and what they cost.",
        data=evidence.frontier,
        shown=shown,
    )


_MEANINGS = {"extra tokens": "tokens of the anchor, trained on beside the target's", "training time": "mean over seeds, without evaluation"}


def equal_gain(evidence: Evidence) -> Section | None:
    """Return what each pair of methods forgets where both have gained as much."""
    frame = evidence.equal_gain
    if frame.empty:
        return None
    first, frame = frame.iloc[0], frame.sort_values(["params_total", "model"], kind="stable")
    gain, loss = (evidence.panel_of[str(first[name]), "*"].unit for name in ["target_suite", "headline_suite"])
    rows: list[list[Cell | str]] = []
    for _, row in frame.head(MAX_ROWS).iterrows():
        verdict = "" if pd.isna(row["verdict"]) else str(row["verdict"])
        kind = "kept" if verdict == "alike" else "unclear" if verdict == "not enough evidence" else ""
        difference = words.with_ends(row, "difference", loss, low="low", high="high", sign=True)
        basis = "" if pd.isna(row["difference"]) else f"{words.percent(row['level'])} over {row['varies']}, {words.seeds(row['seeds'])}"
        rows.append(
            [
                sized(str(row["model"]), row["params_total"]),
                f"{row['first']} − {row['second']}",
                Cell(words.amount(row["gain"], gain), words.sortable(row["gain"])),
                Cell(difference, words.sortable(row["difference"]), "", basis),
                Cell(verdict or "-", verdict, kind),
                Cell(words.amount(row["first_forgetting"], loss), words.sortable(row["first_forgetting"])),
                Cell(words.amount(row["second_forgetting"], loss), words.sortable(row["second_forgetting"])),
                "" if pd.isna(row["note"]) else str(row["note"]),
            ]
        )
    titles = ["model", "first − second", "at a gain of", "difference", "verdict", "first lost", "second lost", "to know"]
    table = TableView(
        name="equal_gain",
        columns=[ColumnView(title=title, is_number=place in {2, 3, 5, 6}, is_prose=place == 7) for place, title in enumerate(titles)],
        rows=rows,
        caption=f"Loss on {first['headline_suite']} of two methods where both have gained as much on {first['target_suite']};"
        f" positive: the first forgets more. Gain in {gain.name}, loss in {loss.name}. Verdicts are not adjusted for several pairs.",
        data=frame,
        shown=f"{MAX_ROWS} of {len(frame)} rows; all of them are in the files." if len(frame) > MAX_ROWS else "",
    )
    intro = (
        "A method that learns faster also forgets faster, so methods are compared where they have learned as much: at three levels inside"
        " the range of gain that both reach, never beyond. Gain and forgetting vary together in each interval."
    )
    return Section(id="equal-gain", title="Forgetting at equal gain", intro=intro, tables=[table])
