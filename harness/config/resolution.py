"""Resolve values that a configuration leaves open, from model, machine and searched rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.config.run_config import RATE_KEYS, RunConfig, require_rows
from harness.config.strict import LATER, Part, check
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.core.sources import ModelFacts

SMALL_MODEL_PARAMS = 5_000_000
"""Below this size the default is one thread: a second one made runs slower (measured on two
cores)."""


LARGE_MODEL_PARAMS = 100_000_000
"""From this size on checkpoints are measured separately by default, so that training continues."""


CHECKPOINTING_PARAMS = 1_000_000_000
"""From this size on the default is gradient checkpointing: a second forward pass saves most of the
memory of activations."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The part of a computer that one run may use.

    Attributes:
        cores: of the CPU.
        gpus: 0 for a run on the CPU.
        gpu_bytes: memory of the smallest of them; None if unknown.
    """

    cores: int
    gpus: int
    gpu_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Resolved(Part):
    """Resolved values of a run.

    Attributes:
        lr_tuned: whether the rate was searched for this combination.
        drops: whether anything drops in training: the model, or an adapter.
        micro_batch_rows: rows of one forward pass in training, in each process.
        separate: whether points are measured from checkpoints, by any worker.
        gradient_checkpointing: whether activations are computed again in the backward pass.
        threads: of each process.
        processes: that train together, each on its share of a step's rows.
    """

    learning_rate: float
    lr_tuned: bool
    dtype: Literal["float32", "bfloat16"]
    evaluation_dtype: Literal["float32", "bfloat16"]
    threads: int
    processes: int
    device: Literal["cpu", "cuda"]
    max_length: int
    drops: bool = False
    micro_batch_rows: int = 0
    separate: bool = False
    gradient_checkpointing: bool = field(default=False, metadata=LATER)


@dataclass(frozen=True, kw_only=True)
class Candidate(Part):
    """A learning rate that a search tried, measured at the largest volume on select items.

    Attributes:
        score: primary metric of the target, mean over seeds.
        stderr: its standard error over seeds and items.
        behind: score of the best rate minus this one; for a loss, the reverse. Not negative.
        behind_stderr: standard error of that difference, on the same items.
        control: probe suite or task → change of the same-data control, in the metric's own sign.
        control_check: ``too high``, ``not settled`` or ``passed``; empty without a control.
        passes: whether the control is not too high, and its loss on every probe task and their mean
            is smaller than the margin by a standard error; true without a control.
    """

    learning_rate: float
    score: float
    stderr: float | None = None
    behind: float = 0.0
    behind_stderr: float | None = None
    control: Mapping[str, float] = field(default_factory=dict)
    control_check: str = ""
    passes: bool = True


@dataclass(frozen=True, kw_only=True)
class SearchedRate(Part):
    """A learning rate found on the target's select items, for one combination of labels.

    They are kept in ``conf/learning_rates.yaml``.

    Attributes:
        learning_rate: the rate that runs train with.
        candidates: the rates that were tried.
        score: primary metric of ``learning_rate`` on the select items.
        before: the same before training.
        best: the rate with the best score.
        rule: the smallest rate within one standard error of it. ``learning_rate`` is lower where
            this one does not pass.
        not_bracketed: the sides on which the grid ends too early.
        curve: the candidates, by rate.
    """

    model: str
    tuning: str
    objective: str
    data: str
    mitigation: str
    learning_rate: float
    candidates: tuple[float, ...]
    suite: str
    metric: str
    score: float
    volume: int
    seeds: tuple[int, ...]
    before: float | None = None
    best: float | None = None
    rule: float | None = None
    not_bracketed: Literal["", "below", "above", "below and above"] = ""
    curve: tuple[Candidate, ...] = ()

    def __post_init__(self) -> None:
        """Check the rate, which a run trains with."""
        where = f"rate of {self.model}, {self.tuning}, {self.objective}, {self.data}, {self.mitigation}"
        check(f"{where}: learning_rate", self.learning_rate, "greater than 0", lambda value: value > 0)


@dataclass(frozen=True, kw_only=True)
class SearchedRates(Part):
    """The content of a ``conf/learning_rates.yaml``."""

    rates: tuple[SearchedRate, ...] = ()


def resolve(config: RunConfig, facts: ModelFacts, searched: Sequence[SearchedRate], machine: Machine) -> Resolved:
    """Resolve learning rate, dtypes, threads, processes, device and row length.

    Args:
        config: the configuration.
        facts: of its model.
        searched: the searched rates.
        machine: the part of a computer that the run may use.

    Raises:
        ConfigError: if a step has fewer rows than there are processes, or a worker has fewer GPUs,
            or no rate was searched for ``rate_of``.
    """
    rate, tuned = _learning_rate(config, facts, searched)
    automatic: Literal["float32", "bfloat16"] = "bfloat16" if machine.gpus else "float32"
    dtype, evaluation_dtype = config.training.dtype, config.evaluation.dtype
    # Rewarded rollouts are made and learned in one process: their groups are not shared.
    processes = config.training.processes or (1 if config.objective.learns == "rewards" else max(1, machine.gpus))
    require_rows(config.training.batch_rows, processes)
    if machine.gpus and processes > machine.gpus:
        fix = "launcher.gpus_per_worker (local) or launcher.gpus (slurm)"
        allowed = f"at most the {machine.gpus} GPU(s) of a worker"
        raise ConfigError(explain("training.processes", got=processes, allowed=allowed, fix=fix))
    rows = math.ceil(config.training.batch_rows / processes)
    checkpointing = config.training.gradient_checkpointing
    share = 1 if facts.params_total < SMALL_MODEL_PARAMS else max(1, machine.cores // processes)
    return Resolved(
        learning_rate=rate,
        lr_tuned=tuned,
        dtype=automatic if dtype == "auto" else dtype,
        evaluation_dtype=automatic if evaluation_dtype == "auto" else evaluation_dtype,
        threads=config.training.threads or share,
        processes=processes,
        device="cuda" if machine.gpus else "cpu",
        max_length=min(config.training.max_length, facts.context_length),
        drops=max(config.training.dropout or facts.dropout, config.tuning.dropout_rate) > 0,
        micro_batch_rows=min(config.training.micro_batch_rows or rows, rows),
        separate=_is_separate(config, facts),
        gradient_checkpointing=facts.params_total >= CHECKPOINTING_PARAMS if checkpointing is None else checkpointing,
    )


def _is_separate(config: RunConfig, facts: ModelFacts) -> bool:
    """Return whether points are measured from checkpoints instead of in the training process."""
    where, reads_scores = config.evaluation.where, config.mitigation.keeps_best or config.mitigation.coefficients
    return not reads_scores and (where == "separate" or (where == "auto" and facts.params_total >= LARGE_MODEL_PARAMS))


def _learning_rate(config: RunConfig, facts: ModelFacts, searched: Sequence[SearchedRate]) -> tuple[float, bool]:
    """Return the rate, and whether it was searched for the run's own combination of labels.

    Without a rate of its own, a mitigation trains at the rate searched without one, so that both
    are compared at one rate.
    """
    own = {key: getattr(config.labels, key) for key in RATE_KEYS}
    _check_rate_of(config.training.rate_of, searched)
    known, asked = _rates(searched, own), {**own, **config.training.rate_of}
    found = _rates(searched, asked) or _rates(searched, {**asked, "mitigation": "none"})
    rate = config.training.learning_rate
    if rate is None:
        rate = found[-1] if found else config.objective.rate_share * config.tuning.default_learning_rate(facts.params_total)
    return rate, rate in known


def _rates(searched: Sequence[SearchedRate], labels: Mapping[str, str]) -> list[float]:
    return [rate.learning_rate for rate in searched if all(getattr(rate, key) == value for key, value in labels.items())]


def _check_rate_of(labels: Mapping[str, str], searched: Sequence[SearchedRate]) -> None:
    """Raise ConfigError for a label without a searched rate.

    A misspelt one would silently give the default rate.
    """
    for key, value in labels.items():
        known = sorted({getattr(rate, key) for rate in searched})
        if value not in known:
            fix = did_you_mean(value, known) or "training.learning_rate=…"
            raise ConfigError(explain(f"training.rate_of.{key}", got=repr(value), allowed=", ".join(known) or "nothing yet", fix=fix))
