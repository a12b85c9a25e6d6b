"""Models of conf/model, loaded onto a device by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from harness.config import composition, paths
from harness.core.errors import ConfigError, ModelError, explain
from harness.core.seeds import untouched_global_streams
from harness.core.sources import ModelSource

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedModel:
    """A live model in evaluation mode, and the source it was loaded from."""

    source: ModelSource
    model: PreTrainedModel

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own tokenizer."""
        return self.source.tokenizer()

    @property
    def longest_input(self) -> int:
        """Its context length in tokens."""
        return self.source.longest_input()


def member(name: str, allowed: Collection[str] | None = None) -> ModelSource:
    """Return a member of conf/model.

    Args:
        name: of the member.
        allowed: members that may be asked for, such as those a method names; None is all.

    Raises:
        ConfigError: for a name that is not allowed, or not in conf/model.
    """
    if allowed is not None and name not in allowed:
        fix = f"add {name} to the method's models"
        raise ConfigError(explain("model", got=repr(name), allowed=", ".join(allowed) or "none but the start model", fix=fix))
    found: ModelSource = composition.member("model", name)
    return found


def named(name: str) -> ModelSource | None:
    """Return the member of conf/model that ``NAME`` or ``NAME@REVISION`` names, or None.

    Raises ConfigError for a revision of a member that has none.
    """
    member_name, _, revision = name.partition("@")
    if member_name not in paths.members("conf/model"):
        return None
    found = member(member_name)
    if not revision:
        return found
    if "revision" not in {field.name for field in dataclasses.fields(cast(Any, found))}:
        raise ConfigError(explain("model", got=repr(name), allowed=f"{member_name}, which has no revisions"))
    return cast(ModelSource, dataclasses.replace(cast(Any, found), revision=revision))


def load(source: ModelSource, device: str | torch.device = "cpu") -> PreTrainedModel:
    """Return a model in float32, in evaluation mode, on a device. Raises ModelError.

    A source with a method ``load_onto`` may fill a GPU without a copy of the model on the host.
    """
    import torch

    onto = getattr(source, "load_onto", None) if torch.device(device).type == "cuda" else None
    model: Any = source.load().to(device) if onto is None else onto(device)  # type: ignore[arg-type]
    loaded: PreTrainedModel = model
    _own_memory(loaded)
    return loaded


class StartWeights(Mapping[str, "torch.Tensor"]):
    """Weights and buffers that a run starts from, by plain name, on the CPU.

    They are read from the model's files when one is first asked for, and kept from then on: a run
    that never asks has no second copy.
    """

    def __init__(self, source: ModelSource) -> None:
        """Take the source of a model that has been loaded."""
        self.source, self.files = source, source.weights_sha256()
        self.held: dict[str, torch.Tensor] | None = None

    @property
    def is_held(self) -> bool:
        """Whether they are in memory."""
        return self.held is not None

    @contextmanager
    def briefly(self) -> Iterator[None]:
        """Free the weights after the block, unless they were held before it."""
        held = self.held
        try:
            yield
        finally:
            self.held = held

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._weights()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights())

    def __len__(self) -> int:
        return len(self._weights())

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the weights. Raises ModelError where the files are others than at the start."""
        import torch

        if self.held is None:
            # A step, or an evaluation in inference mode, may be the first to ask.
            with torch.inference_mode(False), torch.no_grad(), untouched_global_streams():
                found = {name: value.detach() for name, value in load(self.source).state_dict().items()}
            if self.source.weights_sha256() != self.files:
                allowed, fix = "the same files until the run ends", "run the same command again"
                raise ModelError(explain("start weights", got="other files than when the run started", allowed=allowed, fix=fix))
            self.held = found
        return self.held


def _own_memory(model: PreTrainedModel) -> None:
    """Copy weights on the CPU out of their files, which transformers maps into memory.

    Otherwise a file that is overwritten while a run trains changes the live model: what the run
    has learned is lost, and nothing says so.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.device.type == "cpu":
            value.data = value.data.clone()


def load_member(name: str, device: str | torch.device = "cpu", allowed: Collection[str] | None = None) -> LoadedModel:
    """Load a member of conf/model onto a device.

    Raises:
        ConfigError: see ``member``.
        ModelError: where it cannot be loaded.
    """
    source = member(name, allowed)
    return LoadedModel(source, load(source, device))
