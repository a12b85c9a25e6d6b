"""Valid combinations of choices, checked before anything loads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, did_you_mean, explain
from harness.core.methods import Mitigation
from harness.core.rows import RowKind
from harness.core.sources import Source

MAX_WARMUP_SHARE = 0.25
"""Largest share of the smallest volume; with more, that point would mostly show the warm-up."""

LAWS = Path(__file__).parents[1] / "analysis" / "fits" / "laws"
"""The folder of laws, one file each; this room imports none of them."""

LEARNED_BY: Mapping[RowKind, str] = {"text": "clm", "completion": "sft", "chat": "sft", "preference": "dpo"}
"""Kind of row → the usual objective that learns it."""


def check(config: RunConfig) -> None:
    """Raise ConfigError for an invalid combination."""
    name = config.labels
    _check_rows(config, config.data, f"data={name.data}")
    if reason := config.mitigation.rejects(config.objective, config.tuning, config.data):
        fix = "other settings of the mitigation, another objective, tuning or data, or another mitigation"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got=reason, fix=fix))
    if config.mitigation.needs_anchor and config.anchor is None:
        allowed, fix = "an anchor: data that represent the past", "anchor=NAME, any of conf/data (`harness list anchor`)"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got="no anchor", allowed=allowed, fix=fix))
    if config.mitigation.trains_on_anchor and config.anchor:
        _check_rows(config, config.anchor, f"anchor={name.anchor}")
    if not config.target_suites and not config.probe_suites:
        raise ConfigError(explain("target_suites and probe_suites", got="none", allowed="at least one suite", fix="`harness list suites`"))
    if both := set(config.target_suites) & set(config.probe_suites):
        raise ConfigError(explain("probe_suites", got=", ".join(sorted(both)), allowed="suites that are not in target_suites"))
    _check_quantized(config)
    _check_learns(config)
    _check_volumes(config)
    _check_stages(config)
    _check_choice(config)
    _check_trajectory(config)
    _check_declared(config)


def _check_rows(config: RunConfig, source: Source, where: str) -> None:
    """Raise ConfigError for rows that the objective does not learn; stages may have several kinds.

    Raises DataError if the kind of the rows is in the data, and these cannot be read.
    """
    objective, needs = config.labels.objective, config.objective.needs
    for found in sorted(source.kinds - needs):
        allowed, fix = f"{', '.join(sorted(needs))} rows", f"objective={LEARNED_BY[found]}, or other data"
        raise ConfigError(explain(f"{where} with objective={objective}", got=f"{found} rows", allowed=allowed, fix=fix))
    if source.conversations and config.objective.prompt_format == "plain":
        got, fix = "conversations", "objective.prompt_format=chat, and a model with a chat template, such as model=smollm2-135m-instruct"
        where = f"{where} with objective.prompt_format=plain"
        raise ConfigError(explain(where, got=got, allowed="text, or prompt and completion", fix=fix))


def _check_quantized(config: RunConfig) -> None:
    """Raise ConfigError for methods that need weights in floating point, on quantised ones."""
    bits, name = getattr(config.model, "quantization", None), config.labels
    if not bits:
        return
    got, fix = f"model.quantization={bits}, weights of 4 bits", "model.quantization=null"
    if not config.tuning.adapts:
        allowed = "an adapter: quantised weights cannot be trained"
        raise ConfigError(explain(f"tuning={name.tuning}", got=got, allowed=allowed, fix=f"tuning=lora, or {fix}"))
    if config.mitigation.needs_weights:
        allowed = "weights in floating point, which it computes with"
        raise ConfigError(explain(f"mitigation={name.mitigation}", got=got, allowed=allowed, fix=f"another mitigation, or {fix}"))


def _check_learns(config: RunConfig) -> None:
    """Raise ConfigError for several processes with an objective that learns rewards."""
    processes, learns = config.training.processes or 1, config.objective.learns
    if processes > 1 and learns == "rewards":
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
    """Raise ConfigError for stages of independent runs, or that do not end with a step."""
    ends, batch, warmup = config.data.stage_ends, config.training.batch_rows, config.training.warmup_rows
    if not ends:
        return
    if config.trajectory == "independent":
        fix = "trajectory=shared, or one run for each data set"
        raise ConfigError(explain(f"data={config.labels.data}", got="trajectory=independent", allowed="stages of one run", fix=fix))
    for start, end in zip((0, *ends), ends, strict=False):
        if (end - start) % batch:
            raise ConfigError(explain("data.stage_rows", got=end - start, allowed=f"multiples of training.batch_rows = {batch}"))
        if warmup > MAX_WARMUP_SHARE * (end - start):
            allowed = f"at most a quarter of the smallest stage ({int(MAX_WARMUP_SHARE * (end - start))} of {end - start} rows)"
            raise ConfigError(explain("training.warmup_rows", got=warmup, allowed=allowed, fix="fewer warm-up rows or larger stages"))


def chooses(mitigation: Mitigation) -> bool:
    """Return whether a run selects one of several coefficients, on the target's select items."""
    return mitigation.coefficient is None and len(mitigation.coefficients) > 1


def _check_choice(config: RunConfig) -> None:
    """Raise ConfigError where nothing can be selected: no targets, several stages, one volume."""
    where = f"mitigation={config.labels.mitigation}"
    if (chooses(config.mitigation) or config.mitigation.keeps_best) and not config.target_suites:
        fix = "target_suites=[NAME]" + (", or one mitigation.coefficient" if config.mitigation.coefficients else "")
        got, allowed = "no target suite to select on", "at least one with select items; probes are never used to select"
        raise ConfigError(explain(where, got=got, allowed=allowed, fix=fix))
    if config.data.stage_ends and (chooses(config.mitigation) or config.mitigation.keeps_best):
        fix = "one mitigation.coefficient" if config.mitigation.coefficients else f"no mitigation={config.labels.mitigation}"
        got = "a sequence of stages, whose earlier targets may be forgotten"
        raise ConfigError(explain(where, got=got, allowed="one stage, to select on its targets", fix=fix))
    if config.mitigation.keeps_best and config.trajectory == "independent":
        got = "trajectory=independent, in which a run has one volume and none to select from"
        raise ConfigError(explain(where, got=got, allowed="trajectory=shared"))


def check_chosen_on(config: RunConfig, metrics: Mapping[str, str]) -> None:
    """Raise ConfigError for a selection on the mean of different metrics.

    The metric with the largest numbers would decide.

    Args:
        config: of a run.
        metrics: target suite → its primary metric.
    """
    if (chooses(config.mitigation) or config.mitigation.keeps_best) and len(set(metrics.values())) > 1:
        got = ", ".join(f"{metric} of {suite}" for suite, metric in metrics.items())
        fix = "target_suites of one metric" + (", or one mitigation.coefficient" if config.mitigation.coefficients else "")
        raise ConfigError(explain(f"mitigation={config.labels.mitigation}", got=got, allowed="one metric to select on", fix=fix))


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
    """Raise ConfigError for an unknown law, and a headline or margin of a suite not measured."""
    law, known = config.declared.law, sorted(path.stem for path in LAWS.glob("[!_]*.py"))
    if law is not None and law not in known:
        fix = did_you_mean(law, known) or "null for none"
        raise ConfigError(explain("declared.law", got=repr(law), allowed=", ".join(known), fix=fix))
    if not config.probe_suites:  # as in a search of learning rates, which gives no verdict
        return
    headline, probes, every = config.declared.headline, config.probe_suites, (*config.target_suites, *config.probe_suites)
    if headline is not None and headline not in probes:
        fix = f"declared.headline={probes[0]}, or null for none"
        raise ConfigError(explain("declared.headline", got=repr(headline), allowed=f"one of probe_suites: {', '.join(probes)}", fix=fix))
    for suite in config.declared.margins:
        if suite not in every:
            allowed = f"target_suites and probe_suites: {', '.join(every)}"
            raise ConfigError(explain("declared.margins", got=repr(suite), allowed=allowed, fix=did_you_mean(suite, every)))


def runs_of(config: RunConfig) -> list[RunConfig]:
    """Split a configuration into its runs: one if shared, one for each volume if independent."""
    if config.trajectory == "shared":
        return [config]
    sources: list[Any] = [dataclasses.replace(config.data, volumes=(volume,)) for volume in config.data.volumes]  # type: ignore[type-var]
    return [dataclasses.replace(config, data=source) for source in sources]
