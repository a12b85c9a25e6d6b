"""Checkpoints to trainings, and to places on their axes."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config import paths
from harness.core import json_text
from harness.core.errors import ConfigError, explain
from harness.external.checkpoints.finding import Checkpoint
from harness.records.schema import Axis

REVISION = re.compile(r"(?:^|[-_])(?:step|checkpoint|iter)[-_]?0*(\d+)$")
"""Revisions of the hub that name their step, such as step3000."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training elsewhere.

    Attributes:
        name: of the training, its label in tables: the last part of its folder or hub name.
        tuning: ``full`` for whole weights, else the kind of its adapters, such as ``lora``; with
            ``on NAME`` where they are on another model than the base.
        axis: unit of its volumes.
        key: identity of its place: the resolved output folder, or the hub name.
        rows_per_step: rows of an optimizer step, if the axis is rows.
    """

    name: str
    tuning: str
    axis: Axis
    key: str = ""
    rows_per_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A checkpoint with its place on the axis of its training."""

    training: Training
    volume: int
    checkpoint: Checkpoint


def placed(checkpoints: Sequence[Checkpoint], rows_per_step: int | None) -> list[Placed]:
    """Return checkpoints with their trainings and volumes.

    The checkpoints of one training with known steps are points of one run: at rows where the rows
    of a step are known, else at steps. Each checkpoint without a step is a run of its own.

    Args:
        checkpoints: in order.
        rows_per_step: rows of an optimizer step, as the user says; None takes what the trainer's
            files say.

    Raises:
        ConfigError: for two trainings of one name, or two checkpoints at one step.
    """
    groups: dict[tuple[str, str], list[tuple[int | None, Checkpoint]]] = defaultdict(list)
    numbered = {(one.group_key, one.number) for one in checkpoints if one.number is not None}
    for one in checkpoints:
        step = _step(one)
        if one.number is None and (one.group_key, step) in numbered:  # final weights beside the checkpoint of their step
            step = None
        groups[(one.group_key, "" if step is not None else one.source)].append((step, one))
    found: list[Placed] = []
    for (key, alone), members in groups.items():
        name = members[0][1].group
        if alone and not paths.expanded(alone).is_dir():
            name = alone
        elif alone and (key, "") in groups:
            name = f"{name} (without a step)"
        found += _of_training(name, members, rows_per_step)
    return found


def _of_training(name: str, members: Sequence[tuple[int | None, Checkpoint]], rows_per_step: int | None) -> list[Placed]:
    per_step = rows_per_step or _agreed([one.state.rows_per_step if one.state else None for _, one in members])
    axis: Axis = "checkpoint" if members[0][0] is None else "rows" if per_step else "steps"
    tunings = sorted({_tuning(one) for _, one in members})
    key, rows = members[0][1].group_key, per_step if axis == "rows" else None
    training = Training(name=name, tuning=" and ".join(tunings), axis=axis, key=key, rows_per_step=rows)
    by_volume: dict[int, Checkpoint] = {}
    for step, one in sorted(members, key=lambda member: member[0] or 0):
        volume = 1 if step is None else step * (per_step or 1)
        if volume < 1:
            raise ConfigError(explain(one.source, got="step 0", allowed="a checkpoint after the first step", fix="omit it: BASE is step 0"))
        other = by_volume.setdefault(volume, one)
        if other is not one and other.source != one.source:
            got = f"two checkpoints of {name} at step {step}: {other.source} and {one.source}"
            raise ConfigError(explain("measure", got=got, allowed="one", fix="omit one of them"))
    return [Placed(training=training, volume=volume, checkpoint=one) for volume, one in by_volume.items()]


def _step(one: Checkpoint) -> int | None:
    """Return the optimizer step of a checkpoint; None if unknown."""
    if one.state is not None and one.number not in (None, one.state.step):
        got, fix = f"a trainer_state.json of step {one.state.step}", "remove the folder, or the file if its weights are of its name's step"
        raise ConfigError(explain(one.source, got=got, allowed=f"step {one.number}, as its name says", fix=fix))
    if one.state is not None:
        return one.state.step
    if one.number is not None:
        return one.number
    revision = one.source.partition("@")[2]
    named = REVISION.search(revision) if revision else None
    return int(named[1]) if named else None


def _agreed(values: Sequence[int | None]) -> int | None:
    """Return the value that all share; None if one is unknown or they differ."""
    return values[0] if len(set(values)) == 1 else None


def _tuning(one: Checkpoint) -> str:
    """Return ``full``, or the kind of an adapter."""
    if not one.is_adapter:
        return "full"
    try:
        values = json_text.loads((paths.expanded(one.source) / "adapter_config.json").read_text(encoding="utf-8"))
        return str(values.get("peft_type") or "adapter").lower()
    except (OSError, ValueError, json.JSONDecodeError):
        return "adapter"
