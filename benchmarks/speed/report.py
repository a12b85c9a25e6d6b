"""`make bench-report`: time and memory of `harness table` and `report` on a large experiment.

The experiment is fabricated: 10,000 runs × 4 points × 5 tasks × 1,000 items. A few runs are whole:
their items are drawn, and their summaries computed from them. The others are copies of one of these
under their own labels: their records and summaries are written as a run writes them, and their
items are links to those of the copied run (writing 40,000 files of items would measure the disk).
For some copies, the summary is then computed from their items too, and must be the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.table import packing, runs
from harness.core.counts import Counts
from harness.core.seeds import stream
from harness.records import record_files, seals, summary_files
from harness.records.schema import Measurement, Point, Record, Score
from harness.records.store import Experiment
from harness.records.summary_files import Array, Summary
from harness.records.writer import ExperimentWriter

NAME = "large"
VOLUMES, ITEMS = (500, 1000, 2000, 4000), 1000
PROBES = ("facts", "sums", "words", "rules")
TARGET = "answers"
MODELS = {"m1": 1_000_000, "m2": 3_000_000, "m3": 10_000_000, "m4": 30_000_000, "m5": 100_000_000}
TUNINGS, MITIGATIONS, DATA, SEEDS = ("full", "lora"), ("none", "replay", "l2", "ewc", "merge"), 20, 10
COPIED_SEEDS = 3
"""Whole runs of each model and tuning; the seeds of a cell copy them in turn."""

BUDGETS = {"table": (30.0, 2000.0), "report": (60.0, None)}
"""Command → target in seconds, and in megabytes of memory."""

CHECKED = 3

OVERLAP = {"items": 4000, "exact": 0, "exact_share": 0.0, "ngram_items": 0, "ngram": 0, "ngram_share": 0.0}
"""Overlap of the probes' items with the training rows."""


@dataclass(frozen=True)
class Labels:
    """Labels and seed of a run."""

    model: str
    tuning: str
    mitigation: str
    data: str
    seed: int

    @property
    def run_id(self) -> str:
        """Its id, a folder name."""
        return f"{self.model}-{self.tuning}-{self.mitigation}-{self.data}-{self.seed}"


@dataclass(frozen=True)
class Whole:
    """A run with its own items."""

    labels: Labels
    folder: Path
    points: Mapping[int, str]
    record: Mapping[str, Any]
    rows: summary_files.Summary
    changes: packing.RunChanges


def every(count: int) -> list[Labels]:
    """Return the labels of a number of runs, all seeds of a cell together."""
    data = [f"d{number}" for number in range(DATA)]
    product = itertools.product(data, MITIGATIONS, MODELS, TUNINGS, range(SEEDS))
    return [Labels(model, tuning, mitigation, name, seed) for name, mitigation, model, tuning, seed in itertools.islice(product, count)]


def samples(values: Mapping[str, Any], suites: Sequence[str]) -> pd.DataFrame:
    """Return items of some suites.

    Those of probes have four choices, the first of which is right; the target's have nats of a
    text.
    """
    parts = []
    for suite in suites:
        for task in PROBES if suite == "probe" else (TARGET,):
            names = [f"{task}-{i:04d}" for i in range(ITEMS)]
            found = values[task]
            is_probe = suite == "probe"
            rows = {
                "suite": suite,
                "task": task,
                "filter": "none",
                "doc_id": np.arange(ITEMS),
                "doc_hash": names,
                "prompt_hash": names,
                "target_hash": names,
                "prompt": [f"What is said of {name}?" for name in names],
                "target": "0",
                "choices": [["yes", "no", "both", "neither"]] * ITEMS if is_probe else [None] * ITEMS,
                "log_likelihoods": [[-1.0 - wrong, -1.5, -3.0, -4.0] for wrong in 1 - found] if is_probe else [None] * ITEMS,
                "text": [None] * ITEMS,
                "chance": 0.25 if is_probe else np.log(512),
                "metric.acc": found if is_probe else np.nan,
                "metric.nats_per_token": np.nan if is_probe else found,
                "weight.nats_per_token": np.nan if is_probe else values["weights"],
            }
            parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def scores(values: Mapping[str, Any], suites: Sequence[str]) -> tuple[Score, ...]:
    """Return the scores of items, as the harness writes them."""
    found = []
    for suite in suites:
        is_probe = suite == "probe"
        for task in PROBES if is_probe else (TARGET,):
            weights = np.ones(ITEMS) if is_probe else values["weights"]
            value = float(np.average(values[task], weights=weights))
            error = float(np.sqrt(np.sum((weights * (values[task] - value)) ** 2) * ITEMS / (ITEMS - 1)) / weights.sum())
            found.append(
                Score(
                    suite=suite,
                    task=task,
                    metric="acc" if is_probe else "nats_per_token",
                    filter="none",
                    primary=True,
                    n=ITEMS,
                    value=value,
                    stderr=error,
                    chance=0.25 if is_probe else float(np.log(512)),
                    higher_is_better=is_probe,
                    unparsed=0.0,
                    prompt_truncated=0.0,
                    answer_truncated=0.0,
                )
            )
    return tuple(found)


def before(model: str) -> dict[str, Any]:
    """Return the items' values at volume 0: larger models know more."""
    draws, size = stream(0, "bench-report", model), np.log10(MODELS[model])
    values: dict[str, Any] = {task: (draws.random(ITEMS) < 0.1 * size).astype(float) for task in PROBES}
    return values | {TARGET: draws.gamma(4.0, 0.8, ITEMS), "weights": draws.integers(5, 40, ITEMS).astype(float)}


def after(model: str, tuning: str, seed: int, volume: int) -> dict[str, Any]:
    """Return the items' values after training.

    More rows lose more known items, LoRA loses half as many, and the target is learned.
    """
    start, draws = before(model), stream(seed, "bench-report", model, tuning, str(volume))
    rate = (
        (0.5 if tuning == "lora" else 1.0) * 0.02 * (volume / VOLUMES[0]) ** 0.6 * (6 / np.log10(MODELS[model])) * draws.uniform(0.8, 1.2)
    )
    values: dict[str, Any] = dict(start)
    for task in PROBES:
        lost, gained = draws.random(ITEMS) < rate, draws.random(ITEMS) < 0.01
        values[task] = np.where(start[task] == 1, ~lost, gained).astype(float)
    values[TARGET] = start[TARGET] * (1 - 0.05 * np.log2(volume / 250) * draws.uniform(0.8, 1.2, ITEMS))
    return values


BEFORE = "b" * 64
"""Hash of the weights that volume 0 is measured on."""


def weights_of(run_id: str, volume: int) -> str:
    """Return the hash of a point's weights."""
    return hashlib.sha256(f"{run_id} {volume}".encode()).hexdigest()


def evaluations(model: str) -> dict[str, str]:
    """Return suite → evaluation id."""
    return {suite: f"{model}-{suite}" for suite in ("target", "probe")}


def measure(experiment: ExperimentWriter, model: str, weights: str, values: Mapping[str, Any]) -> None:
    """Write the measurements of some weights, one for each suite."""
    for suite, evaluation_id in evaluations(model).items():
        measurement = Measurement(
            evaluation_id=evaluation_id,
            suite=suite,
            identity={"model": model, "suite": suite},
            weights_sha256=weights,
            scores=scores(values, [suite]),
            wall_seconds=0.5,
            peak_memory_bytes=500_000_000,
            provenance={},
        )
        experiment.write_measurement(measurement, samples(values, [suite]))


def write_whole(experiment: ExperimentWriter, labels: Labels) -> Whole:
    """Write a run with its items and its summary."""
    for volume in VOLUMES:
        weights = weights_of(labels.run_id, volume)
        measure(experiment, labels.model, weights, after(labels.model, labels.tuning, labels.seed, volume))
        point = Point(
            run_id=labels.run_id,
            volume=volume,
            weights_sha256=weights,
            counts=Counts(
                step=volume // 8,
                nats=2.0 - 0.1 * float(np.log2(volume / 250)),
                targets=1,
                flops=6.0 * MODELS[labels.model] * 40 * volume,
                seconds=volume / 100,
                trained_tokens=40 * volume,
                supervised_tokens=10 * volume,
            ),
            target_rows=volume,
            anchor_rows=0,
            anchor_tokens=0,
            truncated_rows=0,
            weight_change=0.1 * volume**0.5,
            peak_memory_bytes=500_000_000,
        )
        experiment.write_point(point)
    config = {
        "labels": {"objective": "sft", "anchor": None} | {k: v for k, v in dataclasses.asdict(labels).items() if k != "seed"},
        "target_suites": ["target"],
        "probe_suites": ["probe"],
        "training": {"learning_rate": None, "epochs": 1},
        "trajectory": "shared",
        "seed": labels.seed,
        "data": {"volumes": list(VOLUMES)},
        "declared": {"headline": "probe", "margin": 0.02},
    }
    experiment.write_config(labels.run_id, config, evaluations(labels.model), BEFORE)
    record = Record(
        run_id=labels.run_id,
        experiment=NAME,
        identity={"seed": labels.seed, "inputs": {"data": labels.data}},
        labels=config["labels"],  # type: ignore[arg-type]
        config=config,
        volumes=VOLUMES,
        evaluations=evaluations(labels.model),
        before_sha256=BEFORE,
        roles={"target": "target", "probe": "probe"},
        params_total=MODELS[labels.model],
        params_trainable=MODELS[labels.model] // (100 if labels.tuning == "lora" else 1),
        learning_rate=0.001,
        lr_tuned=True,
        seed=labels.seed,
        trajectory="shared",
        dtype="float32",
        threads=1,
        tuning_facts={},
        overlap={"target": "expected", "probe": OVERLAP},
        start_weights_sha256="w",
        provenance={"versions": {"harness": "0"}, "git": {"commit": "0" * 40, "dirty": False}, "python": sys.version},
    )
    experiment.write_record(record)
    runs.summarise(experiment, labels.run_id)
    folder = experiment.run_folder(labels.run_id)
    points = {volume: (experiment.point_folder(labels.run_id, volume) / "point.json").read_text() for volume in VOLUMES}
    reader = runs.RunReader(experiment)
    rows = reader.kept(labels.run_id)
    if rows is None:
        raise SystemExit(f"bench-report: nothing was kept of {labels.run_id}")
    return Whole(labels, folder, points, record_files.load(folder / "record.json"), rows, reader.changes(labels.run_id))


def resealed(path: Path, text: str) -> None:
    """Write an edited record with the seal of its new values."""
    path.write_text(seals.sealed({name: value for name, value in json.loads(text).items() if name != seals.SEAL}))


def write_copy(experiment: ExperimentWriter, whole: Whole, labels: Labels) -> None:
    """Write a run as a copy of a whole one under other labels."""
    folder, run_id = experiment.run_folder(labels.run_id), labels.run_id
    own = {"tuning": labels.tuning, "mitigation": labels.mitigation, "data": labels.data, "model": labels.model}
    measurements: Sequence[str] = whole.rows.measurements
    for volume, text in whole.points.items():
        place = folder / "points" / str(volume)
        place.mkdir(parents=True)
        old, new = weights_of(whole.labels.run_id, volume), weights_of(run_id, volume)
        resealed(place / "point.json", text.replace(f'"{whole.labels.run_id}"', f'"{run_id}"').replace(old, new))
        for evaluation_id in whole.record["evaluations"].values():
            source, target = experiment.measurement_folder(evaluation_id, old), experiment.measurement_folder(evaluation_id, new)
            target.mkdir(parents=True)
            resealed(target / "measurement.json", (source / "measurement.json").read_text().replace(old, new))
            os.link(source / "samples.parquet", target / "samples.parquet")
            measurements = [name.replace(old[:16], new[:16]) for name in measurements]
    config = whole.record["config"] | {"labels": whole.record["config"]["labels"] | own, "seed": labels.seed}
    experiment.write_config(run_id, config, whole.record["evaluations"], whole.record["before_sha256"])
    values = {
        "run_id": run_id,
        "identity": {"seed": labels.seed, "inputs": {"data": labels.data}},
        "labels": config["labels"],
        "config": config,
        "seed": labels.seed,
    }
    (folder / "record.json").write_text(seals.sealed(dict(whole.record) | values))
    digest = runs.RunReader(experiment).digest(run_id, measurements) or ""
    sha256 = summary_files.write_arrays(folder, packing.pack(whole.changes, digest, measurements))
    same = {**whole.rows.same, **own, "run_id": run_id, "seed": labels.seed}
    rows = dataclasses.replace(whole.rows, digest=digest, measurements=tuple(measurements), same=same, changes_sha256=sha256)
    summary_files.write(folder, rows)


def build(experiment: ExperimentWriter, count: int) -> tuple[list[Labels], list[Whole]]:
    """Write the experiment; return all its runs, and the whole ones."""
    chosen = every(count)
    for model in dict.fromkeys(labels.model for labels in chosen):
        measure(experiment, model, BEFORE, before(model))
    copied: dict[tuple[str, str, int], Whole] = {}
    for number, labels in enumerate(chosen):
        key = labels.model, labels.tuning, labels.seed % COPIED_SEEDS
        if key in copied:
            write_copy(experiment, copied[key], labels)
        else:
            copied[key] = write_whole(experiment, labels)
        if sys.stderr.isatty():
            sys.stderr.write(f"\rrun {number + 1} of {count}")
    manifest = {"experiment": NAME, "run_ids": sorted(labels.run_id for labels in chosen), "sweep": None}
    declared = {"headline": "probe", "margin": 0.02, "margins": {}, "control": {}}
    experiment.write_manifest({chosen[0].run_id: {"declared": declared}}, keep=False)
    path = experiment.folder / "manifest.json"
    path.write_text(seals.sealed(record_files.load(path) | manifest))
    return chosen, list(copied.values())


def check(experiment: Experiment, chosen: Sequence[Labels], whole: Sequence[Whole]) -> int:
    """Compute the summaries of some copies from items; return the number of copies.

    Raises AssertionError for a difference.
    """
    own = {one.labels.run_id for one in whole}
    copies = [labels.run_id for labels in chosen if labels.run_id not in own]
    picked = copies[:: max(1, len(copies) // CHECKED)][:CHECKED]
    for run_id in picked:
        folder = experiment.run_folder(run_id)
        assert runs.RunReader(experiment).kept(run_id) is not None, run_id
        rows, arrays = kept(folder)
        for name in (summary_files.SUMMARY, summary_files.CHANGES):
            (folder / name).unlink()
        runs.summarise(experiment, run_id)
        again, computed = kept(folder)
        assert rows == again, f"{run_id}: its summary differs from the one computed from its items"
        assert all(np.array_equal(arrays[name], computed[name]) for name in computed), run_id
    return len(picked)


def kept(folder: Path) -> tuple[Summary, Mapping[str, Array]]:
    """Return the summary and the changes in a run's folder."""
    summary = summary_files.read(folder)
    assert summary is not None
    arrays = summary_files.read_arrays(folder, summary.changes_sha256)
    assert arrays is not None
    return dataclasses.replace(summary, changes_sha256=""), arrays


def measured(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command of the harness.

    Returns its wall and processor seconds and its peak memory in megabytes.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "harness", *command], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench-report: harness {command[0]} ended with {process.returncode}")
    scale = 1e6 if sys.platform == "darwin" else 1e3
    processor = usage.ru_utime + usage.ru_stime
    return {"seconds": time.perf_counter() - began, "processor": processor, "megabytes": usage.ru_maxrss / scale}


def main() -> None:
    """Write the experiment, measure the commands, print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=10_000, metavar="N", help="at most 10,000 (default)")
    parser.add_argument("--only", choices=list(BUDGETS), help="one of the two commands")
    parser.add_argument("--folder", type=Path, help="keep the experiment there, or use one that is there")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="bench-report-"))
    experiment = ExperimentWriter(folder.resolve() / "results" / NAME)
    try:
        if not experiment.folder.exists():
            began = time.perf_counter()
            chosen, whole = build(experiment, arguments.runs)
            checked = check(experiment, chosen, whole)
            size = f"{len(chosen)} runs × {len(VOLUMES)} points × {len(PROBES) + 1} tasks × {ITEMS} items"
            sys.stdout.write(f"{size}, written in {time.perf_counter() - began:.0f} s\n")
            sys.stdout.write(f"{len(whole)} runs have their own items, the others link to these and copy their summaries; ")
            sys.stdout.write(f"for {checked} copies the summary was computed from items, and was the same\n")
        commands = {"table": ["table", NAME, "--output", "table.parquet"], "report": ["report", NAME]}
        for name in [arguments.only] if arguments.only else list(commands):
            found, (seconds, megabytes) = measured(commands[name], folder.resolve()), BUDGETS[name]
            allowed = f"under {seconds:.0f} s" + (f" and {megabytes:.0f} MB" if megabytes else "")
            took = f"{found['seconds']:.1f} s ({found['processor']:.1f} s of processor), {found['megabytes']:.0f} MB"
            sys.stdout.write(f"harness {name}: {took} (target: {allowed})\n")
            sys.stdout.flush()
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
