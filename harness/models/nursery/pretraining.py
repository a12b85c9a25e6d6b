"""Pretraining of the nursery's models, a loop of its own.

Documents of the base recipe are packed into sequences of constant length; AdamW, linear warm-up,
cosine decay to a tenth.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.seeds import derive, permutation, seed_torch, untouched_global_streams
from harness.data.tinyworld import vocabulary, world
from harness.models.nursery.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

log = logging.getLogger(__name__)

THREADS = 1
"""Threads of pretraining, on any machine: a second one gains little at these sizes, and the last
digits of the weights depend on their number."""

LOOP_VERSION = 2
"""To be raised by any change of the loop or the architecture that changes the weights."""


def pretrain(recipe: Recipe) -> tuple[LlamaForCausalLM, float]:
    """Pretrain a model on the base recipe, on the CPU.

    Returns:
        The model in evaluation mode and its last loss, in nats per token.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with untouched_global_streams():
            seed_torch(derive(recipe.seed, "nursery", "weights"))
            model = build(recipe)
        return model, _loop(recipe, model.train())
    finally:
        torch.set_num_threads(threads)
        model.eval()


def _loop(recipe: Recipe, model: LlamaForCausalLM) -> float:
    import torch

    losses = (_loss(model, torch.from_numpy(batch), recipe.prompt_weight) for batch in batches(recipe))
    return fit(recipe, model, losses, tokens=recipe.tokens, learning_rate=recipe.learning_rate, stage="pretraining")


def fit(recipe: Recipe, model: LlamaForCausalLM, losses: Iterator[torch.Tensor], *, tokens: int, learning_rate: float, stage: str) -> float:
    """Train in place: AdamW, linear warm-up, cosine decay to a tenth.

    Args:
        recipe: gives batch, context, warm-up and weight decay.
        model: in training mode.
        losses: endless, in nats per token; each is computed from the current weights when the
            iterator reaches it.
        tokens: budget of the stage.
        learning_rate: its peak.
        stage: its name, for the log.

    Returns:
        The last loss, smoothed.
    """
    import torch

    steps = max(1, tokens // (recipe.batch * recipe.context))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps, recipe.warmup))
    smooth = math.nan
    for step, loss in zip(range(1, steps + 1), losses, strict=False):
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        value = float(loss.detach())
        smooth = value if math.isnan(smooth) else 0.95 * smooth + 0.05 * value
        if step % max(1, steps // 10) == 0:
            log.info("%s, %d layers of width %d: step %d of %d, loss %.3f", stage, recipe.layers, recipe.width, step, steps, smooth)
    return smooth


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, prompt_weight: float) -> torch.Tensor:
    """Return the weighted mean loss of packed documents, in nats per token.

    ``ids`` has shape (S, T).
    """
    import torch
    from torch.nn.functional import cross_entropy

    logits, wanted = model(input_ids=ids, use_cache=False).logits[:, :-1], ids[:, 1:]
    losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), wanted.reshape(-1), reduction="none")
    last = torch.zeros_like(wanted, dtype=torch.bool)
    last[:, :-1] = wanted[:, 1:] == vocabulary.VOCABULARY.index(vocabulary.END)
    weights = torch.where(last, 1.0, prompt_weight).reshape(-1)
    return (losses * weights).sum() / weights.sum()


def batches(recipe: Recipe) -> Iterator[NDArray[np.int64]]:
    """Yield endless epochs of shuffled, packed documents as token ids (batch, context)."""
    number = {word: i for i, word in enumerate(vocabulary.VOCABULARY)}
    begin, end = number[vocabulary.BEGIN], number[vocabulary.END]
    texts = [[begin, *(number[word] for word in text.split()), end] for text in world.documents()]
    size = recipe.batch * recipe.context
    waiting: list[int] = []
    epoch = 0
    while True:
        for index in permutation(recipe.seed, len(texts), "nursery", "documents", str(epoch)):
            waiting += texts[index]
            if len(waiting) >= size:
                yield np.array(waiting[:size]).reshape(recipe.batch, recipe.context)
                del waiting[:size]
        epoch += 1


def _rate(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak rate at a step."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1.0, steps - rising)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))


def build(recipe: Recipe) -> LlamaForCausalLM:
    """Return the model with fresh weights."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(_config(recipe))


def _config(recipe: Recipe) -> LlamaConfig:
    from transformers import LlamaConfig

    number = {word: i for i, word in enumerate(vocabulary.VOCABULARY)}
    settings: dict[str, Any] = {
        "vocab_size": len(number),
        "hidden_size": recipe.width,
        "intermediate_size": recipe.mlp,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.heads,
        "max_position_embeddings": recipe.context,
        "tie_word_embeddings": True,
        "initializer_range": 0.5 / math.sqrt(recipe.width),
        "bos_token_id": number[vocabulary.BEGIN],
        "eos_token_id": number[vocabulary.END],
        "pad_token_id": number[vocabulary.PAD],
    }
    return LlamaConfig(**settings)
