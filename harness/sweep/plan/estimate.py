"""Cost of runs before they start: tokens, time, memory and disk, from measured rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.config.run_config import RunConfig
from harness.core.errors import HarnessError
from harness.core.rows import Example
from harness.evaluation.evaluator import PreparedSuite
from harness.run.fitting import memory_on_cpu
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace, content_key
from harness.sweep.plan import rates as known_rates
from harness.sweep.plan.device import needed
from harness.sweep.plan.rates import Rates, at, flops_per_second, items_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 64
"""Rows or items whose tokens are counted; the others are assumed to be alike."""

IDLE_WORKER_BYTES = 700 * 2**20
"""A worker with its libraries, without a model, batch or logits: those are added by size. The local
launcher packs by ``choose.PACKED_WORKER_BYTES``, which includes batches and logits."""

POINT_BYTES = 300_000.0
"""Size of a point on disk if none was ever written."""

FORWARD, BACKWARD = 2, 4
"""Floating-point operations per parameter and token. Half of the backward pass is the weight's own
gradient, which a frozen weight does not need."""

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of a run or a baseline.

    Attributes:
        train_tokens, evaluation_tokens: each read once; None if a suite's data could not be loaded.
        seconds: of one worker; None if no rate is known.
        measured: whether the time follows from measured rates alone.
        unknown: suites whose time is not included.
        disk_bytes: points, saved weights, those that wait to be measured, and the training state.
        memory_bytes: peak.
        memory_measured: whether the peak was measured at this model size and tuning.
    """

    train_tokens: int = 0
    evaluation_tokens: int | None = 0
    seconds: float | None = 0.0
    measured: bool = True
    unknown: tuple[str, ...] = ()
    disk_bytes: int = 0
    memory_bytes: int = 0
    memory_measured: bool = True

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both, one after the other: memory is the larger peak."""
        most = max(self, other, key=lambda one: one.memory_bytes)
        return Cost(
            train_tokens=self.train_tokens + other.train_tokens,
            evaluation_tokens=_plus(self.evaluation_tokens, other.evaluation_tokens),
            seconds=_plus(self.seconds, other.seconds),
            measured=self.measured and other.measured,
            unknown=tuple(dict.fromkeys((*self.unknown, *other.unknown))),
            disk_bytes=self.disk_bytes + other.disk_bytes,
            memory_bytes=most.memory_bytes,
            memory_measured=most.memory_measured,
        )


Number = TypeVar("Number", int, float)


def _plus(one: Number | None, other: Number | None) -> Number | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True)
class _Time:
    """Seconds, whether they follow from measured rates, and the suites not included."""

    seconds: float | None
    measured: bool = True
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Size:
    """Items of a suite, and their tokens."""

    items: int
    tokens: int


@dataclass
class Estimator:
    """Computes the costs of the runs of one sweep, each distinct cost once.

    Attributes:
        rates: measured rates.
        gpu: whether runs have a GPU.
        costs: everything that a cost depends on → the cost; runs that differ in their seed share
            one.
    """

    workspace: Workspace
    rates: Rates
    gpu: bool
    costs: dict[Hashable, Cost] = field(default_factory=dict)

    def run(self, prepared: Prepared) -> Cost:
        """Return the cost of a whole run, without its baselines."""
        key = _shared(prepared)
        if key not in self.costs:
            self.costs[key] = self._run(prepared)
        return self.costs[key]

    def measuring(self, prepared: Prepared, lacking: Mapping[int, Sequence[str]]) -> Cost:
        """Return the cost of measuring points on kept weights: volume → suites."""
        total = Cost()
        for suites in lacking.values():
            names = sorted(suites)
            time = self._point(prepared, names)
            total += Cost(
                evaluation_tokens=self._suite_tokens(prepared, names),
                seconds=time.seconds,
                measured=time.measured,
                unknown=time.unknown,
                disk_bytes=int(self._point_bytes(names)),
                memory_bytes=IDLE_WORKER_BYTES * (not self.gpu) + 4 * prepared.facts.params_total,
                memory_measured=False,
            )
        return total

    def baseline(self, prepared: Prepared, suites: Sequence[str]) -> Cost:
        """Return the cost of measuring volume 0 of some suites, each twice."""
        once = self._evaluation(prepared, suites, [self.rates.suite_seconds.get((name, _items(prepared.config)), {}) for name in suites])
        tokens = self._suite_tokens(prepared, suites)
        return Cost(
            evaluation_tokens=None if tokens is None else 2 * tokens,
            seconds=None if once.seconds is None else 2 * once.seconds,
            measured=once.measured,
            unknown=once.unknown,
            disk_bytes=int(self._point_bytes(suites)),
            memory_bytes=IDLE_WORKER_BYTES * (not self.gpu) + 4 * prepared.facts.params_total,
            memory_measured=False,
        )

    def _run(self, prepared: Prepared) -> Cost:
        config, points, suites = prepared.config, len(prepared.volumes), sorted(prepared.roles)
        trained = self._train_tokens(prepared)
        training, evaluation = self._training(prepared, round(trained * _effort(prepared.config))), self._evaluations(prepared, suites)
        tokens, moving = self._tokens_of_point(prepared, suites), config.tuning.trainable(prepared.facts)
        of_plain = bool(config.mitigation.coefficients)
        weights = prepared.facts.params_total if of_plain else moving  # changed weights are saved whole
        saved = {"none": 0, "last": 1, "all": points}[config.save_weights]
        waiting = 4 * weights * (points - saved) if prepared.resolved.separate else 0  # until they are measured
        memory, measured = self._memory(prepared, moving)
        known = training.seconds is not None and evaluation.seconds is not None
        return Cost(
            train_tokens=trained,
            evaluation_tokens=None if tokens is None else points * tokens,
            seconds=(training.seconds or 0) + points * (evaluation.seconds or 0) + self._other_seconds(prepared, points) if known else None,
            measured=training.measured and evaluation.measured,
            unknown=evaluation.unknown,
            disk_bytes=int(points * (1 + len(prepared.derived)) * self._point_bytes(suites))
            + 4 * weights * saved
            + waiting
            + 3 * 4 * moving,
            memory_bytes=memory + 4 * prepared.facts.params_total * 3 * of_plain,
            memory_measured=measured,
        )

    def _train_tokens(self, prepared: Prepared) -> int:
        """Return the tokens of the largest volume over all epochs, with the anchor's."""
        config = prepared.config
        key = ("tokens of a row", *map(repr, (config.model, config.objective, config.data, config.anchor, config.mitigation)))
        mean = self.workspace.once((key, prepared.resolved.max_length, config.training.batch_rows), lambda: self._tokens_of_a_row(prepared))
        return round(mean * prepared.volumes[-1] * config.training.epochs)

    def _tokens_of_a_row(self, prepared: Prepared) -> float:
        """Return the tokens per target row: its own, and its share of the anchor's."""
        config, workspace = prepared.config, self.workspace
        target = workspace.encoded(config, prepared.resolved, _sample(prepared.taught.rows), "target")
        if prepared.taught_anchor is None:
            return _tokens(target) / len(target)
        anchor = workspace.encoded(config, prepared.resolved, _sample(prepared.taught_anchor.rows), "anchor")
        size = config.training.batch_rows
        try:
            mixed = config.mitigation.mix([target[i : i + size] for i in range(0, len(target), size)], anchor)
        except HarnessError:  # too few rows, but only in the sample
            return (_tokens(target) + config.mitigation.anchor_rows(len(target)) * _tokens(anchor) / len(anchor)) / len(target)
        return sum(map(_tokens, mixed)) / len(target)

    def _training(self, prepared: Prepared, tokens: int) -> _Time:
        tuning, params = type(prepared.config.tuning).__name__, prepared.facts.params_total
        sizes = self.rates.token_seconds.get(tuning) or next(iter(self.rates.token_seconds.values()), {})
        speed = self._speed(prepared, known_rates.UTILIZATION)
        moving = min(prepared.config.tuning.trainable(prepared.facts), params)
        flops = (FORWARD + BACKWARD / 2) * params + BACKWARD / 2 * moving
        seconds = at(params, sizes, None if speed is None else flops / params / speed)
        if seconds is not None:
            return _Time(tokens * seconds, measured=_is_within(params, sizes))
        return _Time(None if speed is None else _steps(prepared) * _step_seconds(prepared) + tokens * flops / speed, measured=False)

    def _point(self, prepared: Prepared, suites: Sequence[str]) -> _Time:
        tuning, items, params = type(prepared.config.tuning).__name__, _items(prepared.config), prepared.facts.params_total
        sizes = self.rates.point_seconds.get((tuning, items, *suites), {})
        tokens, forward = self._suite_tokens(prepared, suites), self._forward(prepared)
        seconds = at(params, sizes, None if tokens is None or forward is None else tokens * forward / params)
        if seconds is not None:
            return _Time(seconds, measured=_is_within(params, sizes))
        return self._evaluation(prepared, suites, [self.rates.suite_seconds.get((name, items), {}) for name in suites])

    def _evaluations(self, prepared: Prepared, suites: Sequence[str]) -> _Time:
        """Return the time of all evaluations at one volume.

        That is one per coefficient and, if the run chooses among them, as many on select items.
        """
        times = max(1, len(prepared.config.mitigation.coefficients))
        point = self._point(prepared, suites)
        parts = [point]
        if prepared.needs_selection:
            on_select, targets = _on_select(prepared), sorted(prepared.config.target_suites)
            parts.append(self._evaluation(on_select, targets, [self.rates.suite_seconds.get((name, "select"), {}) for name in targets]))
        known = [part.seconds for part in parts if part.seconds is not None]
        seconds = times * sum(known) if len(known) == len(parts) else None
        unknown = tuple(dict.fromkeys(name for part in parts for name in part.unknown))
        return _Time(seconds, all(part.measured for part in parts), unknown)

    def _tokens_of_point(self, prepared: Prepared, suites: Sequence[str]) -> int | None:
        """Return the tokens read by all evaluations at one volume."""
        tokens = self._suite_tokens(prepared, suites)
        if prepared.needs_selection:
            tokens = _plus(tokens, self._suite_tokens(_on_select(prepared), sorted(prepared.config.target_suites)))
        return None if tokens is None else max(1, len(prepared.config.mitigation.coefficients)) * tokens

    def _evaluation(self, prepared: Prepared, suites: Sequence[str], measured: Sequence[Mapping[int, float]]) -> _Time:
        """Sum the time of suites: measured, else estimated from items and tokens, else unknown."""
        params, total, is_measured, unknown = prepared.facts.params_total, 0.0, True, []
        forward = self._forward(prepared)
        for name, sizes in zip(suites, measured, strict=True):
            size = self._size_of(prepared, name)
            arithmetic = None if size is None or forward is None else size.tokens * forward
            seconds = at(params, sizes, None if arithmetic is None else arithmetic / params)
            is_measured &= _is_within(params, sizes)
            if seconds is None and size is not None and arithmetic is not None:
                seconds = size.items * known_rates.ITEM_SECONDS + arithmetic
            if seconds is None:
                unknown.append(name)
            total += seconds or 0.0
        return _Time(total, is_measured, tuple(unknown))

    def _forward(self, prepared: Prepared) -> float | None:
        """Return the seconds per token of a forward pass: arithmetic, or a share of training's."""
        params, speed = prepared.facts.params_total, self._speed(prepared, known_rates.EVALUATION_UTILIZATION)
        trained = at(params, self.rates.token_seconds.get("Full") or next(iter(self.rates.token_seconds.values()), {}))
        shares = [None if speed is None else FORWARD * params / speed, trained and trained * FORWARD / (FORWARD + BACKWARD)]
        return min((one for one in shares if one is not None), default=None)

    def _speed(self, prepared: Prepared, utilization: float) -> float | None:
        """Return the floating-point operations per second that a run is assumed to reach."""
        speed = flops_per_second(self.gpu, prepared.resolved.threads)
        return None if speed is None else utilization * speed

    def _other_seconds(self, prepared: Prepared, points: int) -> float:
        if self.rates.other_seconds is not None:
            return self.rates.other_seconds
        return known_rates.RUN_SECONDS + points * len(prepared.roles) * known_rates.PART_SECONDS

    def _memory(self, prepared: Prepared, moving: int) -> tuple[int, bool]:
        """Return the peak memory of a run, and whether it was measured."""
        config, params = prepared.config, prepared.facts.params_total
        known = self.rates.peak_bytes.get(type(config.tuning).__name__, {}).get(params)
        if known is not None:
            return int(known), True
        if self.gpu:
            return needed(prepared)[1].peak, False
        rows = config.training.micro_batch_rows or config.training.batch_rows
        tokens = min(rows * prepared.resolved.max_length, rows * self._train_tokens(prepared) // prepared.volumes[-1])
        numbers = tokens * len(self.workspace.tokenizer_of(config))
        return int(IDLE_WORKER_BYTES + memory_on_cpu(config, params, moving, numbers)), False

    def _point_bytes(self, suites: Sequence[str]) -> float:
        known = self.rates.point_bytes
        return known.get(tuple(sorted(suites))) or max(known.values(), default=POINT_BYTES)

    def _suite_tokens(self, prepared: Prepared, suites: Sequence[str]) -> int | None:
        total: int | None = 0
        for name in suites:
            total = _plus(total, self._tokens_of(prepared, name))
        return total

    def _tokens_of(self, prepared: Prepared, name: str) -> int | None:
        """Return the tokens of a suite's items, each prompt and answer once.

        None if the suite cannot be built.
        """
        size = self._size_of(prepared, name)
        return None if size is None else size.tokens

    def _size_of(self, prepared: Prepared, name: str) -> _Size | None:
        key = ("size of a suite", name, content_key(prepared.config.model), _items(prepared.config), prepared.evaluation_ids[name])
        return self.workspace.once(key, lambda: self._count(prepared, name))

    def _count(self, prepared: Prepared, name: str) -> _Size | None:
        config = prepared.config
        try:
            return _of_items(self.workspace.suite_of(name, config), self.workspace.tokenizer_of(config))
        except HarnessError:  # the plan reports elsewhere why the suite cannot be built
            return None


def _shared(prepared: Prepared) -> Hashable:
    """Return everything that the cost of a run depends on."""
    config = prepared.config
    parts = (config.model, config.tuning, config.objective, config.mitigation, config.data, config.anchor, config.evaluation)
    training = (config.training.batch_rows, config.training.micro_batch_rows, config.training.epochs, prepared.resolved.max_length)
    return (*map(repr, parts), training, config.save_weights, config.target_suites, config.probe_suites)


def _on_select(prepared: Prepared) -> Prepared:
    """Return a run as it is evaluated on select items."""
    evaluation = prepared.config.evaluation.for_items("select")
    return dataclasses.replace(prepared, config=dataclasses.replace(prepared.config, evaluation=evaluation))


def _items(config: RunConfig) -> str:
    return items_key(config.evaluation.items, config.evaluation.limit)


def _of_items(built: PreparedSuite, tokenizer: PreTrainedTokenizerBase) -> _Size:
    """Return the size of a suite: its rows, or its tasks' items.

    The tokens of an item are the prompt once, with its worked examples, and every choice.
    """
    total = _mean_tokens([row.text for row in _sample(built.rows)], tokenizer, len(built.rows))
    for name, task in built.tasks.items():
        docs, chosen = task.eval_docs, built.items[name]
        texts = [" ".join(map(str, [task.doc_to_text(docs[i]), *_choices(task, docs[i])])) for i in _sample(chosen)]
        total += (1 + int(task.config.num_fewshot or 0)) * _mean_tokens(texts, tokenizer, len(chosen))
    return _Size(items=len(built.rows) + sum(map(len, built.items.values())), tokens=total)


def _choices(task: Any, doc: Any) -> Sequence[Any]:
    if task.config.doc_to_choice is None:
        return [task.doc_to_target(doc)]
    choices: Sequence[Any] = task.doc_to_choice(doc)
    return choices


def _mean_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, of: int) -> int:
    """Return the tokens of ``of`` texts, estimated from a sample of them."""
    if not texts:
        return 0
    return round(of * sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts) / len(texts))


def _sample(rows: Sequence[Found]) -> list[Found]:
    """Return at most SAMPLE rows, evenly spread."""
    size = min(SAMPLE, len(rows))
    return [rows[i * len(rows) // size] for i in range(size)]


def _effort(config: RunConfig) -> float:
    """Return the passes over a row's tokens, in units of one forward and backward pass.

    Preference pairs are also read by the start model. Rewards need ``samples`` rollouts per prompt,
    assumed to be as long as the gold answer; writing one costs a forward pass.
    """
    forward = FORWARD / (FORWARD + BACKWARD)
    times = {"tokens": 1.0, "pairs": 1.0 + forward, "rewards": config.objective.samples * (1.0 + forward)}
    return times[config.objective.learns]


def _steps(prepared: Prepared) -> float:
    config = prepared.config
    return prepared.volumes[-1] / config.training.batch_rows * config.training.epochs * _effort(config)


def _step_seconds(prepared: Prepared) -> float:
    return known_rates.STEP_SECONDS + known_rates.BLOCK_SECONDS * len(prepared.facts.blocks)


def _is_within(params: int, sizes: Mapping[int, float]) -> bool:
    """Return whether a size lies between measured ones."""
    return bool(sizes) and min(sizes) <= params <= max(sizes)


def _tokens(examples: Sequence[Example]) -> int:
    return sum(example.tokens for example in examples)
