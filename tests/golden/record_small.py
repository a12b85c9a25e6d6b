"""Record the small experiment and its table again: ``python -m tests.golden.record_small``.

Only after a change that is meant to change their numbers.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from harness.analysis.table.frame import table
from harness.records.writer import ExperimentWriter
from harness.report import tables
from tests.support.experiments import Task, flipped, share, write_run

SMALL = Path(__file__).parent / "small"
TABLE = Path(__file__).parent / "small.csv"


def record(experiment: ExperimentWriter) -> None:
    """Write two runs of two volumes, one with a failed task, and one failed run."""
    nll = {"suite": "math_nll", "task": "gsm8k", "metric": "nats_per_token", "higher_is_better": False, "chance": None}
    weights = [float(5 + 7 * i % 11) for i in range(24)]
    nats = [1.0 + (13 * i % 17) / 20 for i in range(24)]
    facts, sums = share(20, 24), share(9, 12)
    before = [
        Task(values=nats, weights=weights, **nll),  # type: ignore[arg-type]
        Task(suite="old", task="facts", values=facts, moved=1 / 24),
        Task(suite="old", task="sums", values=sums, chance=0.1, moved=-1 / 12),
    ]
    for tuning, factor in {"full": 2, "lora": 1}.items():
        points = {
            volume: [
                Task(values=[n - 0.02 * k * (1 + i % 5) for i, n in enumerate(nats)], weights=weights, **nll),  # type: ignore[arg-type]
                Task(suite="old", task="facts", values=flipped(facts, lost=factor * k, gained=k - 1)),
                Task(suite="old", task="sums", values=flipped(sums, lost=factor, gained=0), chance=0.1)
                if (tuning, volume) != ("lora", 32)
                else Task(suite="old", task="sums", values=[], failed="RuntimeError: out of memory"),
            ]
            for k, volume in enumerate([8, 32], start=1)
        }
        roles = {"math_nll": "target", "old": "probe"}
        write_run(
            experiment, f"{tuning}000", before=before, points=points, roles=roles, labels={"tuning": tuning}, lr_tuned=tuning == "full"
        )
    write_run(
        experiment,
        "failed00",
        before=before,
        points={},
        roles=roles,
        labels={"tuning": "dora"},
        finished=False,
        failure="TrainingError: nan",
    )
    experiment.write_manifest({name: {} for name in ("full000", "lora000", "failed00")}, keep=False)


if __name__ == "__main__":
    shutil.rmtree(SMALL, ignore_errors=True)
    record(ExperimentWriter(SMALL))
    with tempfile.TemporaryDirectory() as folder:  # a table writes caches next to the records
        shutil.copytree(SMALL, Path(folder) / "small")
        tables.write(table(ExperimentWriter(Path(folder) / "small")), TABLE)
