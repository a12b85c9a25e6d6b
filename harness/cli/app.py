"""The ``harness`` command, which alone reads argv and prints.

Data go to standard output, progress and messages to standard error. Exit codes: 0 done; 1 something
failed, or results on disk are damaged; 2 the input was wrong: one line explains it, and nothing was
written; 141 the reader of the output left (``| head``). ``compare`` has its own codes, see
``_compare``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

from harness.api import Results, load
from harness.cli import parser
from harness.config import paths
from harness.core import extras, streams
from harness.core.display import OUTPUT, quiet_libraries
from harness.core.errors import ConfigError, DamagedError, HarnessError, explain, is_lack_of_memory

RESUME = "finished work is kept; rerun the same command to resume"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; without one, print the help.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit code.
    """
    streams.prepare()
    try:
        return _flushed(_main(argv))
    except SystemExit as end:  # after help, or wrong arguments
        raise SystemExit(_flushed(int(end.code or 0))) from None


def _main(argv: Sequence[str] | None) -> int:
    arguments = parser.parse(argv, COMMANDS)
    try:
        with OUTPUT.set(quiet=arguments.quiet, log_file=arguments.log_file):
            OUTPUT.log(shlex.join(["harness", *(sys.argv[1:] if argv is None else argv)]))
            return _code_of(arguments)
    except HarnessError as error:  # the log file cannot be written
        OUTPUT.error(f"harness: {error}")
        return 2


def _code_of(arguments: argparse.Namespace) -> int:
    command: parser.Handler = arguments.handler or _help
    if arguments.trust_tasks:
        os.environ[paths.TRUST_TASKS] = "1"  # workers inherit it
    try:
        if arguments.command in EXTRAS:
            extras.require(arguments.command, EXTRAS[arguments.command])
        code = command(arguments)
        return 1 if OUTPUT.failed and not code and arguments.command not in GATES else code
    except HarnessError as error:
        OUTPUT.error(f"harness: {error}")
        return 1 if isinstance(error, DamagedError) and arguments.command not in GATES else 2
    except KeyboardInterrupt:
        OUTPUT.error(f"harness: interrupted; {RESUME}")
        return 130
    except BrokenPipeError:
        streams.drop(sys.stdout)
        return streams.READER_LEFT
    except OSError as error:
        OUTPUT.error(f"harness: {error.filename or 'file system'}: {error.strerror or error}")
        return 1
    except (MemoryError, ImportError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        fix = "free some, or raise the limit (ulimit -v, or that of the job)"
        OUTPUT.error(f"harness: {explain('memory', got='less than this command needs', fix=fix)}")
        return 2


def _flushed(code: int) -> int:
    """Return the exit code of a command, once its output is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        streams.drop(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return code or streams.READER_LEFT
        OUTPUT.error(f"harness: standard output: {error.strerror or error}")
        return code or 1
    return code


def _help(_: argparse.Namespace) -> int:
    sys.stdout.write(parser.parser(COMMANDS).format_help())
    return 0


def _run(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.cli import outcome
    from harness.sweep import command

    started, tally = command.run(arguments.overrides)
    return outcome.finish(started, tally)


def _sweep(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.cli import outcome
    from harness.core.display import display
    from harness.sweep import command

    with display() as progress:
        started = command.start(arguments.overrides, warm=True, progress=progress)
        tally = command.carry(started, progress, wait=arguments.wait)
    if tally is None:
        status = f"{outcome.command('status', started.experiment)} --watch"
        OUTPUT.message(f"submitted; `{status}` shows progress; rerun the same command to resume")
        return 0
    return outcome.finish(started, tally)


def _mix(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.cli import mix

    return mix.mix_command(arguments)


def _plan(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.sweep import command
    from harness.sweep.plan import planning

    command.require_name(arguments.overrides, "plan")
    text, code = planning.plan_command(arguments.overrides, as_json=arguments.json)
    sys.stdout.write(text.rstrip("\n") + "\n")
    return code


def _status(arguments: argparse.Namespace) -> int:
    from harness.sweep import status
    from harness.sweep.watch import WATCH_SECONDS

    reader = status.StatusReader(_results(arguments).experiment)
    while True:
        found = reader.read()
        text = status.as_json(found) if arguments.json else status.as_text(found)
        if arguments.watch and sys.stdout.isatty():
            streams.raw(sys.stdout).write("\033[2J\033[H")
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
        if not arguments.watch or found.is_over:
            return 0
        time.sleep(WATCH_SECONDS)


def _prefetch(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.sweep import command
    from harness.sweep.plan import prefetch

    command.require_name(arguments.overrides, "prefetch")
    return prefetch.prefetch_command(arguments.overrides, _print, check_only=arguments.check)


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _results(arguments: argparse.Namespace) -> Results:
    return load(arguments.name, arguments.results)


def _table(arguments: argparse.Namespace) -> int:
    from harness.report import tables

    results = _results(arguments)
    if arguments.format == "text":
        tables.require_whole({name: getattr(arguments, name) for name in ("columns", "short", "output", "raw")})
        _print(tables.summary(results.table(stale=arguments.stale), results.experiment.declared().control))
        return 0
    rows = tables.chosen(results.table(stale=arguments.stale), arguments.columns, short=arguments.short)
    stale = results.experiment.stale()
    if stale and not arguments.stale:
        sys.stderr.write(f"harness: {len(stale)} stale run(s) left out; --stale includes them\n")
    if arguments.output:
        tables.write(rows, arguments.output, arguments.format, raw=arguments.raw)
        sys.stderr.write(f"{arguments.output}\n")
    elif arguments.format is None and sys.stdout.isatty() and (arguments.short or arguments.columns):
        _print(tables.aligned(rows))
    else:
        out = streams.raw(sys.stdout) if arguments.raw else sys.stdout
        out.write(tables.render(rows, arguments.format or "csv", raw=arguments.raw))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from harness.report import page

    sys.stdout.write(f"{page.write(_results(arguments).experiment)}\n")
    return 0


def _claims(arguments: argparse.Namespace) -> int:
    from harness.cli import claims

    return claims.claims_command(arguments, _print)


def _verify(arguments: argparse.Namespace) -> int:
    from harness.report import verify

    return verify.verify_command(_results(arguments).experiment, _print)


def _export(arguments: argparse.Namespace) -> int:
    from harness.cli import export

    return export.export_command(_results(arguments), arguments, _print)


def _clean(arguments: argparse.Namespace) -> int:
    from harness.sweep import clean

    if (arguments.name is None) != arguments.all:
        raise ConfigError(explain("clean", got="NAME and --all" if arguments.all else "nothing", allowed="NAME, or --all"))
    found = clean.every_experiment(arguments.results) if arguments.all else [_results(arguments).experiment]
    return clean.clean_command(found, arguments.delete, _print)


def _prompt(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.config import composition
    from harness.run import preparation

    texts = preparation.prompts_of(arguments.suite, composition.compose(arguments.overrides), arguments.item)
    sys.stdout.write("\n".join(texts))
    return 0


def _show_data(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.config import composition
    from harness.core.display import display
    from harness.run.generated import show

    with display() as progress:
        text = show.shown(composition.compose(arguments.overrides), arguments.rows, progress, generate=arguments.write)
    sys.stdout.write(text)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from harness.cli import listing

    return listing.list_command(arguments.group)


def _new(arguments: argparse.Namespace) -> int:
    from harness.cli import new

    return new.new_command(arguments.kind, arguments.member, _print)


def _check_method(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.methods.contract import command

    return command.check_method(arguments.cls, arguments.overrides, _print)


def _learning_rates(arguments: argparse.Namespace) -> int:
    from harness.analysis.findings import learning_rates
    from harness.report import evidence

    experiment = _results(arguments).experiment
    learning_rates.require_select(experiment)
    every = evidence.measured(experiment).rates
    learning_rates.require_rates(every)
    found = [rate for rate in every if learning_rates.gained(rate)]
    for rate in every:
        if rate not in found:
            sys.stderr.write(f"{rate.model}, {rate.tuning}, {rate.data}: {learning_rates.remarks(rate)[0]}\n")
    if arguments.write:
        learning_rates.merge(found, arguments.write)
        sys.stderr.write(f"{arguments.write}\n")
    sys.stdout.write(learning_rates.as_yaml(found))
    return 0


def _fit(arguments: argparse.Namespace) -> int:
    from harness.cli import laws

    _print(laws.fit_command(arguments))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from harness.cli import laws

    _print(laws.predict_command(arguments))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from harness.external import command

    return _gated(arguments, command.compare_command)


def _measure(arguments: argparse.Namespace) -> int:
    from harness.external.checkpoints import command

    return _gated(arguments, command.measure_command)


def _gated(arguments: argparse.Namespace, command: Callable[[argparse.Namespace, Callable[[str], None]], int]) -> int:
    """Carry out a command with a gate.

    Exit code 1 only means that more than --max-loss is lost; every error is a 2, unexpected ones
    included.
    """
    quiet_libraries()
    try:
        return command(arguments, _print_to_open_pipe)
    except (HarnessError, MemoryError):
        raise
    except OSError as error:
        sys.stderr.write(f"harness: {error.filename or 'file system'}: {error.strerror or error}\n")
        return 2
    except Exception as error:  # noqa: BLE001 - an unexpected error must not look like a loss
        traceback.print_exc()
        sys.stderr.write(f"harness: {arguments.command} failed without a verdict: {type(error).__name__}: {error}\n")
        return 2


def _watch(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    from harness.external.checkpoints import watching

    return watching.watch_command(arguments, _print)


def _print_to_open_pipe(text: str) -> None:
    """Print, but ignore a closed pipe (``| head``): the exit code still gives the verdict."""
    try:
        _print(text)
    except BrokenPipeError:
        streams.drop(sys.stdout)


COMMANDS: Mapping[str, parser.Handler] = {
    "run": _run,
    "sweep": _sweep,
    "mix": _mix,
    "plan": _plan,
    "status": _status,
    "prefetch": _prefetch,
    "table": _table,
    "report": _report,
    "claims": _claims,
    "verify": _verify,
    "export": _export,
    "clean": _clean,
    "list": _list,
    "prompt": _prompt,
    "show-data": _show_data,
    "check-method": _check_method,
    "new": _new,
    "learning-rates": _learning_rates,
    "fit": _fit,
    "predict": _predict,
    "compare": _compare,
    "measure": _measure,
    "watch": _watch,
}

GATES = ("compare", "measure")
"""Commands whose exit code 1 means a loss."""

EXTRAS: Mapping[str, extras.Extra] = {
    "run": "train",
    "sweep": "train",
    "mix": "train",
    "plan": "train",
    "prefetch": "train",
    "show-data": "train",
    "check-method": "train",
    "prompt": "measure",
    "measure": "measure",
    "watch": "measure",
}
"""Command → extra that it needs. The others need none, except for `compare` with models."""
