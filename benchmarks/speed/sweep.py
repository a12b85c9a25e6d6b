"""`make bench-sweep`: `harness sweep` against a user's shell loop, on the same points.

The loop starts a fresh process for each step of each point: `lm_eval` before, `loop/train.py`
(transformers.Trainer, and PEFT for LoRA) on the same rows in the same order with the same settings,
`lm_eval` after, on the same items. It runs for all points, or for a sample that has every model and
tuning, whose cost is scaled up; the output states which. `harness sweep` runs whole, in a fresh
results folder, with everything else it does: a second measurement of volume 0, records, figures.
Models are in the cache before either starts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import sweep_scores
from sweep_measure import CommandFailed, Cost, Parts, Point, clever_loop, measure, plain_loop, sample
from sweep_scores import Agreement

HERE = Path(__file__).resolve().parent
DEFAULT_OUTPUT = HERE / "sweep.json"


@dataclass(frozen=True)
class Case:
    """A sweep, as overrides of `harness sweep`.

    ``points`` is the loop's default number of points, ``reach`` the target ratio of wall times.
    """

    overrides: tuple[str, ...]
    points: int | None
    reach: float | None


CASES = {
    "tiny": Case(
        (  # the arms alone, 24 runs, with what the loop can measure: no control, no repeated cell, no suite of our own kinds
            "experiment=tiny",
            "data=tinyworld-people",
            "objective=sft",
            "trajectory=shared",
            "training.decay=constant",
            "data.volumes=[64,256,1024]",
            "probe_suites=[tinyworld]",
        ),
        12,
        10.0,
    ),
    "smoke": Case(("experiment=smoke", "model=nursery-smoke-a,nursery-smoke-b", "seed=0", "data.volumes=[64]"), None, None),
    "real": Case(
        (
            "experiment=smoke",
            "name=real",
            "seed=0",
            "model=hf",
            "model.name=HuggingFaceTB/SmolLM2-135M-Instruct",
            "data=gsm8k",
            "data.volumes=[16,64]",
            "target_suites=[]",
            "probe_suites=[blimp,commonsense]",
        ),
        None,
        4.0,
    ),
}


@dataclass(frozen=True)
class Run:
    """A recorded run of the sweep, and the loop's inputs for the same run."""

    record: Any
    config: Any
    rows: Path
    model: str
    adapter_seed: int


def overrides_of(case: Case, given: Sequence[str]) -> list[str]:
    """Return a case's overrides; a given one replaces the case's own."""
    keys = {text.split("=", 1)[0] for text in given}
    return [*[text for text in case.overrides if text.split("=", 1)[0] not in keys], *given]


def warm(overrides: Sequence[str]) -> None:
    """Load every model once.

    So models are in the cache, and libraries in the system's, before either side starts.
    """
    import lm_eval.tasks
    import peft  # noqa: F401

    from harness.config.identity import identify
    from harness.config.strict import plain
    from harness.sweep.axes import expand

    lm_eval.tasks.TaskManager()
    models = {identify(plain(asked.config.model)): asked.config.model for asked in expand(overrides).asked}
    for model in models.values():
        model.load()


def runs_of(experiment: Any, folder: Path) -> dict[str, Run]:
    """Return the sweep's runs by id; write the rows of each in its order."""
    from harness.config import composition
    from harness.config.run_config import Labels, RunConfig
    from harness.config.strict import build
    from harness.core.seeds import derive
    from harness.run import preparation
    from harness.run.workspace import Workspace

    workspace, runs = Workspace(), {}
    for run_id in sorted(experiment.current()):
        record = experiment.record(run_id)
        values = {key: value for key, value in record.config.items() if key != "class"}
        groups = {key: None if values[key] is None else composition.instantiate(key, values[key], key) for key in composition.PACKAGES}
        training = {key: value for key, value in values["training"].items() if key != "class"}
        config = build(RunConfig, {**values, **groups, "training": training, "labels": Labels(**record.labels)}, "")
        prepared = preparation.prepare(config, workspace)
        if problem := unsupported(config) or ("" if prepared.run_id == run_id else "its record gives another run id"):
            raise ValueError(f"run {run_id}: {problem}")
        rows = folder / f"{run_id}.jsonl"
        lines = [json.dumps({"prompt": row.turns[0].content, "completion": row.turns[1].content}) for row in prepared.rows]
        rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
        runs[run_id] = Run(record, config, rows, model_path(config.model), derive(config.seed, "adapter"))
    return runs


def unsupported(config: Any) -> str:
    """Return which parts of a configuration the loop does not support; empty if none."""
    training, labels = config.training, config.labels
    checks = {
        "objective": labels.objective == "sft" and config.objective.prompt_format == "plain" and config.data.kind == "completion",
        "mitigation": labels.mitigation == "none",
        "training": training.decay == "constant" and training.epochs == 1 and training.dtype in {"auto", "float32"},
        "tuning": labels.tuning == "full" or (config.tuning.modules is None and config.tuning.dropout == 0),
        "evaluation": config.evaluation.items == "report" and config.evaluation.prompt_format == "plain",
    }
    wrong = [name for name, right in checks.items() if not right]
    return f"the loop does not support its {', '.join(wrong)}" if wrong else ""


def model_path(model: Any) -> str:
    """Return the hub name or cache folder that transformers loads a model from."""
    from harness.config import paths
    from harness.models.hub import HubModel

    return model.name if isinstance(model, HubModel) else str(paths.cache() / "nursery" / model.recipe)


def train_command(run: Run, volume: int, output: Path) -> list[str]:
    """Return the command that trains one point."""
    training, config = run.config.training, run.config
    options = {
        "model": run.model,
        "rows": run.rows,
        "volume": volume,
        "tuning": run.record.labels["tuning"].split("[")[0],
        "learning-rate": run.record.learning_rate,
        "warmup-steps": training.warmup_rows // training.batch_rows,
        "batch-rows": training.batch_rows,
        "max-length": run.record.identity["training"]["max_length"],
        "weight-decay": training.weight_decay,
        "epsilon": training.epsilon,
        "max-grad-norm": training.max_grad_norm,
        "adapter-seed": run.adapter_seed,
        "seed": config.seed,
        "output": output,
    }
    if options["tuning"] == "lora":
        options |= {"lora-rank": config.tuning.rank, "lora-alpha": config.tuning.resolved_alpha}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(HERE / "loop" / "train.py"), *words, "--betas", str(training.beta1), str(training.beta2)]


def evaluate_command(
    model: str, adapter: Path | None, asked: Mapping[str, Sequence[int]], shots: int, batch: str, output: Path
) -> list[str]:
    """Return the command that evaluates one model on the items that the harness asks."""
    from harness.evaluation import task_index

    arguments = [f"pretrained={model}", "dtype=float32", *([f"peft={adapter}"] if adapter else [])]
    words = [str(Path(sys.executable).with_name("lm_eval")), "--model", "hf", "--model_args", ",".join(arguments)]
    words += ["--include_path", str(task_index.task_folders()[-1]), "--tasks", ",".join(asked), "--samples", json.dumps(dict(asked))]
    return [*words, "--num_fewshot", str(shots), "--batch_size", batch, "--output_path", str(output), "--log_samples"]


class Loop:
    """The loop over points, with the agreement of its scores and the harness'."""

    def __init__(self, experiment: Any, runs: Mapping[str, Run], folder: Path, batch: str, threads: int) -> None:
        self.experiment, self.runs, self.folder, self.batch = experiment, runs, folder, batch
        self.environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.parts: dict[Point, Parts] = {}
        self.agreement = Agreement()
        self.commands: dict[str, list[str]] = {}

    def points(self) -> list[Point]:
        """Return every point of the sweep."""
        found = []
        for run_id, run in self.runs.items():
            labels = run.record.labels
            found += [Point(labels["model"], labels["tuning"], volume, run.record.seed, run_id) for volume in run.record.volumes]
        return found

    def run(self, point: Point) -> None:
        """Run the loop's commands for one point, then compare its scores."""
        run, place = self.runs[point.run_id], self.folder / f"{point.run_id}-{point.volume}"
        place.mkdir(parents=True)
        zero, before = self._measured(run, run.record.before_sha256)
        self.commands = self._commands(point, zero, before, place)
        costs = [measure(command, self.environment, place / f"{name}.log") for name, command in self.commands.items()]
        self.parts[point] = Parts(*costs)
        sys.stderr.write(f"{point}: {sum(costs, Cost()).wall_seconds:.1f} s\n")
        scores = tuple(score for one in zero for score in one.scores)
        measured, items = self._measured(run, self.experiment.point(point.run_id, point.volume).weights_sha256)
        after = tuple(score for one in measured for score in one.scores), items
        metrics = {score.task: (score.metric, score.filter) for score in scores if score.primary}
        for name, ours in {"before": (scores, before), "after": after}.items():
            where = f"{point.model}, {point.tuning}, seed {point.seed}, {name} {point.volume} rows"
            theirs = sweep_scores.written(place / name, metrics)
            self.agreement += sweep_scores.compare(where, sweep_scores.recorded(*ours), theirs)

    def _measured(self, run: Run, weights_sha256: str) -> tuple[list[Any], pd.DataFrame]:
        """Return the measurements of some weights, and their items."""
        ids = list(run.record.evaluations.values())
        found = [self.experiment.measurement(one, weights_sha256) for one in ids]
        return found, pd.concat([self.experiment.measurement_samples(one, weights_sha256) for one in ids])

    def _commands(self, point: Point, measured: Sequence[Any], samples: pd.DataFrame, place: Path) -> dict[str, list[str]]:
        """Return a user's commands for one point.

        They ask the same items, after the same number of examples.
        """
        from harness.evaluation import suites

        run, trained = self.runs[point.run_id], place / "model"
        asked = {str(task): [int(item) for item in own["doc_id"].unique()] for task, own in samples.groupby("task", sort=False)}
        (shots,) = {suites.load(one.suite).num_fewshot for one in measured}  # a ValueError if suites differ
        adapter = trained if point.tuning.startswith("lora") else None
        return {
            "before": evaluate_command(run.model, None, asked, shots, self.batch, place / "before"),
            "train": train_command(run, point.volume, trained),
            "after": evaluate_command(run.model if adapter else str(trained), adapter, asked, shots, self.batch, place / "after"),
        }


def show(ours: Cost, plain: Cost, clever: Cost, how: str, case: Case, agreement: Agreement) -> None:
    """Print both costs, and the agreement of the scores."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    table = Table(title=f"harness sweep against a shell loop ({how})")
    for name in ["", "harness sweep", "loop", "ratio", "loop, `before` once per model", "ratio"]:
        table.add_column(name, justify="left" if not name else "right")
    for name, unit, pick in [
        ("wall time", 1.0, lambda cost: cost.wall_seconds),
        ("processor time", 1.0, lambda cost: cost.processor_seconds),
        ("peak memory, MB", 1e6, lambda cost: cost.peak_bytes),
    ]:
        own, *others = (pick(cost) / unit for cost in (ours, plain, clever))
        cells = [cell for other in others for cell in (f"{other:.0f}", f"{other / own:.2f}")]
        table.add_row(name, f"{own:.0f}", *cells)
    console.print(table)
    console.print(
        "Peak memory is the largest sum of resident sets of a command's processes, seen five times a second; shared pages count for each."
    )
    if case.reach:
        ratio = plain.wall_seconds / ours.wall_seconds
        console.print(f"target: {case.reach:.0f} times less wall time: {'reached' if ratio >= case.reach else 'not reached'}")
    console.print(
        f"scores: {agreement.scores} primary metrics, {agreement.items} items; largest difference {agreement.largest_metric:.1e}, "
        f"of a log-likelihood {agreement.largest_nats:.1e} nats"
    )
    for problem in agreement.problems:
        console.print(f"FAILED: {problem}", style="red", markup=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of harness sweep; replace the case's own")
    parser.add_argument("--case", default="tiny", choices=CASES)
    parser.add_argument("--points", default=None, help="number that the loop runs, or all (default: 12 of tiny, all of the others)")
    parser.add_argument("--batch", default="16", help="lm_eval's batch size")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each process of the loop")
    parser.add_argument("--folder", type=Path, help="keep results, logs and models here (default: a temporary folder)")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    return parser.parse_args()


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given:
        given.mkdir(parents=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="bench-sweep.") as folder:
        yield Path(folder)


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Run both sides and compare them."""
    from harness.records import provenance
    from harness.records.store import Experiment

    case = CASES[arguments.case]
    overrides = overrides_of(case, arguments.overrides)
    warm(overrides)
    asked = [*overrides, f"results={folder / 'results'}"]
    ours = measure([sys.executable, "-m", "harness", "sweep", *asked], {}, folder / "sweep.log")
    (place,) = (folder / "results").iterdir()
    sys.stderr.write(f"harness sweep: {ours.wall_seconds:.1f} s\n")
    experiment = Experiment(place)
    loop = Loop(experiment, runs_of(experiment, folder), folder / "loop", arguments.batch, arguments.threads)
    points = loop.points()
    wanted = arguments.points or case.points
    chosen = sample(points, None if wanted in {None, "all"} else int(wanted))
    for point in chosen:
        loop.run(point)
    plain, clever = plain_loop(loop.parts, points), clever_loop(loop.parts, points)
    how = f"measured on {len(chosen)} of {len(points)} points{', scaled' if len(chosen) < len(points) else ''}"
    found = {
        "case": arguments.case,
        "overrides": overrides,
        "how": how,
        "threads": arguments.threads,
        "batch": arguments.batch,
        "harness": asdict(ours),
        "loop": asdict(plain),
        "loop_before_once_a_model": asdict(clever),
        "agreement": asdict(loop.agreement),
        "points": [asdict(point) | asdict(parts) for point, parts in loop.parts.items()],
        "commands_of_one_point": loop.commands,
        "provenance": provenance.collect() | {"command": "make bench-sweep"},
    }
    arguments.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    show(ours, plain, clever, how, case, loop.agreement)
    sys.stderr.write(f"{arguments.output}\n")
    return 1 if loop.agreement.problems else 0


def main() -> int:
    """Run the benchmark."""
    arguments = _arguments()
    warnings.simplefilter("ignore")
    os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        with _folder(arguments.folder) as folder:
            return run(arguments, folder)
    except (CommandFailed, ValueError) as error:
        sys.stderr.write(f"bench-sweep: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
