"""Findings and changes by hand, with the columns that comparisons of cells read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.table.changes import TaskChange
from harness.records.schema import Declared

DECLARED = Declared(headline="probe", margin=0.02)

_TEXT = "cell experiment model tuning objective mitigation data anchor trajectory variant dtype role suite task metric filter run_ids"
_TEXT += " control_check"
_FLOAT = "learning_rate delta delta_low delta_high margin flops wall_seconds"
_INT = "params_total epochs volume seeds steps train_tokens supervised_tokens anchor_tokens generated_tokens extra_tokens peak_memory_bytes"
_BOOL = "lr_tuned is_control is_headline higher_is_better acted"
TYPES = {
    name: kind for kind, names in {"string": _TEXT, "Float64": _FLOAT, "Int64": _INT, "boolean": _BOOL}.items() for name in names.split()
}

LABELS: dict[str, Any] = {
    "experiment": "made",
    "model": "tiny",
    "params_total": 1000,
    "tuning": "full",
    "objective": "sft",
    "mitigation": "none",
    "data": "people",
    "trajectory": "shared",
    "epochs": 1,
    "learning_rate": 0.01,
    "lr_tuned": True,
    "dtype": "float32",
    "is_control": False,
    "margin": DECLARED.margin,
    "metric": "acc",
    "filter": "none",
    "steps": 8,
    "train_tokens": 80,
    "supervised_tokens": 40,
    "anchor_tokens": 0,
    "peak_memory_bytes": 100,
    "flops": 1e6,
    "wall_seconds": 2.0,
}


@dataclass
class Made:
    """An experiment of cells: its table, its findings, and the interface of ``Changes``."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)
    known: dict[tuple[str, int, str, str], TaskChange] = field(default_factory=dict)

    def add(
        self,
        cell: str,
        changes: Mapping[int, Mapping[str, Mapping[str, Any]]],
        *,
        seeds: Sequence[int] = (0,),
        items: str = "same",
        better: Mapping[str, bool] | None = None,
        missing: Sequence[tuple[int, int]] = (),
        **labels: Any,
    ) -> None:
        """Add a cell.

        Args:
            cell: its name.
            changes: volume → suite (``target`` or ``probe``) → task → changes by seed and item,
                shape (k, n).
            seeds: its seeds.
            items: prefix of the items' hash; equal prefixes mean equal items.
            better: suite → whether higher is better; default: True.
            missing: (seed, volume) pairs without a measurement.
            labels: further columns of its findings.
        """
        named = {seed: f"{cell}-{seed}" for seed in seeds}
        self.runs |= {run_id: seed for seed, run_id in named.items()}
        for volume, suites in changes.items():
            here = [seed for seed in seeds if (seed, volume) not in missing]
            for suite, tasks in suites.items():
                up = (better or {}).get(suite, True)
                same = LABELS | {"cell": cell, "volume": volume, "suite": suite, "role": suite, "higher_is_better": up} | labels
                same |= {"run_ids": ",".join(named[seed] for seed in here), "seeds": len(here)}
                means = []
                for task, values in tasks.items():
                    array = np.asarray(values, dtype=float)
                    for row, seed in enumerate(seeds):
                        if seed in here:
                            self.known[named[seed], volume, suite, task] = TaskChange(f"{items}-{task}", array[row], None)
                    means.append(float(array[[list(seeds).index(seed) for seed in here]].mean()))
                    self.rows.append(same | {"task": task, "is_headline": False} | _change(means[-1]))
                self.rows.append(same | {"task": "*", "is_headline": suite == "probe"} | _change(float(np.mean(means))))

    def get(self, run_id: str, volume: int, suite: str, task: str) -> TaskChange | None:
        return self.known.get((run_id, volume, suite, task))

    @property
    def findings(self) -> pd.DataFrame:
        return pd.DataFrame({name: [row.get(name) for row in self.rows] for name in TYPES}, dtype=object).astype(TYPES)

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"run_id": list(self.runs), "seed": list(self.runs.values())}).astype({"run_id": "string", "seed": "Int64"})


def _change(delta: float) -> dict[str, float]:
    return {"delta": delta, "delta_low": delta - 0.1, "delta_high": delta + 0.2}


def counted(n: int, ones: int, seeds: int = 1, sign: int = 1) -> list[list[float]]:
    """Return changes of n items, the first ``ones`` equal to ``sign``, for each seed."""
    return [[float(sign)] * ones + [0.0] * (n - ones)] * seeds
