"""``trainer_state.json`` of transformers.Trainer as plain values, by any version of it.

It is read as a dictionary: transformers' own reader rejects fields that it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core import json_text

STATE = "trainer_state.json"
ARGUMENTS = "args.json"
"""Settings of a training by ms-swift, in each of its checkpoints."""

PARALLEL = ("sequence_parallel_size", "tensor_model_parallel_size", "context_parallel_size", "pipeline_model_parallel_size")
"""Settings above 1 in which several processes share the same rows."""


@dataclass(frozen=True, kw_only=True)
class TrainerState:
    """The progress of a training when it saved a checkpoint; None is unknown.

    Attributes:
        step: optimizer steps so far.
        planned_steps: optimizer steps of the whole training, unchanged by an early stop.
        tokens: of all steps; padding counts where the trainer was told to count all tokens. Resumed
            trainings of TRL count from 0: segments are added where the count falls.
        loss: training loss in nats, a mean since the log entry before the last one.
        world_size: number of processes, those that share rows included.
        rows_per_step: rows of one optimizer step, known only where the batch, the accumulation and
            the number of processes are.
        is_finished: whether the training ended with this checkpoint, or was stopped at it.
    """

    step: int
    planned_steps: int | None
    tokens: int | None
    loss: float | None
    world_size: int | None
    rows_per_step: int | None
    is_finished: bool


def read(folder: Path) -> TrainerState | None:
    """Return the state in a checkpoint's folder; None without a complete one."""
    values = _mapping(folder / STATE)
    step = _count(values.get("global_step"))
    if step is None:
        return None
    planned, history, world = _count(values.get("max_steps")) or None, _entries(values), _world_size(folder)
    return TrainerState(
        step=step,
        planned_steps=planned,
        tokens=_count(values.get("num_input_tokens_seen")) or _trl_tokens(history),
        loss=_last_loss(history),
        world_size=world,
        rows_per_step=_rows_per_step(values, _mapping(folder / ARGUMENTS), world),
        is_finished=(planned is not None and step >= planned) or _was_stopped(values),
    )


def loss_at(folder: Path, step: int) -> float | None:
    """Return the loss that a checkpoint's training had logged by an earlier step, or None."""
    history = _entries(_mapping(folder / STATE))
    return _last_loss([entry for entry in history if (logged := _count(entry.get("step"))) is not None and logged <= step])


def _mapping(file: Path) -> Mapping[str, Any]:
    """Return a JSON object, empty if the file is absent, unreadable or half-written."""
    try:
        values = json_text.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _count(value: Any) -> int | None:
    """Return a value as a count, or None if it is none."""
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    return int(value) if is_whole and value >= 0 else None


def _entries(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    history = values.get("log_history")
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []


def _last_loss(history: list[Mapping[str, Any]]) -> float | None:
    """Return the last training loss; None if it is not a finite number."""
    found = [entry["loss"] for entry in history if type(entry.get("loss")) in (int, float)]
    return float(found[-1]) if found and math.isfinite(found[-1]) else None


def _trl_tokens(history: list[Mapping[str, Any]]) -> int | None:
    """Return the tokens that TRL counted, over all segments of a resumed training."""
    ended, latest, found = 0, 0, False
    for entry in history:
        count = _count(entry.get("num_tokens"))
        if count is not None:
            ended += latest if count < latest else 0
            latest, found = count, True
    return ended + latest if found else None


def _was_stopped(values: Mapping[str, Any]) -> bool:
    """Return whether the trainer's control asked for the end of the training."""
    found: Any = values
    for key in ("stateful_callbacks", "TrainerControl", "args", "should_training_stop"):
        found = found.get(key) if isinstance(found, dict) else None
    return found is True


def _world_size(folder: Path) -> int | None:
    """Return the number of processes, each of which saves its random state."""
    ranks = [path for path in folder.glob("rng_state_*.pth") if path.stem.rpartition("_")[2].isdigit()]
    return len(ranks) or (1 if (folder / "rng_state.pth").is_file() else None)


def _rows_per_step(state: Mapping[str, Any], arguments: Mapping[str, Any], world: int | None) -> int | None:
    """Return the rows of a step; None unless each is one of the data, and all factors known."""
    batch, accumulation = (_count(one) for one in (state.get("train_batch_size"), arguments.get("gradient_accumulation_steps")))
    shared = any(arguments.get(key) not in (None, 1) for key in PARALLEL)
    counts_other_things = bool(arguments.get("packing")) or arguments.get("rlhf_type") in {"grpo", "ppo"}
    if shared or counts_other_things or not batch or not accumulation or not world:
        return None
    return batch * accumulation * world
