"""Identity of a run: hash of canonical JSON of everything that can change its numbers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from harness import PROTOCOL_VERSION
from harness.config.resolution import Resolved
from harness.config.run_config import RunConfig
from harness.config.strict import identifying, plain


def run_identity(config: RunConfig, resolved: Resolved, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that can change a run's numbers and is known before it starts.

    Names, paths, labels and the list of volumes of a shared trajectory are left out: the content of
    data and model counts, not where they come from.

    Args:
        config: the configuration.
        resolved: its resolved values.
        inputs: content hashes by name, as plain values: model, data, anchor, suites.
    """
    # micro_batch_rows changes only rounding, and is lowered when memory runs out; the others are in
    # the resolved values.
    left_out = {"learning_rate", "rate_of", "dtype", "threads", "processes", "max_length", "micro_batch_rows"}
    training = {key: value for key, value in identifying(config.training).items() if key not in left_out}
    chosen = {key: value for key, value in plain(resolved).items() if key not in {"device", "lr_tuned"}}
    return {
        "protocol_version": PROTOCOL_VERSION,
        "training": training | chosen,
        "tuning": identifying(config.tuning),
        "objective": identifying(config.objective),
        "mitigation": identifying(config.mitigation),
        "evaluation": identifying(config.evaluation),
        "trajectory": config.trajectory,
        "volumes": _volumes(config),
        "seed": config.seed,
        "inputs": dict(inputs),
    }


def _volumes(config: RunConfig) -> list[int] | None:
    """Return the volumes if they are part of a run's identity, else None."""
    if config.mitigation.keeps_best:  # the best volume depends on which volumes were measured
        return sorted(config.data.volumes)
    return list(config.data.volumes) if config.trajectory == "independent" else None


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

    The hash leaves out what changes no number: places, what is kept and declared, the micro-batch,
    volumes that are not part of a run's identity. Configurations with equal settings ask for the
    same run, so of two with different inputs (an edited source too) the later supersedes the
    earlier.
    """
    found: dict[str, Any] = plain(config)
    asked = {key: value for key, value in found.items() if key not in {"results", "save_weights", "keep_state", "declared"}}
    asked["training"] = {key: value for key, value in asked["training"].items() if key != "micro_batch_rows"}
    if _volumes(config) is None:
        asked["data"] = {key: value for key, value in asked["data"].items() if key != "volumes"}
    return found | {"settings": identify(asked)}
