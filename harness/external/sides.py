"""What stands on a side of a comparison: a model, or a folder of lm-eval's samples.

And what was measured of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.config import paths
from harness.core.errors import ConfigError, explain
from harness.records.schema import Score

Kind = Literal["model", "logs"]

MODEL_FILES = ("config.json", "adapter_config.json")
LOG_FILES = ("samples_*.jsonl", "results*.json")
ALLOWED = "a model (folder, hub name, adapter, a name of `harness list model`) or a folder of lm-eval --log_samples output"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A suite as it was measured on one side.

    Attributes:
        scores: of its tasks, every metric and filter; what a suite is judged by is ``primary``.
        samples: its items, columns as in ``schema.SAMPLE_COLUMNS``.
        whole: whether its tasks are also judged together, with equal weight; a task of no group is
            judged alone.
        missing: tasks of it that are not there on both sides; its mean is over the others.
    """

    scores: tuple[Score, ...]
    samples: pd.DataFrame
    whole: bool = True
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        source: as it was typed.
        model: what was measured.
        suites: suite → what was measured of it; both sides of a comparison have the same suites,
            tasks and metrics.
        lacks: tasks that the other side has and this one lacks: nothing is known of what became of
            them.
    """

    source: str
    model: str
    suites: Mapping[str, Measured] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called, and where it was read where that is not the same."""
        return self.model if self.source in self.model else f"{self.model} (read in {self.source})"


MAX_LABEL = 32


def short(model: str) -> str:
    """Return what a model is called where there is little room: the last part of a path, long names cut."""
    last = model.rstrip("/").rsplit("/", 1)[-1] if model.startswith((".", "/", "~")) else model
    return last if len(last) <= MAX_LABEL else f"{last[: MAX_LABEL - 1]}…"


def some(names: Sequence[str], most: int = 8) -> str:
    """Return names with commas; of many, the first."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a PEFT adapter and no whole model."""
    return (folder / "adapter_config.json").is_file() and not any(folder.glob("model*.safetensors"))


def kind_of(source: str) -> Kind:
    """Say what a side is.

    Raises ConfigError where it is neither a model nor a folder of lm-eval's samples.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if any((folder / name).is_file() for name in MODEL_FILES):
            return "model"
        if any(next(folder.rglob(pattern), None) for pattern in LOG_FILES):
            return "logs"
        got = f"a folder with neither {' nor '.join(MODEL_FILES)} nor samples_*.jsonl"
        raise ConfigError(explain(source, got=got, allowed=ALLOWED, fix="lm_eval … --log_samples --output_path FOLDER"))
    if source in paths.members("conf/model"):
        return "model"
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        got = "a file" if folder.exists() else "no such folder"
        raise ConfigError(explain(source or "''", got=got, allowed=ALLOWED, fix="check the path; relative ones start from where you are"))
    return "model"


def kinds(before: str, after: str) -> Kind:
    """Return what both sides are.

    Raises ConfigError where they differ: items of two ways of measuring cannot be paired.
    """
    found = kind_of(before), kind_of(after)
    if found[0] != found[1]:
        words = {"model": "a model", "logs": "lm-eval's samples"}
        got = f"{words[found[0]]} before and {words[found[1]]} after"
        fix = "give two models, or make the missing samples with the same lm-eval command: --log_samples --output_path FOLDER"
        raise ConfigError(explain("compare", got=got, allowed="two of one kind: both are measured in one way", fix=fix))
    return found[0]
