"""Data sets, pretrained models and evaluation backends, as conf/ configures them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from harness.core.footprint import Dimensions
from harness.core.progress import Progress
from harness.core.rows import PromptFormat, Row, RowKind, Split

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Dtype = Literal["auto", "float32", "bfloat16"]
"""Of a forward pass; ``auto`` is float32 on a CPU, bfloat16 on a GPU."""

Where = Literal["auto", "inline", "separate"]
"""Where points are measured: in the process that trains, or from checkpoints, by any worker."""

Items = Literal["report", "select"]
"""Items of a suite: those that are reported, or those on which things may be chosen."""


class Source(ABC):
    """A data set: base class of the members of ``conf/data/`` (and of the anchor group).

    A subclass has ``volumes``, target rows to reach, and ``kind``, the kind of its rows, as fields
    or properties. A sequence of stages overrides the members about stages.
    """

    if TYPE_CHECKING:  # at run time, a field without a default would take the property as its default

        @property
        @abstractmethod
        def volumes(self) -> tuple[int, ...]:
            """Volumes to reach, in target rows."""

        @property
        @abstractmethod
        def kind(self) -> RowKind | None:
            """Kind of its rows; of a sequence, those of the first stage; None if they decide it."""

    @abstractmethod
    def rows(self, split: Split) -> Sequence[Row]:
        """Return every row of a split, in the order of the source. Raises DataError."""

    @property
    def kinds(self) -> frozenset[RowKind]:
        """Kinds of its rows; an objective must accept all of them. Raises DataError."""
        return frozenset({self.kind} if self.kind else ())

    @property
    def has_test(self) -> bool:
        """Whether it has a test split of its own, in place of ``held_out`` training rows."""
        return True

    @property
    def conversations(self) -> bool:
        """Whether only a chat template can write its rows."""
        return "chat" in self.kinds

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Members of conf/data that are its stages, in order; empty for a single data set."""
        return ()

    @property
    def stage_ends(self) -> tuple[int, ...]:
        """Rows seen at the end of each stage; empty for a single data set."""
        return ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(available rows, rows read) of each stage; empty for a single data set.

        Raises DataError.
        """
        return ()


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model that are known before it is built.

    Attributes:
        params_total: number of parameters (shared ones counted once).
        context_length: longest input in tokens.
        content: hashes that determine its numbers, by name (recipe, or files); part of every
            identity.
        linear: last name of its linear layers, the output head excluded → inputs plus outputs of
            all layers of that name, which is the number of parameters of an adapter of rank 1.
        parts: ``attention`` or ``mlp`` → the same for all linear layers inside it.
        blocks: parameters of each block, the bottom one first; empty if unknown.
        embeddings: parameters of embeddings (tokens, learned positions), including an output head
            that is tied to them.
        dropout: largest rate of its own config, at which it drops in training.
        vocabulary: rows of its embedding; None if every token of its tokenizer has one.
        batch_limit: longest batch in tokens in which rows do not depend on each other; None for any
            length (``harness.models.rotary``).
        notes: for readers: how an adapter is put on its base.
        dimensions: widths and layers, which decide the memory of a training; None if unknown.
    """

    params_total: int
    context_length: int
    content: Mapping[str, str]
    linear: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    embeddings: int = 0
    dropout: float = 0.0
    vocabulary: int | None = None
    batch_limit: int | None = None
    notes: tuple[str, ...] = ()
    dimensions: Dimensions | None = None


class ModelSource(Protocol):
    """A pretrained causal language model, configured by a member of ``conf/model/``."""

    def facts(self) -> ModelFacts:
        """Inspect the model without building it: size, context, content.

        Raises ModelError if it cannot be loaded.
        """
        ...

    def longest_input(self) -> int:
        """Return its context length in tokens, without loading its weights. Raises ModelError."""
        ...

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return its tokenizer, without loading its weights. Raises ModelError."""
        ...

    def load(self) -> PreTrainedModel:
        """Return the model in float32, in evaluation mode, on the CPU."""
        ...

    def weights_sha256(self) -> str:
        """Return the hash of the weight bytes, available once loaded."""
        ...


class EvaluationBackend(Protocol):
    """Settings of an evaluation: what a member of ``conf/evaluation/`` configures."""

    @property
    def items(self) -> Items:
        """Which items of each suite."""
        ...

    @property
    def limit(self) -> int | None:
        """Most items of a task."""
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

    @property
    def where(self) -> Where:
        """Where points are measured."""
        ...

    @property
    def unidentified(self) -> frozenset[str]:
        """Names of settings that are no part of an identity: they move at most rounding."""
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
