"""Pairs of methods, found by walking conf/: which go together, and one short run of each that does.

Every pair of the three groups is run, the third group at its plainest: tuning with objective
(mitigation none), tuning with mitigation (objective sft), objective with mitigation (tuning full).
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from harness.config import combinations, composition, paths
from harness.config.run_config import RunConfig
from harness.core.contexts import GeneratedRow, PenaltyContext, Sampling, WeightsContext, WritingContext
from harness.core.errors import ConfigError
from harness.core.methods import Mitigation, Objective
from harness.core.progress import Silent
from harness.core.rows import Example, Origin, Row, RowKind, Split
from harness.core.seeds import derive, permutation
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.methods.judge import Judge
from harness.methods.mitigation.chat_vector import ChatPair
from harness.methods.rewriting import gold
from harness.models.author import TransformersAuthor, restated
from harness.training.step import token_mean
from tests.support import tiny

GROUPS = ["tuning", "objective", "mitigation"]
BATCH, STEPS, ANCHOR = 8, 2, 64
ROWS = 96
"""Of the source: more than are trained on, so that a method may leave rows out."""

KINDS: dict[RowKind, str] = {"completion": "plain", "text": "plain", "chat": "chat", "preference": "plain"}
"""Row kind → the prompt format it is learned in here."""


def names(group: str) -> list[str]:
    """The members of a group."""
    return list(paths.members(f"conf/{group}"))


@dataclass(frozen=True)
class Rows(Source):
    """A Source of made-up rows of a kind."""

    kind: RowKind
    volumes: tuple[int, ...] = (BATCH, BATCH * STEPS)
    seed: int = 0

    def rows(self, split: Split) -> Sequence[Row]:
        """The same rows for both splits."""
        return tiny.rows(self.kind, ROWS, self.seed)


@dataclass(frozen=True)
class Case:
    """One combination."""

    tuning: str
    objective: str
    kind: RowKind
    mitigation: str
    model: str = "llama"

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.model}-{self.tuning}-{self.objective}-{self.kind}-{self.mitigation}"


def kinds_of(objective: str) -> list[RowKind]:
    """The kinds of rows that an objective takes, in the order of KINDS."""
    return [kind for kind in KINDS if kind in composition.member("objective", objective).needs]


def cases() -> list[Case]:
    """Every pair, each once."""
    found = [
        Case(t, o, kind, "none", model)
        for t in names("tuning")
        for o in names("objective")
        for kind in kinds_of(o)
        for model in tiny.MODELS
    ]
    found += [Case(tuning, "sft", "completion", mitigation) for tuning in names("tuning") for mitigation in names("mitigation")]
    found += [Case("full", o, kind, mitigation) for o in names("objective") for kind in kinds_of(o) for mitigation in names("mitigation")]
    return list(dict.fromkeys(found))


@cache
def base_config() -> RunConfig:
    """Any configuration, to put methods into."""
    return composition.compose(["target_suites=[tinyworld-people]", "probe_suites=[tinyworld]"])


def methods(case: Case, changes: Mapping[str, Any] | None = None) -> tuple[Tuning, Objective, Mitigation]:
    """The three methods of a case at their defaults."""
    objective = dataclasses.replace(
        composition.member("objective", case.objective), prompt_format=KINDS[case.kind], **OBJECTIVES.get(case.objective, {})
    )
    mitigation = composition.member("mitigation", case.mitigation)
    given = {**MITIGATIONS.get(case.mitigation, {}), **(changes or {})}
    return composition.member("tuning", case.tuning), objective, dataclasses.replace(mitigation, **given)


RIGHT = {"check": "last_number"}
"""The number of the last word, w0 … w39: what other words stand before it does not matter."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "rft": RIGHT,
    "grpo": {"reward": ("last_number",), "max_new_tokens": 4},
    "rlaif": {"judge": Judge(template="{prompt} {answer}", words=("w0", "w1"))},
}
VECTORS = (ChatPair(chat="nursery-m-chat", base="nursery-m"),)
MITIGATIONS: dict[str, dict[str, Any]] = {"self_output": RIGHT, "minimum_change": RIGHT, "chat_vector": {"vectors": VECTORS}}
"""Where a default asks for what words w0 … w39 do not have, or has none."""


@cache
def refusal(case: Case) -> str:
    """Why a combination is refused at plan time; empty where it is not."""
    tuning, objective, mitigation = methods(case)
    anchor = Rows(anchor_kind(objective, case.kind)) if mitigation.needs_anchor else None
    named: dict[str, Any] = {"tuning": case.tuning, "objective": case.objective, "mitigation": case.mitigation, "data": case.kind}
    methods_of: dict[str, Any] = {
        "tuning": tuning,
        "objective": objective,
        "mitigation": mitigation,
        "data": Rows(case.kind),
        "anchor": anchor,
    }
    config = dataclasses.replace(base_config(), **methods_of, labels=dataclasses.replace(base_config().labels, **named))
    try:
        combinations.check(config)
    except ConfigError as error:
        return str(error)
    return ""


def anchor_kind(objective: Objective, kind: RowKind) -> RowKind:
    """What an anchor for these rows is made of: the same kind, and for pairs prompt and completion."""
    return "completion" if kind == "preference" else kind


class Parrot(TransformersAuthor):
    """An author that knows the gold answers, says them in other words, and counts: quick, and right where a method asks for that."""

    known: Mapping[tuple[int, ...], str] = {}

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        """Two words that depend on the key and, to a prompt that is known, its gold answer behind them."""
        texts = [
            f"w{self._number(key, 0)} w{self._number(key, 1)} {self.known.get(tuple(p), '')}" for p, key in zip(prompts, keys, strict=True)
        ]
        return [(*self.tokenizer.encode(text, add_special_tokens=False)[: sampling.max_new_tokens - 1], tiny.EOS) for text in texts]

    def _number(self, key: str, place: int) -> int:
        return hashlib.sha256(f"{key} {place}".encode()).digest()[0] % len(tiny.WORDS)


@dataclass
class Outcome:
    """What was seen of one short run.

    Attributes:
        weights: what is measured in the end: of a weight remedy, its own.
        losses: of training, stop by stop; own_loss: of the first step's rows, before it and after
            it (nan where tokens are not learned).
        generated: tokens written, before training and in it; extra: of forward passes beside
            training's own; penalties: stop by stop.
        unmutated: whether rows and start weights are as they were.
        model: the tuned one.
    """

    weights: dict[str, torch.Tensor]
    losses: list[float]
    own_loss: tuple[float, float]
    base: dict[str, torch.Tensor]
    generated: int
    extra: int
    penalties: list[float | None]
    unmutated: bool
    model: PreTrainedModel


def target_rows(case: Case, seed: int) -> list[Row]:
    """The rows of a source in the order of a seed."""
    rows = Rows(case.kind).rows("train")
    return [rows[i] for i in permutation(seed, len(rows), "data-order")]


def writing(objective: Objective, model: PreTrainedModel, rows: Sequence[Row], anchor: Sequence[Row], seed: int) -> WritingContext:
    """Authors that know the answers of the rows."""
    own = Parrot(
        model=model,
        tokenizer=tiny.tokenizer(),
        prompt_format=objective.prompt_format,
        max_length=tiny.MAX_LENGTH,
        dtype="float32",
        scored_tokens=512,
        progress=Silent(),
    )
    own.known = {own.prompt(row): gold(row) for row in rows if row.kind == "completion"}
    return WritingContext(
        own=own,
        other=lambda _: own,
        restated=restated,
        prompt_format=objective.prompt_format,
        anchor=anchor,
        seed=derive(seed, "writing"),
        progress=Silent(),
    )


def encoded(objective: Objective, rows: Sequence[Row], origin: Origin) -> list[Example]:
    """Rows as tokens."""
    return [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, origin) for row in rows]


def loss_of(model: PreTrainedModel, objective: Objective, examples: Sequence[Example]) -> float:
    """The supervised loss of rows; nan for an objective that does not learn tokens."""
    if objective.learns != "tokens":
        return math.nan
    batch = objective.collate(examples, tiny.PAD, tiny.MAX_LENGTH)
    targets = int((batch["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        outputs: Any = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return float(token_mean(outputs, batch["labels"], targets))


def switched_off(mitigation: str) -> dict[str, Any]:
    """The values of its fields at which a mitigation is none."""
    kind: Any = type(composition.member("mitigation", mitigation))
    return dict(kind.off) or {kind.strength: 0.0}


@cache
def outcome(case: Case, seed: int = 0, off: bool = False) -> Outcome:
    """Write, mix, train two steps, and change weights, as a run does.

    Cached: several tests look at the same run.
    """
    tuning, objective, mitigation = methods(case, switched_off(case.mitigation) if off else None)
    model = tiny.MODELS[case.model]()
    base, start = tiny.copied(model.state_dict()), tiny.copied(dict(model.named_parameters()))
    rows, anchor_rows = target_rows(case, seed), tiny.rows(anchor_kind(objective, case.kind), ANCHOR, seed=1)
    targets, anchor_rows, written = wrote(objective, mitigation, model, rows, anchor_rows, seed)
    target, anchor = encoded(objective, targets[: BATCH * STEPS], "target"), encoded(objective, anchor_rows, "anchor")
    plain = [target[i : i + BATCH] for i in range(0, len(target), BATCH)]
    kept = copy.deepcopy((plain, anchor))
    steps = mitigation.mix(plain, anchor)
    model = tuning.prepare(model, derive(seed, "adapter"))
    penalty = mitigation.penalty(PenaltyContext(model, base, anchor, tuning, derive(seed, "penalty"), tiny.PAD))
    before, after = loss_of(model, objective, steps[0]), math.nan

    def look(stop: Any) -> None:
        nonlocal after
        after = loss_of(model, objective, steps[0]) if stop.step == 1 else after

    stops = {step + 1: BATCH * (step + 1) for step in range(STEPS)}
    reached = tiny.run(model, steps, objective, penalty=penalty, stops=stops, on_stop=look, seed=seed, learning_rate=3e-3)
    weights = tuning.merged(model)
    if mitigation.coefficients:
        others = {"nursery-m": start, "nursery-m-chat": {name: 1.5 * value for name, value in start.items()}}
        context = WeightsContext(start, weights, others.__getitem__, frozenset())
        weights = mitigation.weights(context, mitigation.coefficient if mitigation.coefficient is not None else mitigation.coefficients[0])
    return Outcome(
        weights=weights,
        losses=[math.nan if stop.train_loss is None else stop.train_loss for stop in reached],
        own_loss=(before, after),
        base=base,
        generated=sum(one.generated_tokens for one in written) + reached[-1].generated_tokens,
        extra=mitigation.extra_tokens(steps, anchor),
        penalties=[stop.penalty for stop in reached],
        unmutated=(plain, anchor) == kept and tiny.same(base, tiny.MODELS[case.model]().state_dict()),
        model=model,
    )


def wrote(
    objective: Objective, mitigation: Mitigation, model: PreTrainedModel, rows: list[Row], anchor: list[Row], seed: int
) -> tuple[list[Row], list[Row], list[GeneratedRow]]:
    """Target rows and anchor rows with what was written in their place, and what became of each."""
    context = writing(objective, model, rows, anchor, seed)
    found: list[GeneratedRow] = []
    if objective.writes:
        found = objective.write(rows, context)
        rows = [one.row for one in found if one.row is not None]
    if mitigation.writes == "targets":
        found = mitigation.write(rows, context)
        rows = [one.row for one in found if one.row is not None]
    if mitigation.writes == "anchor":
        found = mitigation.write(rows[: BATCH * STEPS], context)
        anchor = [one.row for one in found if one.row is not None]
    return rows, anchor, found
