"""Random models of many families, requests of every kind, and ``prefix`` against HFLM."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import transformers as hf
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.evaluation.prefix.lm import PrefixLM
from tests.support import tiny

TOLERANCE = 1e-3
"""Largest difference of a float32 log-likelihood from HFLM's, in nats; a flag may differ where the
two best tokens are closer."""

MAX_LENGTH = 100

WINDOW = 8
"""Shorter than most prompts."""

ENDS: dict[str, Any] = {"bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
SIZES: dict[str, Any] = {
    **{"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"initializer_range": 0.2, "pad_token_id": tiny.PAD, **ENDS},
}
GROUPED: dict[str, Any] = SIZES | {"num_key_value_heads": 2}
GEMMA: dict[str, Any] = GROUPED | {"head_dim": 8, "sliding_window": WINDOW}
WINDOWED: dict[str, Any] = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
GPT2: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 256,
    "initializer_range": 0.2,
    **ENDS,
}
OPT: dict[str, Any] = {
    **{"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.2},
    **{"max_position_embeddings": 256, "word_embed_proj_dim": 32, "pad_token_id": tiny.PAD, **ENDS},
}
BLOOM: dict[str, Any] = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2, **ENDS}
MAMBA: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "initializer_range": 0.2,
}
GRANITE: dict[str, Any] = {"attention_multiplier": 0.3, "residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0}

SHARED: Mapping[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SIZES)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "qwen2_windowed": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED, **WINDOWED)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=8)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SIZES)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**GEMMA, layer_types=["sliding_attention", "full_attention"])),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=WINDOW)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**SIZES)),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED, **GRANITE)),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**GROUPED, logit_scale=0.3)),
}
"""Families whose requests are shared."""

PLAIN: Mapping[str, Callable[[], PreTrainedModel]] = {
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GEMMA, attn_logit_softcapping=5.0)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(**BLOOM)),
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**MAMBA)),
}
"""Families that run on the plain path: capped scores, positions in the attention's bias, no
attention."""

FAMILIES = {**SHARED, **PLAIN}


def build(family: str) -> PreTrainedModel:
    """Return a fresh two-layer model, always the same, that ends its texts at EOS."""
    model = tiny._seeded(FAMILIES[family])
    assert model.generation_config is not None
    model.generation_config.eos_token_id = tiny.EOS
    return model


@cache
def built(family: str) -> PreTrainedModel:
    """Return the model that tests share and do not change."""
    return build(family)


def with_bos() -> PreTrainedTokenizerBase:
    """Return a tokenizer that begins every text with BOS."""
    made: Any = type(tiny.tokenizer())(
        tokenizer_object=type(tiny.tokenizer()._tokenizer).from_str(tiny.tokenizer()._tokenizer.to_str()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
    )
    made._tokenizer.post_processor = TemplateProcessing(single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", tiny.BOS)])
    return made


def arguments(model: Any, **changes: Any) -> dict[str, Any]:
    given = {"pretrained": model, "tokenizer": tiny.tokenizer(), "max_length": MAX_LENGTH, "softmax_dtype": "float32"}
    return given | changes


def reference(model: Any, *, batch_size: int = 4, **changes: Any) -> HFLM:
    """lm-eval's own class."""
    return HFLM(batch_size=batch_size, **arguments(model, **changes))


def prefix(model: Any, **changes: Any) -> PrefixLM:
    """The class under test."""
    return PrefixLM(**arguments(model, **changes))


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(tiny.WORDS, k=words))


def scored(pairs: Sequence[tuple[str, str]]) -> list[Instance]:
    """Requests for log-likelihoods of continuations."""
    return [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]


def rolled(texts: Sequence[str]) -> list[Instance]:
    """Requests for log-likelihoods of whole texts."""
    return [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=i) for i, text in enumerate(texts)]


def asked(pairs: Sequence[tuple[str, dict[str, Any]]]) -> list[Instance]:
    """Requests for continuations."""
    return [Instance(request_type="generate_until", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]


def _choices(contexts: Sequence[str], draw: random.Random, sizes: Sequence[int]) -> list[tuple[str, str]]:
    return [(context, " " + text(draw, draw.choice(sizes))) for context in contexts for _ in range(draw.randint(2, 4))]


def requests(kind: str, seed: int = 0) -> list[tuple[str, str]]:
    """Return contexts and continuations of every kind.

    Of one or several words, without context, after shared examples, longer than ``MAX_LENGTH``.
    """
    draw = random.Random(f"{kind} {seed}")
    shots = text(draw, 40)
    own = [text(draw, draw.randint(1, 30)) for _ in range(4)]
    made = {
        "one-token": lambda: _choices(own, draw, [1]),
        "multi-token": lambda: _choices(own, draw, [1, 2, 5]),
        "few-shot": lambda: [*_choices([f"{shots} {text(draw, draw.randint(1, 10))}" for _ in range(4)], draw, [1, 3]), (shots, " w1 w2")],
        "empty": lambda: _choices([""], draw, [1, 2, 6]) + _choices(own[:1], draw, [2]),
        "too-long": lambda: _choices([f"{shots} {shots} {text(draw, size)}" for size in (18, 19, 20, 21, 60)], draw, [1, 4]),
        "whole-window": lambda: [(own[0], " " + text(draw, size)) for size in (MAX_LENGTH - 1, MAX_LENGTH)],
    }
    return made[kind]()


KINDS = ("one-token", "multi-token", "few-shot", "empty", "too-long", "whole-window")


def gap(lm: HFLM, context: str, continuation: str) -> float:
    """Return the smallest gap of the two best tokens within a continuation, in HFLM's logits."""
    pair = lm._encode_pair(context, continuation) if context else ([lm.prefix_token_id], lm.tok_encode(continuation))
    ids = [*pair[0], *pair[1]][-(lm.max_length + 1) :][:-1]
    with torch.inference_mode():
        best = lm._model_call(torch.tensor([ids]))[0, -len(pair[1]) :].float().log_softmax(dim=-1).topk(2).values
    return float((best[:, 0] - best[:, 1]).min())


def compare(expected: HFLM, found: HFLM, pairs: Sequence[tuple[str, str]], tolerance: float = TOLERANCE) -> float:
    """Assert that two classes score alike; return the largest difference in nats."""
    first = expected.loglikelihood(scored(pairs), disable_tqdm=True)
    second = found.loglikelihood(scored(pairs), disable_tqdm=True)
    worst = max(abs(one[0] - other[0]) for one, other in zip(first, second, strict=True))
    assert worst <= tolerance
    for pair, one, other in zip(pairs, first, second, strict=True):
        if one[1] != other[1]:
            close = gap(expected, *pair)
            assert close <= tolerance, f"greedy flags differ at {pair}, where the two best tokens are {close} apart"
    return worst
