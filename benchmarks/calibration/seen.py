"""Results of a calibration, compared with promises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A share of planted experiments, with its promised bounds.

    Attributes:
        what: the quantity.
        planted: description of the planted experiments.
        share: share of the planted experiments, in 0..1.
        count: number of planted experiments.
        least, most: promised bounds; None where nothing is promised.
        remark: remark for the reader.
    """

    what: str
    planted: str
    share: float
    count: int
    least: float | None = None
    most: float | None = None
    remark: str = ""

    @property
    def error(self) -> float:
        """Monte-Carlo standard error of the share.

        A share of 0 or 1 counts as half an experiment away from it.
        """
        share = min(max(self.share, 0.5 / self.count), 1 - 0.5 / self.count)
        return math.sqrt(share * (1 - share) / self.count)

    def holds(self, errors: float = 0.0) -> bool:
        """Return whether the promise is kept within a number of standard errors."""
        slack = errors * self.error
        return (self.least is None or self.share >= self.least - slack) and (self.most is None or self.share <= self.most + slack)


HEADER = ["what", "planted", "promised", "seen", "of", "holds", "remark"]


def markdown(found: Iterable[Seen]) -> str:
    """Return the results as a Markdown table."""
    rows: list[Sequence[str]] = [HEADER, ["---", "---", "---", "--:", "--:", "---", "---"], *map(_cells, found)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _cells(seen: Seen) -> list[str]:
    bounds = {"at least": seen.least, "at most": seen.most}
    promised = ", ".join(f"{words} {_percent(bound)}" for words, bound in bounds.items() if bound is not None)
    holds = ("yes" if seen.holds() else "within error" if seen.holds(errors=2.0) else "**no**") if promised else ""
    share = f"{_percent(seen.share)} ± {100 * seen.error:.1f}"
    return [seen.what, seen.planted, promised or "nothing", share, f"{seen.count:,}", holds, seen.remark]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
