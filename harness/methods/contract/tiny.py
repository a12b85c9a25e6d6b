"""Two-layer random models, a word tokenizer, rows of every kind, and a short training."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

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
from harness.core.contexts import LearningContext, Penalty, PenaltyContext
from harness.core.methods import Mitigation, Objective
from harness.core.progress import Progress, Silent
from harness.core.rows import Example, Row, RowKind, Turn
from harness.core.seeds import derive, seed_torch, untouched_global_streams
from harness.core.sources import ModelFacts
from harness.core.tuning import Tuning
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training.authors import context_of
from harness.training.checkpoint import Checkpoint, Checkpoints
from harness.training.job import Callbacks, Job, Stop
from harness.training.loop import train

WORDS = [f"w{i}" for i in range(40)]
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <eos> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
VOCABULARY = len(SPECIAL) + len(WORDS)
PAD, BOS, EOS = 0, 1, 2
MAX_LENGTH = 24

ROLES: Mapping[RowKind, tuple[str, ...]] = {
    "text": ("text",),
    "completion": ("user", "assistant"),
    "chat": ("user", "assistant", "user", "assistant"),
    "preference": ("user", "assistant", "rejected"),
}


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer with one token a word."""
    words = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", chat_template=TEMPLATE
    )
    made.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
    return made


def llama(*, tied: bool = True, **changes: Any) -> PreTrainedModel:
    """Return a Llama of two layers and width 16, always with the same weights."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "tie_word_embeddings": tied}
    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**{**sizes, **ends, "initializer_range": 0.2, **changes})))


def gpt_neox(**changes: Any) -> PreTrainedModel:
    """Return a GPT-NeoX of two layers and width 16, always with the same weights.

    Fused attention weights, biases, layer norms and an untied output head.
    """
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    return seeded(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**{**sizes, **ends, "initializer_range": 0.2, **changes})))


MODELS: Mapping[str, Callable[[], PreTrainedModel]] = {"llama": llama, "gpt_neox": gpt_neox}


def seeded(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Return a model whose random weights are always the same, in evaluation mode."""
    with untouched_global_streams():
        seed_torch(0)
        model: PreTrainedModel = make().eval()
        return model


def rows(kind: RowKind, count: int, seed: int = 0) -> list[Row]:
    """Return different rows of one kind, of 3 to 8 words a turn."""
    draw = random.Random(f"{kind} {seed}")
    spaced = kind in ("completion", "preference")

    def turn(role: str) -> Turn:
        words = " ".join(draw.choices(WORDS, k=draw.randint(3, 8)))
        return Turn(role, f" {words}" if spaced and role in ("assistant", "rejected") else words)

    return [Row(tuple(turn(role) for role in ROLES[kind]), kind) for _ in range(count)]


def resolved(**changes: Any) -> Resolved:
    """Return resolved settings: float32 on one thread of a CPU."""
    values = {"lr_tuned": False, "dtype": "float32", "evaluation_dtype": "float32", "threads": 1, "processes": 1, "device": "cpu"}
    return Resolved(**{**values, "learning_rate": 1e-2, "max_length": MAX_LENGTH, **changes})


def run(
    model: PreTrainedModel,
    steps: Sequence[Sequence[Example]],
    objective: Objective,
    *,
    tuning: Tuning | None = None,
    mitigation: Mitigation | None = None,
    penalty: Penalty | None = None,
    anchor: Sequence[Example] = (),
    base: Mapping[str, torch.Tensor] | None = None,
    training: Training | None = None,
    stops: Mapping[int, int] | None = None,
    on_stop: Callable[[Stop], None] = lambda _: None,
    seed: int = 0,
    progress: Progress | None = None,
    start: Checkpoint | None = None,
    on_state: Callable[[Checkpoint], None] | None = None,
    restarts: Sequence[int] = (),
    **changes: Any,
) -> list[Stop]:
    """Train a prepared model in place and return the stops, by default the end alone.

    Without ``tuning`` it is full or LoRA; without ``base`` the model is untrained; ``penalty`` is
    added where there is no mitigation.
    """
    reached: list[Stop] = []

    def stopped(stop: Stop) -> None:
        reached.append(stop)
        on_stop(stop)

    job = Job(
        model=Given(model),
        tuning=tuning or _tuning_of(model),
        objective=objective,
        mitigation=mitigation or Added(penalty),
        training=training or Training(),
        resolved=resolved(**changes),
        seed=seed,
        steps=steps,
        anchor=anchor,
        stops={len(steps): 8 * len(steps)} if stops is None else stops,
        pad_id=PAD,
        checkpoints=cast(Checkpoints, None),  # none is read
        restarts=restarts,
    )
    callbacks = Callbacks(on_stop=stopped, on_checkpoint=on_state, progress=progress or Silent())
    train(job, model, base or copied(model.state_dict()), callbacks, start=start)
    return reached


@dataclass(frozen=True)
class Added(Mitigation):
    """A mitigation that adds a given penalty, or none."""

    given: Penalty | None = None

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        return self.given


@dataclass(frozen=True)
class Given:
    """A model source that holds a live model."""

    model: PreTrainedModel

    def facts(self) -> ModelFacts:
        return ModelFacts(params_total=1, context_length=MAX_LENGTH, content={})

    def longest_input(self) -> int:
        return MAX_LENGTH

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tokenizer()

    def load(self) -> PreTrainedModel:
        return self.model

    def weights_sha256(self) -> str:
        return ""


def _tuning_of(model: PreTrainedModel) -> Tuning:
    return Lora() if hasattr(model, "peft_config") else Full()


def learning(
    model: PreTrainedModel,
    objective: Objective,
    seed: int = 0,
    *,
    tuning: Tuning | None = None,
    base: Mapping[str, torch.Tensor] | None = None,
    **changes: Any,
) -> LearningContext:
    """Return the inputs of an objective that learns pairs or rewards, for a prepared model.

    Without ``tuning`` it is full or LoRA; without ``base`` the model is untrained.
    """
    return context_of(
        model,
        base or copied(model.state_dict()),
        tokenizer=tokenizer(),
        tuning=tuning or _tuning_of(model),
        objective=objective,
        resolved=resolved(**changes),
        seed=derive(seed, "learning"),
    )


def logits(model: PreTrainedModel) -> torch.Tensor:
    """Return the logits of two fixed sequences, float32 of shape (2, 6, V)."""
    ids = torch.tensor([[BOS, 7, 8, 9, 10, 11], [BOS, 20, 12, 30, 9, 7]])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def copied(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return copies of weights, which training does not reach."""
    return {name: value.detach().clone() for name, value in weights.items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights agree in names and in every bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
