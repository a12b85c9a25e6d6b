"""Arguments and help of the ``harness`` command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.cli import export
from harness.cli.arguments import add, add_json, add_name, add_output, add_overrides, add_results_folder, add_trust
from harness.cli.elsewhere import add_elsewhere

if TYPE_CHECKING:
    from harness.cli.arguments import Commands

Handler = Callable[[argparse.Namespace], int]

LAWS = ", ".join(sorted(path.stem for path in (Path(__file__).parents[1] / "analysis" / "fits" / "laws").glob("[!_]*.py")))

EPILOG = """\
examples:
  harness run                                             train a tiny model on tinyworld, evaluate before and after
  harness run model=hf model.name=HuggingFaceTB/SmolLM2-135M data=gsm8k tuning=lora \\
              "data.volumes=[64,256]" "target_suites=[math_nll]" "probe_suites=[blimp,commonsense]" name=real
  harness plan experiment=tiny                            runs, time, memory and disk of a sweep; starts nothing
  harness sweep experiment=tiny                           model sizes x {full, lora} x volumes x seeds
  harness sweep experiment=size_law launcher=slurm        a sweep on a cluster: submits jobs and returns
  harness status size_law --watch                         its progress
  harness table tiny --format text                        the changes of each point side by side; --short: csv
  harness report tiny                                     write the page results/tiny/report/index.html
  harness prompt tinyworld model=nursery-s                prompts as the model sees them, token by token
  harness show-data mitigation=self_output --write        generated rows next to the gold rows

`harness COMMAND --help` explains a command, `harness list` shows the choices for overrides (key=value).
"""


def parse(argv: Sequence[str] | None, handlers: Mapping[str, Handler]) -> argparse.Namespace:
    """Parse a command line, and exit the process with a message if it is wrong.

    Overrides may also follow options, which argparse does not support by itself. A command that
    reads results takes ``results=FOLDER``, as ``harness sweep`` does, for ``--results FOLDER``.

    Args:
        argv: the arguments, by default those of the process.
        handlers: see ``parser``.
    """
    whole = parser(handlers)
    arguments, rest = whole.parse_known_args(argv)
    if "results" in arguments:
        for text in [text for text in rest if text.startswith("results=")]:
            rest.remove(text)
            arguments.results = Path(text.removeprefix("results="))
    if rest:
        if not arguments.takes_overrides or any("=" not in text or text.startswith("-") for text in rest):
            whole.error(f"unrecognized arguments: {' '.join(rest)}")
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def parser(handlers: Mapping[str, Handler]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Args:
        handlers: command → function that executes it; the parsed arguments have it as ``handler``,
            which is None without a command.
    """
    whole = argparse.ArgumentParser(
        prog="harness",
        description="Measure what a language model forgets, and learns, when it is post-trained.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"harness {__version__}", help="show the version and exit")
    whole.set_defaults(handler=None, command=None, takes_overrides=False, quiet=False, log_file=None, trust_tasks=False)
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    _add_runs_and_sweeps(commands)
    _add_results(commands)
    _add_inputs(commands)
    _add_analysis(commands)
    add_elsewhere(commands)
    for name, command in commands.choices.items():
        command.set_defaults(handler=handlers[name], command=name)
    return whole


def _add_runs_and_sweeps(commands: Commands) -> None:
    run = add(
        commands,
        "run",
        "train one model, and evaluate it before and at each data volume",
        "Without overrides: a tiny model on tinyworld. A finished run is not repeated, an interrupted one resumes.",
    )
    add_overrides(run, "overrides in Hydra's syntax, such as tuning=lora data.volumes=[64,256] name=mine")
    add_trust(run)
    add_output(run)

    sweep = add(
        commands,
        "sweep",
        "run every point of an experiment, or of axes of your own",
        "Every point is checked before anything starts. Finished runs are not repeated; rerun the same command to resume.",
    )
    add_overrides(
        sweep, "experiment=NAME or name=NAME, and overrides; key=a,b,c is an axis, arms=a,b selects arms, launcher=slurm uses a cluster"
    )
    add_trust(sweep)
    add_output(sweep)
    sweep.add_argument("--wait", action="store_true", help="on a cluster: show progress until the sweep is over")

    mix = add(
        commands,
        "mix",
        "find how much old data to mix in, by a sweep over its share of the loss",
        "It prints gain, loss and cost of each share, and the smallest share whose loss is within the margin (docs/mixing.md).",
    )
    add_overrides(mix, "data=NEW anchor=OLD, and overrides such as model=NAME data.volumes=[512] probe_suites=[blimp] name=mine")
    mix.add_argument(
        "--shares", default="0,0.05,0.25", metavar="A,B,C", help="shares of the loss, 0 to below 1 (default: 0,0.05,0.25; 0 is always run)"
    )
    mix.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds of each share (default: 3); more keep those that are done")
    add_json(mix)
    add_trust(mix)
    add_output(mix)
    mix.add_argument("--wait", action="store_true", help="on a cluster: show progress until the sweep is over")

    plan = add(commands, "plan", "show the runs of a sweep and its time, memory and disk", "It starts and writes nothing.")
    add_overrides(plan, "experiment=NAME or name=NAME, and overrides as for sweep")
    add_trust(plan)
    add_json(plan)

    status = add(commands, "status", "show the progress of an experiment's last sweep", "It works wherever the sweep runs.")
    add_name(status)
    add_json(status)
    status.add_argument("--watch", action="store_true", help="repeat every few seconds until the sweep is over")

    prefetch = add(commands, "prefetch", "download everything that a sweep needs", "It then checks that each part loads offline.")
    add_overrides(prefetch, "experiment=NAME or name=NAME, and overrides as for sweep")
    add_trust(prefetch)
    prefetch.add_argument("--check", action="store_true", help="only check; download nothing")


def _add_results(commands: Commands) -> None:
    table = add(commands, "table", "print the results: one row for each point, task and metric")
    add_name(table)
    table.add_argument("--columns", metavar="A,B,C", help="only these columns")
    table.add_argument("--short", action="store_true", help="only the columns that people read, without secondary metrics")
    table.add_argument(
        "--format",
        choices=["csv", "json", "markdown", "text"],
        help="default: csv, or that of the --output file's suffix; text: the changes of each point side by side, for reading",
    )
    table.add_argument("--output", type=Path, metavar="FILE", help="write a .csv, .json, .md or .parquet file instead")
    table.add_argument("--raw", action="store_true", help="keep text cells of a csv that a spreadsheet would run, and control characters")
    table.add_argument("--stale", action="store_true", help="include stale runs, which the last command did not ask for")

    report = add(
        commands,
        "report",
        "write the page of an experiment, report/index.html in its folder",
        "Its folder also has figures (PNG, SVG, PDF) and tables (CSV, Markdown).",
    )
    add_name(report)

    claims = add(
        commands,
        "claims",
        "judge the claims of conf/experiment/claims by their declared tests, and write docs/CLAIMS.md",
        "It reads the small tables in results/reference/claims/, and writes a page to results/claims/ too.",
    )
    claims.add_argument("names", nargs="*", metavar="NAME", help="claims to print, writing nothing (default: all are written)")
    claims.add_argument("--collect", action="append", default=[], metavar="RESULTS", help="first write a finished sweep's small tables")

    verify = add(
        commands,
        "verify",
        "check that no file of an experiment was altered since it was written",
        "Scores, intervals and the page are derived anew from the recorded items. It prints each damaged file, and then exits with 1.",
    )
    add_name(verify)

    exported = add(commands, "export", "write results in the formats of other tools", "Nothing is uploaded (docs/exports.md).")
    add_name(exported)
    export.add_arguments(exported)

    clean = add(
        commands,
        "clean",
        "list stale runs, checkpoints, leftovers and caches with their sizes, and delete what is named",
        "Without --delete nothing is deleted. What the table shows stays (docs/cleaning.md).",
    )
    add_name(clean, required=False)
    clean.add_argument("--all", action="store_true", help="every experiment in the folder of results")
    clean.add_argument("--delete", metavar="A,B,C", help="kinds to delete, such as stale,state,weights,cache; those of the list")

    rates = add(
        commands, "learning-rates", "print the smallest learning rates that do as well as the best, of a sweep on select items, as yaml"
    )
    add_name(rates)
    rates.add_argument("--write", type=Path, metavar="FILE", help="merge them into this file, such as conf/learning_rates.yaml")


def _add_inputs(commands: Commands) -> None:
    choices = add(commands, "list", "list models, data, methods, suites and experiments")
    choices.add_argument("group", nargs="?", metavar="GROUP", help="only this group, such as model, data or suites; or lm_eval: its tasks")

    prompt = add(
        commands,
        "prompt",
        "show an item of each task of a suite as the model sees it",
        "It shows the prompt, its tokens and the answer choices, and loads no weights.",
    )
    prompt.add_argument("suite", metavar="SUITE", help="one of `harness list suites`, or a task or group of lm-eval")
    add_overrides(prompt, "overrides as for run, such as model=NAME evaluation.prompt_format=chat")
    add_trust(prompt)
    prompt.add_argument("--item", type=int, default=1, metavar="N", help="number of the item, from 1 (default: 1)")

    data = add(
        commands,
        "show-data",
        "show generated training rows next to the gold rows",
        "The rows are those of a run with these overrides.",
    )
    add_overrides(data, "overrides as for run, such as mitigation=self_output")
    data.add_argument("--rows", type=int, default=10, metavar="N", help="number of rows (default: 10)")
    data.add_argument("--write", action="store_true", help="generate missing rows, and measure target nats")

    method = add(
        commands,
        "check-method",
        "check the contract of a tuning, objective or mitigation on tiny models",
        "It prints a line for each check, and exits with 1 if one fails.",
    )
    method.add_argument(
        "cls", metavar="CLASS", help="module.Class of the harness, such as l2.L2, or package.module:Class of your own (HARNESS_PATH)"
    )
    add_overrides(method, "fields of the class, such as weight=0.5")

    new = add(
        commands,
        "new",
        "write a commented skeleton of an experiment, a suite, a data set or a mitigation, which runs as it is",
        "Its place is the first folder of HARNESS_PATH, else the working folder. Nothing is overwritten.",
    )
    new.add_argument("kind", choices=["experiment", "suite", "data", "mitigation"], help="what it is a skeleton of")
    new.add_argument("member", metavar="NAME", help="its name, as in experiment=NAME")


def _add_analysis(commands: Commands) -> None:
    fit = add(commands, "fit", "fit a law of forgetting to points")
    fit.add_argument(
        "points", metavar="POINTS", help="a .csv or .parquet file with one row for each point, or an experiment's NAME or path"
    )
    fit.add_argument("--law", metavar="LAW", help=f"{LAWS}; by default the law that the experiment declared")
    _add_fitting(fit)

    predict = add(commands, "predict", "predict the forgetting of a point that was not run", "It fits a law to the points first.")
    predict.add_argument("points", metavar="POINTS", help="as for fit")
    predict.add_argument("--law", metavar="LAW", help="as for fit")
    predict.add_argument("--at", action="append", required=True, metavar="column=value", help="the point, as params_total=1e9; repeatable")
    _add_fitting(predict)


def _add_fitting(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--where", action="append", default=[], metavar="column=value", help="only these points, such as tuning=lora; repeatable"
    )
    command.add_argument(
        "--column", action="append", default=[], metavar="role=name", help="a column's name in the file, such as volume=rows; repeatable"
    )
    command.add_argument("--suite", metavar="SUITE", help="suite of an experiment whose forgetting is fitted (default: its headline)")
    add_results_folder(command)
    add_json(command)
