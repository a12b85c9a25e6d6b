"""Everything that decides one run, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.config.strict import check, require_keys
from harness.core.errors import ConfigError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.sources import ModelSource, Source
from harness.core.tuning import Tuning

Dtype = Literal["auto", "float32", "bfloat16"]

RATE_KEYS = ("model", "tuning", "objective", "data", "mitigation")
"""The labels for which a learning rate is searched."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a run trains: optimizer, schedule and batch, each explicit.

    Attributes:
        learning_rate: peak rate; null takes the searched one for this model, tuning, objective and
            data, else the default of the tuning for this size, of pairs and rewards a share of it
            (then the table says ``lr_tuned`` false).
        rate_of: label → value in place of the run's own where the searched rate is looked up: a
            same-data control takes the rate of the arm that it controls, ``{data: tinyworld-people,
            objective: sft}``.
        batch_rows: target rows of an optimizer step; divides every volume.
        micro_batch_rows: rows of one forward pass; null is the whole step. Smaller needs less
            memory, same result up to rounding: so it is no part of a run's identity.
        warmup_rows: the rate rises linearly over this many target rows.
        decay: what the rate does after warm-up; anything but ``constant`` needs
            ``trajectory=independent``.
        epochs: passes over the rows; more than one needs ``trajectory=independent``.
        max_length: longest row in tokens, cut at the end; capped by the model's context.
        dtype: of the forward pass; weights and optimizer are float32 always. ``auto``: float32 on a
            CPU, bfloat16 autocast on a GPU.
        threads: of each process; null is 1 below five million parameters, else its share of the
            cores.
        processes: that train one run together, each on its share of a step's rows; null is one a
            GPU, or one without.
        dropout: rate at which the model drops in training wherever it can (for families such as
            llama, attention weights alone); 0 leaves the rates of its own config. An adapter's is
            ``tuning.dropout``.
        decay_floor: the share of the peak rate at which a linear or cosine decay ends; 0.1 is the
            re-warm and re-decay of Ibrahim et al. 2024, arXiv 2403.08763.
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
    gradient_checkpointing: bool = False
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
class Labels:
    """What the table calls each choice: the group member, with the values that were overridden in it. Not part of any identity."""

    model: str
    tuning: str
    objective: str
    mitigation: str
    data: str
    anchor: str | None = None
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What an experiment declares before its results are seen.

    Not part of any identity: no run computes with it.

    Attributes:
        headline: the probe suite whose verdict is the headline.
        margin: a change within ±margin, in the metric's own unit, is none that matters;
            ``margins``: suite → margin, where it is another.
        control: label → value: runs that have all of them train on what the model knows already,
            and are the control of the others.
    """

    headline: str | None = None
    margin: float = 0.02
    margins: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the margins' range, and that a control is told by labels."""
        for where, margin in {"margin": self.margin, **{f"margins.{suite}": value for suite, value in self.margins.items()}}.items():
            check(f"declared.{where}", margin, "greater than 0", lambda value: value > 0)
        require_keys("declared.control", self.control, [f.name for f in dataclasses.fields(Labels)])


class EvaluationBackend(typing.Protocol):
    """How suites are evaluated: what a member of ``conf/evaluation/`` configures."""

    @property
    def items(self) -> Literal["report", "select"]:
        """Which items of each suite."""
        ...

    @property
    def dtype(self) -> Dtype:
        """Of the forward pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides one run; volumes are ``data.volumes``.

    Attributes:
        name: the folder under ``results`` that the run is recorded in.
        trajectory: ``shared``: one run at a constant rate, every volume a checkpoint of it;
            ``independent``: each volume its own run with its own schedule and decay.
        save_weights: which volumes keep their weights in the results folder.
        keep_state: keep the state of training after the last volume, so that a larger one goes on
            from there: about three times the size of the weights that move. Until the run is done
            it is kept in any case.
        declared: what its experiment declares before its results are seen.
        reference: the model that volume 0 is measured on, in the start model's place; null is the
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
    keep_state: bool = True
    declared: Declared = field(default_factory=Declared)
    reference: ModelSource | None = None

    def __post_init__(self) -> None:
        """Check that the name is one folder."""
        allowed = "letters, digits, '.', '_' and '-', beginning with a letter or digit"
        check("name", self.name, allowed, lambda value: re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) is not None)


def require_rows(batch_rows: int, processes: int) -> None:
    """Refuse a step with fewer rows than processes to share them: some would have nothing to do.

    Raises ConfigError.
    """
    fix = "fewer training.processes, or more training.batch_rows"
    check("training.processes", processes, f"at most training.batch_rows = {batch_rows}", lambda value: value <= batch_rows, fix)
