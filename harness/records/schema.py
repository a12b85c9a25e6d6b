"""Schema of a run's records: score, measurement, point, record, failure, samples; versioned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness import PROTOCOL_VERSION
from harness.config.run_config import Declared as Declared
from harness.core.counts import Counts

SCHEMA_VERSION = 5

REACH = "reach"
"""Name of the accepted rows and all rows, of a run that does not reach all its volumes."""

WRITERS = "by"
"""Key of ``Record.writing``: for which of objective, targets and anchor a model wrote rows."""

Status = Literal["ok", "failed"]
Role = Literal["target", "probe"]

Axis = Literal["rows", "steps", "checkpoint"]
"""Unit of a run's volumes: target rows; of a training elsewhere whose batch is unknown, optimizer
steps; of a checkpoint without a known step, nothing: its volume is 1."""

OWN_METRICS: Mapping[str, Mapping[str, bool]] = {
    "likelihood": {"nats_per_token": False, "bits_per_byte": False},
    "divergence": {
        "kl_base_tuned": False,
        "kl_tuned_base": False,
        "kl_base_tuned_sequence": False,
        "kl_tuned_base_sequence": False,
        "forgetting_ce_hard": False,
        "forgetting_ce_soft": False,
        "agreement": True,
    },
}
"""Kind of suite → metric → whether higher is better. All are continuous, even if every item
happens to be 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task at one point.

    A failed measurement has status ``failed``, a reason and no value.

    Attributes:
        filter: lm-eval's answer filter, ``none`` without one; for a divergence suite, the text it
            is measured on: gold, base or tuned.
        primary: whether this is the primary metric of its suite.
        n: items with a value.
        value: weighted mean over items, in the metric's unit (accuracy in 0..1, nats per token, …).
        stderr: standard error over items.
        chance: mean over items of the score of uniform guessing, if the metric has one; for nats
            per token, ln(vocabulary).
        unparsed: share of items, in 0..1, whose generated answer could not be parsed.
        prompt_truncated: share of items whose prompt was cut to fit the context.
        answer_truncated: share of items whose answer ended only at its length limit.
        repeated_items: documents of the task left out since they repeat another one; None where it
            was not counted.
        remeasured: value of a second measurement with other batches and threads, if one was made
            (at volume 0) and succeeded.
        numeric_spread_nats: largest difference of an item's log-likelihood between the two, in
            nats; None for generation.
    """

    suite: str
    task: str
    metric: str
    filter: str
    primary: bool
    n: int
    value: float | None
    stderr: float | None
    chance: float | None
    higher_is_better: bool
    status: Status = "ok"
    reason: str | None = None
    unparsed: float | None = None
    prompt_truncated: float | None = None
    answer_truncated: float | None = None
    repeated_items: int | None = None
    remeasured: float | None = None
    numeric_spread_nats: float | None = None

    @property
    def numeric_move(self) -> float | None:
        """The second measurement minus the first, in the metric's unit; None without a second."""
        return None if self.value is None or self.remeasured is None else self.remeasured - self.value

    @property
    def numeric_spread(self) -> float | None:
        """Distance between the two measurements, in the metric's unit."""
        return None if self.numeric_move is None else abs(self.numeric_move)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished task of a measurement that is not done.

    Attributes:
        key: hash of the measured weights and of the evaluation's settings.
        samples_sha256: hash of the file of its items.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    key: str
    samples_sha256: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The scores of one suite on one set of weights.

    The weights are those of a run after a volume, or those that volume 0 is measured on; runs that
    share them share their measurement.

    Attributes:
        evaluation_id: hash of ``identity``.
        identity: everything that decides the scores of given weights: the suite, its tasks as
            lm-eval built them, tokenizer, prompt format, dtype and backend.
        weights_sha256: hash of the measured weights, as in ``Point`` and ``Record.before_sha256``.
        peak_memory_bytes: of the process so far.
        facts: settings that the backend chose itself, such as its token budget.
        samples_sha256: hash of the file of its items, set when it is written.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    evaluation_id: str
    weights_sha256: str
    suite: str
    identity: Mapping[str, Any]
    scores: tuple[Score, ...]
    wall_seconds: float
    peak_memory_bytes: int
    provenance: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    samples_sha256: str = ""

    @property
    def place(self) -> str:
        """The name of its folder in that of its evaluation."""
        return self.weights_sha256[:16]

    @property
    def is_complete(self) -> bool:
        """Whether every score succeeded."""
        return all(score.status == "ok" for score in self.scores)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run after a volume; its scores are measurements of its weights.

    Attributes:
        weights_sha256: hash of its weights, which names its measurements.
        counts: running totals of the run, those of generated rows and of the mitigation's own
            forward passes (Fisher, a reference model) included.
        target_rows, anchor_rows: rows trained on, counted each time they were seen.
        anchor_tokens: trained tokens of the anchor.
        anchor_supervised_tokens: those of them with a loss; None in records that lack it.
        anchor_loss_share: weight of the anchor in the training loss, penalties aside, in 0..1: mean
            over steps so far of its share of the step's supervised tokens. None in records that
            lack it.
        weight_change: Euclidean norm of the change of all weights; None for a checkpoint of a
            training elsewhere.
        peak_memory_bytes: of the process so far, evaluation included.
        weights: folder of the saved weights, relative to the run's folder.
        coefficient: of a weight mitigation, the coefficient of the measured weights; None for
            plain tuned weights.
        selected: candidate → score, if one was selected on the target's select items; else empty.
        source: of a checkpoint of a training elsewhere, what was measured. Steps, tokens and loss
            are then what the trainer's files say, 0 where they say nothing; empty for our runs.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    volume: int
    weights_sha256: str
    counts: Counts
    target_rows: int
    anchor_rows: int
    anchor_tokens: int
    truncated_rows: int
    anchor_supervised_tokens: int | None = None
    anchor_loss_share: float | None = None
    weight_change: float | None
    peak_memory_bytes: int
    weights: str | None = None
    coefficient: float | None = None
    selected: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        identity: everything that decides its weights and is known before starting; its hash is
            ``run_id``.
        labels: names in the table of model, tuning, objective, mitigation, data, anchor.
        config: the resolved configuration, plain values.
        volumes: every volume with a point, ascending.
        evaluations: suite → evaluation id, as the last command that asked for the run measures it.
        before_sha256: hash of the weights that volume 0 is measured on.
        roles: suite → target or probe.
        tuning_facts: resolved settings such as rank and modules.
        data_facts: of the tokenised target rows, largest volume, every epoch: rows, tokens,
            supervised tokens, truncated rows; how many of one epoch's rows repeat an earlier one;
            and of the data set, rows left out since they teach nothing, and long texts split
            (``anchor_``: of the anchor).
        overlap: suite → shares of its items found in the training rows (exact, 13-gram), or
            ``expected``.
        start_weights_sha256: hash of the bytes of the weights that training started from.
        micro_batch_rows: rows of one forward pass, if a step was split: as configured, or as few
            as memory allowed.
        incomplete: volumes with a measurement that failed or is missing; 0 is volume 0.
        writing: of a run with generated rows: ``rows``, ``accepted``, ``acceptance`` (their ratio),
            ``how`` (word → rows), ``generated_tokens``, ``edit_rate`` (mean share of words, where
            known), and for targets ``target_nats`` (nats per supervised token under the start
            model); ``by`` (WRITERS): objective, targets, anchor; ``reach`` (REACH): accepted rows
            and all rows, where the first are too few for a volume. Empty without generated rows.
        derived_from: run id of the training whose weights, changed by a coefficient, this run
            measures; None for a run that trained.
        axis: unit of its volumes.

    A training elsewhere, of which checkpoints are measured, has no trainable parameters, rate or
    dtype here: they are None.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    experiment: str
    identity: Mapping[str, Any]
    labels: Mapping[str, Any]
    config: Mapping[str, Any]
    volumes: tuple[int, ...]
    evaluations: Mapping[str, str]
    before_sha256: str
    roles: Mapping[str, Role]
    params_total: int
    params_trainable: int | None
    learning_rate: float | None
    lr_tuned: bool | None
    seed: int
    trajectory: Literal["shared", "independent"]
    dtype: str | None
    threads: int
    tuning_facts: Mapping[str, Any]
    overlap: Mapping[str, Any]
    start_weights_sha256: str
    provenance: Mapping[str, Any]
    data_facts: Mapping[str, Any] = field(default_factory=dict)
    micro_batch_rows: int | None = None
    incomplete: tuple[int, ...] = ()
    writing: Mapping[str, Any] = field(default_factory=dict)
    derived_from: str | None = None
    axis: Axis = "rows"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The last try of a run, which failed.

    Attributes:
        tries: failed tries since a command last asked for the run; at ``TRIES`` it counts as
            failed.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    experiment: str
    labels: Mapping[str, Any]
    config: Mapping[str, Any]
    reason: str
    traceback: str
    tries: int = 1


SAMPLE_COLUMNS = {
    "suite": "str",
    "task": "str",
    "filter": "str",
    "doc_id": "int64",
    "doc_hash": "str",
    "prompt_hash": "str",
    "target_hash": "str",
    "prompt": "str",
    "target": "str",
    "choices": "object",
    "log_likelihoods": "object",
    "text": "object",
    "chance": "float64",
}
"""Columns of samples.parquet, one row for each item and filter.

Further columns for each metric M of any task in the file: ``metric.M`` (the item's value, missing
if the task does not have the metric) and, for a ratio metric such as nats per token, ``weight.M``
(the item's weight in the mean; missing means 1).

``choices`` and ``log_likelihoods`` are lists for multiple choice; ``text`` is the generated answer,
or the sampled text that a divergence suite is measured on; ``chance`` is this item's score of
uniform guessing."""

GENERATED = "_generated"
"""Suffix of a task that asks the items of another one by generation instead of by choice."""


def cluster_field(cluster: Any, task: str) -> str | None:
    """Return the field by which items of a leaf task are clustered.

    Args:
        cluster: of a suite's yaml: a field, leaf task → field, or None.
        task: leaf task; one with the suffix ``GENERATED`` has the field of its original.
    """
    return cluster.get(task.removesuffix(GENERATED)) if isinstance(cluster, Mapping) else cluster


def cluster_of(document: Mapping[str, Any], field: str) -> str | None:
    """Return a sample's cluster: a short hash of its document's field; None if empty."""
    value = document.get(field)
    return None if value in (None, "") else hashlib.sha256(str(value).encode()).hexdigest()[:12]


EVALUATIONS = "evaluations"
"""Further key of config.json: suite → evaluation id, so that an unfinished run can be read."""

BEFORE = "before_sha256"
"""Further key of config.json: hash of the weights that volume 0 is measured on."""
