"""Protocols of data sets and pretrained models, as conf/data and conf/model configure them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from harness.core.rows import Row, RowKind, Split

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
