"""Checkpoints of trainings elsewhere: found in sources as typed, checked, and claimed.

transformers.Trainer writes ``checkpoint-N`` in place, file by file: settings, weights, index,
tokenizer, optimizer, and ``trainer_state.json`` last. It deletes old ones while it trains.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config import paths
from harness.core.errors import ConfigError, ModelError, explain
from harness.external.checkpoints import states
from harness.external.checkpoints.states import STATE, TrainerState
from harness.models import folders
from harness.models.weights import ADAPTER, NUMBERED, SAFE, check_safetensors, numbered, weight_files, without_weights

log = logging.getLogger(__name__)

BEING_SAVED = "checkpoint-is-incomplete.txt"
"""In a folder while transformers 5 saves it because its process is being ended."""

OF_WEIGHTS = ("model", "adapter_model", "pytorch_model")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
GONE = frozenset({errno.ENOENT, errno.ESTALE, errno.ENOTDIR})
"""Errors of files that were deleted, also on another host."""

ALLOWED = "a trainer's output folder, a checkpoint, an adapter, a hub name or NAME@REVISION"

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that a training elsewhere saved.

    Attributes:
        source: to be loaded: a folder, a hub name, NAME@REVISION, or a member of ``conf/model``.
        group: label of the training, unique among those found together.
        group_key: identity of the training: its resolved folder, or its hub name.
        number: N of ``checkpoint-N``; None for other names, such as final weights.
        state: progress of the training, None if unknown.
        is_adapter: whether its folder is a PEFT adapter; False for names, which are not looked up.
    """

    source: str
    group: str
    group_key: str
    number: int | None
    state: TrainerState | None
    is_adapter: bool


def find(sources: Sequence[str]) -> list[Checkpoint]:
    """Return the checkpoints of sources, in the order of the sources, each once.

    A trainer's output folder stands for its complete checkpoints by number, then for the weights in
    the folder itself. Incomplete ones are left out with a warning.

    Raises:
        ConfigError: for a path that does not exist, or a folder without any checkpoint.
        ModelError: for a named checkpoint that is not complete, or if no one of a folder is.
    """
    found: dict[str, Checkpoint] = {}
    for source in sources:
        for one in _of(source):
            found.setdefault(str(Path(one.source).resolve()) if Path(one.source).is_dir() else one.source, one)
    labels = _labels({one.group_key: one.group for one in found.values()})
    return [dataclasses.replace(one, group=labels[one.group_key]) for one in found.values()]


def number_of(folder: Path) -> int | None:
    """Return N of ``checkpoint-N``; None for another name. Links are followed."""
    match = NUMBERED.fullmatch(folder.resolve().name)
    return int(match[1]) if match else None


def runs_below(folder: Path) -> list[Path]:
    """Return the folders with checkpoints inside a folder, such as those of ms-swift's runs."""
    return sorted({path.parent for path in folder.glob("*/checkpoint-*") if NUMBERED.fullmatch(path.name)})


def of_folder(folder: Path, training: Path) -> Checkpoint:
    """Return the checkpoint in a folder, which belongs to the training in another or the same."""
    real = training.resolve()
    return Checkpoint(
        source=str(folder),
        group=real.name,
        group_key=str(real),
        number=number_of(folder),
        state=states.read(folder),
        is_adapter=(folder / ADAPTER).is_file(),
    )


def lacks(folder: Path) -> str | None:
    """Return why a folder is not a complete checkpoint, as a line for users; None if it is one.

    Half-written, in shards that must be converted, pickled, or not readable by this user.
    """
    try:
        _require_complete(folder)
    except ModelError as error:
        return str(error)
    except OSError as error:
        return _unreadable(folder, error)
    return None


def signature(folder: Path) -> Signature:
    """Return name, size, time of change in ns and inode of a folder's files, by name.

    Raises OSError if a file or the folder is deleted meanwhile.
    """
    found = ((path.name, path.stat()) for path in folder.iterdir() if not path.is_dir())
    return tuple(sorted((name, one.st_size, one.st_mtime_ns, one.st_ino) for name, one in found))


def claim(folder: Path, staging: Path) -> Path:
    """Return a copy of a complete checkpoint that survives the deletion of its folder.

    Weights are hard links, copies on another file system; small files are copied. The copy is
    checked again, since a checkpoint may be deleted or rewritten meanwhile.

    Args:
        folder: the checkpoint, into which nothing is written.
        staging: where a folder of its name is made, replacing an earlier one.

    Raises:
        ModelError: if it is not complete, or was deleted or changed.
    """
    target = staging / folder.name
    shutil.rmtree(target, ignore_errors=True)
    try:
        before = signature(folder)
        _require_complete(folder)
        target.mkdir(parents=True)
        for file in _needed(folder):
            _take(file, target / file.name)
        if signature(folder) != before or lacks(target):
            raise ModelError(explain(str(folder), got="files that changed while they were claimed", fix="wait until it is saved"))
    except (OSError, ModelError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelError(_unreadable(folder, error) if isinstance(error, OSError) else str(error)) from error
    return target


def _of(source: str) -> Iterator[Checkpoint]:
    """Yield the checkpoints of one source. Raises ConfigError or ModelError."""
    folder = paths.expanded(source)
    if not source or not folder.is_dir():
        yield _of_name(source)
        return
    is_numbered = number_of(folder) is not None
    inner = [] if is_numbered else numbered(folder)
    if not inner:
        if not is_numbered:
            _require_some(source, folder)
        if reason := lacks(folder):
            raise ModelError(reason)
        yield of_folder(folder, folder.resolve().parent if is_numbered else folder)
        return
    reasons = {one: lacks(one) for one in inner}
    if not _is_bare(folder):
        reasons[folder] = lacks(folder)
    if all(reasons.values()):
        raise ModelError(next(reason for reason in reasons.values() if reason))
    for one, reason in reasons.items():
        if reason is None:
            yield of_folder(one, folder)
        else:
            log.warning("left out: %s", reason)


def _of_name(source: str) -> Checkpoint:
    """Return the checkpoint that a name stands for. Raises ConfigError for a path."""
    if paths.expanded(source).exists() or folders.is_path(source) or not source:
        got = "a path that does not exist" if not source or not paths.expanded(source).exists() else "a file"
        raise ConfigError(explain(source or "''", got=got, allowed=ALLOWED, fix="check the path, relative to the working directory"))
    above = paths.expanded(source).parent
    if above.is_dir() and (inner := numbered(above)):
        got, names = "a path that does not exist", ", ".join(one.name for one in inner[-5:])
        raise ConfigError(explain(source, got=got, allowed=f"of {above}: {names}", fix="check the number, or wait until it is saved"))
    name = folders.split(source)[0]
    return Checkpoint(source=source, group=name, group_key=name, number=None, state=None, is_adapter=False)


def _require_some(source: str, folder: Path) -> None:
    """Reject a folder without checkpoints, weights or settings of a model. Raises ConfigError."""
    if not _is_bare(folder) or _is_in_shards(folder):
        return
    below = runs_below(folder)
    got = "a folder without checkpoint-N and without weights"
    fix = f"name the run's own folder, such as {below[-1]}" if below else "wait for the first checkpoint, or check the path"
    raise ConfigError(explain(source, got=got, allowed=ALLOWED, fix=fix))


def _is_bare(folder: Path) -> bool:
    """Return whether a folder holds no weights, as a training's root until its end."""
    return not any(path.suffix in {".safetensors", ".bin"} and path.name.startswith(OF_WEIGHTS) for path in folder.iterdir())


def _is_in_shards(folder: Path) -> bool:
    """Return whether a folder holds shards of FSDP or DeepSpeed, which must be converted."""
    return any(any(folder.glob(pattern)) for pattern in ("*.distcp", "*/*.distcp", "global_step*"))


def _labels(names: dict[str, str]) -> dict[str, str]:
    """Return a label for each training: its name, with folders above it where names are equal."""
    labels = dict(names)
    for depth in range(2, 8):
        equal = {key for key, label in labels.items() if list(labels.values()).count(label) > 1}
        labels |= {key: "/".join(Path(key).parts[-depth:]) for key in equal}
    return labels


def _require_complete(folder: Path) -> None:
    """Raise ModelError or OSError unless a folder is a complete checkpoint."""
    if (folder / BEING_SAVED).exists():
        raise ModelError(explain(str(folder), got=f"a checkpoint that is being saved ({BEING_SAVED})", fix="wait until it is saved"))
    for file in _weights(folder):
        with file.open("rb"):  # so that a missing permission is not reported as a broken file
            pass
        check_safetensors(file)
    if (folder / STATE).exists() and states.read(folder) is None:
        raise ModelError(
            explain(
                str(folder / STATE), got="a file that is cut off", allowed="a JSON object with global_step", fix="wait until it is saved"
            )
        )


def _weights(folder: Path) -> list[Path]:
    """Return the weight files of a checkpoint. Raises ModelError or OSError."""
    folder.stat()
    _require_any(folder)
    if (folder / ADAPTER).is_file() and not any(folder.glob("model*.safetensors")):
        if not (folder / ADAPTER_WEIGHTS).is_file():
            got, fix = without_weights(folder, ADAPTER_WEIGHTS)
            raise ModelError(explain(f"adapter {folder}", got=got, allowed=SAFE, fix=fix))
        return [folder / ADAPTER_WEIGHTS]
    files = weight_files(folder)
    if not (folder / folders.CONFIG).is_file():
        raise ModelError(
            explain(f"model {folder}", got=f"weights without {folders.CONFIG}", fix=f"copy {folders.CONFIG} of its base into it")
        )
    return files


def _require_any(folder: Path) -> None:
    """Raise ModelError for a folder without weights of any kind, as at the start of a save."""
    if _is_bare(folder) and not _is_in_shards(folder):
        got = "no weights: half-written, or half-deleted"
        raise ModelError(explain(str(folder), got=got, allowed="a complete checkpoint", fix="wait until it is saved"))


def _needed(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that are claimed. Raises ModelError or OSError."""
    small = (*folders.SETTINGS, *folders.TOKENIZER, ADAPTER, STATE, states.ARGUMENTS, "model.safetensors.index.json")
    return [*_weights(folder), *(folder / name for name in small if (folder / name).is_file()), *folder.glob("*.py")]


def _take(file: Path, target: Path) -> None:
    """Link a weight file, copy another one. Raises OSError."""
    if file.suffix == ".safetensors":
        try:
            os.link(file, target)
        except OSError as error:
            if error.errno in GONE:
                raise
        else:
            return
    shutil.copyfile(file, target)


def _unreadable(folder: Path, error: OSError) -> str:
    """Return the line for a checkpoint that is deleted, or that this user may not read."""
    if isinstance(error, PermissionError):
        where = Path(error.filename or folder)
        owner = ""
        if where.exists():
            found = where.stat()
            owner = f" (mode {stat.S_IMODE(found.st_mode):04o}, of user {found.st_uid})"
        fix = f"as its owner: chmod -R a+rX {folder} (safetensors 0.8 writes weights for their owner alone)"
        return explain(str(where), got=f"no permission to read it{owner}", fix=fix)
    got = "a checkpoint that was deleted" if error.errno in GONE else error.strerror or str(error)
    return explain(str(folder), got=got, allowed="a complete checkpoint")
