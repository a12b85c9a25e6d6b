"""Chat models of the nursery: a base model, trained further on tinyworld's chat recipe.

The recipe is in ``harness.data.tinyworld.chat_world``; benchmarks/tinyworld.md describes the
models' knowledge and answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from harness.config.strict import check
from harness.core.seeds import permutation
from harness.data.tinyworld import chat_world, vocabulary
from harness.data.tinyworld.chat_world import Wording
from harness.models.nursery.family import Nursery, loaded
from harness.models.nursery.pretraining import THREADS, fit

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

LOOP_VERSION = 1
"""To be raised by any change of the loop that changes the weights."""


@dataclass(frozen=True, kw_only=True)
class NurseryChat(Nursery):
    """A chat model: the base model of the same recipe, trained further on chat documents.

    Every field is part of its hash.

    Attributes:
        chat_tokens: budget of the second stage.
        chat_learning_rate: its peak; it rises and falls as in pretraining.
        style: that of its answers, each of several wordings.
        skill_rows: questions for the verifiable skill in the chat recipe: few of them leave it able
            in part.
    """

    chat_tokens: int
    chat_learning_rate: float
    style: Wording = "short"
    skill_rows: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        for name in ("chat_tokens", "chat_learning_rate"):
            check(f"model.{name}", getattr(self, name), "greater than 0", lambda value: value > 0)
        check("model.style", self.style, ", ".join(chat_world.WORDINGS), lambda value: value in chat_world.WORDINGS)
        most = len(chat_world.skill_questions(held_out=False))
        check("model.skill_rows", self.skill_rows, f"in [0, {most}]", lambda value: 0 <= value <= most)

    @property
    def base(self) -> Nursery:
        """The nursery model it starts from."""
        return Nursery(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Nursery)})

    @property
    def recipe(self) -> str:
        """SHA-256 of everything that decides the weights.

        That is the base model's hash, the fields, the loop and the chat recipe.
        """
        chat = chat_world.fingerprint(self.style, self.skill_rows)
        made_of = dataclasses.asdict(self) | {"base": self.base.recipe, "chat_loop": LOOP_VERSION, "threads": THREADS, "chat": chat}
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a fresh tokenizer: the nursery's with a chat template."""
        tokenizer = super().tokenizer()
        tokenizer.chat_template = chat_world.TEMPLATE
        return tokenizer

    def _trained(self, start: Path | None) -> tuple[LlamaForCausalLM, float]:
        import torch

        model = cast("LlamaForCausalLM", loaded(start) if start else self.base.load())
        threads = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            return model, _loop(self, model.train())
        finally:
            torch.set_num_threads(threads)
            model.eval()


def _loop(nursery: NurseryChat, model: LlamaForCausalLM) -> float:
    """Train in place on the chat recipe; return the last loss, in nats per token.

    Only the order of the documents is random.
    """
    import torch

    losses = (_loss(model, torch.from_numpy(ids), torch.from_numpy(weights)) for ids, weights in batches(nursery))
    return fit(nursery, model, losses, tokens=nursery.chat_tokens, learning_rate=nursery.chat_learning_rate, stage="chat stage")


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean loss of packed documents, in nats per token.

    ``ids`` and ``weights`` have shape (S, T).
    """
    from torch.nn.functional import cross_entropy

    logits, wanted, weights = model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:], weights[:, 1:].reshape(-1)
    losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1), reduction="none")
    return (losses * weights).sum() / weights.sum()


def weighted(prompt: str, answer: str, prompt_weight: float) -> list[tuple[str, float]]:
    """Return the words of a document, each with its weight in the loss.

    The words of an answer weigh 1; a base text is weighted as in pretraining.
    """
    words = [(word, prompt_weight) for word in (vocabulary.BEGIN, *prompt.split())]
    if prompt:
        return [*words, *((word, 1.0) for word in (*answer.split(), vocabulary.END))]
    *before, last = answer.split()
    return [*words, *((word, prompt_weight) for word in before), (last, 1.0), (vocabulary.END, prompt_weight)]


def batches(nursery: NurseryChat) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield endless epochs of shuffled, packed documents as token ids and weights.

    Both have shape (batch, context).
    """
    numbers = {word: i for i, word in enumerate(vocabulary.VOCABULARY)}
    texts = [
        [(numbers[word], weight) for word, weight in weighted(prompt, answer, nursery.prompt_weight)]
        for prompt, answer in chat_world.documents(nursery.style, nursery.skill_rows)
    ]
    shape, size = (nursery.batch, nursery.context), nursery.batch * nursery.context
    waiting: list[tuple[int, float]] = []
    epoch = 0
    while True:
        for index in permutation(nursery.seed, len(texts), "nursery", "chat", str(epoch)):
            waiting += texts[index]
            if len(waiting) >= size:
                ids, weights = zip(*waiting[:size], strict=True)
                yield np.array(ids).reshape(shape), np.array(weights, np.float32).reshape(shape)
                del waiting[:size]
        epoch += 1
