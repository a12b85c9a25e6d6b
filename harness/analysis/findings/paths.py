"""A method's path: gain and forgetting from volume to volume, and its forgetting where the gain first reaches a level.

A path starts at volume 0, which is the point (0, 0), and is straight between volumes. At the first
crossing of a gain level g, between the volumes j − 1 and j, with λ = (g − g_{j−1}) / (g_j −
g_{j−1}) and slope = (f_j − f_{j−1}) / (g_j − g_{j−1}), forgetting is

    f(g) = f_{j−1} + λ (f_j − f_{j−1}).

How it varies follows from its derivatives (the delta method): to first order it moves by

    (1 − λ) δf_{j−1} + λ δf_j − slope · ((1 − λ) δg_{j−1} + λ δg_j),

which is linear in the items of both suites. So one number a seed and item stands for it, and a
seed's gain and forgetting go together.
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
    """What a method gains and forgets at its volumes, seed by seed and item by item.

    Attributes:
        volumes: ascending, without 0.
        gain: by volume, the tasks of the target suite; positive is better.
        forgetting: by volume, the tasks of the headline suite; positive is worse.
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

        The first is volume 0's, 0.
        """
        return np.array([0.0, *(mean(tasks) for tasks in self.gain)])

    @cached_property
    def losses(self) -> Floats:
        """Mean forgetting, as ``gains``."""
        return np.array([0.0, *(mean(tasks) for tasks in self.forgetting)])

    @property
    def reach(self) -> float:
        """The largest gain on the path; it reaches every level between 0 and this."""
        return float(self.gains.max())

    @cached_property
    def counted(self) -> list[int]:
        """How many items forgetting is counted on, task by task, where they are 0 or 1 before and after; empty for another metric."""
        if all(bool(np.all(values * values * values == values)) for tasks in self.forgetting for values in tasks):
            return [len(values[0]) for values in self.forgetting[0]]
        return []

    @property
    def falls(self) -> list[tuple[int, int]]:
        """Neighbouring volumes between which the gain falls: a level there is crossed more than once."""
        ends = [0, *self.volumes]
        return [(ends[i], ends[i + 1]) for i in range(len(self.volumes)) if self.gains[i + 1] < self.gains[i]]


@dataclass(frozen=True)
class Crossing:
    """Where a path first reaches a gain.

    Attributes:
        gain: the level.
        upper: number of the volume at which it is reached, counted from 1; ``upper − 1`` is the one
            before, 0 standing for volume 0.
        share: λ, how far between the two, in (0, 1].
        slope: forgetting for each unit of gain between the two.
        forgetting: at the level.
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
    """Return where a path first reaches a gain, 0 < gain ≤ ``path.reach``."""
    upper = int(np.argmax(path.gains >= gain))
    rise = path.gains[upper] - path.gains[upper - 1]
    share, slope = float((gain - path.gains[upper - 1]) / rise), float((path.losses[upper] - path.losses[upper - 1]) / rise)
    return Crossing(gain, upper, share, slope, float(path.losses[upper - 1] + share * (path.losses[upper] - path.losses[upper - 1])))


def linearised(path: Path, at: Crossing) -> list[Floats]:
    """Return the numbers whose mean over tasks, seeds and items varies as the forgetting at a crossing does.

    Returns:
        One array a task of shape (k, n_t), the headline's tasks and then the target's, each scaled
        by how many tasks there are in all over how many its suite has, since tasks are to be
        averaged with equal weight. Their mean is ``at.forgetting − at.slope · at.gain``.
    """
    forgetting, gain = _between(path.forgetting, at), _between(path.gain, at)
    tasks = len(forgetting) + len(gain)
    return [*(values * (tasks / len(forgetting)) for values in forgetting), *(values * (-at.slope * tasks / len(gain)) for values in gain)]


def _between(measured: Sequence[Tasks], at: Crossing) -> list[Floats]:
    upper = measured[at.upper - 1]
    lower = measured[at.upper - 2] if at.upper > 1 else [np.zeros_like(values) for values in upper]
    return [(1 - at.share) * low + at.share * high for low, high in zip(lower, upper, strict=True)]
