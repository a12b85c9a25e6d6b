"""Divergences of a tuned model from its base on declared text, over the whole vocabulary.

p_b and p_t are the next-token distributions of base and tuned model at one place of the text:

kl_base_tuned       KL(p_b ‖ p_t), predicts forgetting in Shenfeld et al. 2025 (arXiv 2509.04259)
kl_tuned_base       KL(p_t ‖ p_b)
*_sequence          the same, summed over the tokens of an item
forgetting_ce_hard  −log p_t(y) + log p_b(y), y the base's likeliest token (Kalajdzievski 2024,
                    arXiv 2401.05605, section 3.1)
forgetting_ce_soft  cross-entropy of p_t under p_b, minus the entropy of p_b; equal to
                    kl_base_tuned, by another formula
agreement           whether both have the same likeliest token

Units are nats; agreement is a share. The cross-entropies are the paper's, minus the base's own
value, so that no change is 0. The paper leaves open whether its target is the base's likeliest
token or its distribution, so both are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.core.progress import Progress
from harness.core.rows import Example, Row
from harness.evaluation.likelihood import encoded, hashed, item, require_finite
from harness.evaluation.suites import Suite
from harness.models import batches, forward, halved, rotary
from harness.models.generate import Ids, draw, end_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.core.sources import EvaluationBackend

NUMBERS_AT_ONCE = 2**24
"""Places × vocabulary of one step of the sums, in float64: 128 MB an array."""

NUMBERS_HELD = 2**28
"""Logits of the base that wait for the live model's: 1 GiB."""

TOKEN_MEANS = ("kl_base_tuned", "kl_tuned_base", "forgetting_ce_hard", "forgetting_ce_soft", "agreement")
SUMS = ("kl_base_tuned", "kl_tuned_base")


def _itself(_: PreTrainedModel) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Base:
    """The base of a run, computed by the live model.

    Attributes:
        weights: live model → context in which it computes as its base. At volume 0 the model is its
            own base.
        drawn: suite → texts of the base, kept so that every point of a run is on the same text.
    """

    weights: Callable[[PreTrainedModel], AbstractContextManager[None]] = _itself
    drawn: dict[str, list[Ids]] = field(default_factory=dict)


def measures(base: torch.Tensor, tuned: torch.Tensor) -> dict[str, torch.Tensor]:
    """Compare two next-token distributions place by place.

    Args:
        base: logits of shape (N, V). Log-softmax and sums are float64, so that rounding cannot make
            a divergence negative.
        tuned: logits of the same shape.

    Returns:
        The measures of TOKEN_MEANS by name, float64 of shape (N,).
    """
    import torch

    log_b, log_t = torch.log_softmax(base.double(), dim=-1), torch.log_softmax(tuned.double(), dim=-1)
    p_b, p_t = log_b.exp(), log_t.exp()
    likeliest = log_b.argmax(dim=-1, keepdim=True)  # (N, 1)
    return {
        "kl_base_tuned": _expected(p_b, log_b - log_t),
        "kl_tuned_base": _expected(p_t, log_t - log_b),
        "forgetting_ce_hard": (log_b.gather(-1, likeliest) - log_t.gather(-1, likeliest)).squeeze(-1),
        "forgetting_ce_soft": -_expected(p_b, log_t) + _expected(p_b, log_b),
        "agreement": (likeliest.squeeze(-1) == log_t.argmax(dim=-1)).double(),
    }


def _expected(probabilities: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return Σ_v p_v x_v, shape (N,); a token of probability 0 always adds 0."""
    return (probabilities * values).masked_fill(probabilities == 0, 0.0).sum(dim=-1)


def compare(
    model: PreTrainedModel, base: Base, examples: Sequence[Example], *, dtype: str, tokens: int, progress: Progress
) -> list[dict[str, float]]:
    """Compare the live model with its base at the supervised tokens of examples.

    The base reads many batches before the live model reads them, since on a GPU each exchange of
    weights copies all of them; its logits wait in the memory of the host.

    Args:
        model: in evaluation mode.
        base: its base.
        examples: with at least one supervised token each.
        dtype: ``float32`` or ``bfloat16``, of both forward passes.
        tokens: padded tokens of one forward pass.
        progress: advanced by rows.

    Returns:
        For each example the sums over its tokens of TOKEN_MEANS and of ``log_likelihood``, the live
        model's.
    """
    import torch

    found: list[dict[str, float]] = [{} for _ in examples]
    half, alone = dtype == "bfloat16", rotary.limit(model.config)
    lengths = [len(example.input_ids) for example in examples]
    for group in _groups(examples, batches.batches(lengths, tokens, alone), int(model.config.get_text_config().vocab_size)):
        rows = [examples[i] for i in group]
        sizes = [lengths[i] for i in group]
        before: dict[int, torch.Tensor] = {}

        def read(batch: list[int], rows: list[Example] = rows) -> torch.Tensor:
            return forward.logits(model, [rows[i] for i in batch], half)

        with torch.inference_mode(), base.weights(model), halved.weights(model, half):
            for batch, logits in batches.run(sizes, tokens, read, alone):
                parts = logits.split([rows[i].supervised_tokens for i in batch])
                before |= {i: part.cpu() for i, part in zip(batch, parts, strict=True)}
        with torch.inference_mode(), halved.weights(model, half):
            for batch, logits in batches.run(sizes, tokens, read, alone):
                kept = torch.cat([before.pop(i) for i in batch]).to(logits.device)
                for i, values in zip(batch, _summed(kept, logits, [rows[i] for i in batch]), strict=True):
                    found[group[i]] = values
                progress.advance(len(batch))
    return found


def _groups(examples: Sequence[Example], made: Iterable[list[int]], vocabulary: int) -> Iterator[list[int]]:
    """Yield the rows of some batches, as many as their logits may be held at once."""
    group: list[int] = []
    held = 0
    for batch in made:
        numbers = vocabulary * sum(examples[i].supervised_tokens for i in batch)
        if group and held + numbers > NUMBERS_HELD:
            yield group
            group, held = [], 0
        group += batch
        held += numbers
    if group:
        yield group


def _summed(before: torch.Tensor, after: torch.Tensor, examples: Sequence[Example]) -> list[dict[str, float]]:
    """Return the sums of each example from logits (N, V) at all places."""
    import torch

    targets = forward.targets(examples)
    places = max(1, NUMBERS_AT_ONCE // after.shape[-1])
    parts = []
    for b, a, target in zip(before.split(places), after.split(places), targets.to(after.device).split(places), strict=True):
        chosen = torch.log_softmax(a.double(), dim=-1).gather(-1, target[:, None]).squeeze(-1)
        parts.append(measures(b, a) | {"log_likelihood": chosen})
    whole = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    counts = [example.supervised_tokens for example in examples]
    by_row = {name: [float(values.sum()) for values in tensor.split(counts)] for name, tensor in whole.items()}
    return [{name: values[i] for name, values in by_row.items()} for i in range(len(examples))]


def samples(
    suite: Suite,
    task: str,
    model: PreTrainedModel,
    base: Base,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    ids: Sequence[int],
    evaluation: EvaluationBackend,
    max_length: int,
    dtype: str,
    progress: Progress,
) -> pd.DataFrame:
    """Compare the live model with its base on rows, one sample an item.

    The text is the rows' gold answers (of a text row, every token but the first), or a text that
    the base or the tuned model writes after each row's prompt: everything before its first answer
    (of a text row, BOS, or else the first token).

    For gold text and the base's, measures per token are ratios over items, Σ / Σ tokens. Text of
    the tuned model differs between points and so do its lengths, so that before and after have no
    weights in common: there the value of an item is the mean over its tokens, and all items have
    equal weight.

    Returns:
        Columns as in schema.SAMPLE_COLUMNS with ``metric.*`` and ``weight.*``; ``text`` is the
        sampled text, ``log_likelihoods`` the live model's of the scored text.

    Raises:
        EvaluationError: for an answer beyond the context, or a divergence that is not finite.
    """
    examples, tokens = encoded(suite.name, rows, tokenizer, evaluation.prompt_format, max_length), evaluation.likelihood_tokens
    if suite.text != "gold":

        def write(prompts: Sequence[Ids], keys: Sequence[str]) -> list[Ids]:
            limits: dict[str, Any] = {"max_new_tokens": suite.max_new_tokens or 0, "max_length": max_length}
            return draw(model, tokenizer, prompts, keys, **limits, dtype=dtype, tokens=tokens, progress=progress)

        examples = _sampled(suite, model, base, end_tokens(model, tokenizer), examples, write)
    found = compare(model, base, examples, dtype=dtype, tokens=tokens, progress=progress)
    require_finite(suite.name, [sum(values.values()) for values in found])
    table = []
    for index, row, example, values in zip(ids, rows, examples, found, strict=True):
        length = example.supervised_tokens
        measured = {f"metric.{name}": values[name] / length for name in TOKEN_MEANS}
        measured |= {f"metric.{name}_sequence": values[name] for name in SUMS}
        if suite.text != "tuned":
            measured |= {f"weight.{name}": float(length) for name in TOKEN_MEANS}
        about = item(suite.name, task, suite.filter_name, index, row, example)
        about |= {} if suite.text == "gold" else _written(suite, tokenizer, example)
        table.append(about | {"log_likelihoods": [values["log_likelihood"]]} | measured)
    return pd.DataFrame(table)


def _sampled(
    suite: Suite,
    model: PreTrainedModel,
    base: Base,
    ends: frozenset[int],
    gold: Sequence[Example],
    write: Callable[[Sequence[Ids], Sequence[str]], list[Ids]],
) -> list[Example]:
    """Return examples with answers that the base or the live model writes."""
    prompts = [example.input_ids[: example.supervised.index(True, 1)] for example in gold]
    keys = [example.row_id for example in gold]
    if suite.text == "tuned":
        texts = write(prompts, keys)
    else:
        if suite.name not in base.drawn:
            with base.weights(model):
                base.drawn[suite.name] = write(prompts, keys)
        texts = base.drawn[suite.name]
    return [
        replace(
            example,
            input_ids=(*prompt, *text),
            supervised=(*[False] * len(prompt), *[True] * len(text)),
            truncated=text[-1] not in ends,
        )
        for example, prompt, text in zip(gold, prompts, texts, strict=True)
    ]


def _written(suite: Suite, tokenizer: PreTrainedTokenizerBase, example: Example) -> dict[str, Any]:
    """Return the columns of a sampled text that replace those of the gold answer.

    Hashes leave out the tuned model's text, which differs between points: an item is the same one
    at all of them.
    """
    start = example.supervised.index(True)
    text = str(tokenizer.decode(list(example.input_ids[start:]), skip_special_tokens=True))
    if suite.text == "base":
        return {"text": text, "target": text, "target_hash": hashed(text)}
    return {"text": text, "target": "", "target_hash": hashed(""), "prompt_hash": hashed(repr(example.input_ids[:start]))}
