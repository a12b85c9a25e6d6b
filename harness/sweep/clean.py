"""``harness clean``: stale runs, checkpoints, leftovers and caches, deleted by name."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import paths
from harness.config.identity import training_id
from harness.core import files
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.records.locate import RESULTS, experiments_in, spelled
from harness.records.partial import PARTIAL
from harness.records.record_files import MEASUREMENT
from harness.records.store import Experiment
from harness.sweep.claims import Claims

KINDS: Mapping[str, tuple[str, str]] = {
    "stale": ("runs that the last command did not ask for", "asked for again, they train again"),
    "set_aside": ("runs that restarted, since their generated rows changed", "nothing reads them"),
    "state": ("checkpoints of finished runs", "without them a larger volume trains from the start"),
    "weights": ("kept weights of finished runs", "without them a changed or further suite trains again"),
    "unmeasured": ("weights of finished runs, saved to be measured", "measured by now, nothing reads them"),
    "measurements": ("scores and items that no run refers to", "asked for again, they are measured again"),
    "leftovers": ("files of killed processes", "nothing reads them"),
    "written": ("rows that models generated, for experiments in any folder", "asked for again, they are generated again"),
    "cache": ("hashes, sizes and unpacked models, for experiments in any folder", "made again in seconds"),
}
"""Name of what can be deleted → what it is, and what its deletion costs."""

IN_CACHE: Mapping[str, tuple[str, ...]] = {"written": ("written",), "cache": ("hashes.json", "sizes.json", "nursery")}
"""Kind → its files and folders in the cache folder, in which anything else stays."""

OLD = 3600.0
"""Seconds after which a hidden file is a leftover: a younger one may be being written."""

HIDDEN = re.compile(r"\..+\.[0-9a-f]{12}")
"""Names of files and folders that are being written; other hidden ones are not the harness's."""

SHOWN = 5
"""Most entries of a kind that are listed by name."""


@dataclass(frozen=True)
class Entry:
    """A file or folder that can be deleted, and its bytes."""

    path: Path
    size: int


def clean_command(experiments: Sequence[Experiment], delete: str | None, say: Callable[[str], None]) -> int:
    """List what can be deleted, and delete the kinds that are named.

    Args:
        experiments: those that are looked at.
        delete: names of kinds, separated by commas; None deletes nothing.
        say: prints a line.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: for an unknown kind, or if a process works on one of the experiments.
        DamagedError: for a damaged record. Nothing is deleted in any of these cases.
    """
    chosen = _chosen(delete)
    if chosen:
        _require_idle(experiments, chosen)
    listed = [(str(one.folder), found(one, without_stale="stale" in chosen)) for one in experiments]
    listed.append((str(paths.cache()), _in_cache()))
    for where, kinds in listed:
        for line in _lines(where, kinds):
            say(line)
    if not chosen:
        where = " ".join(spelled(one) for one in experiments) if len(experiments) == 1 else "--all"
        some = list(dict.fromkeys(kind for _, kinds in listed for kind in kinds))
        say(f"to delete a kind: harness clean {where} --delete {some[0]}" if some else "nothing to delete")
        return 0
    size = 0
    for _, kinds in listed:
        for entry in (entry for kind in chosen for entry in kinds.get(kind, ())):
            _delete(entry.path)
            size += entry.size
    say(f"deleted {', '.join(chosen)}: {files.size_text(size)}")
    return 0


def every_experiment(results: Path | None) -> list[Experiment]:
    """Return every experiment in a folder of results, by default that of the working folder."""
    folder = paths.expanded(results or RESULTS)
    return [Experiment(folder / name) for name in experiments_in(folder)]


def found(experiment: Experiment, *, without_stale: bool = False) -> dict[str, list[Entry]]:
    """Return kind → what an experiment has of it, without kinds that it has nothing of.

    Args:
        experiment: its results.
        without_stale: count a measurement that only stale runs refer to as unused.
    """
    stale, finished = experiment.stale(), _finished(experiment)
    runs = {run_id: experiment.run_folder(run_id) for run_id in experiment.run_ids()}
    current = {run_id: folder for run_id, folder in runs.items() if training_id(run_id) not in stale}
    kept = [folder for run_id, folder in current.items() if training_id(run_id) in finished]
    counted = [*(current if without_stale else runs).values(), *_folders(experiment.folder / "set_aside")]
    kinds = {
        "stale": [folder for run_id, folder in runs.items() if run_id not in current],
        "set_aside": _folders(experiment.folder / "set_aside"),
        **{name: [folder / name for folder in kept] for name in ("state", "weights", "unmeasured")},
        "measurements": _unused(experiment, counted),
        "leftovers": [*_hidden(experiment.folder), *_measured_partials(experiment), *(folder / PARTIAL for folder in kept)],
    }
    entries = {kind: [Entry(path, size) for path in places if (size := _bytes(path))] for kind, places in kinds.items()}
    return {kind: found for kind, found in entries.items() if found}


def _chosen(delete: str | None) -> list[str]:
    """Return the kinds that are named, in the order of ``KINDS``. Raises ConfigError."""
    if delete is None:
        return []
    named = [name.strip() for name in delete.split(",")]
    for name in named:
        if name not in KINDS:
            raise ConfigError(explain("--delete", got=repr(name), allowed=", ".join(KINDS), fix=did_you_mean(name, KINDS)))
    return [name for name in KINDS if name in named]


def _require_idle(experiments: Sequence[Experiment], chosen: Sequence[str]) -> None:
    """Raise ConfigError if a living process holds a unit; of the cache, in any experiment near."""
    looked_at = {one.folder.resolve(): one for one in experiments}
    if any(kind in IN_CACHE for kind in chosen):
        near = [Experiment(one.folder.parent / name) for one in experiments for name in experiments_in(one.folder.parent)]
        looked_at |= {one.folder.resolve(): one for one in near}
    for experiment in looked_at.values():
        if pids := files.busy(experiment.folder):
            got = f"process {pids[0]}, which measures a training elsewhere into it"
            fix = "wait for its end, or end it"
            raise ConfigError(explain(f"clean {experiment.name}", got=got, allowed="results that no process works on", fix=fix))
        claims = Claims(experiment)
        if held := [unit for unit in experiment.claims.units() if claims.held(unit)]:
            last = experiment.claims.last(held[0])
            got = f"a sweep under way: process {last.pid if last else '?'} of {last.node if last else '?'} has {held[0]}"
            fix = f"wait for its end: harness status {spelled(experiment)} --watch"
            raise ConfigError(explain(f"clean {experiment.name}", got=got, allowed="results that no process works on", fix=fix))


def _finished(experiment: Experiment) -> set[str]:
    """Return the runs that are recorded, and lack no measurement."""
    records = {run_id: experiment.glance("runs", run_id, "record.json") for run_id in experiment.run_ids()}
    failed = {run_id for run_id in records if experiment.failure(run_id) is not None}
    return {run_id for run_id, record in records.items() if record and not record.get("incomplete")} - failed


def _unused(experiment: Experiment, runs: Sequence[Path]) -> list[Path]:
    """Return the measurements whose evaluation or weights no file of a run or of the sweep names.

    A volume 0 may be measured before any run begins, so those of the last sweep stay.
    """
    sweep = experiment.sweep()
    asked = {found for unit in sweep.units for found in unit.evaluations.values()} if sweep else set()
    folders = [folder for outer in _folders(experiment.folder / "measurements") for folder in _folders(outer)]
    naming: dict[str, set[Path]] = {name: set() for folder in folders for name in (folder.parent.name, folder.name)}
    for run in runs:
        for name in _names_in([run / "record.json", run / "config.json", run / "failure.json", *run.glob("points/*/point.json")]):
            naming.get(name, set()).add(run)
    return [one for one in folders if one.parent.name not in asked and not naming[one.parent.name] & naming[one.name]]


def _names_in(records: Sequence[Path]) -> set[str]:
    """Return every string of a run's files, and its beginning, as hashes are shortened."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in records if path.is_file()]
    names = {name for text in texts for name in re.findall(r'"([^"]+)"', text)}
    return names | {name[:16] for name in names}


def _hidden(folder: Path) -> Iterator[Path]:
    """Yield hidden files and folders that nobody has changed for ``OLD`` seconds."""
    now = files.clock(folder)
    for outer, names, inner in os.walk(folder):
        for name in filter(HIDDEN.fullmatch, (*names, *inner)):
            path = Path(outer, name)
            if now - path.lstat().st_mtime > OLD:
                yield path
        names[:] = [name for name in names if not HIDDEN.fullmatch(name)]


def _measured_partials(experiment: Experiment) -> list[Path]:
    """Return finished tasks of measurements that are made by now."""
    folders = [folder for outer in _folders(experiment.folder / PARTIAL) for folder in _folders(outer)]
    return [one for one in folders if (experiment.folder / "measurements" / one.parent.name / one.name / MEASUREMENT).exists()]


def _in_cache() -> dict[str, list[Entry]]:
    """Return kind → what the cache folder has of it."""
    kinds = {kind: [paths.cache() / name for name in names] for kind, names in IN_CACHE.items()}
    entries = {kind: [Entry(path, size) for path in places if (size := _bytes(path))] for kind, places in kinds.items()}
    return {kind: found for kind, found in entries.items() if found}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))


def _bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, links not followed; 0 if absent."""
    if not os.path.lexists(path):
        return 0
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(Path(outer, name).lstat().st_size for outer, _, names in os.walk(path) for name in names)


def _delete(path: Path) -> None:
    """Delete a file or folder, under a hidden name, so that nobody reads a part of it."""
    hidden = path if path.name.startswith(".") else files.hidden_name(path)
    try:
        path.rename(hidden)
    except FileNotFoundError:  # inside what is deleted already
        return
    if hidden.is_symlink() or not hidden.is_dir():
        hidden.unlink()
    else:
        shutil.rmtree(hidden)


def _lines(where: str, kinds: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """Yield the lines about one folder: each kind, and some of its entries."""
    total = sum(entry.size for found in kinds.values() for entry in found)
    yield f"{where}: {files.size_text(total) if total else 'nothing to delete'}"
    for kind, found in kinds.items():
        what, cost = KINDS[kind]
        yield f"  {kind:<13}{files.size_text(sum(entry.size for entry in found)):>9}  {what} ({len(found)}): {cost}"
        for entry in sorted(found, key=lambda entry: -entry.size)[:SHOWN]:
            yield f"  {'':<13}{files.size_text(entry.size):>9}  {os.path.relpath(entry.path, where)}"
        if len(found) > SHOWN:
            yield f"  {'':<13}{'':>9}  and {len(found) - SHOWN} more"
