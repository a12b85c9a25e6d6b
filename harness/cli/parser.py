"""The arguments of the ``harness`` command, as argparse knows them: what there is, and how it is explained. Nothing is read here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import __version__

Command = Callable[[argparse.Namespace], int]

EPILOG = """\
examples:
  harness run                                             tune a tiny model on tinyworld, before and after
  harness run model=hf model.name=HuggingFaceTB/SmolLM2-135M data=gsm8k tuning=lora \\
              "data.volumes=[64,256]" "target_suites=[math_nll]" "probe_suites=[blimp,commonsense]" name=real
  harness sweep experiment=tiny                           model sizes x {full, lora} x volumes
  harness plan experiment=tiny                            what that would do and take, before anything starts
  harness sweep experiment=size_law launcher=slurm        the same on a cluster: submits and returns
  harness status size_law --watch                         how it goes
  harness prompt tinyworld model=nursery-s                what the model is asked, token by token
  harness show-data mitigation=self_output --write        what a model wrote to be learned, beside the gold answers
  harness report tiny                                     the page: results/tiny/report/index.html
"""


def parser(do: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Args:
        do: name of a command → what carries it out; it stands as ``command`` among the arguments.
    """
    whole = argparse.ArgumentParser(
        prog="harness",
        description="Measure what a language model forgets, and learns, when it is post-trained.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="one run: before, tune through the volumes, after each")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides, such as tuning=lora data.volumes=[64,256]")

    _add_sweeping(commands)

    table = commands.add_parser("table", help="the tidy table: one row a point, task and metric")
    _add_results(table)
    table.add_argument("--format", choices=["csv", "json", "markdown"], help="of standard output (default: csv) or of --output's file")
    table.add_argument("--output", type=Path, metavar="FILE", help="write here instead; .csv, .json, .md or .parquet")
    table.add_argument("--stale", action="store_true", help="include runs that the last command did not ask for")

    report = commands.add_parser("report", help="index.html, figures (PNG, SVG, PDF) and tables (CSV, Markdown) in results/NAME/report/")
    _add_results(report)

    choices = commands.add_parser("list", help="what can be chosen")
    choices.add_argument("group", nargs="?", metavar="GROUP", help="one group, such as model, data or suites")

    prompt = commands.add_parser("prompt", help="one item of each task of a suite, as the model reads it: prompt, tokens, choices")
    prompt.add_argument("suite", metavar="SUITE", help="of `harness list suites`")
    prompt.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="as for run: model=NAME, evaluation.prompt_format=chat, …"
    )
    prompt.add_argument("--item", type=int, default=1, metavar="N", help="which of the items that the suite asks, from 1 (default: 1)")

    data = commands.add_parser("show-data", help="target rows of a run as they are trained on, beside the gold ones: what models wrote")
    data.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as for run: mitigation=self_output, …")
    data.add_argument("--rows", type=int, default=10, metavar="N", help="how many (default: 10)")
    data.add_argument("--write", action="store_true", help="have the models write what is missing, and measure target nats")

    method = commands.add_parser("check-method", help="check the contract of a tuning, objective or mitigation on tiny models")
    method.add_argument("cls", metavar="CLASS", help="module.Class of ours, such as l2.L2, or package.module:Class of your own")
    method.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="fields of the class, such as weight=0.5")

    rates = commands.add_parser("learning-rates", help="the best learning rates of a sweep made on select items, as yaml")
    _add_results(rates)
    rates.add_argument("--write", type=Path, metavar="FILE", help="merge them into this file (conf/learning_rates.yaml)")

    _add_analysis(commands)
    for name, command in commands.choices.items():
        command.set_defaults(command=do[name])
    return whole


def _add_sweeping(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about whole sweeps."""
    sweep = commands.add_parser("sweep", help="every point of axes: experiment=NAME, or name=NAME and axes")
    sweep.add_argument(
        "overrides", nargs="*", metavar="key=value", help="experiment=NAME or name=NAME, and overrides; an axis is key=a,b,c"
    )
    sweep.add_argument("--wait", action="store_true", help="on a cluster: show how it goes on until all is done")

    plan = commands.add_parser("plan", help="what a sweep would do, and what it would take; nothing starts, nothing is written")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="as for sweep")
    plan.add_argument("--json", action="store_true", help="as JSON")

    status = commands.add_parser("status", help="how the last sweep of an experiment goes, from disk, wherever it runs")
    _add_results(status)
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument("--watch", action="store_true", help="again every few seconds, until nothing is left to do")

    prefetch = commands.add_parser("prefetch", help="fetch all a sweep needs, and check that it loads without a network")
    prefetch.add_argument("overrides", nargs="*", metavar="key=value", help="as for sweep")
    prefetch.add_argument("--check", action="store_true", help="fetch nothing, only check")


def _add_analysis(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands that draw conclusions: fits of laws, predictions, and the comparison of two models."""
    laws = "power, linear, shifted_power, injection or kl"
    fit = commands.add_parser("fit", help="fit a law of forgetting to a table of points, anybody's, or to an experiment")
    fit.add_argument("points", metavar="POINTS", help="a .csv or .parquet file with a row a point, or the NAME of an experiment")
    fit.add_argument("--law", required=True, metavar="LAW", help=laws)
    _add_fitting(fit)

    predict = commands.add_parser("predict", help="what a law fitted to an experiment says of a point that was not run")
    predict.add_argument("points", metavar="NAME", help="of the experiment, or a .csv or .parquet file")
    predict.add_argument("--law", required=True, metavar="LAW", help=laws)
    predict.add_argument("--at", action="append", required=True, metavar="column=value", help="where, such as params_total=1e9")
    _add_fitting(predict)

    compare = commands.add_parser("compare", help="what AFTER lost and gained beside BEFORE, item by item: models, or lm-eval's samples")
    compare.add_argument("before", metavar="BEFORE", help="a model (folder, hub name, adapter) or a folder of lm-eval --log_samples output")
    compare.add_argument("after", metavar="AFTER", help="likewise")
    compare.add_argument("--suites", metavar="NAMES", help="suites that two models are asked, with commas: commonsense,blimp")
    compare.add_argument("--output", type=Path, metavar="DIR", help="write the page, its tables and figures there")
    compare.add_argument("--margin", type=float, default=0.02, metavar="X", help="a change within ±X is none that matters (default: 0.02)")
    compare.add_argument("--max-loss", type=float, metavar="X", help="exit 1: more than X is lost; 0: less; 3: undecided; 2: an error")
    compare.add_argument("--json", action="store_true", help="as JSON")
    compare.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="of two models: evaluation.dtype=bfloat16, …")


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--where", action="append", default=[], metavar="column=value", help="only these points, such as tuning=lora")
    parser.add_argument("--column", action="append", default=[], metavar="role=name", help="what the file calls a column: volume=rows")
    parser.add_argument("--suite", metavar="SUITE", help="whose forgetting, of an experiment (default: its headline)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the experiment or run: a folder of results/")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
