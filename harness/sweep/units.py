"""Runs to units: baselines first, then points to measure, then runs, the longest first."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from harness.config.identity import identify
from harness.records.sweep_schema import Unit
from harness.run.preparation import Prepared
from harness.sweep.axes import Asked

ROWS_OF_EVALUATION = 512
"""Rows of training that cost about as much as one evaluation of all suites; used only for the
order."""

FIXED_PARAMETERS = 1_000_000
"""Added to a model's size: below about this size a run's cost hardly falls with it."""


def units_of(asked: Sequence[tuple[Asked, Prepared]]) -> list[Unit]:
    """Return the units of a sweep in the order in which they are taken.

    Args:
        asked: every run with its preparation.
    """
    is_measured = functools.cache(asked[0][1].experiment.is_measured) if asked else None
    runs: dict[str, Unit] = {}
    points: dict[str, Unit] = {}
    baselines: dict[str, Unit] = {}
    for one, prepared in asked:
        weights = prepared.before_sha256
        missing = {suite: found for suite, found in prepared.evaluation_ids.items() if is_measured and not is_measured(found, weights)}
        needs: tuple[str, ...] = ()
        if missing:
            unit = _baseline(one, prepared, missing)
            baselines.setdefault(unit.id, unit)
            needs = (unit.id,)
        run = runs.setdefault(prepared.run_id, _run(one, prepared, needs))
        if prepared.resolved.separate:
            points |= {unit.id: unit for unit in _measurements(run)}
    return [*_longest_first(baselines.values()), *points.values(), *_longest_first(runs.values())]


def _measurements(run: Unit) -> list[Unit]:
    """Return a unit for each point of a run whose checkpoints are measured by any worker."""
    return [
        dataclasses.replace(
            run,
            kind="measurement",
            id=f"{run.id}@{volume}",
            label=f"{run.label}, measure {volume}",
            volumes=(volume,),
            processes=1,
            cost=float((run.params_total + FIXED_PARAMETERS) * ROWS_OF_EVALUATION),
        )
        for volume in run.volumes
    ]


def _longest_first(units: object) -> list[Unit]:
    found: list[Unit] = list(units)  # type: ignore[call-overload]
    return sorted(found, key=lambda unit: -unit.cost)


def _run(one: Asked, prepared: Prepared, needs: tuple[str, ...]) -> Unit:
    evaluations = len(prepared.volumes) * max(1, len(one.config.mitigation.coefficients))
    rows = prepared.volumes[-1] * one.config.training.epochs + ROWS_OF_EVALUATION * evaluations
    return Unit(
        kind="run",
        id=prepared.run_id,
        overrides=one.overrides,
        arm=one.arm,
        label=label(one, prepared.run_id),
        needs=needs,
        evaluations=prepared.evaluation_ids,
        before_sha256=prepared.before_sha256,
        volumes=tuple(prepared.volumes),
        derived=tuple(prepared.derived.values()),
        measures=not prepared.resolved.separate,
        threads=prepared.resolved.threads,
        processes=prepared.resolved.processes,
        params_total=prepared.facts.params_total,
        cost=float((prepared.facts.params_total + FIXED_PARAMETERS) * rows),
    )


def _baseline(one: Asked, prepared: Prepared, missing: Mapping[str, str]) -> Unit:
    return Unit(
        kind="baseline",
        id=f"baseline-{identify({'of': prepared.before_sha256, 'on': sorted(prepared.evaluation_ids.values())})}",
        overrides=one.overrides,
        label=f"volume 0 of {one.config.labels.model if prepared.reference is None else one.config.labels.reference}",
        evaluations=missing,
        before_sha256=prepared.before_sha256,
        threads=prepared.resolved.threads,
        processes=1,
        params_total=prepared.facts.params_total,
        cost=float((prepared.facts.params_total + FIXED_PARAMETERS) * ROWS_OF_EVALUATION * 2),
    )


def label(one: Asked, run_id: str) -> str:
    """Return the name of a run for people."""
    labels = one.config.labels
    return f"{run_id} ({labels.model}, {labels.tuning}, {one.arm or labels.mitigation}, seed {one.config.seed})"


def not_reached(prepared: Prepared) -> str:
    """Return the volumes that a run does not reach, and why; empty without any."""
    left, reach = sorted({*prepared.config.data.volumes} - {*prepared.volumes}), prepared.experiment.reach(prepared.run_id)
    return (
        f"volume {', '.join(map('{:,}'.format, left))}: {reach[0]:,} of {left[0]:,} accepted, from {reach[1]:,} rows"
        if left and reach
        else ""
    )
