"""Commands that need no extra, and the folders that they read."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness.records.sweep_schema import Sweep, Unit
from harness.records.writer import ExperimentWriter
from tests.support import experiments, inspect_logs, lm_eval_logs

GOLDEN = Path(__file__).parents[1] / "golden" / "small"

COMMANDS = {
    "list": ["list"],
    "status": ["status", "swept"],
    "table": ["table", "small", "--output", "small.csv"],
    "table as parquet": ["table", "small", "--output", "small.parquet"],
    "report": ["report", "small"],
    "export": ["export", "small", "--to", "hub-card"],
    "export as logs": ["export", "small", "--to", "lm-eval"],
    "verify": ["verify", "swept"],
    "claims": ["claims"],
    "clean": ["clean", "small"],
    "new": ["new", "experiment", "mine"],
    "learning-rates": ["learning-rates", "rates"],
    "fit": ["fit", "points.csv", "--law", "power"],
    "predict": ["predict", "points.csv", "--law", "power", "--at", "volume=2048"],
    "compare": ["compare", "before", "after", "--output", "page"],
    "compare as a gate": ["compare", "before", "after", "--max-loss", "0.2", "--json", "--junit", "junit.xml", "--summary", "summary.md"],
    "compare logs of inspect_ai": ["compare", "inspected/before", "inspected/after"],
}
"""What is run, in the folder of ``inputs`` → arguments of ``harness``; each exits with 0."""

WRITTEN = {
    "list": "tinyworld",
    "status": "swept",
    "report": "index.html",
    "claims": " 7  lora: not run yet",
    "export": "to push: hf upload USER/MODEL results/small/export/hub-card/",
    "export as logs": "next: harness compare results/small/export/lm-eval/",
    "clean": "results/small: ",
    "new": "wrote conf/experiment/mine.yaml",
    "verify": "swept: 0 runs, 0 points, 0 measurements; every file is as it was written",
    "learning-rates": '"learning_rate": 0.01',
    "fit": "forgetting = ",
    "predict": "interval for a new run",
    "compare": "colours",
    "compare as a gate": '"verdict"',
    "compare logs of inspect_ai": "sums",
}
"""What is run → part of what it prints on standard output."""


def inputs(folder: Path) -> None:
    """Write results, logs of lm-eval and points into an empty folder."""
    results = folder / "results"
    shutil.copytree(GOLDEN, results / "small")
    _rates(ExperimentWriter(results / "rates"))
    _swept(ExperimentWriter(results / "swept"))
    lm_eval_logs.planted(folder)
    inspect_logs.planted(folder / "inspected")
    rows = [f"{volume},{0.01 * volume**0.5 * factor:.6f}" for volume in (64, 128, 256, 512, 1024) for factor in (0.97, 1.0, 1.04)]
    (folder / "points.csv").write_text("volume,forgetting\n" + "\n".join(rows) + "\n")


def _rates(experiment: ExperimentWriter) -> None:
    """Write a search of learning rates; 0.01 is the better one."""
    roles = {"skill": "target"}
    before = [experiments.Task(suite="skill", task="sums", values=experiments.share(2, 20))]
    for run_id, rate, right in (("low", 0.001, 5), ("high", 0.01, 15)):
        after = [experiments.Task(suite="skill", task="sums", values=experiments.share(right, 20))]
        experiments.write_run(experiment, run_id, before=before, points={8: after}, roles=roles, learning_rate=rate)
        config = experiments.config_of(experiments.COMMAND_LABELS, roles, seed=0) | {"evaluation": {"items": "select"}}
        experiment.write_config(run_id, config)
    experiment.write_manifest({"low": {}, "high": {}}, keep=False)


def _swept(experiment: ExperimentWriter) -> None:
    """Write a sweep of one run that is not done."""
    unit = Unit(
        kind="run",
        id="a",
        overrides=("experiment=swept",),
        label="run a",
        evaluations={},
        volumes=(8,),
        threads=1,
        processes=1,
        params_total=1000,
        cost=1.0,
    )
    experiment.write_sweep(Sweep(id="s1", experiment="swept", command="harness sweep", time="", cores=2, gpus=0, units=(unit,)))
    experiment.write_manifest({}, keep=False, sweep="s1")
