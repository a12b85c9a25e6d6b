"""Fits of all laws to an experiment's points, for its page."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.fits import fitting, laws, points
from harness.core.errors import AnalysisError
from harness.records.schema import Declared

WAYS = ["tuning", "objective", "mitigation", "data", "anchor", "trajectory", "epochs", "variant"]
"""Labels in which ways of training differ."""

CELL = ["model", *WAYS]
SCOPES: dict[str, list[str]] = {
    "hill": CELL,
    "saturating_power": CELL,
    "power": CELL,
    "injection": [label for label in WAYS if label not in {"mitigation", "anchor", "variant"}],
    "shifted_power": WAYS,
    "linear": WAYS,
    "kl": WAYS,
}
"""Law → labels that the points of one fit share: those of one cell for laws of volume alone, of all
sizes for the others, and of all shares of old data for injection. Other laws share WAYS."""

LIMIT = 40
POWER = "power"
TURNS = {"hill": 6, "saturating_power": 6, POWER: 6}
"""Law → number of fits per turn, by default 1. The laws take turns where there are more fits than
the limit."""

Asked = tuple[str, dict[str, str], pd.DataFrame]
"""Law, labels, points."""


@dataclass(frozen=True)
class Fitted:
    """A law on some of an experiment's points.

    Attributes:
        law: name of the law.
        where: labels that select these points, such as ``{"tuning": "lora"}``; empty if these are
            all points.
        suite: suite whose forgetting is fitted.
        points: points fitted, without volume 0 and controls.
        fit: the fit; None where it is not possible.
        refused: reason why there is no fit, else empty.
        is_declared: whether the experiment declared this law beforehand.
    """

    law: str
    where: dict[str, str]
    suite: str
    points: pd.DataFrame
    fit: fitting.Fit | None
    refused: str
    is_declared: bool = False


def every(
    table: pd.DataFrame,
    declared: Declared,
    limit: int = LIMIT,
    *,
    first: Collection[Mapping[str, str]] = (),
    left_out: Collection[str] = (),
) -> list[Fitted]:
    """Fit every law wherever an experiment has points for it.

    Args:
        table: the tidy table.
        declared: the experiment's declarations.
        limit: largest number of fits. If there are more, the laws take turns (TURNS), a law whose
            columns no point has is tried once, and a last entry without points states how many fits
            are left out.
        first: labels of the cells whose laws of volume come first if there are more than the limit:
            those in the figures.
        left_out: runs whose learning rate is too high, as ``points.from_table`` takes them.

    Returns:
        The fits, those of the declared law first; empty where there is no headline suite, or no
        point.
    """
    try:
        found = points.from_table(table, declared, left_out=left_out)
    except AnalysisError:
        return []
    suite, order = found.attrs["suite"], _order(declared.law)
    asked = [(law, where, part) for law in order for where, part in _groups(found, SCOPES.get(law, WAYS))]
    shown = asked if len(asked) <= limit else _in_turns(asked, first, declared.law)[: limit - 1]
    fitted = [one for law in dict.fromkeys(law for law, _, _ in shown) for one in _fitted(law, shown, asked, found.attrs)]
    if len(shown) < len(asked):
        rest = len(asked) - len(shown)
        reason = f"{rest} more fits are not shown (the page shows {limit}): harness fit NAME --law LAW --where column=value makes any"
        fitted.append(Fitted(POWER, {}, suite, found.iloc[:0], None, reason))
    return fitted


def _order(declared: str | None) -> list[str]:
    """Return all laws: the declared one first, those with one fit per cell last."""
    known = [law for law, labels in SCOPES.items() if labels is not CELL]
    every = [*known, *(name for name in laws.names() if name not in SCOPES), *(law for law, labels in SCOPES.items() if labels is CELL)]
    return sorted(every, key=lambda law: law != declared)


def _in_turns(asked: Sequence[Asked], first: Collection[Mapping[str, str]], declared: str | None) -> list[Asked]:
    """Return all fits in the order they are made until the limit, the declared law's first."""
    turns: list[tuple[float, Asked]] = []
    for law in _order(declared):
        own = [one for one in asked if one[0] == law]
        if (SCOPES.get(law) is CELL or law == declared) and first:
            own = sorted(own, key=lambda one: not any(all(of.get(name) == value for name, value in one[1].items()) for of in first))
        columns = [name for name in laws.named(law).columns if own and name in own[0][2]]
        empty = not any(part[columns].notna().all(axis=1).any() for _, _, part in own)
        late = float(len(asked))
        start, per_turn = (0.0, TURNS[POWER]) if law == declared else (1.0, TURNS.get(law, 1))
        turns += [(late if empty and number else start + number // per_turn, one) for number, one in enumerate(own)]
    return [one for _, one in sorted(turns, key=lambda turn: turn[0])]


def _groups(found: pd.DataFrame, labels: list[str]) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Yield the points that share labels, with the values of the labels that vary."""
    texts = found[labels].astype("string").fillna("")
    varying = [label for label in labels if texts[label].nunique() > 1]
    if not varying:
        yield {}, found
        return
    for key, rows in texts.groupby(varying if len(varying) > 1 else varying[0], sort=False).indices.items():
        values = key if isinstance(key, tuple) else (key,)
        yield dict(zip(varying, map(str, values), strict=True)), found.iloc[np.asarray(rows)]


def _fitted(law: str, shown: Sequence[Asked], asked: Sequence[Asked], about: Mapping[Hashable, Any]) -> list[Fitted]:
    """Return the fits of one law; cells that are not shown take part where it is fitted to all."""
    own = [(where, part.copy()) for name, where, part in shown if name == law]
    places, suite, is_declared = [where for where, _ in own], str(about["suite"]), about["declared"] == law
    others = [part for name, where, part in asked if name == law and where not in places]
    for _, part in own:
        part.attrs = dict(about)
    fits = fitting.fit_cells([part for _, part in own], law, others=others)
    return [
        Fitted(law, where, suite, part, None, str(fit), is_declared)
        if isinstance(fit, AnalysisError)
        else Fitted(law, where, suite, part, fit, "", is_declared)
        for (where, part), fit in zip(own, fits, strict=True)
    ]
