"""Nats per token and bits per byte of held-out gold answers and texts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.core.errors import EvaluationError, explain
from harness.core.progress import Progress
from harness.core.rows import Example, PromptFormat, Row
from harness.data.tokens import encode, written
from harness.models.score import masked_nats

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.core.sources import EvaluationBackend


def samples(
    suite: str,
    task: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    ids: Sequence[int],
    evaluation: EvaluationBackend,
    max_length: int,
    progress: Progress,
) -> pd.DataFrame:
    """Score the gold answers of rows, one sample per item.

    Of a text, every token but the first is scored.

    - ``nats_per_token``: Σ nats / Σ tokens over items: an item's value is its own mean, its weight
      the number of its supervised tokens. EOS (or the end of a turn) is one of them.
    - ``bits_per_byte``: Σ nats / ln 2 / Σ bytes, the bytes of the scored text in UTF-8. EOS spells
      no text, so its nats are left out. A text's first token is scored, and its bytes count, only
      if BOS precedes it. Empty under a chat template, which adds tokens between the texts.

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
    """Return the nats per token of uniform guessing, ln(vocabulary)."""
    return math.log(int(model.config.get_text_config().vocab_size))


def encoded(
    suite: str, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat, max_length: int
) -> list[Example]:
    """Return rows as tokens.

    Raises EvaluationError if one has no scored token: without it, the suite would have other items
    than before.
    """
    examples = [encode(row, tokenizer, prompt_format, max_length, "target") for row in rows]
    if cut := sum(example.supervised_tokens == 0 for example in examples):
        got = f"{cut} of {len(examples)} answers beyond the model's {max_length} tokens"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="answers within the context", fix="a model with a longer context"))
    return examples


def require_finite(suite: str, values: Sequence[float]) -> None:
    """Raise EvaluationError if the value of an item is NaN or infinite."""
    if broken := sum(not math.isfinite(value) for value in values):
        got = f"{broken} of {len(values)} answers without a finite likelihood"
        raise EvaluationError(explain(f"suite {suite}", got=got, allowed="numbers", fix="look for diverged weights"))


def item(suite: str, task: str, filter_name: str, index: int, row: Row, example: Example) -> dict[str, Any]:
    """Return the columns of an item's sample that identify the row and its gold answer."""
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
