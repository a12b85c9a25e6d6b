"""Identities: of a run, everything that decides its weights; of an evaluation, its scores.

An identity holds resolved values instead of spellings, names of groups and classes, and hashes of
content. Names, paths and labels are left out, and so is what moves rounding alone: threads,
batches of an evaluation, micro-batches without dropout.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

from harness import PROTOCOL_VERSION
from harness.config.resolution import Resolved
from harness.config.run_config import RunConfig
from harness.config.strict import identifying, plain
from harness.core.sources import EvaluationBackend, ModelFacts

ROUNDING = {"threads", "processes", "gradient_checkpointing", "micro_batch_rows"}
"""Settings of training that move rounding alone; two of them more where something drops."""

RESOLVED = {"learning_rate", "rate_of", "dtype", "max_length"}
"""Settings of training whose resolved values count."""


def run_identity(
    config: RunConfig, resolved: Resolved, facts: ModelFacts, inputs: Mapping[str, Any], read: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything that decides a run's weights and is known before it starts.

    Suites and settings of evaluation are not part of it, except those that a rule of the run reads.
    Nor are the volumes, except where they decide weights: the volume of an independent trajectory
    sets its schedule, and early stop looks at all of them.

    Args:
        config: the configuration.
        resolved: its resolved values.
        facts: of the start model.
        inputs: content hashes by name, as plain values: model, tokenizer, data, anchor.
        read: suite → evaluation id of the select items that a rule of the run reads.
    """
    training = {key: value for key, value in identifying(config.training).items() if key not in ROUNDING | RESOLVED}
    chosen: dict[str, Any] = {"learning_rate": resolved.learning_rate, "dtype": resolved.dtype, "max_length": resolved.max_length}
    if resolved.drops:  # a mask is drawn for each micro-batch, in each process, from the device's random numbers
        chosen |= {"micro_batch_rows": resolved.micro_batch_rows, "processes": resolved.processes}
    objective, mitigation = config.objective, config.mitigation
    generates = bool(objective.writes or mitigation.writes or objective.learns == "rewards")
    if resolved.drops or generates:
        chosen["device"] = resolved.device
    if generates:  # prompts are cut to the model's context
        chosen["context_length"] = facts.context_length
    found = {
        "protocol_version": PROTOCOL_VERSION,
        "training": training | chosen,
        "tuning": identifying(config.tuning) | dict(config.tuning.resolved_settings(facts)),
        "objective": identifying(objective),
        "mitigation": identifying(mitigation),
        "trajectory": config.trajectory,
        "volumes": _volumes(config),
        "seed": config.seed,
        "inputs": dict(inputs),
    }
    if objective.library:
        found["library"] = f"{objective.library} {importlib.metadata.version(objective.library)}"
    return found | ({"read": dict(read)} if read else {})


def _volumes(config: RunConfig) -> list[int] | None:
    """Return the volumes if they are part of a run's identity, else None."""
    if config.mitigation.keeps_best:  # the best volume depends on which volumes were measured
        return sorted(config.data.volumes)
    return list(config.data.volumes) if config.trajectory == "independent" else None


def evaluation_identity(
    evaluation: EvaluationBackend, dtype: str, suite: Mapping[str, Any], built: Mapping[str, Any], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that decides the scores of given weights on one suite.

    Args:
        evaluation: settings of the backend.
        dtype: resolved, of the forward pass.
        suite: how scores are computed, as plain values.
        built: task, or data set → hashes of its items and prompts as they were built.
        model: the start model of the weights: content, tokenizer, context length.
    """
    settings = {key: value for key, value in identifying(evaluation).items() if key not in evaluation.unidentified}
    return {
        "protocol_version": PROTOCOL_VERSION,
        "evaluation": settings | {"dtype": dtype},
        "suite": dict(suite),
        "tasks": dict(built),
        "model": dict(model),
    }


def content_sha256(content: Mapping[str, str]) -> str:
    """Return one hash of a model's content, which names the measurements of its weights."""
    return hashlib.sha256(json.dumps(dict(content), sort_keys=True).encode()).hexdigest()


def derived_id(run_id: str, coefficient: float) -> str:
    """Return the id of the run that measures another run's weights, changed by a coefficient."""
    return f"{run_id}-{coefficient:g}"


def training_id(run_id: str) -> str:
    """Return the id of the run that trained: a derived run's parent, else itself."""
    found = re.fullmatch(r"([0-9a-f]{12})-[0-9.e+-]+", run_id)
    return found[1] if found else run_id


def identify(values: Mapping[str, Any]) -> str:
    """Hash an identity (canonical JSON) to 12 hexadecimal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def recorded(config: RunConfig) -> dict[str, Any]:
    """Return a configuration for its record: plain values, and ``settings``, their hash.

    The folder of results is left out: it is a place on one machine, and the record is in it.
    The hash leaves out what changes no weights: places, what is kept, declared and measured,
    volumes that are not part of a run's identity. Configurations with equal settings ask for the
    same run, so of two with different inputs (an edited source too) the later supersedes the
    earlier.
    """
    found: dict[str, Any] = plain(config)
    unasked = {"results", "save_weights", "keep_state", "declared", "evaluation", "target_suites", "probe_suites", "reference"}
    asked = {key: value for key, value in found.items() if key not in unasked}
    rounding = ROUNDING - ({"micro_batch_rows", "processes"} if config.training.dropout or config.tuning.dropout_rate else set())
    asked["training"] = {key: value for key, value in asked["training"].items() if key not in rounding}
    asked["labels"] = {key: value for key, value in asked["labels"].items() if key != "reference"}
    if _volumes(config) is None:
        asked["data"] = {key: value for key, value in asked["data"].items() if key != "volumes"}
    return {key: value for key, value in found.items() if key != "results"} | {"settings": identify(asked)}
