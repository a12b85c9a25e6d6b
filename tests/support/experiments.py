"""Fabricated experiments: records and samples of a run, from per-item values set by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.core.counts import Counts
from harness.records.schema import Failure, Measurement, Point, Record, Score
from harness.records.writer import ExperimentWriter

BEFORE = "b" * 64
"""Hash of the weights that volume 0 of every fabricated run is measured on."""

COMMAND_LABELS = {"model": "tiny-a", "tuning": "full", "objective": "sft", "mitigation": "none", "data": "people", "anchor": None}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One metric of one task.

    Attributes:
        values: of its items, in the order of their doc hashes d0, d1, ….
        moved: change of the value in a second measurement.
        chances: each item's score of uniform guessing, if they differ.
        clusters: each item's cluster.
        repeated: documents left out since they repeat another one.
    """

    suite: str
    task: str
    values: Sequence[float]
    metric: str = "acc"
    filter: str = "none"
    weights: Sequence[float] | None = None
    higher_is_better: bool = True
    chance: float | None = 0.25
    primary: bool = True
    prompt: str = "p"
    first: int = 0
    failed: str | None = None
    moved: float | None = None
    chances: Sequence[float] | None = None
    clusters: Sequence[str] | None = None
    repeated: int | None = None

    def score(self) -> Score:
        """Return the score of these items."""
        weights = np.ones(len(self.values)) if self.weights is None else np.asarray(self.weights, dtype=float)
        value = None if self.failed else float(np.average(self.values, weights=weights))
        residual = weights * (np.asarray(self.values, dtype=float) - (value or 0.0))
        n = len(self.values)
        error = float(np.sqrt(np.sum(residual**2) * n / (n - 1)) / weights.sum()) if n > 1 else None
        return Score(
            suite=self.suite,
            task=self.task,
            metric=self.metric,
            filter=self.filter,
            primary=self.primary,
            n=0 if self.failed else n,
            value=value,
            stderr=None if self.failed else error,
            chance=None if self.failed else self.chance if self.chances is None else float(np.mean(self.chances)),
            higher_is_better=self.higher_is_better,
            status="failed" if self.failed else "ok",
            reason=self.failed,
            unparsed=None if self.failed else 0.0,
            prompt_truncated=None if self.failed else 0.0,
            answer_truncated=None if self.failed else 0.0,
            repeated_items=self.repeated,
            remeasured=None if self.failed or self.moved is None else (value or 0.0) + self.moved,
            numeric_spread_nats=None if self.failed or self.moved is None else 10 * abs(self.moved),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the sample rows, in reversed order, on which joins must not depend."""
        for i in reversed(range(len(self.values))):
            name = f"d{self.first + i}"
            yield {
                "suite": self.suite,
                "task": self.task,
                "filter": self.filter,
                "doc_id": i,
                "doc_hash": name,
                "prompt_hash": f"{self.prompt}-{name}",
                "target_hash": f"t-{name}",
                "prompt": "question",
                "target": "answer",
                "choices": None,
                "log_likelihoods": None,
                "text": None,
                "chance": (float("nan") if self.chance is None else self.chance) if self.chances is None else self.chances[i],
                f"metric.{self.metric}": float(self.values[i]),
            } | self._extra(i)

    def _extra(self, i: int) -> dict[str, Any]:
        weight = {} if self.weights is None else {f"weight.{self.metric}": float(self.weights[i])}
        return weight if self.clusters is None else weight | {"cluster": self.clusters[i]}


def samples(tasks: Sequence[Task]) -> pd.DataFrame:
    """Return samples as a run stores them, one row for an item's metrics."""
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for task in tasks:
        for row in () if task.failed else task.rows():
            key = (task.suite, task.task, task.filter, row["doc_hash"])
            merged[key] = merged.get(key, {}) | row
    if merged:
        return pd.DataFrame(list(merged.values()))
    return pd.DataFrame({name: pd.Series(dtype="object") for name in next(Task(suite="s", task="t", values=[0]).rows())})


def write_measurements(
    experiment: ExperimentWriter, model: str, weights: str, tasks: Sequence[Task], seconds: float = 1.0
) -> dict[str, str]:
    """Write the measurement of every suite on some weights; return suite → evaluation id."""
    ids = {}
    for suite in dict.fromkeys(task.suite for task in tasks):
        own = [task for task in tasks if task.suite == suite]
        measurement = Measurement(
            evaluation_id=f"{model}-{suite}",
            suite=suite,
            identity={"model": model, "evaluation": {"items": "report"}},
            weights_sha256=weights,
            scores=tuple(task.score() for task in own),
            wall_seconds=seconds,
            peak_memory_bytes=300_000_000,
            provenance={},
        )
        experiment.write_measurement(measurement, samples(own))
        ids[suite] = measurement.evaluation_id
    return ids


def weights_of(run_id: str, volume: int) -> str:
    """Return the hash of the weights of a fabricated point."""
    return hashlib.sha256(f"{run_id} {volume}".encode()).hexdigest()


def counts(volume: int, **changes: Any) -> Counts:
    """Return totals of 8 rows a step, 10 tokens a row, 4 with loss."""
    values: dict[str, Any] = {"step": volume // 8, "targets": 4 * volume, "nats": 6.0 * volume, "flops": 1e6 * volume, "seconds": 2.0}
    tokens = {"trained_tokens": 10 * volume, "supervised_tokens": 4 * volume}
    return Counts(**(values | tokens | changes))


def write_point(
    experiment: ExperimentWriter, run_id: str, volume: int, tasks: Sequence[Task], model: str = "tiny-a", **changes: Any
) -> None:
    """Write a point with the totals of ``counts``, and its measurements."""
    seconds = 1.0 / max(1, len({task.suite for task in tasks}))
    write_measurements(experiment, model, weights_of(run_id, volume), tasks, seconds)
    values: dict[str, Any] = {
        "run_id": run_id,
        "volume": volume,
        "weights_sha256": weights_of(run_id, volume),
        "counts": counts(volume),
        "target_rows": volume,
        "anchor_rows": 0,
        "anchor_tokens": 0,
        "anchor_supervised_tokens": 0,
        "anchor_loss_share": 0.0,
        "truncated_rows": 0,
        "weight_change": 0.5,
        "peak_memory_bytes": 300_000_000,
    }
    experiment.write_point(Point(**(values | changes)))


def config_of(labels: Mapping[str, Any], roles: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return the part of a resolved configuration that analysis reads."""
    return {
        "labels": dict(labels),
        "target_suites": [suite for suite, role in roles.items() if role == "target"],
        "probe_suites": [suite for suite, role in roles.items() if role == "probe"],
        "training": {"learning_rate": None, "epochs": 1},
        "trajectory": "shared",
        "seed": seed,
    }


def write_run(
    experiment: ExperimentWriter,
    run_id: str,
    *,
    before: Sequence[Task],
    points: Mapping[int, Sequence[Task]],
    roles: Mapping[str, str],
    labels: Mapping[str, Any] | None = None,
    seed: int = 0,
    finished: bool = True,
    failure: str | None = None,
    measured_before: bool = False,
    **changes: Any,
) -> None:
    """Write a run: measurements, points, and a record, a failure, both, or neither (unfinished)."""
    named = COMMAND_LABELS | dict(labels or {})
    config = config_of(named, roles, seed)
    evaluations = write_measurements(experiment, named["model"], BEFORE, before)
    for volume, tasks in points.items():
        write_point(experiment, run_id, volume, tasks, named["model"])
        evaluations |= {task.suite: f"{named['model']}-{task.suite}" for task in tasks}
    experiment.write_config(run_id, config, evaluations, BEFORE if measured_before else "")
    if finished:
        values: dict[str, Any] = {
            "run_id": run_id,
            "experiment": experiment.name,
            "identity": {},
            "labels": named,
            "config": config,
            "volumes": tuple(sorted(points)),
            "evaluations": evaluations,
            "before_sha256": BEFORE,
            "roles": dict(roles),
            "params_total": 145_000,
            "params_trainable": 145_000,
            "learning_rate": 0.001,
            "lr_tuned": True,
            "seed": seed,
            "trajectory": "shared",
            "dtype": "float32",
            "threads": 1,
            "tuning_facts": {},
            "overlap": {suite: "expected" if role == "target" else _SHARES for suite, role in roles.items()},
            "start_weights_sha256": "w",
            "provenance": {
                "versions": {"harness": "0.1.0", "torch": "2.13.0"},
                "git": {"commit": "abc1234", "dirty": False},
                "python": "3.11",
            },
        }
        experiment.write_record(Record(**(values | changes)))
    if failure:
        experiment.write_failure(
            Failure(run_id=run_id, experiment=experiment.name, labels=named, config=config, reason=failure, traceback="Traceback …")
        )


_SHARES = {"items": 40, "exact": 1, "exact_share": 0.025, "ngram_items": 20, "ngram": 4, "ngram_share": 0.2}


def flipped(values: Sequence[float], *, lost: int, gained: int) -> list[float]:
    """Return 0/1 values with the first ``lost`` ones and the first ``gained`` zeros flipped."""
    ones = [i for i, value in enumerate(values) if value == 1][:lost]
    zeros = [i for i, value in enumerate(values) if value == 0][:gained]
    after = list(values)
    for i in ones:
        after[i] = 0.0
    for i in zeros:
        after[i] = 1.0
    return after


def share(ones: int, n: int) -> list[float]:
    """Return n values of which the first ``ones`` are 1."""
    return [1.0] * ones + [0.0] * (n - ones)
