"""Two-layer random models, a tokenizer of a few words, rows of every kind, and one short way to train: for tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from harness.config.resolution import Resolved
from harness.config.run_config import Training
from harness.core.contexts import LearningContext, Penalty
from harness.core.methods import Objective
from harness.core.progress import Interrupted, Progress, Silent
from harness.core.rows import Example, Origin, Row, RowKind, Turn
from harness.core.seeds import seed_torch, untouched_global_streams
from harness.core.tuning import Tuning
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.authors import context_of
from harness.training.checkpoint import Checkpoint
from harness.training.loop import Stop, train

torch.set_num_threads(1)  # on matrices this small a second thread only waits, for milliseconds where the machine is busy

WORDS = [f"w{i}" for i in range(40)]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <eos> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
VOCABULARY = len(SPECIAL) + len(WORDS)
PAD, BOS, EOS = 0, 1, 2
MAX_LENGTH = 24


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """One token a word."""
    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )
    made.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    return made


def llama(*, tied: bool = True, **changes: Any) -> PreTrainedModel:
    """Two layers, width 16; always the same weights."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "tie_word_embeddings": tied}
    return _seeded(lambda: LlamaForCausalLM(LlamaConfig(**{**sizes, **ends, "initializer_range": 0.2, **changes})))


def gpt_neox(**changes: Any) -> PreTrainedModel:
    """Two layers, width 16: fused attention weights, biases, layer norms, an output head of its own."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    return _seeded(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**{**sizes, **ends, "initializer_range": 0.2, **changes})))


MODELS: Mapping[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gpt_neox": gpt_neox}


def _seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with untouched_global_streams():
        seed_torch(0)
        return make().eval()


def rows(kind: RowKind, count: int, seed: int = 0) -> list[Row]:
    """Different rows of one kind, of 3 to 8 words a turn."""
    draw = random.Random(f"{kind} {seed}")
    roles: dict[str, list[str]] = {
        "text": ["text"],
        "completion": ["user", "assistant"],
        "chat": ["user", "assistant", "user", "assistant"],
    }
    roles["preference"] = ["user", "assistant", "rejected"]
    sentence = lambda: " ".join(draw.choices(WORDS, k=draw.randint(3, 8)))  # noqa: E731
    turns = [
        tuple(
            Turn(role, (" " if role in ("assistant", "rejected") and kind in ("completion", "preference") else "") + sentence())
            for role in roles[kind]
        )
        for _ in range(count)
    ]
    return [Row(made, kind) for made in turns]


def example(*ids: int, supervised: Sequence[int] | None = None, origin: Origin = "target") -> Example:
    """An example whose supervised positions are given; None is all of them."""
    taught = range(len(ids)) if supervised is None else supervised
    return Example(ids, tuple(position in taught for position in range(len(ids))), origin, row_id="-".join(map(str, ids)))


def resolved(**changes: Any) -> Resolved:
    """Float32 on one thread of a CPU."""
    values = {"lr_tuned": False, "dtype": "float32", "evaluation_dtype": "float32", "threads": 1, "processes": 1, "device": "cpu"}
    return Resolved(**{**values, "learning_rate": 1e-2, "max_length": MAX_LENGTH, **changes})


def run(
    model: PreTrainedModel,
    steps: Sequence[Sequence[Example]],
    objective: Objective,
    *,
    penalty: Penalty | None = None,
    training: Training | None = None,
    stops: Mapping[int, int] | None = None,
    on_stop: Callable[[Stop], None] = lambda _: None,
    seed: int = 0,
    progress: Progress | None = None,
    start: Checkpoint | None = None,
    on_state: Callable[[Checkpoint], None] | None = None,
    **changes: Any,
) -> list[Stop]:
    """Train in place and return the stops; by default there is one, at the end.

    The model, prepared, computes as its start model.
    """
    reached: list[Stop] = []

    def stopped(stop: Stop) -> None:
        reached.append(stop)
        on_stop(stop)

    train(
        model,
        steps=steps,
        objective=objective,
        penalty=penalty,
        training=training or Training(),
        resolved=resolved(**changes),
        stops={len(steps): 8 * len(steps)} if stops is None else stops,
        on_stop=stopped,
        seed=seed,
        pad_id=PAD,
        progress=progress or Silent(),
        start=start,
        on_state=on_state,
        learning=None if objective.learns == "tokens" else learning(model, objective, seed, **changes),
    )
    return reached


def learning(model: PreTrainedModel, objective: Objective, seed: int = 0, **changes: Any) -> LearningContext:
    """What a prepared model, as it stands, learns pairs and rewards with."""
    tuning: Tuning = Lora() if hasattr(model, "peft_config") else Full()
    base = copied(model.state_dict())
    return context_of(model, base, tokenizer=tokenizer(), tuning=tuning, objective=objective, resolved=resolved(**changes), seed=seed)


def copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies, so that training does not reach them."""
    return {name: value.detach().clone() for name, value in weights.items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights agree in names and in every bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Until(Silent):
    """Interrupts the work at its n-th step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def advance(self, units: int = 1) -> None:
        self.left -= units
        if self.left == 0:
            raise Interrupted
