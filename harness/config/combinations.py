"""Combinations of choices that are valid, checked before anything loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.core.methods import Mitigation

MAX_WARMUP_SHARE = 0.25
"""Of the smallest volume: beyond it that point would mostly show the warm-up."""


def check(config: RunConfig) -> None:
    """Refuse combinations that mean nothing, before anything is loaded. Raises ConfigError."""
    name = config.labels
    for found in sorted(config.data.kinds - config.objective.needs):  # a sequence of stages may have several
        allowed = ", ".join(sorted(config.objective.needs))
        raise ConfigError(explain(f"data={name.data} with objective={name.objective}", got=f"{found} rows", allowed=f"{allowed} rows"))
    if reason := config.mitigation.rejects(config.objective, config.tuning, config.data):
        fix = "its settings, another objective, tuning or data, or another mitigation"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got=reason, fix=fix))
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
    """Refuse a sequence of stages whose boundaries no step falls on, or that would not be one run.

    Raises ConfigError.
    """
    ends, batch, warmup = config.data.stage_ends, config.training.batch_rows, config.training.warmup_rows
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
    """Refuse a choice that has nothing to be made on, or nothing to choose among.

    Raises ConfigError.
    """
    where = f"mitigation={config.labels.mitigation}"
    if (chooses(config.mitigation) or config.mitigation.keeps_best) and not config.target_suites:
        fix = "target_suites=[NAME]" + (", or one mitigation.coefficient" if config.mitigation.coefficients else "")
        got, allowed = "no target suite to choose on", "at least one with select items; nothing is chosen on probes"
        raise ConfigError(explain(where, got=got, allowed=allowed, fix=fix))
    if config.data.stage_ends and (chooses(config.mitigation) or config.mitigation.keeps_best):
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
    """Refuse a headline or a margin of a suite that is not asked.

    Without probes, as in a search of learning rates, nothing is judged.
    """
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
