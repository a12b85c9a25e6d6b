"""A side of a comparison: a model, lm-eval samples or inspect_ai logs, and its measurements.

Everything measured is a ``Side``: the source as the user typed it, the model's name, and for each
suite scores and items in the schema of a run's volume 0. Readers make sides, everything else uses
them:

- readers: ``models`` measures live models and adapters with the code of volume 0; ``logs`` reads
  lm-eval's output, ``inspect_logs`` that of inspect_ai, and ``matching`` pairs them. Each rejects
  sources that cannot be compared, with the reason;
- users: ``judge`` pairs the items of two sides and computes changes, intervals and verdicts;
  ``mean``, ``limits`` and ``gate`` turn them into an exit code; ``text``, ``gate_lines`` and
  ``page`` present them.

A new kind of source, such as the checkpoints of somebody's training, needs a kind here and a reader
that returns sides. Nothing is trained here or written into a source: measurements are stored under
``results/compare``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.config import paths
from harness.core.errors import ConfigError, explain
from harness.external import inspect_files
from harness.records.schema import Score

Kind = Literal["model", "logs", "inspect"]

MODEL_FILES = ("config.json", "adapter_config.json")
LOG_FILES = ("samples_*.jsonl", "results*.json")
ALLOWED = (
    "a model (folder, hub name, NAME@REVISION, adapter, a name of `harness list model`), a folder of lm-eval --log_samples output,"
    " or a file or folder of inspect_ai logs"
)

WORDS: dict[Kind, str] = {"model": "a model", "logs": "lm-eval samples", "inspect": "inspect_ai logs"}

MAX_LABEL = 32


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measurements of a suite on one side.

    Attributes:
        scores: of its tasks, every metric and filter; the suite is judged by the ``primary`` ones.
        samples: its items, columns as in ``schema.SAMPLE_COLUMNS``.
        whole: whether its tasks are also judged together, with equal weight; False for a task
            outside any group, which is a suite of its own.
        missing: its tasks that one side lacks; its mean is over the others.
    """

    scores: tuple[Score, ...]
    samples: pd.DataFrame
    whole: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        source: as the user typed it.
        model: name of the measured model.
        suites: suite → its measurements; both sides of a comparison have the same suites, tasks and
            metrics.
        lacks: tasks that only the other side has, so that their change is unknown.
        content: hash of the model; empty if unknown.
        cached: whether answers may come from lm-eval's cache, which does not distinguish models.
    """

    source: str
    model: str
    suites: Mapping[str, Measured] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    content: str = ""
    cached: bool = False

    @property
    def name(self) -> str:
        """The model's name, with the source if it does not contain it."""
        return self.model if self.source in self.model else f"{self.model} (read in {self.source})"


def short(model: str) -> str:
    """Return a short name of a model: the last part of a path, cut."""
    last = model.rstrip("/").rsplit("/", 1)[-1] if model.startswith((".", "/", "~")) else model
    return last if len(last) <= MAX_LABEL else f"{last[: MAX_LABEL - 1]}…"


def kind_of(source: str) -> Kind:
    """Return the kind of a source, from its files or its name.

    A name that is neither a path nor a member of ``conf/model`` is taken for a hub model.

    Raises:
        ConfigError: if it is neither a model nor logs.
    """
    folder = paths.expanded(source)
    if folder.is_file() and inspect_files.is_log(folder):
        return "inspect"
    if folder.is_dir():
        return _of_folder(source, folder)
    if source.partition("@")[0] in paths.members("conf/model"):
        return "model"
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        got, fix = "a path that does not exist", "check the path, relative to the working directory"
        if folder.exists():
            got = "a file"
            fix = f"name its folder, {folder.parent}" if folder.suffix in {".json", ".jsonl"} else fix
        raise ConfigError(explain(source or "''", got=got, allowed=ALLOWED, fix=fix))
    return "model"


def _of_folder(source: str, folder: Path) -> Kind:
    """Return the kind of a folder, from its files. Raises ConfigError if it is of none."""
    if any((folder / name).is_file() for name in MODEL_FILES):
        return "model"
    if any(next(folder.rglob(pattern), None) for pattern in LOG_FILES):
        return "logs"
    if next(inspect_files.find(folder), None):
        return "inspect"
    if any(folder.glob("checkpoint-*")):  # a trainer's output: loading it names the checkpoints
        return "model"
    if next(folder.rglob("*.jsonl"), None):  # of an older lm-eval: reading it names the version
        return "logs"
    got = f"a directory without {', '.join(MODEL_FILES)} and samples_*.jsonl"
    raise ConfigError(explain(source, got=got, allowed=ALLOWED, fix="lm_eval … --log_samples --output_path FOLDER"))


def kinds(before: str, after: str) -> Kind:
    """Return the kind of both sides.

    Raises:
        ConfigError: if the kinds differ: items measured in two ways cannot be paired.
    """
    found = kind_of(before), kind_of(after)
    if found[0] != found[1]:
        for source, kind in zip((before, after), found, strict=True):
            path = paths.expanded(source)
            if kind == "model" and "/" in source and not path.exists() and path.parent.is_dir():
                fix = "check the path, or make it: lm_eval … --log_samples --output_path FOLDER"
                raise ConfigError(explain(source, got="a path that does not exist", allowed="logs, as the other side", fix=fix))
        got = f"{WORDS[found[0]]} before and {WORDS[found[1]]} after"
        fix = "give two models, or make the missing samples with the same lm-eval command: --log_samples --output_path FOLDER"
        if "inspect" in found:
            fix = "run inspect_ai on both sides with the same command, except for the model"
        raise ConfigError(explain("compare", got=got, allowed="two sides of one kind, measured in the same way", fix=fix))
    return found[0]
