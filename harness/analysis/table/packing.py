"""Layout of ``changes.npz``: the item changes of a run as a few arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.table.measure import TaskChange
from harness.core import json_text
from harness.records.summary_files import Array

ChangeKey = tuple[int, str, str]
"""Volume, suite, task."""

RunChanges = Mapping[ChangeKey, TaskChange]


@dataclass(frozen=True)
class Packed:
    """Changes of one run, with the digest and the measurements that they were computed from."""

    digest: str
    measurements: tuple[str, ...]
    changes: RunChanges


def pack(changes: RunChanges, digest: str, measurements: Sequence[str]) -> dict[str, Array]:
    """Pack changes into a few arrays.

    One file holds all tasks of a run, since a table of thousands of runs opens each file. Items
    that are lost (−1), the same (0) or gained (1) take one byte each, others eight. Clusters are
    stored once, for the first volume.
    """
    small: list[Array] = []
    large: list[Array] = []
    clusters: list[Array] = []
    entries: list[list[Any]] = []
    clustered: dict[tuple[str, str, str], int] = {}
    for (volume, suite, task), change in changes.items():
        place = (suite, task, change.items)
        if change.clusters is not None and place not in clustered:
            clustered[place] = sum(len(one) for one in clusters)
            clusters.append(change.clusters.astype(np.int32))
        is_small = bool(np.all(np.isin(change.values, (-1.0, 0.0, 1.0))))
        group = small if is_small else large
        start = sum(len(one) for one in group)
        group.append(change.values.astype(np.int8 if is_small else np.float64))
        entries.append([volume, suite, task, change.items, is_small, start, len(change.values), clustered.get(place, -1)])
    index = json.dumps({"digest": digest, "measurements": list(measurements), "tasks": entries}, ensure_ascii=False)
    return {
        "index": np.frombuffer(index.encode(), dtype=np.uint8),
        "small": np.concatenate([np.empty(0, dtype=np.int8), *small]),
        "large": np.concatenate([np.empty(0, dtype=np.float64), *large]),
        "clusters": np.concatenate([np.empty(0, dtype=np.int32), *clusters]),
    }


def unpack(arrays: Mapping[str, Array]) -> Packed | None:
    """Return the changes in arrays made by ``pack``; None for any other layout."""
    try:
        index = json_text.loads(arrays["index"].tobytes())
        changes = {}
        for volume, suite, task, items, is_small, start, n, first in index["tasks"]:
            values = arrays["small" if is_small else "large"][start : start + n]
            clusters = arrays["clusters"][first : first + n] if first >= 0 else None
            changes[volume, suite, task] = TaskChange(items, values, clusters)
        return Packed(index["digest"], tuple(index["measurements"]), changes)
    except (KeyError, ValueError, TypeError):
        return None
