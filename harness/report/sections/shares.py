"""Gain and loss against the share of old data in the loss, and the smallest that is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from harness.analysis.findings.shares import Change, Mixing, Share
from harness.analysis.table.columns import SUITE_TASK
from harness.report import mixing, words
from harness.report.content import CellView, ColumnView, FigureView, Mark, Section, TableView
from harness.report.curves import named
from harness.report.drawing import Place, columns_for, plain, small_multiples
from harness.report.evidence import Evidence
from harness.report.palette import GREY
from harness.report.tables import Panel

MAX_PANELS = 12
COLOUR = "#3b6fb6"


@dataclass(frozen=True)
class _Curve:
    """A panel: the change on one suite at each share."""

    panel: Panel
    points: Sequence[tuple[Share, Change]]
    is_gain: bool


def shares(evidence: Evidence) -> Section | None:
    """Return the curves over the share, the table and the answer, where two or more were run."""
    found = [one for one in evidence.mixings if sum(share.reached > 0 for share in one.shares) > 1]
    if not found:
        return None
    answers = [_titled(evidence, one, mixing.answer(evidence, one), several=len(found) > 1) for one in found]
    bases = list(dict.fromkeys(mixing.basis(evidence, one) for one in found))
    return Section(
        id="shares",
        title="How much old data to mix in",
        intro=" ".join(answers),
        figures=[_figure(evidence, found)],
        tables=[_table(evidence, found)],
        notes=bases,
    )


def _titled(evidence: Evidence, one: Mixing, text: str, *, several: bool) -> str:
    return f"{evidence.by_cell[one.shares[0].cell].model}: {text}" if several else text


def _figure(evidence: Evidence, found: Sequence[Mixing]) -> FigureView:
    places = [
        Place(curve, f"{'gain' if curve.is_gain else 'loss'} on {curve.panel.suite}", named(model), (model, curve.panel.suite))
        for one in found
        for model in [evidence.by_cell[one.shares[0].cell].model]
        for curve in _curves(evidence, one)
    ]
    cut = words.drawn(len(places[:MAX_PANELS]), len(places), "panels")
    places = places[:MAX_PANELS]
    marks = [Mark(label="mean", colour=COLOUR, line="solid", marker="o"), Mark(label="margin", colour=GREY, line="1.5 3")]
    whole, panels = small_multiples(places, _draw, marks, f"bars: {evidence.level} intervals", columns=columns_for(len(places)))
    first = "; ".join(f"{mixing.percent(share.reached)}: {share.state}" for share in found[0].shares)
    return FigureView(
        name="shares",
        title="Gain and loss against the share of old data",
        description=f"Change against the share of the loss that old data carry. {first}. All numbers: the table below.",
        caption=f"Share of the loss that was reached, mean over steps; bars are {evidence.level} intervals. A share is enough"
        f" where the bars of all losses end below the margin. {cut}".strip(),
        figure=whole,
        panels=panels,
        legend=marks,
        columns=columns_for(len(places)),
    )


def _curves(evidence: Evidence, one: Mixing) -> list[_Curve]:
    gains = [(share, share.gain) for share in one.shares if share.gain and share.gain.value is not None]
    losses = [(share, loss) for share in one.shares for loss in share.losses if loss.value is not None]
    found = [_Curve(evidence.panel_of[gains[0][1].suite, SUITE_TASK], gains, is_gain=True)] if gains else []
    for suite in dict.fromkeys(loss.suite for _, loss in losses):
        points = [(share, loss) for share, loss in losses if loss.suite == suite]
        found.append(_Curve(evidence.panel_of[suite, SUITE_TASK], points, is_gain=False))
    return found


def _draw(axes: Axes, curve: _Curve) -> None:
    scale = curve.panel.unit.scale
    at = [100 * share.reached for share, _ in curve.points]
    values = [scale * (change.value or 0.0) for _, change in curve.points]
    axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
    margin = curve.points[0][1].margin
    if margin is not None and not curve.is_gain:
        axes.axhline(scale * margin, color=GREY, linewidth=1.0, linestyle=(0, (1.0, 2.0)), zorder=1)
    axes.plot(at, values, color=COLOUR, linewidth=1.3, marker="o", markersize=4.2, zorder=3)
    for place, (_, change) in zip(at, curve.points, strict=True):
        if change.low is not None and change.high is not None:
            axes.vlines(place, scale * change.low, scale * change.high, color=COLOUR, linewidth=1.0, zorder=2)
    axes.set_xlabel("share of the loss from old data (%)")
    axes.set_ylabel(plain(curve.panel.unit.name))


def _table(evidence: Evidence, found: Sequence[Mixing]) -> TableView:
    suites = list(dict.fromkeys(loss.suite for one in found for share in one.shares for loss in (*share.losses, *share.others)))
    target = next((share.gain.suite for one in found for share in one.shares if share.gain), None)
    titles = [
        "method",
        "share asked",
        "share reached",
        *([f"gain on {target}"] if target else []),
        *(f"loss on {suite}" for suite in suites),
    ]
    titles += ["tokens beyond share 0", "seconds beyond share 0", "old data"]
    rows = [_row(evidence, one, share, target, suites) for one in found for share in one.shares]
    units = {suite: evidence.panel_of[suite, SUITE_TASK].unit.name for suite in [*([target] if target else []), *suites]}
    listed = ", ".join(f"{suite} in {unit}" for suite, unit in units.items())
    return TableView(
        name="shares",
        columns=[ColumnView(title=title, is_number=title not in {"method", "old data"}) for title in titles],
        rows=rows,
        caption=f"Changes with {evidence.level} intervals: {listed}. Tokens and seconds are those of training, means over seeds.",
    )


def _row(evidence: Evidence, one: Mixing, share: Share, target: str | None, suites: Sequence[str]) -> list[CellView | str]:
    changes = {loss.suite: loss for loss in (*share.losses, *share.others)}
    tokens, seconds = mixing.cost(one, share)
    gain = [CellView(mixing.change(evidence, share.gain, is_gain=True), share.gain.value) if share.gain else words.UNKNOWN]
    return [
        evidence.by_cell[share.cell].short,
        words.UNKNOWN if share.asked is None else CellView(f"{100 * share.asked:g}%", share.asked),
        CellView(mixing.percent(share.reached), share.reached),
        *(gain if target else []),
        *(CellView(mixing.change(evidence, changes[name]), changes[name].value) if name in changes else words.UNKNOWN for name in suites),
        CellView(tokens, mixing.extra(one, share)[0]),
        CellView(seconds, mixing.extra(one, share)[1]),
        share.state,
    ]
