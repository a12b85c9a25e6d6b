"""Paths of methods: gain and forgetting over volumes, and mean forgetting over a range of gains.

A path starts at volume 0, which is the point (0, 0), and is straight between volumes. Forgetting at
a gain g is read where the path first reaches g, between the volumes j − 1 and j:

    f(g) = f_{j−1} + (f_j − f_{j−1}) (g − g_{j−1}) / (g_j − g_{j−1}).

Its mean over a range of gains is a sum over the stretches on which the gain is larger than before,
each with the value at its middle. So it is linear in the f_j, and its derivatives by the g_j are
those of f(g) by g_{j−1} and g_j at these middles, and, where the gain had fallen before, of the
step of f at the end of a stretch. Derivatives times the changes of items (the delta method) are one
number per seed and item, in which gain and forgetting of a seed vary together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from harness.analysis.findings.pairing import Tasks
from harness.analysis.statistics.stats import Floats


@dataclass(frozen=True)
class Path:
    """Gain and forgetting of a method at its volumes, by seed and item.

    Attributes:
        volumes: volumes in ascending order, without 0.
        gain: for each volume, the tasks of the target suite; positive is better.
        forgetting: for each volume, the tasks of the headline suite; positive is worse.
    """

    volumes: tuple[int, ...]
    gain: Sequence[Tasks]
    forgetting: Sequence[Tasks]

    @cached_property
    def gains(self) -> Floats:
        """Mean gain over seeds, tasks with equal weight, shape (volumes + 1,).

        The first entry is that of volume 0, which is 0.
        """
        return np.array([0.0, *(mean(tasks) for tasks in self.gain)])

    @cached_property
    def losses(self) -> Floats:
        """Mean forgetting, as ``gains``."""
        return np.array([0.0, *(mean(tasks) for tasks in self.forgetting)])

    @property
    def reach(self) -> float:
        """The largest gain on the path; the path reaches every gain between 0 and this."""
        return float(self.gains.max())

    @cached_property
    def counted(self) -> list[int]:
        """Number of items of each headline task; empty unless they are 0 or 1."""
        if all(bool(np.all(values * values * values == values)) for tasks in self.forgetting for values in tasks):
            return [len(values[0]) for values in self.forgetting[0]]
        return []

    @property
    def falls(self) -> list[tuple[int, int]]:
        """Neighbouring volumes between which the gain falls, so gains are crossed repeatedly."""
        ends = [0, *self.volumes]
        return [(ends[i], ends[i + 1]) for i in range(len(self.volumes)) if self.gains[i + 1] < self.gains[i]]

    @cached_property
    def changed(self) -> Floats:
        """Mean square of the headline's changes at each volume, shape (volumes + 1,).

        For 0/1 items it is the share of items that changed.
        """
        return np.array([0.0, *(float(np.mean([np.mean(values * values) for values in tasks])) for tasks in self.forgetting)])


class Average(NamedTuple):
    """Mean forgetting of a path over a range of gains, with its derivatives.

    Attributes:
        value: the mean.
        by_loss: derivatives by mean forgetting at each volume, shape (volumes + 1,); they sum to 1.
        by_gain: derivatives by mean gain, as ``by_loss``.
        at_low: forgetting at the lower end.
        at_high: forgetting at the upper end.
    """

    value: float
    by_loss: Floats
    by_gain: Floats
    at_low: float
    at_high: float


def mean(tasks: Tasks) -> float:
    """Return the mean over tasks of the mean over seeds and items."""
    return float(np.mean([values.mean() for values in tasks]))


def forgetting(gains: Sequence[float], losses: Sequence[float], gain: float) -> float:
    """Return forgetting where a path first reaches a gain above 0; NaN beyond its reach.

    Gains and losses begin with those of volume 0, which are 0.
    """
    upper = next((number for number, reached in enumerate(gains) if reached >= gain), 0)
    if upper == 0:
        return math.nan
    share = (gain - gains[upper - 1]) / (gains[upper] - gains[upper - 1])
    return losses[upper - 1] + share * (losses[upper] - losses[upper - 1])


def average(path: Path, low: float, high: float) -> Average:
    """Return the mean forgetting over gains from low to high, 0 < low < high ≤ ``path.reach``."""
    gains, losses = path.gains, path.losses
    by_loss, by_gain = np.zeros(len(gains)), np.zeros(len(gains))
    ends = [0.0, 0.0]
    top = 0  # number of the volume of the largest gain so far
    for upper in range(1, len(gains)):
        start, stop = max(gains[top], low), min(gains[upper], high)
        if gains[upper] <= gains[top] or stop < low or start > high:
            top = upper if gains[upper] > gains[top] else top
            continue
        slope = (losses[upper] - losses[upper - 1]) / (gains[upper] - gains[upper - 1])
        share = ((start + stop) / 2 - gains[upper - 1]) / (gains[upper] - gains[upper - 1])
        weight = (stop - start) / (high - low) * np.array([1 - share, share])
        by_loss[upper - 1 : upper + 1] += weight
        by_gain[upper - 1 : upper + 1] -= slope * weight
        begin, finish = (float(losses[upper - 1] + slope * (gain - gains[upper - 1])) for gain in (start, stop))
        if low < gains[top] < high:
            by_gain[top] += (losses[top] - begin) / (high - low)
        if gains[top] < low:
            ends[0] = begin
        if stop == high and start < high:
            ends[1] = finish
        top = upper
    return Average(float(by_loss @ losses), by_loss, by_gain, ends[0], ends[1])


def linearised(path: Path, by_loss: Floats, by_gain: Floats) -> list[Floats]:
    """Return one number per seed and item that varies like a function of the path's means.

    Args:
        path: the path.
        by_loss: derivatives of the function by mean forgetting, shape (volumes + 1,).
        by_gain: derivatives by mean gain.

    Returns:
        One array per task, shape (k, n_t), the headline's tasks and then the target's. Each is
        scaled by the number of all tasks over the number of its suite's tasks, since tasks are
        averaged with equal weight.
    """
    tasks = len(path.forgetting[0]) + len(path.gain[0])
    return [*_weighted(path.forgetting, by_loss[1:], tasks), *_weighted(path.gain, by_gain[1:], tasks)]


def _weighted(measured: Sequence[Tasks], weights: Floats, tasks: int) -> list[Floats]:
    scaled = weights * (tasks / len(measured[0]))
    return [sum((by * at for by, at in zip(scaled, of, strict=True) if by), np.zeros_like(of[0])) for of in zip(*measured, strict=True)]
