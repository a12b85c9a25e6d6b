"""The ``harness`` command: the only reader of argv and the only printer.

Data go to standard output, progress and messages to standard error. Exit codes: 0 done; 1 something failed while running, and is
recorded; 2 the input was wrong, one line says how, and nothing was written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.errors import ConfigError, HarnessError, explain

if TYPE_CHECKING:
    from harness.config import RunConfig
    from harness.records import Experiment
    from harness.sweep.sequential import Tally

EPILOG = """\
examples:
  harness run                                             tune a tiny model on tinyworld, before and after
  harness run model=hf model.name=HuggingFaceTB/SmolLM2-135M data=gsm8k tuning=lora \\
              "data.volumes=[64,256]" "target_suites=[math_nll]" "probe_suites=[blimp,commonsense]" name=real
  harness sweep experiment=tiny                           model sizes x {full, lora} x volumes
  harness prompt tinyworld model=nursery-s                what the model is asked, token by token
  harness report tiny                                     figures and report.md in results/tiny/report/
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
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

    sweep = commands.add_parser("sweep", help="every point of an experiment's axes: experiment=NAME")
    sweep.add_argument("overrides", nargs="*", metavar="key=value", help="experiment=NAME and overrides; an axis is key=a,b,c")
    sweep.set_defaults(command=_sweep)

    table = commands.add_parser("table", help="the tidy table: one row a point, task and metric")
    _add_results(table)
    table.add_argument("--format", choices=["csv", "json", "markdown"], help="of standard output (default: csv) or of --output's file")
    table.add_argument("--output", type=Path, metavar="FILE", help="write here instead; .csv, .json, .md or .parquet")
    table.add_argument("--stale", action="store_true", help="include runs that the last command did not ask for")
    table.set_defaults(command=_table)

    report = commands.add_parser("report", help="figures (PNG, SVG) and report.md in results/NAME/report/")
    _add_results(report)
    report.set_defaults(command=_report)

    choices = commands.add_parser("list", help="what can be chosen")
    choices.add_argument("group", nargs="?", metavar="GROUP", help="one group, such as model, data or suites")
    choices.set_defaults(command=_list)

    prompt = commands.add_parser("prompt", help="one item of each task of a suite, as the model reads it: prompt, tokens, choices")
    prompt.add_argument("suite", metavar="SUITE", help="of `harness list suites`")
    prompt.add_argument("overrides", nargs="*", metavar="key=value", help="as for run: model=NAME, evaluation.prompt_format=chat, …")
    prompt.add_argument("--item", type=int, default=1, metavar="N", help="which of the items that the suite asks, from 1 (default: 1)")
    prompt.set_defaults(command=_prompt)

    rates = commands.add_parser("learning-rates", help="the best learning rates of a sweep made on select items, as yaml")
    _add_results(rates)
    rates.add_argument("--write", type=Path, metavar="FILE", help="merge them into this file (conf/learning_rates.yaml)")
    rates.set_defaults(command=_learning_rates)
    return parser


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the experiment or run: a folder of results/")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")


def _quiet_libraries() -> None:
    """Silence the progress bars and chatter of the libraries, which would drown ours; before any of them is imported."""
    import logging
    import warnings

    quiet = {
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "DATASETS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    for library in ("lm_eval", "datasets", "transformers", "huggingface_hub", "peft", "accelerate"):
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.getLogger("harness").setLevel(logging.INFO)
    warnings.simplefilter("ignore")


def _run(arguments: argparse.Namespace) -> int:
    _quiet_libraries()
    from harness import compose, plan

    config = compose.compose(arguments.overrides)
    if any(override.startswith("experiment=") for override in arguments.overrides):
        sys.stderr.write("harness: one run, at the defaults of the experiment's axes; `harness sweep` runs them all\n")
    return _execute(plan.runs_of(config), keep=True)


def _sweep(arguments: argparse.Namespace) -> int:
    _quiet_libraries()
    from harness import compose, paths, plan

    if not any(override.startswith("experiment=") for override in arguments.overrides):
        allowed = ", ".join(paths.members("conf/experiment"))
        raise ConfigError(explain("harness sweep", got="no experiment", allowed=allowed, fix="harness sweep experiment=NAME"))
    configs = compose.sweep(arguments.overrides)
    return _execute([run for config in configs for run in plan.runs_of(config)], keep=False)


def _execute(configs: Sequence[RunConfig], *, keep: bool) -> int:
    """Check every run, then do what is missing of each, then print the summary; 1 if any failed."""
    from harness import preparation, run
    from harness.config import plain
    from harness.console import display
    from harness.sweep.sequential import Job, run_all

    workspace = preparation.Workspace()
    prepared = {item.run_id: item for item in (preparation.prepare(config, workspace) for config in configs)}
    preparation.check_together(list(prepared.values()))
    for item in prepared.values():
        if not preparation.done(item):
            run.inspect(item)
    first = next(iter(prepared.values()))
    was = first.experiment.current()
    first.experiment.write_manifest({run_id: plain(item.config) for run_id, item in prepared.items()}, keep=keep)

    def job(item: preparation.Prepared) -> Job:
        labels = item.config.labels
        label = f"{item.run_id} ({labels.model}, {labels.tuning}, {labels.mitigation}, seed {item.config.seed})"
        return Job(label, lambda progress: run.execute(item, progress), lambda error: run.record_failure(item, error))

    with display() as progress:
        tally = run_all([job(item) for item in prepared.values()], progress, lambda number: progress.runs(number, len(prepared)))
    _summarise(first.experiment, tally, same=was == first.experiment.current())
    return 1 if tally.failed else 0


def _summarise(experiment: Experiment, tally: Tally, *, same: bool) -> None:
    """Print the summary and bring the report up to date, unless it shows these very runs already."""
    from harness.analysis.frame import table
    from harness.report import page, tables

    if experiment.run_ids():
        sys.stdout.write(tables.summary(table(experiment)) + "\n")
    where = experiment.folder / "report" / "report.md"
    if tally.done or tally.failed or not same or not where.exists():
        where = page.write(experiment)
    sys.stderr.write(f"\n{tally.done} run(s) done, {tally.already_done} already done, {len(tally.failed)} failed\n")
    for label, reason in tally.failed:
        sys.stderr.write(f"failed: {label}: {reason}\n")
    if where.exists():
        sys.stderr.write(f"report: {where}\nnext: {_called()} table {experiment.name} --output {experiment.name}.csv\n")
    if any(experiment.folder.glob("runs/*/failure.json")):
        sys.stderr.write(f"tracebacks: {experiment.folder}/runs/*/failure.json; run the same command again to retry\n")


def _called() -> str:
    """Return how this command was called, so that the next one can be typed: by its path where it is not on PATH."""
    by_path = Path(sys.argv[0])
    return str(by_path) if by_path.name == "harness" and by_path.is_file() and not shutil.which("harness") else "harness"


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
    _quiet_libraries()
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
