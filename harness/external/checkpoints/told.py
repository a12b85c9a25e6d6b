"""Output of ``harness measure`` and ``harness watch``: the plan, losses by checkpoint, the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.analysis.statistics.stats import LEVEL
from harness.external import text
from harness.external.checkpoints.plan import Placed
from harness.external.judge import SHARE, Comparison, dicts, suite_rows
from harness.records.store import Experiment
from harness.run.preparation import Prepared
from harness.sweep.plan import power
from harness.sweep.plan.power import Power

HEADINGS = ["checkpoint", "at", "suite", "before", "after", f"loss [{LEVEL:.0%}]", "unit", "verdict"]
LEFT = {0, 2, 6, 7}
"""Columns of names, aligned left."""


def plan(base: Prepared, places: Sequence[Placed]) -> list[str]:
    """Return the lines before anything is measured: items, and the smallest losses found."""
    suites = {name: base.workspace.suite_of(name, base.config) for name in base.roles}
    items = ", ".join(f"{name} {sum(map(len, one.items.values())):,}" for name, one in suites.items())
    head = f"{len(places)} checkpoint{'s' * (len(places) != 1)} and the base {base.config.labels.model}; items: {items}"
    return [head, *map(_smallest, power.power([base], [base.experiment]))]


def _smallest(one: Power) -> str:
    """Return a line on the smallest loss that is found on a suite."""
    if one.planned is None or one.planned.loss is None or one.variation is None:
        return f"{one.suite}: the smallest loss found is not known: nothing has been measured yet"
    loss = f"{100 * one.planned.loss:.1f} points" if one.variation.binary else f"{one.planned.loss:.2g} {one.metric}"
    return f"{one.suite}: a loss of {loss} is found with a probability of 80% ({one.basis})"


def minutes(base: Prepared, left: int) -> str:
    """Return a line on the time that ``left`` checkpoints take, by the slowest measurements."""
    if not left:
        return "every checkpoint is measured: nothing is loaded"
    slowest = dict.fromkeys(base.evaluation_ids.values(), 0.0)
    for evaluation_id in slowest:
        for folder in (base.experiment.folder / "measurements" / evaluation_id).glob("*"):
            found = base.experiment.glance("measurements", evaluation_id, folder.name, "measurement.json")
            slowest[evaluation_id] = max(slowest[evaluation_id], float(found.get("wall_seconds", 0.0)))
    seconds = sum(slowest.values())
    return f"a checkpoint takes about {_minutes(seconds)} and loading: {left} to measure, {_minutes(left * seconds)}"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def summary(rows: Sequence[tuple[Placed, Comparison]]) -> str:
    """Return the losses of checkpoints, a line for each checkpoint and suite."""
    return table([(one.training.name, _at(one), of_suites(comparison)) for one, comparison in rows], rows[0][1].margin)


def table(checkpoints: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]], margin: float) -> str:
    """Return losses as an aligned table with notes.

    Args:
        checkpoints: name, place on the axis and suites, as ``of_suites`` returns them, of each.
        margin: a change within ±margin is negligible.
    """
    lines = [HEADINGS]
    for name, at, suites in checkpoints:
        for number, row in enumerate(suites):
            named = ("", "") if number else (name, at)
            lines.append(
                [*named, row["suite"], text.number(row["before"]), text.number(row["after"]), _loss(row), _unit(row), row["verdict"]]
            )
    points = f" ({100 * margin:g} points)" if any(row["unit"] == SHARE for *_, suites in checkpoints for row in suites) else ""
    note = [
        "loss: how much worse the checkpoint is than the base over the same items; negative is better.",
        f"kept: the whole interval is inside ±{margin:g}{points}. Intervals are over items: of these weights, not of the method.",
    ]
    return "\n".join([*text.aligned(lines, LEFT), "", *note]) + "\n"


def short(suites: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the loss of each suite as a line."""
    return [
        f"{row['suite']}: {text.number(row['before'])} before, {text.number(row['after'])} after;"
        f" loss {_loss(row)} {_unit(row)}: {row['verdict']}"
        for row in suites
    ]


def of_suites(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the change of each suite: suite, unit, before, after, loss, low, high, verdict.

    ``loss`` is positive where the checkpoint is worse, in the metric's own unit; ``low`` and
    ``high`` are the ends of its interval, None where there is none.
    """
    unit = {one.name: one.unit for one in comparison.aggregates}
    found = []
    for row in dicts(suite_rows(comparison.rows)):
        sign = -1.0 if row["higher_is_better"] else 1.0
        ends = sorted(sign * end for end in text.ends(row))
        known = not any(math.isnan(end) for end in ends)
        name = str(row["suite"])
        found.append(
            {
                "suite": name,
                "unit": unit.get(name, str(row["metric"])),
                "metric": str(row["metric"]),
                "n": int(row["n"]),
                "before": float(row["before"]),
                "after": float(row["value"]),
                "loss": sign * float(row["delta"]),
                "low": ends[0] if known else None,
                "high": ends[1] if known else None,
                "verdict": text.verdict_of(row),
            }
        )
    return found


def _unit(row: Mapping[str, Any]) -> str:
    return "points" if row["unit"] == SHARE else str(row["unit"])


def _loss(row: Mapping[str, Any]) -> str:
    scale, digits = (100.0, 1) if row["unit"] == SHARE else (1.0, 3)
    value = f"{scale * row['loss'] + 0.0:.{digits}f}"
    return value if row["low"] is None else f"{value} [{scale * row['low']:.{digits}f}, {scale * row['high']:.{digits}f}]"


def _at(one: Placed) -> str:
    return "" if one.training.axis == "checkpoint" else f"{one.volume:,} {one.training.axis}"


def finish(experiment: Experiment, say: Callable[[str], None]) -> None:
    """Write the page, and name what is on disk. Raises HarnessError if it cannot be written."""
    from harness.records.locate import spelled
    from harness.report import evidence, page

    say(f"page: {page.write(experiment, evidence.gather(experiment))}")
    say(f"next: harness table {spelled(experiment)} --format text")
