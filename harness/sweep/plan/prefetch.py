"""Every piece of a sweep, fetched and then checked without the network.

For clusters whose nodes have no network. Pieces are checked in a separate process, since the hub's
libraries cache in memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.config.run_config import RunConfig
from harness.core.errors import HarnessError, ModelError
from harness.core.sources import ModelSource
from harness.run import other_models
from harness.run.workspace import Workspace, content_key, source_of
from harness.sweep.axes import expand
from harness.sweep.launchers import choose
from harness.sweep.plan.offline import VARIABLES

Kind = Literal["model", "data", "anchor", "suite"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A model with its tokenizer, a data set, or a suite's tasks.

    Attributes:
        missing: why it cannot be used here without a network; empty if it can.
    """

    kind: Kind
    name: str
    missing: str = ""


@dataclass(frozen=True)
class _Wanted:
    """A piece with a run that needs it; ``model`` if the piece is a model."""

    piece: Piece
    config: RunConfig
    model: ModelSource | None = None


def prefetch_command(overrides: Sequence[str], say: Callable[[str], object], *, check_only: bool = False) -> int:
    """Fetch and check every piece; return the exit code, 1 if one is missing.

    Raises ConfigError.
    """
    missing = sum(bool(piece.missing) for piece in prefetch(overrides, check_only=check_only, say=say))
    say(f"{missing} missing" if missing else "all found: the sweep needs no network")
    return 1 if missing else 0


def prefetch(overrides: Sequence[str], *, check_only: bool, say: Callable[[str], object]) -> list[Piece]:
    """Fetch every piece that a sweep needs, then check each without a network.

    Args:
        overrides: as for ``harness sweep``.
        check_only: fetch nothing.
        say: receives one line per piece.

    Returns:
        The pieces as found without a network. The reason of a missing one is the error of fetching
        it, if there was one.

    Raises:
        ConfigError: the sweep itself is invalid.
    """
    wanted = _wanted(overrides)
    failed = {} if check_only else _fetch(wanted, say)
    found = []
    for piece in _tried(overrides):
        reason = failed.get((piece.kind, piece.name), "") or piece.missing
        found.append(dataclasses.replace(piece, missing=reason if piece.missing else ""))
    for piece in found:
        say(f"{piece.kind} {piece.name}: {f'missing: {piece.missing}' if piece.missing else 'ok'}")
    return found


def _wanted(overrides: Sequence[str]) -> list[_Wanted]:
    """Return the distinct pieces of a sweep, in the order of its points."""
    _, rest = choose.split(overrides)
    found: dict[object, _Wanted] = {}
    workspace = Workspace()
    for one in expand(rest).asked:
        config, labels = one.config, one.config.labels
        anchor = config.anchor if config.mitigation.needs_anchor else None
        for name, model in {labels.model: config.model, **other_models.every(config, workspace)}.items():
            found.setdefault(("model", content_key(model)), _Wanted(Piece(kind="model", name=name), config, model))
        found.setdefault(("data", _but_for_volumes(config.data)), _Wanted(Piece(kind="data", name=labels.data), config))
        if anchor is not None:
            found.setdefault(("data", _but_for_volumes(anchor)), _Wanted(Piece(kind="anchor", name=str(labels.anchor)), config))
        for name in (*config.target_suites, *config.probe_suites):
            source = source_of(workspace.suite(name), config)
            key = ("suite", name, content_key(config.evaluation), _but_for_volumes(source) if source else "")
            found.setdefault(key, _Wanted(Piece(kind="suite", name=name), config))
    return list(found.values())


def _but_for_volumes(source: object) -> Hashable:
    return content_key(dataclasses.replace(source, volumes=(1,)))  # type: ignore[type-var]


def _fetch(wanted: Sequence[_Wanted], say: Callable[[str], object]) -> dict[tuple[str, str], str]:
    """Load each piece, using the network; return (kind, name) → reason for those that failed."""
    workspace = Workspace()
    failed: dict[tuple[str, str], str] = {}
    for one in wanted:
        say(f"fetching {one.piece.kind} {one.piece.name}")
        try:
            _load(one, workspace)
            if one.model is not None and _missing_weights(one.model):
                one.model.load()  # a model of the nursery: made here rather than fetched
        except HarnessError as error:
            failed[one.piece.kind, one.piece.name] = str(error)
    return failed


def _missing_weights(model: ModelSource) -> str:
    """Return how to make a model's weights, if they are not made yet."""
    try:
        model.weights_sha256()
    except ModelError:
        return "its weights are not made yet; `harness prefetch` without --check makes them"
    return ""


def _load(one: _Wanted, workspace: Workspace) -> None:
    """Load a piece as a run would, except a model's weights. Raises HarnessError."""
    config = one.config
    if one.model is not None:
        workspace.facts_of_model(one.model)
        one.model.tokenizer()
    elif one.piece.kind == "data":
        workspace.rows_of(config.data)
    elif one.piece.kind == "anchor" and config.anchor is not None:
        workspace.rows_of(config.anchor)
    elif one.piece.kind == "suite":
        suite = workspace.suite(one.piece.name)
        source = source_of(suite, config)
        if source is not None:
            workspace.rows_of(source, suite.split)
        workspace.suite_of(one.piece.name, config)


def _tried(overrides: Sequence[str]) -> list[Piece]:
    """Check every piece in a new process without the network.

    Raises ConfigError as ``prefetch`` does.
    """
    with tempfile.TemporaryDirectory(prefix="harness-prefetch-") as folder:
        result = Path(folder) / "pieces.json"
        command = [sys.executable, "-c", "from harness.sweep.plan import prefetch; prefetch.try_all()", str(result), *overrides]
        environment = os.environ | dict.fromkeys(VARIABLES, "1")
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip() or "no message").splitlines()[-1]
            raise HarnessError(f"checking without a network: the process ended with exit code {ended.returncode}: {last}")
        return [Piece(**values) for values in json.loads(result.read_text(encoding="utf-8"))]


def try_all() -> None:
    """Check every piece in this process, and write the results as JSON.

    Arguments of the process: the file, then overrides.
    """
    workspace, (file, *overrides) = Workspace(), sys.argv[1:]
    found = [dataclasses.replace(one.piece, missing=_why_missing(one, workspace)) for one in _wanted(overrides)]
    Path(file).write_text(json.dumps([dataclasses.asdict(piece) for piece in found]), encoding="utf-8")


def _why_missing(one: _Wanted, workspace: Workspace) -> str:
    try:
        _load(one, workspace)
    except HarnessError as error:
        return str(error)
    return _missing_weights(one.model) if one.model is not None else ""
