"""Memory of a training on one device, from a model's dimensions: arithmetic, no torch.

A training's peak is the larger of
  a step: weights and moments, and the largest of
    its forward pass's end: activations and logits, or a chunk of them with its gradients,
    its backward pass's end: gradients, and the activations of one block;
  a stop: weights in float32, moments, and the largest weight that the evaluation casts.

Loading needs less than a stop.

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

FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight of 4 bits: a scale of 8 bits for 64 of them, and one of 32 bits for 256 of
those (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

NUMBERS_AT_ONCE = 2**25
"""Padded tokens × vocabulary of one forward pass: 128 MiB per float32 array."""

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

WIDENED: Mapping[str, int] = {"llama": 6, "qwen2": 6, "qwen3": 6, "olmo2": 6, "gpt_neox": 0}
"""model_type → bytes more per unit of the MLP that 4-bit weights keep under bfloat16."""


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
    def in_matrices(self) -> int:
        """Weights of the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.matrices)

    @property
    def in_head(self) -> int:
        """Weights of the output head."""
        return self.vocabulary * self.width

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
        quantized: whether linear weights have 4 bits.
        at_once: logits of a forward pass from which on the loss computes them in chunks of as many.
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
    quantized: bool = False
    at_once: int = NUMBERS_AT_ONCE

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.length


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on the device at the peaks of a training step and of a stop.

    Attributes:
        weights, moments, gradients: of parameters, in a step.
        activations: kept at the peak, casts of weights included.
        logits: at the peak, with gradients of the head where they are computed in chunks.
        step: the peak of a step.
        stop: the peak of a stop, without the batches of its evaluation.
        is_measured: whether activations and logits are known; else they are 0.
    """

    weights: int
    moments: int
    gradients: int
    activations: int
    logits: int
    step: int
    stop: int
    is_measured: bool

    @property
    def static(self) -> int:
        """Bytes that no smaller batch saves: those of a step without its rows, or of a stop."""
        return max(self.weights + self.moments + self.gradients, self.stop)

    @property
    def peak(self) -> int:
        """The larger peak."""
        return max(self.step, self.stop)


def footprint(setup: Setup, size: Dimensions | None) -> Footprint:
    """Return the memory of a training; where it is not measured, the static part alone.

    Args:
        setup: the training.
        size: of the model, or None.
    """
    measured = size is not None and size.is_measured
    trained, moments = FLOAT * setup.trained, MOMENTS * FLOAT * setup.trained
    weights, at_stop = _weights(setup, size if measured else None)
    gradients = trained * (2 if setup.shared else 1)
    known = {"weights": weights, "moments": moments, "gradients": gradients, "stop": at_stop + moments}
    if size is None or not measured:
        return Footprint(**known, activations=0, logits=0, step=weights + moments + gradients, is_measured=False)
    most = max(_stages(setup, size, gradients), key=sum)
    step = weights + moments + max(sum(most), gradients)
    return Footprint(**known, activations=most[1], logits=most[2], step=step, is_measured=True)


def on_cpu(params: int, trained: int, numbers: int, *, adapts: bool, reads_start: bool) -> int:
    """Return the bytes of a training in float32 on a CPU, without activations.

    The start weights are a second copy where something reads them: in steps a penalty or a
    reference, at a stop the weight change; never with an adapter, which is switched off instead.

    Args:
        params: of the model.
        trained: trainable parameters.
        numbers: logits of a forward pass.
        adapts: whether the tuning is an adapter.
        reads_start: whether steps may read the start weights.
    """
    step = FLOAT * params * (1 + (reads_start and not adapts)) + (MOMENTS + 1) * FLOAT * trained + LOGITS[False][1] * numbers
    stop = FLOAT * params * (1 if adapts else 2) + MOMENTS * FLOAT * trained
    return max(step, stop)


def _weights(setup: Setup, size: Dimensions | None) -> tuple[int, int]:
    """Return the bytes of weights in a step and at a stop; lower bounds where the size is unknown.

    A frozen base is in bfloat16 while steps run under bfloat16; its ends stay float32.
    """
    if size is None:
        if setup.frozen:
            return (FLOAT * setup.trained + round((FOUR_BITS if setup.quantized else FLOAT) * setup.params),) * 2
        still = setup.params - setup.trained
        return FLOAT * setup.trained + (HALF if setup.half else FLOAT) * still, FLOAT * setup.params
    inside, added = size.in_matrices, setup.trained if setup.frozen else 0
    rest = FLOAT * (setup.params - inside + added)
    stop = rest + round((FOUR_BITS if setup.quantized else FLOAT) * inside)
    step = rest + HALF * inside if setup.half and setup.frozen and not setup.quantized else stop
    return step, stop + (HALF * size.in_head if setup.half else 0)


def _stages(setup: Setup, size: Dimensions, gradients: int) -> list[tuple[int, int, int]]:
    """Return (gradients, activations, logits) at the times of a step where each may be largest."""
    tokens = setup.tokens
    chunked = tokens * size.vocabulary > setup.at_once
    block, (casts, remaining) = _block(setup, size, tokens), _casts(setup, size, chunked=chunked)
    inputs, inside = FLOAT * size.width * tokens, _inside(setup, size, tokens)
    kept = (inputs if setup.checkpointing else block) * size.layers + _final(setup, size, tokens)
    held = gradients if setup.accumulates else 0
    head = 0 if setup.frozen else FLOAT * size.in_head
    if chunked:
        rows = max(1, setup.at_once // size.vocabulary)
        of_head = 2 * head + (head // 2 if setup.half else 0)  # summed, a chunk's, and its bfloat16 original
        at_loss, after = (rows * size.vocabulary * each + 2 * inputs + of_head for each in LOGITS[setup.half])
    else:
        at_loss, after = (tokens * size.vocabulary * each for each in LOGITS[setup.half])
    again = block if setup.checkpointing else 0
    return [
        (held, kept + casts, at_loss),
        (held, kept + remaining, after),
        (held + (0 if setup.accumulates and not chunked else head), kept + remaining + inside + again, 0),
        (gradients + head * (size.tied + setup.accumulates), block + inside + remaining // size.layers, 0),
    ]


def _block(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes that autograd keeps of a block, without casts of weights."""
    number = HALF if setup.half else FLOAT
    of_width, of_queries, of_keys, of_mlp, of_heads = SAVED[size.family][setup.half, setup.frozen]
    queries, keys = size.heads * size.head_width, size.kv_heads * size.head_width
    if setup.quantized and setup.half:  # their outputs are float32 under autocast too
        of_mlp += WIDENED[size.family]
    each = of_width * size.width + of_queries * queries + of_keys * keys + of_mlp * size.mlp + of_heads * size.heads
    mask = number * setup.length  # a number for each earlier token
    return tokens * (each + mask + number * setup.rank * len(size.matrices))


def _inside(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes of gradients inside a block while its backward pass runs."""
    number = HALF if setup.half else FLOAT
    arrays = 1 if size.family == "gpt_neox" and not setup.half else 2
    return tokens * (FLOAT * size.width + arrays * number * max(size.mlp, size.heads * size.head_width))


def _final(setup: Setup, size: Dimensions, tokens: int) -> int:
    """Return the bytes that autograd keeps of the last norm and the input of the head."""
    return tokens * size.width * FLOAT * (2 if setup.frozen else 3)


def _casts(setup: Setup, size: Dimensions, *, chunked: bool) -> tuple[int, int]:
    """Return the bytes of copies of weights: in the forward pass, and kept after it.

    Autocast caches bfloat16 copies of trained weights until it ends; autograd keeps the others, of
    which checkpointed blocks keep none, and the head none after its chunks. Weights of 4 bits are
    widened one at a time.
    """
    widest = max(inputs * outputs for inputs, outputs in size.matrices) if setup.quantized else 0
    if not setup.half:
        return FLOAT * widest, FLOAT * widest
    head, cached, one = HALF * size.in_head, HALF * setup.trained, (FLOAT + HALF) * widest
    kept = 0 if chunked else head
    if setup.frozen:
        return head + cached + one, kept + one + (0 if setup.checkpointing else cached)
    blocks = HALF * size.in_matrices
    return blocks + head, kept if setup.checkpointing else blocks + kept
