"""The abstract tuning: which weights of a model are trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.sources import ModelFacts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Tuning(ABC):
    """Which weights are trained, and how they are saved and compared with the start weights.

    A plain name is the name of a weight in the model without adapters.
    """

    @property
    def dropout_rate(self) -> float:
        """Rate at which it drops in training, apart from the model's own."""
        return 0.0

    @property
    def adapts(self) -> bool:
        """Whether weights of the start model stay frozen, so that they may be quantised."""
        return False

    @property
    def adapter_rank(self) -> int:
        """Rank of low-rank adapters on every linear layer; 0 for anything else."""
        return 0

    def resolved_settings(self, facts: ModelFacts) -> Mapping[str, Any]:
        """Return values of fields that have several spellings, such as null for a default."""
        return {}

    @abstractmethod
    def default_learning_rate(self, params_total: int) -> float:
        """Return the peak rate for a model of this size without a searched rate."""

    @abstractmethod
    def trainable(self, facts: ModelFacts) -> int:
        """Return the number of trainable parameters, known before the model is built."""

    @abstractmethod
    def prepare(self, model: PreTrainedModel, seed: int) -> PreTrainedModel:
        """Return the model to train, with its trainable parameters marked."""

    @abstractmethod
    def facts(self, model: PreTrainedModel) -> dict[str, Any]:
        """Return the resolved settings (rank, modules, …) for the record."""

    @abstractmethod
    def deltas(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (plain name, tuned minus base), differentiable, for every weight that can move."""

    def squared_change(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the sum of squares of all deltas, a differentiable scalar."""
        import torch

        return torch.stack([delta.square().sum() for _, delta in self.deltas(model, base)]).sum()

    @abstractmethod
    def merged(self, model: PreTrainedModel) -> dict[str, torch.Tensor]:
        """Return the tuned weights by plain name, detached, on the CPU."""

    @abstractmethod
    def base_weights(self, model: PreTrainedModel, base: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
        """Return a context in which the model computes with its start weights, bit for bit.

        When it exits, also after an error, the parameters are the same objects and hold the tuned
        weights of before, bit for bit, so training continues undisturbed. Open a separate autocast
        region inside and outside: autocast caches the weights that it has cast, except in inference
        mode.
        """

    @abstractmethod
    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write the files that load the tuned model again (safetensors)."""
