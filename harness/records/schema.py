"""What is recorded: the shape of a score, a baseline, a point, a record; versioned.

Written and read by records.py alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness import PROTOCOL_VERSION
from harness.config.run_config import Declared as Declared

SCHEMA_VERSION = 2
WRITERS = "by"  # the key of Record.writing that says for what models wrote
Status = Literal["ok", "failed"]
Role = Literal["target", "probe"]

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
"""Kind of suite → its metrics, each with whether higher is better. All are continuous, also
where every item happens to be 0 or 1."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one task at one point.

    A failed measurement has status ``failed``, a reason and no value.

    Attributes:
        filter: lm-eval's answer filter, ``none`` where there is none; of a divergence suite, whose
            text it is on.
        primary: whether this is the metric its suite is judged by.
        n: items with a value.
        value: weighted mean over items, in the metric's unit (accuracy in 0..1, nats per token, …).
        stderr: standard error over items.
        chance: mean over items of the level of uniform guessing, where the metric has one; of nats
            per token, ln(vocabulary).
        unparsed: share of items, in 0..1, whose generated answer could not be parsed.
        prompt_truncated, answer_truncated: share whose prompt was cut to fit the context / whose
            answer ended at its length limit alone.
        remeasured: value of a second measurement with other batches and threads, where one was made
            (at volume 0) and succeeded.
        numeric_spread_nats: largest difference of any log-likelihood of the items between the two,
            in nats; None for generation.
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
    remeasured: float | None = None
    numeric_spread_nats: float | None = None

    @property
    def numeric_move(self) -> float | None:
        """The second measurement minus the first, in the metric's unit; None without a second."""
        return None if self.value is None or self.remeasured is None else self.remeasured - self.value

    @property
    def numeric_spread(self) -> float | None:
        """How far apart the two measurements are, in the metric's unit."""
        return None if self.numeric_move is None else abs(self.numeric_move)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished task of an evaluation under way.

    Attributes:
        key: hash of the weights that were measured and of how.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    key: str
    scores: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Volume 0 of one suite for one model, shared by every run that starts from it.

    Attributes:
        identity: everything that can change its numbers; its hash is ``baseline_id``.
        weights_sha256: bytes of the weights that were measured.
        evaluation_facts: what the backend settled by itself, such as its token budget.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    baseline_id: str
    suite: str
    identity: Mapping[str, Any]
    weights_sha256: str
    scores: tuple[Score, ...]
    wall_seconds: float
    provenance: Mapping[str, Any]
    evaluation_facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A run's state after a volume, evaluated.

    Token counts are cumulative from the start of the run.

    Attributes:
        target_rows, anchor_rows: rows trained on, each time they were seen.
        train_tokens: target and anchor tokens; ``supervised_tokens``: those with a loss;
            ``anchor_tokens``: the anchor's share.
        train_loss: mean nats per supervised token over the steps since the previous volume.
        weight_change: Euclidean norm of the change of all weights; 0 would mean that the run did
            nothing.
        flops: floating-point operations of training so far, as transformers estimates them.
        wall_seconds: training so far; ``evaluation_seconds``: this point's evaluation.
        weights: folder of the saved weights, relative to the run's folder.
        evaluation_facts: suite → what the backend settled by itself, such as its token budget.
        train_penalty: mean of what a loss remedy added to the loss of a step since the previous
            volume; None where there is none.
        generated_tokens: tokens that models wrote for the run so far (data before training,
            rollouts in training), thrown away or not.
        extra_tokens: tokens of forward passes beside training's own and beside writing (reference
            model, Fisher, scoring) so far.
        coefficient: of a weight remedy, the coefficient of the weights that were measured; None for
            plain tuned weights.
        selected: of a choice made on the target's select items, what was tried → its score; empty
            where nothing was chosen.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    volume: int
    steps: int
    target_rows: int
    anchor_rows: int
    train_tokens: int
    supervised_tokens: int
    anchor_tokens: int
    truncated_rows: int
    train_loss: float | None
    weight_change: float
    flops: float
    wall_seconds: float
    evaluation_seconds: float
    peak_memory_bytes: int
    scores: tuple[Score, ...]
    weights: str | None = None
    evaluation_facts: Mapping[str, Any] = field(default_factory=dict)
    train_penalty: float | None = None
    generated_tokens: int = 0
    extra_tokens: int = 0
    coefficient: float | None = None
    selected: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run.

    Attributes:
        identity: everything that can change its numbers and is known before starting; its hash is
            ``run_id``.
        labels: what the table calls model, tuning, objective, mitigation, data, anchor.
        config: the resolved configuration, plain values.
        volumes: every volume with a point, ascending.
        baselines: suite → baseline id; ``roles``: suite → target or probe.
        tuning_facts: rank, modules, … as resolved.
        data_facts: of the target rows as tokenised, largest volume, every epoch: rows, tokens,
            supervised tokens, truncated rows; and how many of one epoch's rows repeat an earlier
            one.
        overlap: suite → shares of its items found in the training rows (exact, 13-gram), or
            ``expected``.
        start_weights_sha256: bytes of the weights that training started from.
        micro_batch_rows: rows of one forward pass, where a step was taken in several: as
            configured, or as few as memory allowed.
        incomplete: volumes with a score whose measurement failed; 0 stands for its baselines.
        writing: of a run whose data were written by models: ``rows``, ``accepted``, ``acceptance``
            (their ratio), ``how`` (word → rows), ``generated_tokens``, ``edit_rate`` (mean share of
            words, where known), and for targets ``target_nats`` (nats per supervised token under
            the start model); ``by`` (WRITERS): objective, targets, anchor. Empty where nothing was
            written.
        derived_from: run id of the training whose weights, changed by a coefficient, this run
            measures; None for a run that trained.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    run_id: str
    experiment: str
    identity: Mapping[str, Any]
    labels: Mapping[str, Any]
    config: Mapping[str, Any]
    volumes: tuple[int, ...]
    baselines: Mapping[str, str]
    roles: Mapping[str, Role]
    params_total: int
    params_trainable: int
    learning_rate: float
    lr_tuned: bool
    seed: int
    trajectory: Literal["shared", "independent"]
    dtype: str
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


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The last try of a run that did not finish.

    Attributes:
        tries: how often it ended so since a command last asked for it; at ``TRIES`` the run counts
            as failed.
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


@dataclass(frozen=True)
class Manifest:
    """The runs that the last sweep, and any run since, asked for.

    Attributes:
        sweep: id of the last sweep, whose units lie in ``sweeps/``; None where there was only
            ``harness run``.
        declared: what they declared; None in a manifest from before there were declarations.
        arms: run id → the name of its arm, for runs that have one. Names belong to the experiment,
            not to a run: they are no part of its identity, and the last command's count.
    """

    experiment: str
    run_ids: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    sweep: str | None = None
    declared: Declared | None = None
    arms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One job of a sweep: a run, or the volume 0 that runs need.

    Attributes:
        id: the run id; ``baseline-`` and a hash for a baseline unit.
        overrides: what composes to its configuration (of a baseline unit: that of any run that
            needs it).
        label: what it is, for people.
        needs: baseline units that come first.
        baseline_keys: suite → hash of its volume 0's identity, as far as it is known before weights
            and tasks.
        volumes: points to reach; none for a baseline unit. ``derived``: runs that are measured with
            this one, at the same volumes.
        threads, processes: that it computes with.
        params_total: of its model.
        cost: rough floating-point operations, to put the longest first.
    """

    kind: Literal["baseline", "run"]
    id: str
    overrides: tuple[str, ...]
    label: str
    needs: tuple[str, ...] = ()
    baseline_keys: Mapping[str, str]
    volumes: tuple[int, ...] = ()
    derived: tuple[str, ...] = ()
    threads: int
    processes: int
    params_total: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What one sweep command asked for: every unit, done or not, in the order in which they are taken.

    Attributes:
        cores, gpus: what each worker was planned to have; they decide threads, dtype and processes.
    """

    schema_version: int = SCHEMA_VERSION
    protocol_version: int = PROTOCOL_VERSION
    id: str
    experiment: str
    command: str
    time: str
    cores: int
    gpus: int
    units: tuple[Unit, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold of a unit: the n-th since the first.

    Its file's modification time is its last heartbeat.

    Attributes:
        sweep: id of the sweep that it was taken for; empty for ``harness run``.
        host, boot, pid, started: which process has it; ``boot`` tells containers and reboots of a
            host apart, ``started`` a pid used again.
        node: what the cluster calls the machine, else its host name.
        lease: seconds without a heartbeat after which another may take it.
        found: what was recorded of the unit when it was taken; ``stage``, ``finished``, ``total``:
            how far its work is since.
        cpu_seconds, wall_seconds, gpus, memory_bytes: spent on it, and held at the last heartbeat.
        ended: how the hold ended: ``done``, ``failed``, ``interrupted``, …; empty while it is held,
            and for ever if its owner died.
        died: how its owner died, where somebody saw it.
    """

    schema_version: int = SCHEMA_VERSION
    unit: str
    generation: int
    sweep: str
    host: str
    boot: str
    pid: int
    started: float
    node: str
    lease: float
    taken: str
    found: str = ""
    stage: str = ""
    finished: int = 0
    total: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    gpus: int = 0
    memory_bytes: int = 0
    ended: str = ""
    reason: str = ""
    died: str = ""


TRIES = 2
"""Exceptions that make a run failed: one may be chance (a file system, a full GPU), two are its
own."""


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
"""Columns of samples.parquet, one row an (item, filter). Beside them, for each metric M of any task in the file, ``metric.M`` (the
item's value, missing where the metric is not the task's) and, for a ratio metric such as nats per
token, ``weight.M`` (the item's weight in the mean; missing means 1). ``choices`` and
``log_likelihoods`` are lists for multiple choice; ``text`` is what a generation task's model wrote,
or the sampled text that a divergence suite is on; ``chance`` is this item's level of uniform
guessing."""

GENERATED = "_generated"
"""What follows a task's name where its items are asked by generation, beside the same items
asked by choice."""


def cluster_field(cluster: Any, task: str) -> str | None:
    """Return the field by which items of a leaf task are clustered.

    Args:
        cluster: as a suite's yaml has it: a field, leaf task → field, or None.
        task: leaf task; asked by generation too, it has the field of the task it is made of.
    """
    return cluster.get(task.removesuffix(GENERATED)) if isinstance(cluster, Mapping) else cluster


def cluster_of(document: Mapping[str, Any], field: str) -> str | None:
    """Return the ``cluster`` of samples: a short hash of what a document says in the field its suite clusters by; None without one."""
    value = document.get(field)
    return None if value in (None, "") else hashlib.sha256(str(value).encode()).hexdigest()[:12]


START_WEIGHTS = "start_weights_sha256"
"""Stands in config.json beside the configuration: the bytes that every point of the run started
from."""

BASELINES = "baselines"
"""Stands there too, so that the points of a run that is not done can be compared with before."""


def complete(measured: Baseline | Point) -> bool:
    """Say whether every score of a measurement is there."""
    return all(score.status == "ok" for score in measured.scores)


def but_for_volumes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration asks for, apart from how far it goes (each independent volume is a run of its own)."""
    data = dict(config.get("data", {}))
    if config.get("trajectory") == "shared":
        data.pop("volumes", None)
    others = ("results", START_WEIGHTS, BASELINES, "save_weights", "keep_state", "declared")
    return {**config, "data": data, **dict.fromkeys(others)}
