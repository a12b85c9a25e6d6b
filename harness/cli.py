"""The ``harness`` command: the only reader of argv and the only printer.

Data go to standard output, progress and messages to standard error. Exit codes: 0 done; 1 something failed while running, and is
recorded; 2 the input was wrong, one line says how, and nothing was written. ``compare`` has codes of its own (``_compare``).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.console import quiet_libraries
from harness.errors import ConfigError, HarnessError, explain

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.records import Experiment

SECONDS_BETWEEN_LOOKS = 5.0

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
  harness report tiny                                     the page: results/tiny/report/index.html
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code.
    """
    arguments = _parsed(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except HarnessError as error:
        sys.stderr.write(f"harness: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("harness: interrupted; what was finished is kept, run the same command again for the rest\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        sys.stderr.write(f"harness: {error.filename or 'file system'}: {error.strerror or error}\n")
        return 1


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse; overrides may also stand behind options, where argparse by itself takes no more of them."""
    parser = _parser()
    arguments, further = parser.parse_known_args(argv)
    if further:
        if not hasattr(arguments, "overrides") or any("=" not in text or text.startswith("-") for text in further):
            parser.error(f"unrecognized arguments: {' '.join(further)}")
        arguments.overrides = [*arguments.overrides, *further]
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness",
        description="Measure what a language model forgets, and learns, when it is post-trained.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"harness {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="one run: before, tune through the volumes, after each")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides, such as tuning=lora data.volumes=[64,256]")
    run.set_defaults(command=_run)

    _add_sweeping(commands)

    table = commands.add_parser("table", help="the tidy table: one row a point, task and metric")
    _add_results(table)
    table.add_argument("--format", choices=["csv", "json", "markdown"], help="of standard output (default: csv) or of --output's file")
    table.add_argument("--output", type=Path, metavar="FILE", help="write here instead; .csv, .json, .md or .parquet")
    table.add_argument("--stale", action="store_true", help="include runs that the last command did not ask for")
    table.set_defaults(command=_table)

    report = commands.add_parser("report", help="index.html, figures (PNG, SVG, PDF) and tables (CSV, Markdown) in results/NAME/report/")
    _add_results(report)
    report.set_defaults(command=_report)

    choices = commands.add_parser("list", help="what can be chosen")
    choices.add_argument("group", nargs="?", metavar="GROUP", help="one group, such as model, data or suites")
    choices.set_defaults(command=_list)

    prompt = commands.add_parser("prompt", help="one item of each task of a suite, as the model reads it: prompt, tokens, choices")
    prompt.add_argument("suite", metavar="SUITE", help="of `harness list suites`")
    prompt.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="as for run: model=NAME, evaluation.prompt_format=chat, …"
    )
    prompt.add_argument("--item", type=int, default=1, metavar="N", help="which of the items that the suite asks, from 1 (default: 1)")
    prompt.set_defaults(command=_prompt)

    rates = commands.add_parser("learning-rates", help="the best learning rates of a sweep made on select items, as yaml")
    _add_results(rates)
    rates.add_argument("--write", type=Path, metavar="FILE", help="merge them into this file (conf/learning_rates.yaml)")
    rates.set_defaults(command=_learning_rates)

    _add_analysis(commands)
    return parser


def _add_sweeping(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands about whole sweeps."""
    sweep = commands.add_parser("sweep", help="every point of an experiment's axes: experiment=NAME")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="experiment=NAME and overrides; an axis is key=a,b,c")
    sweep.add_argument("--wait", action="store_true", help="on a cluster: show how it goes on until all is done")
    sweep.set_defaults(command=_sweep)

    plan = commands.add_parser("plan", help="what a sweep would do, and what it would take; nothing starts, nothing is written")
    plan.add_argument("overrides", nargs="*", metavar="key=value", help="as for sweep")
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.set_defaults(command=_plan)

    status = commands.add_parser("status", help="how the last sweep of an experiment goes, from disk, wherever it runs")
    _add_results(status)
    status.add_argument("--json", action="store_true", help="as JSON")
    status.add_argument("--watch", action="store_true", help="again every few seconds, until nothing is left to do")
    status.set_defaults(command=_status)

    prefetch = commands.add_parser("prefetch", help="fetch all a sweep needs, and check that it loads without a network")
    prefetch.add_argument("overrides", nargs="*", metavar="key=value", help="as for sweep")
    prefetch.add_argument("--check", action="store_true", help="fetch nothing, only check")
    prefetch.set_defaults(command=_prefetch)


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
    compare.set_defaults(command=_compare)


def _add_fitting(parser: argparse.ArgumentParser) -> None:
    is_fit = parser.prog.endswith(" fit")
    parser.add_argument("--where", action="append", default=[], metavar="column=value", help="only these points, such as tuning=lora")
    parser.add_argument("--column", action="append", default=[], metavar="role=name", help="what the file calls a column: volume=rows")
    parser.add_argument("--suite", metavar="SUITE", help="whose forgetting, of an experiment (default: its headline)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_fit if is_fit else _predict)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the experiment or run: a folder of results/")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")


def _run(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness import compose, plan, summary
    from harness.console import display
    from harness.sweep import command
    from harness.sweep.axes import Asked
    from harness.sweep.launchers import split
    from harness.sweep.local import Local

    launcher, overrides = split(arguments.overrides)
    if not isinstance(launcher, Local):
        raise ConfigError(
            explain("harness run: launcher", got=type(launcher).__name__, allowed="local", fix="harness sweep for the others")
        )
    config = compose.compose(overrides)
    if any(override.startswith("experiment=") for override in overrides):
        sys.stderr.write("harness: one run, at the defaults of the experiment's axes; `harness sweep` runs them all\n")
    asked = [Asked(run, _of_one(overrides, run)) for run in plan.runs_of(config)]
    started = command.begin(asked, launcher, keep=True)
    with display() as progress:
        tally = command.carry_here(started, progress)
    return summary.finish(started, tally)


def _of_one(overrides: Sequence[str], config: RunConfig) -> tuple[str, ...]:
    """Return what composes to one run of a configuration: of independent volumes, to its own."""
    others = [text for text in overrides if text.split("=", 1)[0] != "data.volumes"]
    return (*others, f"data.volumes=[{','.join(map(str, config.data.volumes))}]")


def _sweep(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness import summary
    from harness.console import display
    from harness.sweep import command

    started = command.start(arguments.overrides, warm=True)
    with display() as progress:
        tally = command.carry(started, progress, wait=arguments.wait)
    if tally is None:
        sys.stderr.write(f"watch: {summary.called()} status {started.experiment.name} --watch; the same command again goes on\n")
        return 0
    return summary.finish(started, tally)


def _plan(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.sweep import command, planning

    command.require_experiment(arguments.overrides, "plan")
    text, code = planning.plan_command(arguments.overrides, as_json=arguments.json)
    sys.stdout.write(text.rstrip("\n") + "\n")
    return code


def _status(arguments: argparse.Namespace) -> int:
    from harness.sweep import overview

    reader = overview.Reader(_experiment(arguments))
    while True:
        found = reader.read()
        text = overview.as_json(found) if arguments.json else overview.as_text(found)
        clear = "\033[2J\033[H" if arguments.watch and sys.stdout.isatty() else ""
        sys.stdout.write(clear + text.rstrip("\n") + "\n")
        sys.stdout.flush()
        if not arguments.watch or found.is_over:
            return 0
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _prefetch(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.sweep import command, prefetch

    command.require_experiment(arguments.overrides, "prefetch")
    return prefetch.prefetch_command(arguments.overrides, _print, check_only=arguments.check)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _experiment(arguments: argparse.Namespace) -> Experiment:
    from harness.records import Experiment

    experiment = Experiment(arguments.results / arguments.name)
    experiment.require_readable()
    return experiment


def _table(arguments: argparse.Namespace) -> int:
    from harness.analysis.frame import table
    from harness.report import tables

    experiment = _experiment(arguments)
    rows = table(experiment, stale=arguments.stale)
    stale = set(experiment.run_ids()) - experiment.current()
    if stale and not arguments.stale:
        sys.stderr.write(f"harness: {len(stale)} stale run(s) left out; --stale includes them\n")
    if arguments.output:
        tables.write(rows, arguments.output, arguments.format)
        sys.stderr.write(f"{arguments.output}\n")
    else:
        sys.stdout.write(tables.render(rows, arguments.format or "csv"))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from harness.report import page

    sys.stdout.write(f"{page.write(_experiment(arguments))}\n")
    return 0


def _prompt(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness import compose, preparation

    texts = preparation.prompts_of(arguments.suite, compose.compose(arguments.overrides), arguments.item)
    sys.stdout.write("\n".join(texts))
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from harness import paths

    groups = ["model", "tuning", "objective", "mitigation", "data", "anchor", "evaluation", "experiment", "suites"]
    if arguments.group and arguments.group not in groups:
        raise ConfigError(explain("harness list", got=repr(arguments.group), allowed=", ".join(groups)))
    for group in [arguments.group] if arguments.group else groups:
        folder = {"suites": "benchmarks/suites", "anchor": "conf/data"}.get(group, f"conf/{group}")
        sys.stdout.write(f"{group}\n" if not arguments.group else "")
        for name, path in paths.members(folder).items():
            sys.stdout.write(f"  {name:<24} {_first_comment(path)}\n")
    return 0


def _first_comment(path: Path) -> str:
    lines = [line.lstrip("# ").strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    return next((line for line in lines if not line.startswith("@package")), "")


def _learning_rates(arguments: argparse.Namespace) -> int:
    from harness.analysis import learning_rates
    from harness.analysis.frame import table

    experiment = _experiment(arguments)
    learning_rates.require_select(experiment)
    found = learning_rates.best(table(experiment))
    if arguments.write:
        learning_rates.merge(found, arguments.write)
        sys.stderr.write(f"{arguments.write}\n")
    sys.stdout.write(learning_rates.as_yaml(found))
    return 0


def _fit(arguments: argparse.Namespace) -> int:
    from harness import fitting

    return _said(*fitting.fit_command(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    from harness import fitting

    return _said(*fitting.predict_command(arguments))


def _compare(arguments: argparse.Namespace) -> int:
    """Compare. Code 1 says that more is lost, and nothing else: every error is a 2, also one that nobody foresaw."""
    quiet_libraries()
    try:
        from harness.compare import command

        return command.compare_command(arguments, _print_anyway)
    except HarnessError:
        raise
    except OSError as error:
        sys.stderr.write(f"harness: {error.filename or 'file system'}: {error.strerror or error}\n")
        return 2
    except Exception as error:  # noqa: BLE001 - whatever it was, it is no loss
        traceback.print_exc()
        sys.stderr.write(f"harness: compare broke off, nothing is decided by its exit code: {type(error).__name__}: {error}\n")
        return 2


def _print_anyway(text: str) -> None:
    """Print; where nobody reads (``| head``), go on: the exit code still says what came out."""
    try:
        _print(text.rstrip("\n"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(text: str, code: int) -> int:
    sys.stdout.write(text.rstrip("\n") + "\n")
    return code
