"""The results of an experiment, by name or by path."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from harness.config import paths
from harness.core.errors import ConfigError, RecordError, did_you_mean, explain
from harness.records.store import Experiment

RESULTS = Path("results")
"""Folder of results where none is given."""

MARKS = ("runs", "sweeps", "measurements", "manifest.json")
"""Any of them makes a directory the results of an experiment."""

MOST_NAMES = 12
"""Of experiments in an error; the nearest."""


def locate(where: str | Path, results: str | Path | None = None) -> Experiment:
    """Return the results of an experiment, to read.

    Args:
        where: a name, which is that of a folder in ``results``, or the path of such a folder. Text
            with a slash is a path; so is a name of the working directory that ``results`` lacks.
        results: folder of results; None is ``results`` in the working directory.

    Raises:
        RecordError: if there are no such results.
        ConfigError: if a path is given together with a folder of results.
    """
    text = str(where)
    path = paths.expanded(text)
    is_path = isinstance(where, Path) or path.name != text or text in {"", ".."}
    if is_path and results is not None:
        got = f"the folder {results} and the path {text}"
        raise ConfigError(explain("results", got=got, allowed="a path alone, or a name and the folder that it is in"))
    folder = path if is_path else paths.expanded(results or RESULTS) / text
    if results is None and not _is_experiment(folder) and _is_experiment(path):
        folder = path
    if not _is_experiment(folder):
        raise RecordError(_nothing(text, folder))
    return Experiment(folder if folder.name not in {"", ".."} else folder.resolve())


def spelled(experiment: Experiment) -> str:
    """Return an experiment as it is typed for a command: its name if that finds it, or path."""
    folder = experiment.folder
    if folder.parent == RESULTS:
        return folder.name
    return str(folder) if folder.name != str(folder) else f"./{folder}"


def _is_experiment(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in MARKS)


def _nothing(text: str, folder: Path) -> str:
    """Return the message of an error: what is there, and which experiments are near."""
    if folder.is_dir() and (inside := experiments_in(folder)):
        fix = f"choose one: {folder / inside[0]}"
        return explain(f"results '{text}'", got=f"a folder of {len(inside)} experiment(s)", allowed=", ".join(inside), fix=fix)
    known = experiments_in(folder.parent)
    got = "a directory without runs" if folder.is_dir() else "nothing"
    near = [name for name in known if name in get_close_matches(folder.name, known, MOST_NAMES, cutoff=0)]
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    allowed = f"{', '.join(near)}{more}" if known else f"nothing yet in {folder.parent}"
    is_known = text in paths.members("conf/experiment")
    first = f"`harness sweep experiment={text}`" if is_known else "`harness run`, `sweep`, `measure`, `watch` or `mix`"
    fix = did_you_mean(folder.name, known) or f"run {first} first, or give the path of its folder"
    return explain(f"results of '{text}'", got=got, allowed=allowed, fix=fix)


def experiments_in(folder: Path) -> list[str]:
    """Return the names of the experiments in a folder of results, sorted."""
    return sorted(path.name for path in folder.glob("*") if _is_experiment(path)) if folder.is_dir() else []
