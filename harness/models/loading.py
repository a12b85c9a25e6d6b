"""Models of conf/model, loaded onto a device by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from harness.config import composition, paths
from harness.core.errors import ConfigError, explain
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
    """Return a model in float32, in evaluation mode, on a device. Raises ModelError."""
    model: Any = source.load()
    loaded: PreTrainedModel = model.to(device)
    _own_memory(loaded)
    return loaded


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
