"""Outcome of a measurement for a training: numbers to log, a line, whether it stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.external.checkpoints.stopping import Tested


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A measurement in plain values: the same on every process.

    Attributes:
        values: name → number to log.
        line: for people; empty for none.
        stop: whether the training is to stop.
    """

    values: Mapping[str, float]
    line: str
    stop: bool = False


NOTHING = Outcome(values={}, line="")


def outcome(
    where: str, suites: Mapping[str, Mapping[str, Any]], tested: Sequence[Tested], seconds: float, *, starts: bool = False
) -> Outcome:
    """Return what a measurement says.

    Args:
        where: words for the step.
        suites: suite → before, after, loss, interval and others, as ``summary_file`` has them.
        tested: the tests of the rule.
        seconds: that measuring took.
        starts: whether this is the start, against itself.
    """
    values, words, limits = {"seconds": seconds}, list[str](), {one.name: one.limit for one in tested}
    for name, one in suites.items():
        values |= {name: one["loss"] + 0.0, f"{name}_score": one["after"]}
        interval = ""
        if one["interval"] is not None:
            low, high = (float(end) + 0.0 for end in one["interval"])
            values |= {f"{name}_low": low, f"{name}_high": high}
            interval = f" [{low:.3f}, {high:.3f}]"
        limit = f", limit {limits[name]:g}" if name in limits else ""
        moved = f" → {one['after']:.3f}, loss {one['loss'] + 0.0:.3f}{interval}{limit}" if not starts else ""
        words.append(f"{name} {one['before']:.3f}{moved}")
    over = [f"{one.name} lost at least {one.least:.3f}, limit {one.limit:g}" for one in tested if one.exceeds]
    end = f"; the training stops: {'; '.join(over)}" if over else ""
    return Outcome(values=values, line=f"{where}: {'; '.join(words)}; {seconds:.1f} s{end}", stop=bool(over))
