"""Arguments of the commands on models trained elsewhere: measure, watch, compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cli.arguments import add, add_json, add_output, add_overrides, add_trust

if TYPE_CHECKING:
    from harness.cli.arguments import Commands


def add_elsewhere(commands: Commands) -> None:
    """Add the three commands."""
    measure = add(
        commands,
        "measure",
        "measure checkpoints of a training elsewhere against their base",
        "They become points of a run in results/NAME: table, page and laws as for a sweep. What is measured is not measured again.",
    )
    measure.add_argument(
        "sources",
        nargs="+",
        metavar="BASE CHECKPOINT...",
        help="the base, then checkpoints: a Trainer's output folder (its checkpoint-* in order), a model or adapter folder, a hub name,"
        " NAME@REVISION; overrides such as evaluation.dtype=bfloat16",
    )
    _add_measuring(measure)
    _add_gate(measure)
    _add_rows_per_step(measure)
    add_overrides(measure, argparse.SUPPRESS)

    watch = add(
        commands,
        "watch",
        "measure each checkpoint of a training as it appears",
        "The training is not touched. results/NAME/forgetting.json has the losses so far. Rerun the same command to resume.",
    )
    watch.add_argument("base", metavar="BASE", help="the model before training: a folder, a hub name, or NAME@REVISION")
    watch.add_argument("output", metavar="OUTPUT_DIR", help="the trainer's output folder, here or on a shared disk; it may not exist yet")
    _add_measuring(watch)
    _add_rows_per_step(watch)
    watch.add_argument(
        "--every",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="poll; a checkpoint is measured once unchanged for as long (default: 10)",
    )
    watch.add_argument(
        "--until",
        default="done",
        metavar="WHEN",
        help="done (default): its newest checkpoint is its last; idle=SECONDS: or nothing changes; forever",
    )
    add_overrides(watch, "overrides, such as evaluation.dtype=bfloat16")

    compare = add(
        commands,
        "compare",
        "compare two models, or the logs of two: lm-eval samples, inspect_ai logs",
        "It shows what AFTER lost and gained compared with BEFORE, item by item.",
    )
    sides = (
        "a model (folder, hub name, NAME@REVISION, adapter), a folder of lm-eval --log_samples output, or inspect_ai logs (file or folder)"
    )
    compare.add_argument("before", metavar="BEFORE", help=sides)
    compare.add_argument("after", metavar="AFTER", help="as BEFORE")
    compare.add_argument("--suites", metavar="NAMES", help="suites for two models, separated by commas: commonsense,blimp")
    compare.add_argument("--output", type=Path, metavar="DIR", help="write the page, its tables and figures there")
    compare.add_argument("--margin", type=float, default=0.02, metavar="X", help="a change within ±X is negligible (default: 0.02)")
    _add_gate(compare)
    add_json(compare)
    add_trust(compare)
    add_overrides(compare, "overrides for two models, such as evaluation.dtype=bfloat16")


def _add_gate(command: argparse.ArgumentParser) -> None:
    """Add limits of a loss, and the files that report on them."""
    command.add_argument(
        "--max-loss",
        action="append",
        metavar="[SUITE=]X",
        help="set the exit code: 0 if less than X is lost, in the mean over suites, 1 if more, 3 if undecided, 2 on errors;"
        " SUITE=X: a limit for one suite, such as one in nats; repeatable",
    )
    command.add_argument(
        "--mean",
        metavar="SUITES",
        help="suites of the mean that --max-loss limits, separated by commas (default: all whose unit is a share)",
    )
    command.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML: a test for each suite and task")
    command.add_argument(
        "--summary", type=Path, metavar="FILE", help="append a Markdown summary, for a pull request's comment or $GITHUB_STEP_SUMMARY"
    )


def _add_measuring(command: argparse.ArgumentParser) -> None:
    """Add what commands that measure a training elsewhere have in common."""
    command.add_argument("--name", metavar="NAME", help="folder in results (default: the name of the training)")
    command.add_argument("--suites", metavar="NAMES", help="suites, lm-eval tasks or groups, separated by commas; default: of real models")
    command.add_argument("--target", metavar="NAMES", help="suites of what is learned: they gain")
    command.add_argument("--limit", type=int, metavar="N", help="items of each task")
    command.add_argument("--margin", type=float, default=0.02, metavar="X", help="a change within ±X is negligible (default: 0.02)")
    add_trust(command)
    add_output(command)


def _add_rows_per_step(command: argparse.ArgumentParser) -> None:
    command.add_argument("--rows-per-step", type=int, metavar="N", help="rows of an optimizer step, so that the axis is rows")
