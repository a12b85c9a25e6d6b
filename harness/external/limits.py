"""The limits of the gate, as typed, and the part that each suite takes in it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.config.strict import check
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.external.judge import SHARE, Aggregate

MAX_LOSS = "0 or greater, in the metric's own unit: 0.02 is 2 points"

Place = Literal["in the mean", "own limit", "in another", "not named", "no limit"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest losses allowed, as typed.

    Attributes:
        overall: of the mean, and of each suite in its unit; None: no mean is formed.
        own: suite → its own limit, which takes it out of the mean.
        mean: suites of the mean; empty: all of one unit, shares if there are any.
    """

    overall: float | None = None
    own: Mapping[str, float] = field(default_factory=dict)
    mean: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The limits, as typed."""
        overall = [] if self.overall is None else [f"{self.overall:g}"]
        return ", ".join([*overall, *(f"{name}={limit:g}" for name, limit in self.own.items())])

    def check_names(self, known: Collection[str]) -> None:
        """Reject names that are not suites. Raises ConfigError."""
        for option, names in {"--mean": self.mean, "--max-loss": tuple(self.own)}.items():
            for name in names:
                check(option, name, ", ".join(known), lambda name: name in known, did_you_mean(name, known))


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a suite is in the gate.

    Attributes:
        place: its place. ``in another``: all its tasks count in larger suites. ``not named``: in
            the mean's unit, but not in ``--mean``.
        limit: largest loss allowed, None if none is given.
        holders: the larger suites in which tasks of this one count.
        counted: the suite with the tasks by which it is in the mean; None if it is not.
    """

    place: Place
    limit: float | None
    holders: tuple[str, ...] = ()
    counted: Aggregate | None = None


def read(max_loss: Sequence[str] | None, mean: str | None) -> Limits | None:
    """Return the limits that a user typed; None without any.

    Args:
        max_loss: each ``X`` or ``SUITE=X``.
        mean: suites with commas.

    Raises:
        ConfigError: for numbers that are no limits, and limits that contradict each other.
    """
    names = tuple(dict.fromkeys(name.strip() for name in (mean or "").split(",") if name.strip()))
    found = _numbers(max_loss or ())
    overall = found.pop("", None)
    if mean is not None:
        where, needed = "--mean", "together with a limit of the mean"
        check(where, mean, "suites with commas, such as mmlu,hellaswag", lambda _: bool(names))
        check(where, mean, needed, lambda _: overall is not None, "add --max-loss 0.02")
        both = [name for name in names if name in found]
        check(where, mean, "suites without limits of their own", lambda _: not both, f"name {', '.join(both)} in one of both")
    return Limits(overall=overall, own=found, mean=names) if max_loss else None


def _numbers(given: Sequence[str]) -> dict[str, float]:
    """Return suite → its limit; the mean's has the name ``""``. Raises ConfigError."""
    where, found = "--max-loss", dict[str, float]()
    for text in given:
        name, equals, number = text.rpartition("=")
        if name in found:
            raise ConfigError(explain(where, got=text, allowed=f"one limit for {name or 'the mean'}", fix="omit the others"))
        try:
            limit = float(number) if bool(name) == bool(equals) else math.nan
        except ValueError:
            limit = math.nan
        if not 0 <= limit < math.inf:
            fix = f"write {text.replace(':', '=', 1)}" if ":" in text else ""
            raise ConfigError(explain(where, got=text, allowed=f"X or SUITE=X, X {MAX_LOSS}", fix=fix))
        found[name] = limit
    return found


def parts(suites: Sequence[Aggregate], limits: Limits) -> dict[str, Part]:
    """Return suite → its part in the gate.

    A task counts once: in the largest of the suites that are gated by the mean or by a limit of
    their own.

    Raises:
        ConfigError: if the suites named for the mean have several units, or contain one another,
            or a limit of shares is 1 or more.
    """
    candidates = _candidates(suites, limits)
    unit = next(iter(candidates.values())).unit if candidates else None
    holder: dict[str, str] = {}
    found: dict[str, Part] = {}
    for suite in sorted(suites, key=lambda suite: -len(suite.changes)):
        if suite.name in limits.own:
            found[suite.name] = Part(place="own limit", limit=limits.own[suite.name])
        elif suite.name in candidates or all(task in holder for task in suite.changes):
            found[suite.name] = _of_candidate(suite, holder, found, limits)
        else:
            same = limits.overall is not None and suite.unit == unit
            found[suite.name] = Part(place="not named", limit=limits.overall) if same else Part(place="no limit", limit=None)
            continue
        for task in suite.changes:
            holder.setdefault(task, suite.name)
    for name in limits.mean:
        allowed = f"suites that do not contain each other ({name} is in {', '.join(found[name].holders)})"
        check("--mean", name, allowed, lambda name: found[name].place == "in the mean", f"omit {name}")
    for limit in {found[suite.name].limit for suite in suites if suite.unit == SHARE}:
        if limit is not None and limit >= 1:
            got, allowed, fix = f"{limit:g} for shares", "less than 1: 0.02 is 2 points", f"--max-loss {limit / 100:g}"
            raise ConfigError(explain("--max-loss", got=got, allowed=allowed, fix=fix))
    return {suite.name: found[suite.name] for suite in suites}


def _candidates(suites: Sequence[Aggregate], limits: Limits) -> dict[str, Aggregate]:
    """Return the suites that may be in the mean, all of one unit."""
    if limits.overall is None:
        return {}
    named = {suite.name: suite for suite in suites if suite.name in limits.mean}
    units = {suite.unit for suite in named.values()}
    if len(units) > 1:
        got = ", ".join(f"{name} ({suite.unit})" for name, suite in named.items())
        fix = "give the others limits of their own: --max-loss SUITE=X"
        raise ConfigError(explain("--mean", got=got, allowed="suites of one unit", fix=fix))
    free = {suite.name: suite for suite in suites if suite.name not in limits.own}
    shares = {name: suite for name, suite in free.items() if suite.unit == SHARE}
    return named or shares or (free if len({suite.unit for suite in free.values()}) == 1 else {})


def _of_candidate(suite: Aggregate, holder: Mapping[str, str], larger: Mapping[str, Part], limits: Limits) -> Part:
    """Return the part of a suite that is in the mean with the tasks that no larger suite has."""
    holders = tuple(dict.fromkeys(holder[task] for task in suite.changes if task in holder))
    left = {task: change for task, change in suite.changes.items() if task not in holder}
    if not left:
        allowed = [limit for name in holders if (limit := larger[name].limit) is not None]
        return Part(place="in another", limit=max(allowed), holders=holders)
    return Part(place="in the mean", limit=limits.overall, holders=holders, counted=dataclasses.replace(suite, changes=left))
