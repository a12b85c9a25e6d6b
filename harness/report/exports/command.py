"""``harness export``: points of an experiment, in the files that other tools read."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from harness.core.errors import ConfigError, RecordError, explain
from harness.records.store import Experiment
from harness.report.exports import eval_results, every_eval_ever, hub_card, lm_eval_logs
from harness.report.exports.points import Exported, Told, chosen

MOST_LINES = 10
"""Of measurements without a value that are named."""

Files = Callable[[Exported, Told], Iterator[tuple[str, str]]]


def export_command(
    experiment: Experiment,
    to: str,
    show: Callable[[str], None],
    *,
    runs: Sequence[str] = (),
    output: Path | None = None,
    datasets: Sequence[str] = (),
    organization: str = every_eval_ever.UNKNOWN,
) -> int:
    """Write points in a format of another tool, and show the files and the next command.

    Files of these names are replaced, others stay. Nothing is written if a record cannot be read.

    Args:
        experiment: its results.
        to: one of ``FORMATS``.
        show: prints a line.
        runs: ``RUN_ID`` or ``RUN_ID@VOLUME``; empty is every run at its largest volume.
        output: folder of the files; by default ``export/FORMAT`` in the experiment's.
        datasets: ``SUITE[/TASK]=ORG/DATASET:TASK_ID``, for eval-results.
        organization: for every-eval-ever.

    Returns:
        Exit code 0.

    Raises:
        ConfigError: for an output that is a file, or an option of another format.
        RecordError: for a run without a record, or if nothing can be exported.
    """
    _check(to, output, datasets, organization)
    points, told = chosen(experiment, runs), Told()
    files = _format(to, points, datasets, organization)
    folder = output or experiment.folder / "export" / to
    written = _write(folder, (file for one in points for file in files(one, told)))
    if not written:
        why = "; ".join([*told.left_out, *told.missing][:3]) or "no measurement"
        raise RecordError(explain(f"export --to {to}", got=f"nothing to export ({why})", allowed="a measurement with a value"))
    show(f"{folder}: {len(written)} file{'s' * (len(written) != 1)} of {len(points)} point{'s' * (len(points) != 1)}")
    _show_lines(told, show)
    for line in _next(to, folder, points[0], experiment.name):
        show(line)
    if len(points) > 1 and to != "every-eval-ever":
        show(f"likewise for the {len(points) - 1} other folder{'s' * (len(points) != 2)} of {folder}")
    return 0


def _check(to: str, output: Path | None, datasets: Sequence[str], organization: str) -> None:
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(explain("--output", got=f"{output}, a file", allowed="a folder, which may not exist yet"))
    if datasets and to != "eval-results":
        raise ConfigError(explain("--dataset", got=f"--to {to}", allowed="--to eval-results", fix="remove --dataset"))
    if organization != every_eval_ever.UNKNOWN and to != "every-eval-ever":
        raise ConfigError(explain("--organization", got=f"--to {to}", allowed="--to every-eval-ever", fix="remove --organization"))


def _format(to: str, points: Sequence[Exported], datasets: Sequence[str], organization: str) -> Files:
    """Return the exporter of a format. Raises ConfigError for data sets that it cannot use."""
    if to == "eval-results":
        return partial(eval_results.files, datasets=eval_results.named(datasets, points))
    if to == "every-eval-ever":
        return partial(every_eval_ever.files, organization=organization)
    return {"lm-eval": lm_eval_logs.files, "hub-card": hub_card.files}[to]


def _write(folder: Path, files: Iterator[tuple[str, str]]) -> list[str]:
    """Write files, all of them or, if one cannot be made, none; return their paths."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix=".export-", dir=existing) as temporary:
        written = {}
        for path, text in files:
            place = written[path] = Path(temporary) / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        for path, place in written.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            place.replace(folder / path)
    return list(written)


def _show_lines(told: Told, show: Callable[[str], None]) -> None:
    for line in told.left_out:
        show(f"left out: {line}")
    for line in list(told.missing)[:MOST_LINES]:
        show(f"missing: {line}")
    if len(told.missing) > MOST_LINES:
        show(f"missing: {len(told.missing) - MOST_LINES} more; the files name those that their format can hold")


def _next(to: str, folder: Path, one: Exported, experiment: str) -> Iterator[str]:
    """Yield the next commands: the hub's own one, which needs its login and the network."""
    own = folder / one.key
    hub: dict[str, list[str]] = {
        "lm-eval": ["USER/lm-eval-results", str(own), "--repo-type", "dataset"],
        "hub-card": ["USER/MODEL", str(own / "README.md"), "README.md"],
        "eval-results": ["USER/MODEL", str(own / ".eval_results"), ".eval_results"],
        "every-eval-ever": [
            *["evaleval/EEE_datastore", str(folder / "data"), "data", "--repo-type", "dataset", "--create-pr"],
            *["--commit-message", f"[Submission] {experiment}"],
        ],
    }
    if to == "lm-eval":
        yield f"next: {shlex.join(['harness', 'compare', str(own / 'before'), str(own / 'after')])}"
    if to == "hub-card":
        yield "a card that exists: copy the section and model-index into it; the upload replaces README.md"
    yield f"to push: {shlex.join(['hf', 'upload', *hub[to]])}"
