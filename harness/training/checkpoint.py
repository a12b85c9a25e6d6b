"""Checkpoints: everything that a run needs to resume, to the last bit.

    state/STEP/
      state.safetensors    weight/PARAMETER, optimizer/PARAMETER/MOMENT, streams/RANK/STREAM
      state.json           run id, counts, hash of the other file, hash of all that; written last

No fsync: the hash finds a checkpoint that a power cut has damaged. That costs the time since an
earlier one, never a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.config.strict import build
from harness.core.counts import Counts
from harness.core.errors import ConfigError, RecordError
from harness.records import record_files, seals
from harness.records.writer import ExperimentWriter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FORMAT = 3
TENSORS, HEADER = "state.safetensors", "state.json"

Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Checkpoint:
    """The state of training after a step.

    Attributes:
        counts: running totals.
        tensors: by name, as ``tensors`` gives them.
        micro_batch_rows: rows of a forward pass then; None is the whole step.
    """

    counts: Counts
    tensors: dict[str, torch.Tensor]
    micro_batch_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Header:
    """The JSON of a checkpoint."""

    format: int
    run_id: str
    tensors_sha256: str
    micro_batch_rows: int | None
    counts: Counts


def tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer, streams: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Return everything that training moves, by name.

    Tensors on the CPU are views of the live ones.

    Args:
        model: its trainable parameters are taken.
        optimizer: its moments, where a parameter has had a gradient.
        streams: the global random streams of each process that trains.
    """
    found: dict[str, torch.Tensor] = {}
    for name, parameter in _trainable(model).items():
        found[f"weight/{name}"] = parameter.detach().cpu().contiguous()
        for moment, value in optimizer.state.get(parameter, {}).items():
            found[f"optimizer/{name}/{moment}"] = value.detach().cpu().contiguous()
    for rank, generators in enumerate(streams):
        found.update({f"streams/{rank}/{name}": value for name, value in generators.items()})
    return found


def restore(model: PreTrainedModel, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Restore weights and moments, and drop them from the checkpoint.

    Parameters stay the same objects.
    """
    import torch

    moments: dict[str, dict[str, torch.Tensor]] = {}
    for key in [key for key in checkpoint.tensors if key.startswith("optimizer/")]:
        _, name, moment = key.split("/")
        moments.setdefault(name, {})[moment] = checkpoint.tensors.pop(key)
    with torch.no_grad():
        for name, parameter in _trainable(model).items():
            parameter.copy_(checkpoint.tensors.pop(f"weight/{name}"))
            if name in moments:
                optimizer.state[parameter] = {moment: _like(parameter, value) for moment, value in moments.pop(name).items()}


def streams(checkpoint: Checkpoint, rank: int) -> dict[str, torch.Tensor]:
    """Return the saved random streams of a process."""
    prefix = f"streams/{rank}/"
    return {key.removeprefix(prefix): value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}


def _trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """Return a moment as the optimizer makes it: on the device, strided as the parameter."""
    import torch

    if value.shape != parameter.shape:  # the count of steps
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format).copy_(value)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run on disk; a complete one replaces older ones."""

    experiment: ExperimentWriter
    run_id: str

    def newest(self, usable: Callable[[Counts], bool], say: Callable[[str], object] | None = None) -> Checkpoint | None:
        """Return the newest usable checkpoint, or None; damaged ones are dropped.

        Args:
            usable: whether the run can resume from these counts.
            say: told of each that is dropped.
        """
        for step in self.experiment.states(self.run_id):
            folder = self.experiment.state_folder(self.run_id, step)
            header = _read_header(folder, self.run_id)
            if header is not None and not usable(header.counts):
                continue
            found = _read_tensors(folder, header.tensors_sha256) if header else None
            if header is not None and found is not None:
                return Checkpoint(header.counts, found, header.micro_batch_rows)
            if say is not None:
                say(f"run {self.run_id}: the checkpoint after step {step} is damaged or of another run, and is dropped")
            self.experiment.drop_state(self.run_id, step)
        return None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and drop older ones. Raises OSError."""
        step = checkpoint.counts.step
        folder = self.experiment.state_folder(self.run_id, step)
        record_files.write_folder(folder, lambda place: _write(place, checkpoint, self.run_id))
        for older in self.experiment.states(self.run_id):
            if older < step:
                self.experiment.drop_state(self.run_id, older)

    def keep_only(self, step: int | None) -> None:
        """Drop every checkpoint but that of a step; None drops all."""
        for other in self.experiment.states(self.run_id):
            if other != step:
                self.experiment.drop_state(self.run_id, other)


def _write(folder: Path, checkpoint: Checkpoint, run_id: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(checkpoint.tensors, folder / TENSORS)
    except SafetensorError as error:
        raise OSError(f"{folder / TENSORS}: {error}") from error
    digest, rows = seals.hash_of(folder / TENSORS), checkpoint.micro_batch_rows
    header = Header(format=FORMAT, run_id=run_id, tensors_sha256=digest, micro_batch_rows=rows, counts=checkpoint.counts)
    (folder / HEADER).write_text(seals.sealed(dataclasses.asdict(header)) + "\n", encoding="utf-8")


def _read_header(folder: Path, run_id: str) -> Header | None:
    """Return the header; None if it is damaged, of another run or of another format."""
    try:
        found: Header = build(Header, seals.opened(folder / HEADER, (folder / HEADER).read_bytes()), "")
    except (OSError, RecordError, ConfigError):
        return None
    return found if (found.format, found.run_id) == (FORMAT, run_id) else None


def _read_tensors(folder: Path, sha256: str) -> dict[str, torch.Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if seals.hash_of(folder / TENSORS) != sha256:
            return None
        return load_file(folder / TENSORS)
    except (OSError, SafetensorError):
        return None
