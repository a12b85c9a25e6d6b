"""Memory on the GPU of each model and tuning of a sweep, its GPU-hours, and their price."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.resolution import Machine
from harness.core.footprint import Footprint, Setup
from harness.run import fitting
from harness.run.preparation import Prepared


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Memory of one model and tuning on one GPU.

    Attributes:
        model, tuning: their labels.
        peak_bytes: of a training step or a stop.
        measured: whether activations are in it.
        words: its parts.
        rows: of the largest micro-batch that fits; None if the GPU's memory is unknown, or
            activations are not measured.
    """

    model: str
    tuning: str
    peak_bytes: int
    measured: bool
    words: str
    rows: int | None = None


def needed(prepared: Prepared, *, rows: int | None = None) -> tuple[Setup, Footprint]:
    """Return a run's training, and its memory on one GPU.

    Args:
        prepared: the run.
        rows: of a micro-batch; None is the run's own.
    """
    setup = fitting.setup_of(prepared.config, prepared.facts, prepared.resolved, prepared.workspace)
    setup = setup if rows is None else dataclasses.replace(setup, rows=rows, accumulates=True)
    return setup, fitting.memory_of(setup, prepared.facts, prepared.config, prepared.resolved)


def most_rows(prepared: Prepared, gpu_bytes: float) -> int | None:
    """Return the rows of the largest micro-batch that fits, of those that halving reaches.

    None where it is not measured.
    """
    if not needed(prepared)[1].is_measured:
        return None
    rows, own = prepared.resolved.micro_batch_rows, None
    while not fitting.fits(needed(prepared, rows=own)[1], gpu_bytes):
        rows, own = rows // 2, rows // 2
        if not rows:
            return 0
    return rows


def on_device(runs: Sequence[Prepared], machine: Machine) -> tuple[OnDevice, ...]:
    """Return the memory of each model × tuning, of the run that needs most; empty without GPUs."""
    found: dict[tuple[str, str], OnDevice] = {}
    for run in runs if machine.gpus else ():
        labels = run.config.labels.model, run.config.labels.tuning
        setup, one = needed(run)
        if labels not in found or one.peak > found[labels].peak_bytes:
            rows = None if machine.gpu_bytes is None else most_rows(run, machine.gpu_bytes)
            found[labels] = OnDevice(
                model=labels[0],
                tuning=labels[1],
                peak_bytes=one.peak,
                measured=one.is_measured,
                words=fitting.in_words(one, setup),
                rows=rows,
            )
    return tuple(found.values())


def lines(found: Sequence[OnDevice]) -> list[tuple[str, ...]]:
    """Return a line for each model × tuning."""
    return [(one.model, one.tuning, one.words, "" if one.rows is None else f"fits with {one.rows} rows a micro-batch") for one in found]


def gpu_hours(seconds: float | None, machine: Machine) -> float | None:
    """Return the hours of all GPUs, or of workers without GPUs; None if the time is unknown."""
    return None if seconds is None else seconds / 3600 * max(1, machine.gpus)


def price_line(hours: float | None, price: float | None, machine: Machine) -> list[str]:
    """Return the line on GPU-hours and their price; empty where both are unknown."""
    if hours is None or not (machine.gpus or price):
        return []
    amount = f"{hours:.1f} {'GPU-hours' if machine.gpus else 'worker-hours'}"
    return [f"price: {amount}" + (f" at {price:g}: about {hours * price:.2f}" if price else "")]
