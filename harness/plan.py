"""What a run is before it starts: compatibility, resolved values, steps and identity. Pure: no disk, no clock, no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness import PROTOCOL_VERSION
from harness.config import RATE_KEYS, RunConfig, identifying, plain, require_rows
from harness.errors import ConfigError, did_you_mean, explain
from harness.interfaces import Mitigation, ModelFacts

SMALL_MODEL_PARAMS = 5_000_000
"""Below this size a second thread costs more than it gives (measured on two cores), so the default is one."""

MAX_WARMUP_SHARE = 0.25
"""Of the smallest volume: beyond it that point would mostly show the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What one run may use of a computer.

    Attributes:
        cores: of the processor.
        gpus: 0 is a run on the processor.
    """

    cores: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What the configuration left open, decided from the model's size and the machine. Part of the identity, but for the device.

    Attributes:
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


@dataclass(frozen=True, kw_only=True)
class SearchedRate:
    """A learning rate found on the target's ``select`` items, for one combination of labels (``conf/learning_rates.yaml``).

    Attributes:
        candidates: the rates that were tried; ``score`` is the best one's primary metric on the select items.
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


def resolve(config: RunConfig, facts: ModelFacts, searched: Sequence[SearchedRate], machine: Machine) -> Resolved:
    """Decide learning rate, dtypes, threads, processes, device and row length.

    Args:
        config: the configuration.
        facts: of its model.
        searched: the rates that a search has found.
        machine: what the run may use.

    Raises:
        ConfigError: if a step has fewer rows than there are processes, or a worker fewer GPUs, or nothing was searched for ``rate_of``.
    """
    rate, tuned = _learning_rate(config, facts, searched)
    automatic: Literal["float32", "bfloat16"] = "bfloat16" if machine.gpus else "float32"
    dtype, evaluation_dtype = config.training.dtype, config.evaluation.dtype
    processes = config.training.processes or max(1, machine.gpus)
    require_rows(config.training.batch_rows, processes)
    if machine.gpus and processes > machine.gpus:
        fix = "launcher.gpus_per_worker (local) or launcher.gpus (slurm)"
        allowed = f"at most the {machine.gpus} GPU(s) of a worker"
        raise ConfigError(explain("training.processes", got=processes, allowed=allowed, fix=fix))
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
    )


def _learning_rate(config: RunConfig, facts: ModelFacts, searched: Sequence[SearchedRate]) -> tuple[float, bool]:
    """Return the rate, and whether it was searched for the very combination that the run is."""
    own = {key: getattr(config.labels, key) for key in RATE_KEYS}
    _check_rate_of(config.training.rate_of, searched)
    found, known = _rates(searched, {**own, **config.training.rate_of}), _rates(searched, own)
    rate = config.training.learning_rate
    if rate is None:
        rate = found[-1] if found else config.objective.rate_share * config.tuning.default_learning_rate(facts.params_total)
    return rate, rate in known


def _rates(searched: Sequence[SearchedRate], labels: Mapping[str, str]) -> list[float]:
    return [rate.learning_rate for rate in searched if all(getattr(rate, key) == value for key, value in labels.items())]


def _check_rate_of(labels: Mapping[str, str], searched: Sequence[SearchedRate]) -> None:
    """Refuse labels of which nothing was searched for any model: misspelt, they would quietly give the default rate. Raises ConfigError."""
    for key, value in labels.items():
        known = sorted({getattr(rate, key) for rate in searched})
        if value not in known:
            fix = did_you_mean(value, known) or "training.learning_rate=…"
            raise ConfigError(explain(f"training.rate_of.{key}", got=repr(value), allowed=", ".join(known) or "nothing yet", fix=fix))


def check(config: RunConfig) -> None:
    """Refuse combinations that mean nothing, before anything is loaded. Raises ConfigError."""
    kind, name = config.data.kind, config.labels
    for found in sorted(getattr(config.data, "kinds", {kind}) - config.objective.needs):  # a sequence of stages may have several
        allowed = ", ".join(sorted(config.objective.needs))
        raise ConfigError(explain(f"data={name.data} with objective={name.objective}", got=f"{found} rows", allowed=f"{allowed} rows"))
    if refusal := config.mitigation.refuses(config.objective, config.tuning, config.data):
        fix = "its settings, another objective, tuning or data, or another mitigation"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got=refusal, fix=fix))
    if config.mitigation.needs_anchor and config.anchor is None:
        fix = "anchor=NAME, any of conf/data (`harness list anchor`)"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got="no anchor", allowed="the data that stand for the past", fix=fix))
    if config.mitigation.trains_on_anchor and config.anchor and config.anchor.kind not in config.objective.needs:
        allowed = f"{', '.join(sorted(config.objective.needs))} rows for objective={name.objective}"
        raise ConfigError(explain(f"anchor={name.anchor}", got=f"{config.anchor.kind} rows", allowed=allowed))
    if not config.target_suites and not config.probe_suites:
        raise ConfigError(explain("target_suites and probe_suites", got="none", allowed="at least one suite", fix="`harness list suites`"))
    if both := set(config.target_suites) & set(config.probe_suites):
        raise ConfigError(explain("probe_suites", got=", ".join(sorted(both)), allowed="suites that are not target_suites too"))
    _check_learns(config)
    _check_volumes(config)
    _check_stages(config)
    _check_choice(config)
    _check_trajectory(config)
    _check_declared(config)


def _check_learns(config: RunConfig) -> None:
    """Refuse several processes where a step's rows are not to be shared out: pairs, prompts to be answered. Raises ConfigError."""
    processes, learns = config.training.processes or 1, config.objective.learns
    if processes > 1 and learns != "tokens":
        allowed, fix = f"1 for objective={config.labels.objective}, which learns {learns}", "training.processes=1"
        raise ConfigError(explain("training.processes", got=processes, allowed=allowed, fix=fix))


def _check_volumes(config: RunConfig) -> None:
    batch = config.training.batch_rows
    for volume in config.data.volumes:
        if volume % batch:
            near = sorted({volume - volume % batch or batch, volume + batch - volume % batch})
            fix = f"use {' or '.join(map(str, near))}, or change training.batch_rows"
            raise ConfigError(explain("data.volumes", got=volume, allowed=f"multiples of training.batch_rows = {batch}", fix=fix))


def _check_stages(config: RunConfig) -> None:
    """Refuse a sequence of stages whose boundaries no step falls on, or that would not be one run. Raises ConfigError."""
    ends, batch, warmup = getattr(config.data, "stage_ends", ()), config.training.batch_rows, config.training.warmup_rows
    if not ends:
        return
    if config.trajectory == "independent":
        fix = "trajectory=shared, or a run on each of the data sets"
        raise ConfigError(explain(f"data={config.labels.data}", got="trajectory=independent", allowed="stages of one run", fix=fix))
    for start, end in zip((0, *ends), ends, strict=False):
        if (end - start) % batch:
            raise ConfigError(explain("data.stage_rows", got=end - start, allowed=f"multiples of training.batch_rows = {batch}"))
        if warmup > MAX_WARMUP_SHARE * (end - start):
            allowed = f"at most a quarter of the smallest stage ({int(MAX_WARMUP_SHARE * (end - start))} of {end - start} rows)"
            raise ConfigError(explain("training.warmup_rows", got=warmup, allowed=allowed, fix="fewer warm-up rows or larger stages"))


def chooses(mitigation: Mitigation) -> bool:
    """Say whether a run chooses among its coefficients, on the target's select items."""
    return mitigation.coefficient is None and len(mitigation.coefficients) > 1


def _check_choice(config: RunConfig) -> None:
    """Refuse a choice that has nothing to be made on, or nothing to choose among. Raises ConfigError."""
    where = f"mitigation={config.labels.mitigation}"
    if (chooses(config.mitigation) or config.mitigation.keeps_best) and not config.target_suites:
        fix = "target_suites=[NAME]" + (", or one mitigation.coefficient" if config.mitigation.coefficients else "")
        got, allowed = "no target suite to choose on", "at least one with select items; nothing is chosen on probes"
        raise ConfigError(explain(where, got=got, allowed=allowed, fix=fix))
    if getattr(config.data, "stage_ends", None) and (chooses(config.mitigation) or config.mitigation.keeps_best):
        fix = "one mitigation.coefficient" if config.mitigation.coefficients else f"no mitigation={config.labels.mitigation}"
        got = "a sequence of stages, whose earlier stages are what may be forgotten"
        raise ConfigError(explain(where, got=got, allowed="one stage, where something is chosen on the targets", fix=fix))
    if config.mitigation.keeps_best and config.trajectory == "independent":
        got = "trajectory=independent, where each volume is a run of its own and has none before it to stop at"
        raise ConfigError(explain(where, got=got, allowed="trajectory=shared"))


def check_chosen_on(config: RunConfig, metrics: Mapping[str, str]) -> None:
    """Refuse a choice on the mean of metrics that are not alike: the one of the larger numbers would decide alone. Raises ConfigError.

    Args:
        config: of a run.
        metrics: target suite → its primary metric.
    """
    if (chooses(config.mitigation) or config.mitigation.keeps_best) and len(set(metrics.values())) > 1:
        got = ", ".join(f"{metric} of {suite}" for suite, metric in metrics.items())
        fix = "target_suites of one metric" + (", or one mitigation.coefficient" if config.mitigation.coefficients else "")
        raise ConfigError(explain(f"mitigation={config.labels.mitigation}", got=got, allowed="one metric to choose on", fix=fix))


def _check_trajectory(config: RunConfig) -> None:
    training, seen = config.training, min(config.data.volumes) * config.training.epochs
    if training.warmup_rows > MAX_WARMUP_SHARE * seen:
        allowed = f"at most a quarter of the smallest volume ({int(MAX_WARMUP_SHARE * seen)} of {seen} rows)"
        raise ConfigError(
            explain("training.warmup_rows", got=training.warmup_rows, allowed=allowed, fix="fewer warm-up rows or larger volumes")
        )
    if config.trajectory == "independent":
        return
    if training.decay != "constant":
        fix = "training.decay=constant, or trajectory=independent"
        raise ConfigError(explain("training.decay", got=training.decay, allowed="constant for trajectory=shared", fix=fix))
    if training.epochs != 1:
        raise ConfigError(explain("training.epochs", got=training.epochs, allowed="1 for trajectory=shared", fix="trajectory=independent"))


def _check_declared(config: RunConfig) -> None:
    """Refuse a headline or a margin of a suite that is not asked. Without probes, as in a search of learning rates, nothing is judged."""
    if not config.probe_suites:
        return
    headline, probes, every = config.declared.headline, config.probe_suites, (*config.target_suites, *config.probe_suites)
    if headline is not None and headline not in probes:
        fix = f"declared.headline={probes[0]}, or null for none"
        raise ConfigError(explain("declared.headline", got=repr(headline), allowed=f"one of probe_suites: {', '.join(probes)}", fix=fix))
    for suite in config.declared.margins:
        if suite not in every:
            allowed = f"suites that are asked: {', '.join(every)}"
            raise ConfigError(explain("declared.margins", got=repr(suite), allowed=allowed, fix=did_you_mean(suite, every)))


def runs_of(config: RunConfig) -> list[RunConfig]:
    """Split a configuration into its runs: one for a shared trajectory, one a volume for independent ones."""
    if config.trajectory == "shared":
        return [config]
    sources: list[Any] = [dataclasses.replace(config.data, volumes=(volume,)) for volume in config.data.volumes]  # type: ignore[type-var]
    return [dataclasses.replace(config, data=source) for source in sources]


def identity(config: RunConfig, resolved: Resolved, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that can change a number of this run and is known before it starts.

    Names, paths, labels and the list of volumes of a shared trajectory are left out: where data or a model come from does not
    matter, what they contain does.

    Args:
        config: the configuration.
        resolved: its resolved values.
        inputs: content hashes by name, as plain values: model, data, anchor, suites.
    """
    # Rows of one forward pass move rounding alone, and give way where memory runs out: not another run.
    open_values = {"learning_rate", "rate_of", "dtype", "threads", "processes", "max_length", "micro_batch_rows", "class"}
    training = {key: value for key, value in identifying(config.training).items() if key not in open_values}
    settled = {key: value for key, value in plain(resolved).items() if key not in {"device", "lr_tuned", "class"}}
    return {
        "protocol_version": PROTOCOL_VERSION,
        "training": training | settled,
        "tuning": identifying(config.tuning),
        "objective": identifying(config.objective),
        "mitigation": identifying(config.mitigation),
        "evaluation": plain(config.evaluation),
        "trajectory": config.trajectory,
        "volumes": _volumes(config),
        "seed": config.seed,
        "inputs": dict(inputs),
    }


def _volumes(config: RunConfig) -> list[int] | None:
    """Return the volumes where they make a run; what is best so far depends on which were looked at, in whatever order they were named."""
    if config.mitigation.keeps_best:
        return sorted(config.data.volumes)
    return list(config.data.volumes) if config.trajectory == "independent" else None


def derived(run_id: str, coefficient: float) -> str:
    """Return the id of the run that measures a run's weights changed by a coefficient."""
    return f"{run_id}-{coefficient:g}"


def trained(run_id: str) -> str:
    """Return the id of the run that trained the weights which a run measures: of a derived run its parent, else the run itself."""
    found = re.fullmatch(r"([0-9a-f]{12})-[0-9.e+-]+", run_id)
    return found[1] if found else run_id


def identify(values: Mapping[str, Any]) -> str:
    """Hash an identity (canonical JSON) to 12 hexadecimal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
