"""Fabricated units and records for tests of sweeps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from harness.core.counts import Counts
from harness.records.schema import SAMPLE_COLUMNS, Measurement, Point, Record, Score
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter

BEFORE = "b" * 64
"""Hash of the weights that volume 0 is measured on."""


def run_unit(
    name: str,
    label: str,
    *,
    kind: Literal["run", "baseline"] = "run",
    needs: tuple[str, ...] = (),
    suites: tuple[str, ...] = (),
    threads: int = 1,
    volumes: tuple[int, ...] = (8,),
) -> Unit:
    """Return a unit; the evaluation id of suite ``k`` is ``e-k``."""
    return Unit(
        kind=kind,
        id=name,
        overrides=(),
        label=label,
        needs=needs,
        evaluations={suite: f"e-{suite}" for suite in suites},
        before_sha256=BEFORE,
        volumes=volumes if kind == "run" else (),
        threads=threads,
        processes=1,
        params_total=1000,
        cost=1.0,
    )


def sweep_of(units: Sequence[Unit], name: str = "e") -> Sweep:
    """Return a sweep of these units."""
    return Sweep(id="s1", experiment=name, command="harness sweep", time="2026-01-01T00:00:00+00:00", cores=2, gpus=0, units=tuple(units))


def score(status: Literal["ok", "failed"] = "ok") -> Score:
    """Return a score, or a failed measurement."""
    value = 0.5 if status == "ok" else None
    return Score(
        suite="k",
        task="t",
        metric="acc",
        filter="none",
        primary=True,
        n=2,
        value=value,
        stderr=None,
        chance=None,
        higher_is_better=True,
        status=status,
        reason=None if status == "ok" else "no",
    )


def no_items() -> pd.DataFrame:
    """Return an empty table of items."""
    return pd.DataFrame({column: [] for column in SAMPLE_COLUMNS})


def record_baseline(experiment: ExperimentWriter, unit: Unit) -> None:
    """Write volume 0 of each of a unit's suites."""
    record_measurements(experiment, unit, unit.before_sha256)


def record_measurements(experiment: ExperimentWriter, unit: Unit, weights: str, seconds: float = 1.0) -> None:
    """Write a measurement of some weights for each of a unit's suites."""
    for suite, evaluation_id in unit.evaluations.items():
        measurement = Measurement(
            evaluation_id=evaluation_id,
            suite=suite,
            identity={"evaluation": {"items": "report"}},
            weights_sha256=weights,
            scores=(score(),),
            wall_seconds=seconds,
            peak_memory_bytes=1,
            provenance={},
        )
        experiment.write_measurement(measurement, no_items())


def record_run(experiment: ExperimentWriter, unit: Unit, *, seconds: float = 1.0, incomplete: tuple[int, ...] = ()) -> None:
    """Write the configuration, the points and the record of a unit."""
    experiment.write_config(unit.id, {})
    record_baseline(experiment, unit)
    for volume in unit.volumes:
        found = point(unit, volume, seconds=seconds)
        record_measurements(experiment, unit, found.weights_sha256, seconds)
        experiment.write_point(found)
    values: dict[str, Any] = {"identity": {}, "labels": {}, "config": {}, "roles": {}, "tuning_facts": {}, "overlap": {}}
    experiment.write_record(
        Record(
            run_id=unit.id,
            experiment=experiment.name,
            volumes=unit.volumes,
            evaluations=unit.evaluations,
            before_sha256=unit.before_sha256,
            params_total=unit.params_total,
            params_trainable=unit.params_total,
            learning_rate=1e-3,
            lr_tuned=False,
            seed=0,
            trajectory="shared",
            dtype="float32",
            threads=1,
            start_weights_sha256="w",
            provenance={},
            incomplete=incomplete,
            **values,
        )
    )


def point(unit: Unit, volume: int, *, seconds: float = 1.0) -> Point:
    """Return a point of a unit."""
    return Point(
        run_id=unit.id,
        volume=volume,
        weights_sha256=hashlib.sha256(f"{unit.id} {volume}".encode()).hexdigest(),
        counts=Counts(step=volume // 8, nats=1.0, targets=1, flops=1.0, seconds=seconds, trained_tokens=10 * volume),
        target_rows=volume,
        anchor_rows=0,
        anchor_tokens=0,
        truncated_rows=0,
        weight_change=1.0,
        peak_memory_bytes=1,
    )
