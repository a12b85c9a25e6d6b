"""Ways of training side by side in panels by model: which are drawn, in which panel, with which colour and marker.

Where there are many, each tuning has panels of its own, and a colour and marker stand for the rest
of the method in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report import palette
from harness.report.content import Mark
from harness.report.curves import MAX_STYLES, Series, chosen, sized

MAX_METHODS = 18
"""More in one panel could not be told apart."""

MARKERS = ["o", "s", "^", "D", "v", "P"]


@dataclass(frozen=True)
class MethodPanel:
    """Ways of training of one model, and of one tuning where there are many."""

    title: str
    subtitle: str
    every: Sequence[Series]


@dataclass(frozen=True)
class Methods:
    """What is drawn.

    Attributes:
        marks: cell → its colour and marker.
        legend: one mark a method.
        left_out: a sentence on what is not drawn; empty where everything is.
    """

    panels: Sequence[MethodPanel]
    marks: Mapping[str, Mark]
    legend: Sequence[Mark]
    left_out: str

    @property
    def drawn(self) -> list[Series]:
        """Every way of training that is drawn."""
        return [one for panel in self.panels for one in panel.every]


def methods(every: Sequence[Series]) -> Methods:
    """Set ways of training into panels."""
    tunings = list(dict.fromkeys(str(one.labels["tuning"]) for one in every))
    styles = len({one.style_name for one in every})
    by_tuning = styles > MAX_STYLES and len(tunings) > 1
    names = {one.cell: _but_for_tuning(one) if by_tuning else one.style_name for one in every}
    first = set(list(dict.fromkeys(names.values()))[:MAX_METHODS])
    kept, left_out = chosen([one for one in every if names[one.cell] in first], styles=styles)
    if len(kept) < len(every):
        left_out = f"Drawn are {len(kept)} of {len(every)} ways of training; all of them are in findings.csv."
    by_name = _marks([names[one.cell] for one in kept])
    panels = []
    for model in dict.fromkeys(one.model for one in every):
        for tuning in tunings if by_tuning else [""]:
            group = [one for one in kept if one.model == model and (not by_tuning or str(one.labels["tuning"]) == tuning)]
            if group:
                panels.append(MethodPanel(sized(model, group[0].labels["params_total"]), tuning, group))
    return Methods(panels, {one.cell: by_name[names[one.cell]] for one in kept}, list(by_name.values()), left_out)


def _but_for_tuning(one: Series) -> str:
    words = [word for word in one.style_name.split(" · ") if word != str(one.labels["tuning"])]
    return " · ".join(words) or one.style_name


def _marks(names: Sequence[str]) -> dict[str, Mark]:
    """Return each name's colour and marker.

    From the seventh on a colour comes again with another marker.
    """
    found: dict[str, Mark] = {}
    for number, name in enumerate(dict.fromkeys(names)):
        marker = MARKERS[(number + number // len(palette.METHODS)) % len(MARKERS)]
        found[name] = Mark(label=name, colour=palette.METHODS[number % len(palette.METHODS)], line="solid", marker=marker)
    return found
