"""Likelihood measures that lm-eval has no metric for: nats per token and bits per byte of held-out gold answers and texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.data.tokens import encode, written
from harness.errors import EvaluationError, explain
from harness.evaluation import batches
from harness.interfaces import Example, Progress, PromptFormat, Row

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.evaluation.backends import Evaluation

Mask = Sequence[bool]


def answer_nats(model: PreTrainedModel, examples: Sequence[Example], tokens: int, progress: Progress) -> list[float]:
    """Return the negative log-likelihood of each example's supervised tokens given all that precedes them, in nats.

    Args:
        model: in evaluation mode.
        examples: rows of token ids; ``supervised`` marks the answer.
        tokens: padded tokens of one forward pass.
        progress: advanced by rows.

    Returns:
        One non-negative number an example, in their order: −Σ_t log p(x_t | x_<t) over supervised t ≥ 1.
    """
    return [total for (total,) in masked_nats(model, examples, [[example.supervised] for example in examples], tokens, progress)]


def masked_nats(
    model: PreTrainedModel, examples: Sequence[Example], masks: Sequence[Sequence[Mask]], tokens: int, progress: Progress
) -> list[list[float]]:
    """Return, for each example and each of its K masks, the nats of the marked tokens, as ``answer_nats`` does.

    Rows are batched by length and padded on the right; the softmax is taken in float32, sums in float64.
    """
    import torch

    nats: list[list[float]] = [[] for _ in examples]

    def measure(batch: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return _batch_nats(model, [examples[i] for i in batch], [masks[i] for i in batch])

    for batch, values in batches.run([len(example.input_ids) for example in examples], tokens, measure):
        for index, value in zip(batch, values.tolist(), strict=True):
            nats[index] = value
        progress.advance(len(batch))
    return nats


def _batch_nats(model: PreTrainedModel, examples: Sequence[Example], masks: Sequence[Sequence[Mask]]) -> torch.Tensor:
    """Return the nats of each row under each mask, shape (B, K)."""
    import torch

    ids, attention = batches.stack(examples)  # (B, T)
    wanted = torch.zeros(len(masks[0]), *ids.shape, dtype=torch.bool)  # (K, B, T)
    for i, row in enumerate(masks):
        for k, mask in enumerate(row):
            wanted[k, i, : len(mask)] = torch.tensor(mask)
    device = model.device
    logits = model(input_ids=ids.to(device), attention_mask=attention.to(device)).logits[:, :-1].float()  # (B, T-1, V)
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, ids[:, 1:, None].to(device)).squeeze(-1)  # (B, T-1)
    return torch.stack([-log_probs.masked_fill(~marked[:, 1:].to(device), 0.0).double().sum(dim=1).cpu() for marked in wanted], dim=1)


def samples(
    suite: str,
    task: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    ids: Sequence[int],
    evaluation: Evaluation,
    max_length: int,
    progress: Progress,
) -> pd.DataFrame:
    """Score the gold answers of rows, one sample an item; of a text, every token but the first.

    - ``nats_per_token``: Σ nats / Σ tokens over items: an item's value is its own mean, its weight its supervised tokens. EOS (or the
      end of a turn) is one of them.
    - ``bits_per_byte``: Σ nats / ln 2 / Σ bytes, bytes being those of the scored text in UTF-8. EOS spells no text, so its nats are left
      out. A text's first token is scored, and its bytes count, only where BOS stands before it. Empty under a chat template, which writes
      tokens of its own between the texts.

    Returns:
        Columns as in schema.SAMPLE_COLUMNS, with ``metric.*`` and ``weight.*`` of both.

    Raises:
        EvaluationError: for an answer beyond the context, or one without a finite likelihood.
    """
    examples = encoded(suite, rows, tokenizer, evaluation.prompt_format, max_length)
    is_plain = evaluation.prompt_format == "plain"
    pairs = zip(rows, examples, strict=True)
    spelled = [written(row, tokenizer, example) if is_plain or row.kind == "text" else None for row, example in pairs]
    masks = [[example.supervised, text.spells if text else ()] for example, text in zip(examples, spelled, strict=True)]
    nats = masked_nats(model, examples, masks, evaluation.likelihood_tokens, progress)
    require_finite(suite, [total for total, _ in nats])
    table = []
    for index, row, example, text, (total, of_text) in zip(ids, rows, examples, spelled, nats, strict=True):
        measured = {"metric.nats_per_token": total / example.supervised_tokens, "weight.nats_per_token": float(example.supervised_tokens)}
        if text and text.bytes:
            measured |= {"metric.bits_per_byte": of_text / math.log(2) / text.bytes, "weight.bits_per_byte": float(text.bytes)}
        table.append(item(suite, task, "none", index, row, example) | {"log_likelihoods": [-total]} | measured)
    return pd.DataFrame(table)


def guessing(model: PreTrainedModel) -> float:
    """Return the nats per token of a model that knows nothing: every token of its vocabulary equally likely, ln(vocabulary)."""
    return math.log(int(model.config.get_text_config().vocab_size))


def encoded(
    suite: str, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, max_length: int
) -> list[Example]:
    """Return rows as tokens; none may be left without a scored one, since the suite would then be of other items than before."""
    examples = [encode(row, tokenizer, prompt_format, max_length, "target") for row in rows]
    if cut := sum(example.supervised_tokens == 0 for example in examples):
        got = f"{cut} of {len(examples)} answers beyond the model's {max_length} tokens"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="answers within the context", fix="a model with a longer context"))
    return examples


def require_finite(suite: str, values: Sequence[float]) -> None:
    """Raise EvaluationError if a value, one an item, is no number or infinite."""
    if broken := sum(not math.isfinite(value) for value in values):
        got = f"{broken} of {len(values)} answers without a finite likelihood"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="numbers", fix="look for diverged weights"))


def item(suite: str, task: str, filter_name: str, index: int, row: Row, example: Example) -> dict[str, Any]:
    """Return the columns of one item's sample that say what was scored, for the gold answer of a row."""
    prompt, target = "\n".join(turn.content for turn in row.turns[:-1]), row.turns[-1].content
    return {
        "suite": suite,
        "task": task,
        "filter": filter_name,
        "doc_id": index,
        "doc_hash": hashed(row.id),
        "prompt_hash": hashed(repr(example.input_ids)),
        "target_hash": hashed(target),
        "prompt": prompt,
        "target": target,
        "item": f"{prompt} {target}",
        "choices": None,
        "log_likelihoods": None,
        "text": None,
        "chance": float("nan"),
        "unparsed": False,
        "prompt_truncated": False,
        "answer_truncated": example.truncated,
    }


def hashed(text: str) -> str:
    """Return the SHA-256 of a text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
