"""``harness export``: its arguments, and from them to files of other tools."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from harness.api import Results

FORMATS = ("lm-eval", "hub-card", "eval-results", "every-eval-ever")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the options of ``harness export``, without the name of the experiment."""
    command.add_argument(
        "--to",
        choices=FORMATS,
        required=True,
        help="lm-eval: results and samples before and after, which `harness compare` reads; hub-card: a section of a model card with"
        " model-index; eval-results: .eval_results/*.yaml of the hub; every-eval-ever: its records",
    )
    command.add_argument("--output", type=Path, metavar="DIR", help="folder of the files (default: export/FORMAT in the experiment's)")
    command.add_argument(
        "--run",
        action="append",
        default=[],
        metavar="RUN_ID[@VOLUME]",
        help="only this point (default: every run of the last command, each at its largest volume); repeatable",
    )
    command.add_argument(
        "--dataset",
        action="append",
        default=[],
        metavar="SUITE[/TASK]=ORG/DATASET:TASK_ID",
        help="for eval-results: the benchmark on the hub that a suite or task is; repeatable",
    )
    command.add_argument("--organization", default="unknown", metavar="NAME", help="for every-eval-ever: who measured (default: unknown)")


def export_command(results: Results, arguments: argparse.Namespace, show: Callable[[str], None]) -> int:
    """Write the points of an experiment, and show what was written.

    Args:
        results: of the experiment.
        arguments: to, output, run, dataset, organization.
        show: prints a line.

    Returns:
        Exit code.
    """
    from harness.report.exports import command

    return command.export_command(
        results.experiment,
        arguments.to,
        show,
        runs=arguments.run,
        output=arguments.output,
        datasets=arguments.dataset,
        organization=arguments.organization,
    )
