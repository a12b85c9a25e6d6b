"""The state of training: all that a run needs to go on as if it had never stopped, to the last bit.

    state/<step>/
      state.safetensors    weight/<parameter>, optimizer/<parameter>/<moment>, streams/<rank>/<stream>
      state.json           what was counted, and the hash of the other file; written last

No fsync: a state that a power cut damages is known by its hash, and costs the time since an earlier
one, never a number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.config.strict import build
from harness.core.errors import ConfigError
from harness.records.writer import ExperimentWriter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

FORMAT = 1
TENSORS, COUNTS = "state.safetensors", "state.json"

Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is counted in training, after a step.

    Attributes:
        step: optimizer steps done.
        since: the stop before this step, or 0: what ``nats`` and ``tokens`` are counted from.
        nats, tokens: loss and supervised tokens since then.
        flops, seconds: of training from the start, what happens at stops left out.
        micro_batch_rows: as used.
        penalty: sum of the penalties of the steps since ``since``; ``generated``: tokens written in
            training from the start.
        read: tokens that a reference and a judge read in training from the start; ``trained``,
            ``supervised``: of rewarded answers.
    """

    step: int = 0
    since: int = 0
    nats: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    micro_batch_rows: int | None = None
    penalty: float = 0.0
    generated: int = 0
    read: int = 0
    trained: int = 0
    supervised: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """What was counted, and tensors by name, as ``tensors`` gives them."""

    counts: Counts
    tensors: dict[str, torch.Tensor]


def tensors(model: PreTrainedModel, optimizer: torch.optim.Optimizer, streams: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Return what moves, by name: views of the live tensors where these are on the CPU.

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


def restore(model: PreTrainedModel, optimizer: torch.optim.Optimizer, state: Checkpoint) -> None:
    """Put weights and moments where they were, and let go of them in the state.

    The parameters stay the same objects.
    """
    import torch

    moments: dict[str, dict[str, torch.Tensor]] = {}
    for key in [key for key in state.tensors if key.startswith("optimizer/")]:
        _, name, moment = key.split("/")
        moments.setdefault(name, {})[moment] = state.tensors.pop(key)
    with torch.no_grad():
        for name, parameter in _trainable(model).items():
            parameter.copy_(state.tensors.pop(f"weight/{name}"))
            if name in moments:
                optimizer.state[parameter] = {moment: _like(parameter, value) for moment, value in moments.pop(name).items()}


def streams(state: Checkpoint, rank: int) -> dict[str, torch.Tensor]:
    """Return the random streams of a process."""
    prefix = f"streams/{rank}/"
    return {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}


def _trainable(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """Return a moment where the optimizer makes its own: on the device, strided as the parameter."""
    import torch

    if value.shape != parameter.shape:  # the count of steps
        return value.to(parameter.device, copy=True)
    return torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format).copy_(value)


@dataclass(frozen=True)
class Checkpoints:
    """The states of one run on disk.

    One alone is of use, the newest; an older one goes when a newer one is complete.
    """

    experiment: ExperimentWriter
    run_id: str

    def newest(self, usable: Callable[[Counts], bool]) -> Checkpoint | None:
        """Return the newest complete state that is usable, or None; damaged ones are dropped."""
        for step in self.experiment.states(self.run_id):
            folder = self.experiment.state_folder(self.run_id, step)
            header = _read_counts(folder)
            if header is not None and not usable(header[0]):
                continue
            found = _read_tensors(folder, header[1]) if header else None
            if header is not None and found is not None:
                return Checkpoint(header[0], found)
            self.experiment.drop_state(self.run_id, step)
        return None

    def save(self, state: Checkpoint) -> None:
        """Write a state and drop older ones. Raises OSError."""
        step = state.counts.step
        self.experiment.write_folder(self.experiment.state_folder(self.run_id, step), lambda folder: _write(folder, state))
        for older in self.experiment.states(self.run_id):
            if older < step:
                self.experiment.drop_state(self.run_id, older)

    def keep_only(self, step: int | None) -> None:
        """Drop every state but one."""
        for other in self.experiment.states(self.run_id):
            if other != step:
                self.experiment.drop_state(self.run_id, other)


def _write(folder: Path, state: Checkpoint) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(state.tensors, folder / TENSORS)
    except SafetensorError as error:
        raise OSError(f"{folder / TENSORS}: {error}") from error
    header = {"format": FORMAT, "sha256": _sha256(folder / TENSORS), **dataclasses.asdict(state.counts)}
    (folder / COUNTS).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def _read_counts(folder: Path) -> tuple[Counts, str] | None:
    """Return the counts and the other file's hash.

    None for what is damaged or of another format.
    """
    try:
        values: dict[str, Any] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            return None
        sha256 = str(values.pop("sha256"))
        return cast(Counts, build(Counts, values, "")), sha256
    except (OSError, ValueError, KeyError, AttributeError, TypeError, ConfigError):
        return None


def _read_tensors(folder: Path, sha256: str) -> dict[str, torch.Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if _sha256(folder / TENSORS) != sha256:
            return None
        return load_file(folder / TENSORS)
    except (OSError, SafetensorError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
