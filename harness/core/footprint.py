"""Memory of a training on one device, from a model's dimensions: arithmetic, no torch.

A step's peak is the weights and moments, plus the larger of
  its forward pass's end: activations and the logits,
  its backward pass's end: gradients, and the activations of one block.

``SAVED`` is measured: bytes that autograd keeps, by family, which are linear in these dimensions
(transformers 5, attention ``sdpa`` with a mask). Other families are not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FLOAT, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16 number."""

MOMENTS = 2
"""Numbers that AdamW keeps for each trained parameter, in float32."""

USABLE = 0.94
"""Share of a device's memory for tensors; the rest is the driver's context and unusable gaps. An
assumption."""

LOGITS = {False: (2 * FLOAT, 3 * FLOAT), True: (HALF + 2 * FLOAT, 3 * FLOAT)}
"""Whether under bfloat16 → bytes per token and word of the vocabulary that are held at once, when
the loss is computed (logits, their float32 copy, log-softmax) and in its backward pass
(log-softmax, its gradient, the gradient of the logits)."""

SAVED: Mapping[str, Mapping[tuple[bool, bool], tuple[int, int, int, int, int]]] = {
    "llama": {
        (False, False): (24, 16, 0, 16, 4),
        (False, True): (16, 16, 0, 16, 4),
        (True, False): (26, 8, 0, 8, 4),
        (True, True): (18, 10, 0, 8, 4),
    },
    "qwen2": {
        (False, False): (40, 0, 0, 16, 4),
        (False, True): (32, 0, 0, 16, 4),
        (True, False): (34, 0, 0, 8, 4),
        (True, True): (28, 0, 0, 8, 4),
    },
    "qwen3": {
        (False, False): (24, 24, 8, 16, 8),
        (False, True): (16, 20, 4, 16, 8),
        (True, False): (26, 14, 6, 8, 8),
        (True, True): (18, 14, 4, 8, 8),
    },
    "olmo2": {
        (False, False): (48, 0, 8, 16, 4),
        (False, True): (36, 0, 4, 16, 4),
        (True, False): (42, 0, 8, 8, 4),
        (True, True): (32, 0, 4, 8, 4),
    },
    "gpt_neox": {
        (False, False): (40, 0, 0, 8, 4),
        (False, True): (40, 0, 0, 8, 4),
        (True, False): (22, 0, 0, 4, 4),
        (True, True): (22, 0, 0, 4, 4),
    },
}
"""model_type → (bfloat16, frozen base) → bytes that a block keeps per token and unit of width,
queries, keys, MLP and heads."""


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Dimensions of a decoder, as its config.json names them.

    Attributes:
        family: its model_type.
        layers: blocks.
        width: of the residual stream.
        heads, kv_heads: of queries, and of keys and values.
        head_width: of one head.
        mlp: inner width.
        vocabulary: rows of its embedding.
        tied: whether the output head is the embedding.
    """

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp: int
    vocabulary: int
    tied: bool

    @property
    def is_measured(self) -> bool:
        """Whether the memory of its activations has been measured."""
        return self.family in SAVED

    @property
    def matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers of a block."""
        queries, keys, width = self.heads * self.head_width, self.kv_heads * self.head_width, self.width
        if self.family == "gpt_neox":
            return (width, 3 * width), (width, width), (width, self.mlp), (self.mlp, width)
        attention = ((width, queries), (width, keys), (width, keys), (queries, width))
        return (*attention, (width, self.mlp), (width, self.mlp), (self.mlp, width))

    @property
    def params(self) -> int:
        """Parameters, shared ones counted once."""
        queries, keys, width = self.heads * self.head_width, self.kv_heads * self.head_width, self.width
        biased = sum(outputs for _, outputs in self.matrices) + 2 * width
        vectors = {
            "qwen2": queries + 2 * keys,
            "qwen3": 2 * self.head_width,
            "olmo2": queries + keys,
            "gpt_neox": biased,
        }.get(self.family, 0)
        block = sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * width + vectors
        final = 2 * width if self.family == "gpt_neox" else width
        return self.layers * block + final + (1 if self.tied else 2) * self.vocabulary * width

    @property
    def rank_one(self) -> int:
        """Parameters of adapters of rank 1 on every linear layer but the head."""
        return self.layers * sum(inputs + outputs for inputs, outputs in self.matrices)


def dimensions(config: Mapping[str, Any]) -> Dimensions | None:
    """Return the dimensions that a config.json names; None where it names too few of them."""
    try:
        heads, width = int(config["num_attention_heads"]), int(config["hidden_size"])
        return Dimensions(
            family=str(config["model_type"]),
            layers=int(config["num_hidden_layers"]),
            width=width,
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_width=int(config.get("head_dim") or width // heads),
            mlp=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The part of a training's settings that decides its memory.

    Attributes:
        params: of the model.
        trained: trainable parameters.
        frozen: whether these are an adapter's, and the model is frozen.
        half: whether forward passes run under bfloat16 autocast.
        rows: of a micro-batch.
        length: of its longest row, in tokens.
        accumulates: whether a step has several micro-batches.
        checkpointing: whether blocks are computed again in the backward pass.
        rank: of the adapter, or 0.
        shared: whether several processes train: each keeps gradients a second time, to average
            them.
    """

    params: int
    trained: int
    frozen: bool
    half: bool
    rows: int
    length: int
    accumulates: bool = False
    checkpointing: bool = False
    rank: int = 0
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on the device at the peak of a training step.

    Attributes:
        weights, moments, gradients: of parameters.
        activations: kept at the peak, casts of weights included.
        logits: at the peak.
        peak: of all.
        is_measured: whether activations and logits are known; else they are 0.
    """

    weights: int
    moments: int
    gradients: int
    activations: int
    logits: int
    peak: int
    is_measured: bool

    @property
    def static(self) -> int:
        """Bytes that no smaller batch saves: weights, moments and gradients."""
        return self.weights + self.moments + self.gradients


def footprint(setup: Setup, size: Dimensions | None) -> Footprint:
    """Return the memory of a training step; where it is not measured, the static part alone.

    Args:
        setup: the training.
        size: of the model, or None.
    """
    weights = FLOAT * (setup.params + (setup.trained if setup.frozen else 0))
    moments, gradients = MOMENTS * FLOAT * setup.trained, FLOAT * setup.trained * (2 if setup.shared else 1)
    known = {"weights": weights, "moments": moments, "gradients": gradients}
    if size is None or not size.is_measured:
        return Footprint(**known, activations=0, logits=0, peak=weights + moments + gradients, is_measured=False)
    tokens = setup.rows * setup.length
    block, (casts, remaining) = _block(setup, size, tokens), _casts(setup, size)
    inputs, inside = FLOAT * size.width * tokens, _inside(setup, size, tokens)
    kept = (inputs if setup.checkpointing else block) * size.layers + _final(setup, size, tokens)
    held = gradients if setup.accumulates else 0
    at_loss, after = (tokens * size.vocabulary * each for each in LOGITS[setup.half])
    head = 0 if setup.frozen else FLOAT * size.vocabulary * size.width
    # (gradients, activations, logits) where each may be largest.
    stages = [
        (held, kept + casts, at_loss),
        (held, kept + remaining, after),
        (held + (0 if setup.accumulates else head), kept + remaining + inside + (block if setup.checkpointing else 0), 0),
        (gradients + (head if size.tied or setup.accumulates else 0), block + inside + remaining // size.layers, 0),
    ]
    most = max(stages, key=sum)
    peak = weights + moments + max(sum(most), gradients)
    return Footprint(**known, activations=most[1], logits=most[2], peak=peak, is_measured=True)


def _block(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes that autograd keeps of a block, without casts of weights."""
    number = HALF if setup.half else FLOAT
    of_width, of_queries, of_keys, of_mlp, of_heads = SAVED[size.family][setup.half, setup.frozen]
    queries, keys = size.heads * size.head_width, size.kv_heads * size.head_width
    each = of_width * size.width + of_queries * queries + of_keys * keys + of_mlp * size.mlp + of_heads * size.heads
    mask = number * setup.length  # a number for each earlier token
    return tokens * (each + mask + number * setup.rank * len(size.matrices))


def _inside(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes of gradients inside a block while its backward pass runs."""
    number = HALF if setup.half else FLOAT
    return tokens * (FLOAT * size.width + 2 * number * max(size.mlp, size.heads * size.head_width))


def _final(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes that autograd keeps of the last norm and the input of the head."""
    return tokens * size.width * FLOAT * (2 if setup.frozen else 3)


def _casts(setup: Setup, size: Dimensions) -> tuple[int, int]:
    """Return the bytes of bfloat16 copies of weights: in the forward pass, and kept after it.

    Autocast caches those of trained weights until it ends; autograd keeps the others, of which
    checkpointed blocks keep none.
    """
    if not setup.half:
        return 0, 0
    blocks = HALF * size.layers * sum(inputs * outputs for inputs, outputs in size.matrices)
    head, cached = HALF * size.vocabulary * size.width, HALF * setup.trained
    if not setup.frozen:
        return blocks + head, head if setup.checkpointing else blocks + head
    return (head + cached, head) if setup.checkpointing else (blocks + head + cached,) * 2
