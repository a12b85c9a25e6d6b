"""Fabricated units and records for tests of sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd

from harness.config.identity import identify
from harness.records.counts import Counts
from harness.records.schema import SAMPLE_COLUMNS, Baseline, Point, Record, Score
from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter


def run_unit(
    name: str,
    label: str,
    *,
    kind: Literal["run", "baseline"] = "run",
    needs: tuple[str, ...] = (),
    keys: tuple[str, ...] = (),
    threads: int = 1,
    volumes: tuple[int, ...] = (8,),
) -> Unit:
    """Return a unit; the baseline key ``k`` is that of the identity {"suite": "k"}."""
    return Unit(
        kind=kind,
        id=name,
        overrides=(),
        label=label,
        needs=needs,
        baseline_keys={key: identify({"suite": key}) for key in keys},
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
    """Write a baseline for each of a unit's keys."""
    for suite in unit.baseline_keys:
        baseline = Baseline(
            baseline_id=f"b-{suite}",
            suite=suite,
            identity={"suite": suite, "tasks": {}},
            weights_sha256="w",
            scores=(score(),),
            wall_seconds=1.0,
            provenance={},
        )
        experiment.write_baseline(baseline, no_items())


def record_run(experiment: ExperimentWriter, unit: Unit, *, seconds: float = 1.0, incomplete: tuple[int, ...] = ()) -> None:
    """Write the points and the record of a unit."""
    for volume in unit.volumes:
        experiment.write_point(point(unit, volume, seconds=seconds), no_items())
    values: dict[str, Any] = {"identity": {}, "labels": {}, "config": {}, "baselines": {}, "roles": {}, "tuning_facts": {}, "overlap": {}}
    experiment.write_record(
        Record(
            run_id=unit.id,
            experiment=experiment.name,
            volumes=unit.volumes,
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
        counts=Counts(step=volume // 8, nats=1.0, targets=1, flops=1.0, seconds=seconds, trained_tokens=10 * volume),
        target_rows=volume,
        anchor_rows=0,
        anchor_tokens=0,
        truncated_rows=0,
        weight_change=1.0,
        evaluation_seconds=seconds,
        peak_memory_bytes=1,
        scores=(score(),),
    )
