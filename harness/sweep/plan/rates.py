"""Speed of this machine and needs of runs, measured from recorded results.

Without any results, steps, items and runs are counted at known costs, and the arithmetic of the
model is added at the speed of a matrix product.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.config.identity import training_id
from harness.records import provenance
from harness.records.store import Experiment
from harness.records.sweep_schema import Claim

if TYPE_CHECKING:
    import torch

RUNS = 100
"""Runs of an experiment that are read: more would not improve a rate. Their ids are hashes, so the
first ones are a fair sample."""

UTILIZATION, EVALUATION_UTILIZATION = 0.3, 0.6
"""Shares of a large matrix product's speed that training and evaluation are assumed to reach if
neither was ever measured. Batches of evaluation are larger (``benchmarks/speed/README.md``)."""

STEP_SECONDS, BLOCK_SECONDS = 0.001, 0.002
"""Of an optimizer step, and per block of the model: all but the arithmetic. These and the next two
are of the shipped models with two workers on two cores of an AMD EPYC."""

ITEM_SECONDS = 0.0005
"""Of an evaluated item, all but the arithmetic."""

RUN_SECONDS, PART_SECONDS = 0.3, 0.06
"""Of a run, neither training nor evaluation, and more for each suite at each volume."""

START_SECONDS = 15.0
"""Of a sweep: imports of the command and its workers at first, table and page at last."""

MATRIX, SECONDS = 1024, 0.3
"""Width of the matrices of that product, and the time it is measured for."""

Key = tuple[str, ...]
Sizes = Mapping[int, float]
"""Number of parameters of a model → a measured value."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured rates, by tuning class and suites, each at the measured model sizes.

    Attributes:
        token_seconds: tuning → seconds per token of training.
        point_seconds: (tuning, items, suites…) → seconds of evaluating a point.
        suite_seconds: (suite, items) → seconds of measuring volume 0 once.
        peak_bytes: tuning → peak memory of a run.
        point_bytes: suites → size of a point on disk.
        other_seconds: of a run, neither training nor evaluation; None if nothing was measured.
        where: hardware; empty if nothing was measured.
    """

    token_seconds: Mapping[str, Sizes] = field(default_factory=dict)
    point_seconds: Mapping[Key, Sizes] = field(default_factory=dict)
    suite_seconds: Mapping[Key, Sizes] = field(default_factory=dict)
    peak_bytes: Mapping[str, Sizes] = field(default_factory=dict)
    point_bytes: Mapping[Key, float] = field(default_factory=dict)
    other_seconds: float | None = None
    where: str = ""


def rates(experiments: Iterable[Experiment], *, gpu: bool) -> Rates:
    """Return the rates of recorded results, of this hardware or else of its kind.

    Args:
        experiments: their results are read.
        gpu: whether the runs to estimate will have a GPU.
    """
    seen = [one for experiment in experiments for one in _seen(experiment)]
    own = [one for one in seen if bool(one.hardware[1]) is gpu]
    here = [one for one in own if one.hardware == _hardware()]
    chosen = here or own
    if not chosen:
        return Rates()
    hardware = sorted({gpu or processor for processor, gpu in (one.hardware for one in chosen)})
    return Rates(
        token_seconds=_by_size((one.tuning, one.params, one.token_seconds) for one in chosen if one.token_seconds),
        point_seconds=_by_size((one.point_key, one.params, one.point_seconds) for one in chosen),
        suite_seconds=_by_size((key, one.params, value) for one in chosen for key, value in one.suite_seconds.items()),
        peak_bytes=_by_size(((one.tuning, one.params, float(one.peak_bytes)) for one in chosen), max),
        point_bytes={key[2:]: statistics.median(of) for key, of in _grouped((one.point_key, one.point_bytes) for one in chosen).items()},
        other_seconds=_median([one.other_seconds for one in chosen if one.other_seconds is not None]),
        where=f"{', '.join(hardware)}{'' if here else ', which is not this machine'}",
    )


def at(params: int, sizes: Sizes, slope: float | None = None) -> float | None:
    """Return a value at a model size; None without any measured size.

    At a measured size the measured value, between two a log-log interpolation. Beyond them the
    nearest and the slope's part, at most in proportion: what a step or an item costs by itself does
    not grow with the model.

    Args:
        params: the size.
        sizes: measured values.
        slope: seconds per parameter, by arithmetic alone; None changes in proportion.
    """
    if params in sizes or not sizes:
        return sizes.get(params)
    below, above = max((p for p in sizes if p < params), default=None), min((p for p in sizes if p > params), default=None)
    if below is None or above is None:
        nearest = below or above or params
        whole = sizes[nearest] / nearest
        return sizes[nearest] + (whole if slope is None else min(slope, whole)) * (params - nearest)
    share = math.log(params / below) / math.log(above / below)
    if min(sizes[below], sizes[above]) <= 0:
        return sizes[below] + share * (sizes[above] - sizes[below])
    return math.exp((1 - share) * math.log(sizes[below]) + share * math.log(sizes[above]))


@functools.cache
def flops_per_second(gpu: bool, threads: int) -> float | None:
    """Return the speed of a large matrix product, by timing one with the threads of a run.

    Of a processor in processor time, so that other work on this machine counts little. None for a
    GPU on a machine without one.
    """
    import torch

    if gpu and not torch.cuda.is_available():
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if gpu:
            return _timed("cuda", torch.bfloat16, time.perf_counter)
        return _timed("cpu", torch.float32, lambda: time.process_time() / threads)
    finally:
        torch.set_num_threads(before)


def _timed(device: str, kind: torch.dtype, clock: Callable[[], float]) -> float:
    import torch

    left = torch.ones(MATRIX, MATRIX, device=device, dtype=kind)
    out = left @ left
    began, products = clock(), 0
    while (taken := clock() - began) < SECONDS:
        torch.mm(left, left, out=out)
        products += 1
        if device == "cuda":
            torch.cuda.synchronize()
    return products * 2 * MATRIX**3 / taken


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """The measurements of one run."""

    hardware: tuple[str, str]
    tuning: str
    params: int
    token_seconds: float | None
    point_key: Key
    point_seconds: float
    suite_seconds: Mapping[Key, float]
    peak_bytes: int
    point_bytes: float
    other_seconds: float | None


def _seen(experiment: Experiment) -> list[_Seen]:
    known: dict[tuple[str, str], Mapping[str, Any]] = {}
    trained = [run_id for run_id in experiment.run_ids() if training_id(run_id) == run_id]  # derived runs are part of their time
    found = (_run(experiment, run_id, known) for run_id in trained[:RUNS])
    return [one for one in found if one is not None]


def items_key(items: str, limit: int | None) -> str:
    """Return the key of measured seconds: which items of a suite, and how many at most."""
    return items if limit is None else f"{items}, at most {limit} a task"


def _run(experiment: Experiment, run_id: str, known: dict[tuple[str, str], Mapping[str, Any]]) -> _Seen | None:
    record = experiment.glance("runs", run_id, "record.json")
    points = {volume: experiment.glance("runs", run_id, "points", str(volume), "point.json") for volume in record.get("volumes", ())}
    if not points or not all(points.values()) or "tuning" not in record["identity"]:  # trained elsewhere: it tells nothing
        return None
    spent = points[max(points)]["counts"]
    seconds, trained = float(spent["seconds"]), int(spent["trained_tokens"])
    ids = record["evaluations"]
    before = {name: _measured(experiment, found, record["before_sha256"], known) for name, found in ids.items()}
    whole = {name: found for name, found in before.items() if found}
    of_points = [[_measured(experiment, found, point["weights_sha256"], {}) for found in ids.values()] for point in points.values()]
    evaluations = [sum(float(found["wall_seconds"]) for found in of) for of in of_points if all(of)]
    tuning = class_of(record["identity"]["tuning"])
    items = str(next((found["identity"]["evaluation"].get("items") for found in whole.values()), "report"))
    items = items_key(items, (record.get("config", {}).get("evaluation") or {}).get("limit"))
    chosen = any(point.get("selected") or point.get("coefficient") is not None for point in points.values())  # more was measured
    return _Seen(
        hardware=(str(record["provenance"].get("processor") or ""), str(record["provenance"].get("gpu") or "")),
        tuning=tuning,
        params=int(record["params_total"]),
        token_seconds=seconds / trained if seconds and trained else None,
        point_key=(tuning, items, *sorted(record["roles"])),
        point_seconds=statistics.median(evaluations or [0.0]),
        suite_seconds={(name, items): float(found["wall_seconds"]) for name, found in whole.items()},
        peak_bytes=max(int(point["peak_memory_bytes"]) for point in points.values()),
        point_bytes=statistics.mean(experiment.point_bytes(run_id, volume) for volume in points),
        other_seconds=None if chosen else _other_seconds(experiment.claims.of(run_id), seconds + sum(evaluations)),
    )


def _measured(
    experiment: Experiment, evaluation_id: str, weights_sha256: str, known: dict[tuple[str, str], Mapping[str, Any]]
) -> Mapping[str, Any]:
    key = (evaluation_id, weights_sha256)
    if key not in known:
        known[key] = experiment.glance("measurements", evaluation_id, weights_sha256[:16], "measurement.json")
    return known[key]


def _other_seconds(claims: Sequence[Claim], work: float) -> float | None:
    """Return the seconds of a one-worker run outside training and evaluation."""
    return max(0.0, claims[0].wall_seconds - work) if len(claims) == 1 and claims[0].ended == "done" else None


def class_of(described: Mapping[str, Any]) -> str:
    """Return the class name of a configuration object in plain values."""
    return str(described.get("class", "")).rsplit(".", 1)[-1]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _grouped(pairs: Iterable[tuple[Any, float]]) -> dict[Any, list[float]]:
    found: dict[Any, list[float]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value)
    return dict(found)


def _by_size(values: Iterable[tuple[Any, int, float]], combine: Callable[[list[float]], float] = statistics.median) -> dict[Any, Sizes]:
    found: dict[Any, dict[int, float]] = defaultdict(dict)
    for (key, params), of in _grouped(((key, params), value) for key, params, value in values).items():
        found[key][params] = combine(of)
    return dict(found)


def _hardware() -> tuple[str, str]:
    found = provenance.collect()
    return str(found["processor"] or ""), str(found["gpu"] or "")
