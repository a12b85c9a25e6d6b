"""One short run of a case: generate rows, mix, train two steps, change weights."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.core.contexts import GeneratedRow, Sampling, WeightsContext, WritingContext
from harness.core.methods import Objective
from harness.core.progress import Silent
from harness.core.rows import NO_LOSS, Example, Origin, Row
from harness.core.seeds import derive, permutation
from harness.methods.contract import tiny
from harness.methods.contract.broken import require
from harness.methods.contract.case import BATCH, STEPS, Case, Rows
from harness.methods.rewriting import gold
from harness.models.author import TransformersAuthor, restated
from harness.training.job import Stop
from harness.training.step import token_mean

ANCHOR_ROWS = 64
LEARNING_RATE = 3e-3


@dataclass(kw_only=True, eq=False)
class OracleAuthor(TransformersAuthor):
    """An author that knows the gold answers: fast, and right.

    It writes two words that depend on the key and then, to a known prompt, the gold answer.

    Attributes:
        answers: prompt → gold answer.
    """

    answers: dict[tuple[int, ...], str] = field(default_factory=dict)

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        texts = [f"{_word(key, 0)} {_word(key, 1)} {self.answers.get(tuple(p), '')}" for p, key in zip(prompts, keys, strict=True)]
        return [(*self.tokenizer.encode(text, add_special_tokens=False)[: sampling.max_new_tokens - 1], tiny.EOS) for text in texts]


def _word(key: str, place: int) -> str:
    return tiny.WORDS[hashlib.sha256(f"{key} {place}".encode()).digest()[0] % len(tiny.WORDS)]


@dataclass(frozen=True)
class Outcome:
    """Observations of one short run.

    Attributes:
        weights: those that are measured at the end: of a weight mitigation, its own.
        losses: of training, by stop.
        own_loss: of the first step's rows, before and after that step; nan if tokens are not
            learned.
        base: the start weights.
        generated: tokens written, before and in training.
        extra: tokens of forward passes in addition to training's.
        penalties: by stop.
        unmutated: whether rows and start weights are unchanged.
        model: the tuned one.
    """

    weights: Mapping[str, torch.Tensor]
    losses: Sequence[float]
    own_loss: tuple[float, float]
    base: Mapping[str, torch.Tensor]
    generated: int
    extra: int
    penalties: Sequence[float | None]
    unmutated: bool
    model: PreTrainedModel


@cache
def outcome(case: Case, seed: int = 0) -> Outcome:
    """Return the outcome of a case; cached, since several checks read the same run."""
    return train(case, seed)


def train(case: Case, seed: int = 0) -> Outcome:
    """Run a case."""
    model = tiny.MODELS[case.model]()
    base, start = tiny.copied(model.state_dict()), tiny.copied(dict(model.named_parameters()))
    targets, anchor_rows, written = generated(case, model, seed)
    plain, anchor = steps_of(case.objective, targets), encoded(case.objective, anchor_rows, "anchor")
    kept = copy.deepcopy((plain, anchor))
    steps = case.mitigation.mix(plain, anchor)
    model = case.tuning.prepare(model, derive(seed, "adapter"))
    require(any(p.requires_grad for p in model.parameters()), "the prepared model has no trainable parameter")
    own_loss = [_loss_of(model, case.objective, steps[0]), math.nan]

    def look(stop: Stop) -> None:
        if stop.counts.step == 1:
            own_loss[1] = _loss_of(model, case.objective, steps[0])

    stops = {step + 1: BATCH * (step + 1) for step in range(STEPS)}
    reached = tiny.run(
        model,
        steps,
        case.objective,
        tuning=case.tuning,
        mitigation=case.mitigation,
        anchor=anchor,
        base=base,
        stops=stops,
        on_stop=look,
        seed=seed,
        learning_rate=LEARNING_RATE,
    )
    return Outcome(
        weights=_measured(case, start, case.tuning.merged(model)),
        losses=[math.nan if stop.counts.train_loss is None else stop.counts.train_loss for stop in reached],
        own_loss=(own_loss[0], own_loss[1]),
        base=base,
        generated=sum(one.generated_tokens for one in written) + reached[-1].counts.generated_tokens,
        extra=case.mitigation.extra_tokens(steps, anchor),
        penalties=[stop.counts.train_penalty for stop in reached],
        unmutated=(plain, anchor) == kept and tiny.same(base, tiny.MODELS[case.model]().state_dict()),
        model=model,
    )


def _measured(case: Case, start: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return the measured weights: those of a weight mitigation, else the tuned ones.

    Other models have multiples of the start weights: the last one 1, the one before it 1.5, ….
    """
    mitigation = case.mitigation
    if not mitigation.coefficients:
        return tuned
    scales = {model: 1 + place / 2 for place, model in enumerate(reversed(mitigation.models))}
    others = {model: {name: scale * value for name, value in start.items()} for model, scale in scales.items()}
    coefficient = mitigation.coefficient if mitigation.coefficient is not None else mitigation.coefficients[0]
    return mitigation.weights(WeightsContext(start, tuned, others.__getitem__, frozenset()), coefficient)


def target_rows(case: Case, seed: int = 0) -> list[Row]:
    """Return the target rows of a case in the order of a seed."""
    rows = Rows(case.kind).rows("train")
    return [rows[i] for i in permutation(seed, len(rows), "data-order")]


def encoded(objective: Objective, rows: Sequence[Row], origin: Origin) -> list[Example]:
    """Return rows as tokens."""
    return [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, origin) for row in rows]


def steps_of(objective: Objective, rows: Sequence[Row]) -> list[list[Example]]:
    """Return the target rows of each step as tokens."""
    target = encoded(objective, rows[: BATCH * STEPS], "target")
    return [target[i : i + BATCH] for i in range(0, len(target), BATCH)]


def generated(case: Case, model: PreTrainedModel, seed: int) -> tuple[list[Row], list[Row], list[GeneratedRow]]:
    """Return target rows and anchor rows, with generated ones in their place, and all outcomes."""
    rows, anchor = target_rows(case, seed), tiny.rows(case.anchor_kind, ANCHOR_ROWS, seed=1)
    context = _writing(case.objective, model, rows, anchor, seed)
    found: list[GeneratedRow] = []
    if case.objective.writes:
        found = case.objective.write(rows, context)
        rows = [one.row for one in found if one.row is not None]
    if case.mitigation.writes == "targets":
        found = case.mitigation.write(rows, context)
        rows = [one.row for one in found if one.row is not None]
    if case.mitigation.writes == "anchor":
        found = case.mitigation.write(rows[: BATCH * STEPS], context)
        anchor = [one.row for one in found if one.row is not None]
    return rows, anchor, found


def _writing(objective: Objective, model: PreTrainedModel, rows: Sequence[Row], anchor: Sequence[Row], seed: int) -> WritingContext:
    own = OracleAuthor(
        model=model,
        tokenizer=tiny.tokenizer(),
        prompt_format=objective.prompt_format,
        max_length=tiny.MAX_LENGTH,
        dtype="float32",
        scored_tokens=512,
        progress=Silent(),
    )
    own.answers = {own.prompt(row): gold(row) for row in rows if row.kind == "completion"}
    return WritingContext(
        own=own,
        other=lambda _: own,
        restated=restated,
        prompt_format=objective.prompt_format,
        anchor=anchor,
        seed=derive(seed, "writing"),
        progress=Silent(),
    )


def _loss_of(model: PreTrainedModel, objective: Objective, examples: Sequence[Example]) -> float:
    """Return the mean nats per supervised token; nan if no tokens are learned."""
    if objective.learns != "tokens":
        return math.nan
    batch = objective.collate(examples, tiny.PAD, tiny.MAX_LENGTH)
    targets = int((batch["labels"][:, 1:] != NO_LOSS).sum())
    with torch.no_grad():
        outputs: Any = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return float(token_mean(outputs, batch["labels"], targets))
