"""Paths of methods: gain and forgetting over volumes, and forgetting at a given gain.

A path starts at volume 0, which is the point (0, 0), and is straight between volumes. At the first
crossing of a gain g, between the volumes j − 1 and j, forgetting is

    f(g) = f_{j−1} + λ (f_j − f_{j−1}),
    λ = (g − g_{j−1}) / (g_j − g_{j−1}),   slope = (f_j − f_{j−1}) / (g_j − g_{j−1}).

Its variation follows from its derivatives (the delta method): to first order it changes by

    (1 − λ) δf_{j−1} + λ δf_j − slope · ((1 − λ) δg_{j−1} + λ δg_j),

which is linear in the items of both suites. So one number per seed and item represents it, and the
gain and forgetting of a seed vary together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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

    def only(self, rows: Sequence[int]) -> Path:
        """Return the path of some of the seeds, by their numbers in the arrays."""
        gain, forgetting = ([[values[list(rows)] for values in tasks] for tasks in at] for at in (self.gain, self.forgetting))
        return Path(self.volumes, gain, forgetting)

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


@dataclass(frozen=True)
class Crossing:
    """The point where a path first reaches a gain.

    Attributes:
        gain: the gain.
        upper: number of the volume by which it is reached, counted from 1; ``upper − 1`` is the
            volume before, where 0 is volume 0.
        share: λ, the position between the two volumes, in (0, 1].
        slope: forgetting per unit of gain between the two volumes.
        forgetting: forgetting at the gain.
    """

    gain: float
    upper: int
    share: float
    slope: float
    forgetting: float


def mean(tasks: Tasks) -> float:
    """Return the mean over tasks of the mean over seeds and items."""
    return float(np.mean([values.mean() for values in tasks]))


def crossing(path: Path, gain: float) -> Crossing:
    """Return the first crossing of a gain, 0 < gain ≤ ``path.reach``."""
    upper = int(np.argmax(path.gains >= gain))
    rise = path.gains[upper] - path.gains[upper - 1]
    share, slope = float((gain - path.gains[upper - 1]) / rise), float((path.losses[upper] - path.losses[upper - 1]) / rise)
    return Crossing(gain, upper, share, slope, float(path.losses[upper - 1] + share * (path.losses[upper] - path.losses[upper - 1])))


def linearised(path: Path, at: Crossing) -> list[Floats]:
    """Return numbers whose mean varies like the forgetting at a crossing.

    Returns:
        One array per task, shape (k, n_t), the headline's tasks and then the target's. Each is
        scaled by the number of all tasks over the number of its suite's tasks, since tasks are
        averaged with equal weight. The mean over tasks, seeds and items is
        ``at.forgetting − at.slope · at.gain``.
    """
    forgetting, gain = _between(path.forgetting, at), _between(path.gain, at)
    tasks = len(forgetting) + len(gain)
    return [*(values * (tasks / len(forgetting)) for values in forgetting), *(values * (-at.slope * tasks / len(gain)) for values in gain)]


def _between(measured: Sequence[Tasks], at: Crossing) -> list[Floats]:
    upper = measured[at.upper - 1]
    lower = measured[at.upper - 2] if at.upper > 1 else [np.zeros_like(values) for values in upper]
    return [(1 - at.share) * low + at.share * high for low, high in zip(lower, upper, strict=True)]
