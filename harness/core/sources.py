"""Protocols of data sets, pretrained models and evaluation backends, as conf/ configures them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from harness.core.progress import Progress
from harness.core.rows import PromptFormat, Row, RowKind, Split

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Dtype = Literal["auto", "float32", "bfloat16"]
"""Of a forward pass; ``auto`` is float32 on a CPU, bfloat16 on a GPU."""

Items = Literal["report", "select"]
"""Items of a suite: those that are reported, or those on which things may be chosen."""


class Source(Protocol):
    """A data set: what a member of ``conf/data/`` (and of the anchor group) configures."""

    @property
    def volumes(self) -> tuple[int, ...]:
        """Volumes to reach, in target rows."""
        ...

    @property
    def kind(self) -> RowKind:
        """What its rows are."""
        ...

    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the source. Raises DataError."""
        ...


class StagedSource(ABC):
    """A data set whose rows are learned in stages, one after the other."""

    stages: tuple[str, ...]
    """Names of the stages, in order."""

    @property
    @abstractmethod
    def stage_ends(self) -> tuple[int, ...]:
        """Rows seen at the end of each stage."""

    @property
    @abstractmethod
    def kinds(self) -> frozenset[RowKind]:
        """Kinds of the rows of all stages: an objective must take each."""

    @property
    @abstractmethod
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(rows available, rows read) of each stage. Raises DataError where there are too few."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before it is built.

    Attributes:
        params_total: number of parameters (shared ones counted once).
        context_length: longest input in tokens.
        content: what decides its numbers, by name (recipe hash, or file hashes); part of every
            identity.
        linear: last name of its linear layers, but for the output head → inputs plus outputs of all
            layers of that name: so many parameters has an adapter of rank 1.
        parts: ``attention`` or ``mlp`` → the same of all linear layers that lie in it.
        blocks: parameters of each block, the bottom one first; empty where they are not known.
        embeddings: parameters of embeddings (tokens, learned positions), with an output head that
            is tied to them.
    """

    params_total: int
    context_length: int
    content: Mapping[str, str]
    linear: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    embeddings: int = 0


class ModelSource(Protocol):
    """A pretrained causal language model: what a member of ``conf/model/`` configures."""

    def facts(self) -> ModelFacts:
        """Inspect without building: size, context, content.

        Raises ModelError where it cannot be loaded.
        """
        ...

    def longest_input(self) -> int:
        """Return its context length in tokens, known without its weights. Raises ModelError."""
        ...

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return its tokenizer, loaded without its weights. Raises ModelError."""
        ...

    def load(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode, on the CPU."""
        ...

    def weights_sha256(self) -> str:
        """Hash of the weight bytes, available once loaded."""
        ...


class EvaluationBackend(Protocol):
    """Settings of an evaluation: what a member of ``conf/evaluation/`` configures."""

    @property
    def items(self) -> Items:
        """Which items of each suite."""
        ...

    @property
    def prompt_format(self) -> PromptFormat:
        """Of every prompt."""
        ...

    @property
    def dtype(self) -> Dtype:
        """Of the forward pass."""
        ...

    @property
    def likelihood_tokens(self) -> int:
        """Padded tokens of one forward pass that scores rows."""
        ...

    def for_items(self, items: Items) -> Self:
        """Return the same settings for these items of each suite."""
        ...

    def otherwise(self) -> Self:
        """Return the same settings with other batches: scores then differ by rounding alone."""
        ...

    @abstractmethod
    def model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str, progress: Progress, stage: str
    ) -> HFLM:
        """Wrap a live model for lm-eval, without reloading it.

        Args:
            model: plain or PEFT, on its device.
            tokenizer: the start model's.
            max_length: of the model's context, in tokens.
            dtype: ``float32`` or ``bfloat16``, of the forward pass.
            progress: advanced by requests or rows.
            stage: its name on the display.
        """
        ...

    def arguments(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int, dtype: str) -> dict[str, Any]:
        """Return the arguments that lm-eval's model classes share."""
        ...

    def facts(self, lm: HFLM) -> dict[str, Any]:
        """Return what the backend decided by itself (a token budget), for the record."""
        ...
