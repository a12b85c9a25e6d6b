"""Methods in panels by model, each with a colour and marker.

Many methods also have one panel per tuning; the same colour and marker then mean the same rest of
the method in every panel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report import palette
from harness.report.content import Mark
from harness.report.curves import MAX_STYLES, Series, chosen, left_out, sized

MAX_METHODS = 18
"""More in one panel would be indistinguishable."""

MARKERS = ["o", "s", "^", "D", "v", "P"]


@dataclass(frozen=True)
class MethodPanel:
    """The methods of one model, and of one tuning if there are many."""

    title: str
    subtitle: str
    every: Sequence[Series]


@dataclass(frozen=True)
class Methods:
    """Methods arranged for drawing.

    Attributes:
        panels: in reading order.
        marks: cell → its colour and marker.
        legend: one mark per method.
        left_out: a sentence on the methods that are not drawn; empty if all are.
    """

    panels: Sequence[MethodPanel]
    marks: Mapping[str, Mark]
    legend: Sequence[Mark]
    left_out: str

    @property
    def drawn(self) -> list[Series]:
        """All series in the panels."""
        return [one for panel in self.panels for one in panel.every]


def methods(every: Sequence[Series]) -> Methods:
    """Arrange methods in panels."""
    tunings = list(dict.fromkeys(str(one.labels["tuning"]) for one in every))
    styles = len({one.style_name for one in every})
    by_tuning = styles > MAX_STYLES and len(tunings) > 1
    names = {one.cell: _without_tuning(one) if by_tuning else one.style_name for one in every}
    first = set(list(dict.fromkeys(names.values()))[:MAX_METHODS])
    kept, _ = chosen([one for one in every if names[one.cell] in first], styles=styles)
    by_name = _marks([names[one.cell] for one in kept])
    panels = []
    for model in dict.fromkeys(one.model for one in every):
        for tuning in tunings if by_tuning else [""]:
            group = [one for one in kept if one.model == model and (not by_tuning or str(one.labels["tuning"]) == tuning)]
            if group:
                panels.append(MethodPanel(sized(model, group[0].labels["params_total"]), tuning, group))
    marks = {one.cell: by_name[names[one.cell]] for one in kept}
    return Methods(panels, marks, list(by_name.values()), left_out(len(kept), len(every)))


def _without_tuning(one: Series) -> str:
    words = [word for word in one.style_name.split(" · ") if word != str(one.labels["tuning"])]
    return " · ".join(words) or one.style_name


def _marks(names: Sequence[str]) -> dict[str, Mark]:
    """Return each name's colour and marker; a colour that repeats has another marker."""
    found: dict[str, Mark] = {}
    for number, name in enumerate(dict.fromkeys(names)):
        marker = MARKERS[(number + number // len(palette.METHODS)) % len(MARKERS)]
        found[name] = Mark(label=name, colour=palette.METHODS[number % len(palette.METHODS)], line="solid", marker=marker)
    return found
