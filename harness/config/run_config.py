"""Configuration of a run, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.config.strict import LATER, Part, check, require_keys
from harness.core import seeds
from harness.core.errors import ConfigError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.sources import Dtype, EvaluationBackend, ModelSource, Source
from harness.core.tuning import Tuning

RATE_KEYS = ("model", "tuning", "objective", "data", "mitigation")
"""The labels for which a learning rate is searched."""


@dataclass(frozen=True, kw_only=True)
class Training(Part):
    """Training settings: optimizer, schedule and batch.

    Attributes:
        learning_rate: peak rate. Null takes the searched rate for this model, tuning, objective,
            data and mitigation, else the one searched without a mitigation; without either, the
            default of the tuning for this model size, for pairs and rewards a share of it. The
            table has ``lr_tuned`` true for the first alone.
        rate_of: label → value that replaces the run's own in the lookup of the searched rate. A
            same-data control takes the rate of its arm: ``{data: tinyworld-people, objective:
            sft}``.
        batch_rows: target rows of an optimizer step; divides every volume.
        micro_batch_rows: rows of one forward pass; null is the whole step. Fewer need less memory;
            the result is equal up to rounding, so it is not part of a run's identity.
        warmup_rows: target rows over which the rate rises linearly.
        decay: of the rate after warm-up; only ``constant`` is valid with ``trajectory=shared``.
        epochs: passes over the rows; more than one needs ``trajectory=independent``.
        max_length: longest row in tokens, cut at the end; capped by the model's context.
        gradient_checkpointing: compute each block's activations again in the backward pass, in
            place of keeping them; null is from a billion parameters on. Equal up to rounding.
        dtype: of the forward pass; weights and optimizer are always float32. ``auto``: float32 on a
            CPU, bfloat16 autocast on a GPU.
        threads: of each process; null is 1 below five million parameters, else its share of the
            cores.
        processes: that train one run together, each on its share of a step's rows; null is one for
            each GPU, one without GPUs and where rewards are learned.
        dropout: of the model in training, wherever its architecture has it (for families such as
            llama, only on attention weights); 0 keeps the rates of its own config. An adapter's
            dropout is ``tuning.dropout``.
        decay_floor: share of the peak rate at which a linear or cosine decay ends; 0.1 is the
            re-warming and re-decaying of Ibrahim et al. 2024, arXiv 2403.08763.
    """

    learning_rate: float | None = None
    rate_of: Mapping[str, str] = field(default_factory=dict)
    batch_rows: int = 8
    micro_batch_rows: int | None = None
    warmup_rows: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    epochs: int = 1
    optimizer: Literal["adamw"] = "adamw"
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    max_length: int = 512
    gradient_checkpointing: bool | None = None
    dtype: Dtype = "auto"
    threads: int | None = None
    processes: int | None = None
    dropout: float = 0.0
    decay_floor: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        positive = ["learning_rate", "batch_rows", "micro_batch_rows", "epochs", "max_length", "epsilon", "max_grad_norm"]
        for name in [*positive, "threads", "processes"]:
            check(f"training.{name}", getattr(self, name), "greater than 0", lambda value: value is None or value > 0)
        for name in ["warmup_rows", "weight_decay"]:
            check(f"training.{name}", getattr(self, name), "0 or greater", lambda value: value >= 0)
        for name in ["beta1", "beta2", "dropout", "decay_floor"]:
            check(f"training.{name}", getattr(self, name), "in [0, 1)", lambda value: 0 <= value < 1)
        if self.decay == "constant":
            fix = "training.decay=cosine or linear, with trajectory=independent"
            check("training.decay_floor", self.decay_floor, "0 for training.decay=constant", lambda value: value == 0, fix)
        if self.micro_batch_rows and self.micro_batch_rows > self.batch_rows:
            message = explain(
                "training.micro_batch_rows", got=self.micro_batch_rows, allowed=f"at most training.batch_rows = {self.batch_rows}"
            )
            raise ConfigError(message)
        require_rows(self.batch_rows, self.processes or 1)
        require_keys("training.rate_of", self.rate_of, RATE_KEYS)


@dataclass(frozen=True, kw_only=True)
class Labels(Part):
    """Names of a run's choices in the table: group members, with their overridden values.

    Not part of any identity.
    """

    model: str
    tuning: str
    objective: str
    mitigation: str
    data: str
    anchor: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declared(Part):
    """Declarations of an experiment, made before its results are known.

    Not part of any identity: no run computes with them.

    Attributes:
        headline: the probe suite whose verdict is the headline.
        margin: a change within ±margin, in the metric's own unit, is negligible.
        margins: suite → margin, if it differs from ``margin``.
        control: label → value. Runs with all of these labels are the control of the others: they
            train on data that the model knows already.
        law: the law of the headline's forgetting; fits of other laws are exploratory.
        any_rate: whether cells at rates that are too high are ranked, fitted and compared like
            others, and rates with each other: the rate is what is studied.
        question: the question that the experiment asks, in a sentence that its page opens with.
    """

    headline: str | None = None
    margin: float = 0.02
    margins: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, str] = field(default_factory=dict)
    law: str | None = field(default=None, metadata=LATER)
    any_rate: bool = field(default=False, metadata=LATER)
    question: str = field(default="", metadata=LATER)

    def __post_init__(self) -> None:
        """Check the range of margins, and that a control is given by labels."""
        for where, margin in {"margin": self.margin, **{f"margins.{suite}": value for suite, value in self.margins.items()}}.items():
            check(f"declared.{where}", margin, "greater than 0", lambda value: value > 0)
        require_keys("declared.control", self.control, [f.name for f in dataclasses.fields(Labels)])


@dataclass(frozen=True, kw_only=True)
class RunConfig(Part):
    """Everything that decides one run; volumes are ``data.volumes``.

    Attributes:
        name: the folder in ``results`` that the run is recorded in.
        trajectory: ``shared``: one run at a constant rate, each volume a point of it.
            ``independent``: each volume a run of its own, with its own schedule and decay.
        save_weights: volumes whose weights are kept in the results folder.
        keep_state: keep the checkpoint after the last volume, so that a larger volume resumes from
            it; null is below a billion parameters. Its size is about three times that of the
            trained weights. Until the run is done a checkpoint is always kept.
        declared: declarations of its experiment.
        reference: the model on which volume 0 is measured, in place of the start model; null is the
            start model.
    """

    model: ModelSource
    tuning: Tuning
    objective: Objective
    mitigation: Mitigation
    data: Source
    anchor: Source | None
    evaluation: EvaluationBackend
    labels: Labels
    training: Training = field(default_factory=Training)
    target_suites: tuple[str, ...] = ()
    probe_suites: tuple[str, ...] = ()
    trajectory: Literal["shared", "independent"] = "shared"
    seed: int = 0
    name: str = "adhoc"
    results: str = "results"
    save_weights: Literal["none", "last", "all"] = "last"
    keep_state: bool | None = None
    declared: Declared = field(default_factory=Declared)
    reference: ModelSource | None = None

    def __post_init__(self) -> None:
        """Check that the name is valid as a folder's, and the range of the seed."""
        allowed = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
        check("name", self.name, allowed, lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None)
        check("seed", self.seed, seeds.ALLOWED, lambda value: 0 <= value <= seeds.LARGEST)


def require_rows(batch_rows: int, processes: int) -> None:
    """Raise ConfigError for a step with fewer rows than processes."""
    fix = "fewer training.processes, or more training.batch_rows"
    check("training.processes", processes, f"at most training.batch_rows = {batch_rows}", lambda value: value <= batch_rows, fix)
