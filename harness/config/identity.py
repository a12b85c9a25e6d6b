"""Identity of a run: canonical JSON of what decides its weights, hashed."""

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
    """Return everything that can change a number of this run and is known before it starts.

    Names, paths, labels and the list of volumes of a shared trajectory are left out: where data or
    a model come from does not matter, what they contain does.

    Args:
        config: the configuration.
        resolved: its resolved values.
        inputs: content hashes by name, as plain values: model, data, anchor, suites.
    """
    # Rows of one forward pass move rounding alone, and give way where memory runs out: not another
    # run.
    open_values = {"learning_rate", "rate_of", "dtype", "threads", "processes", "max_length", "micro_batch_rows", "class"}
    training = {key: value for key, value in identifying(config.training).items() if key not in open_values}
    settled = {key: value for key, value in plain(resolved).items() if key not in {"device", "lr_tuned", "class"}}
    return {
        "protocol_version": PROTOCOL_VERSION,
        "training": training | settled,
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
    """Return the volumes where they make a run.

    What is best so far depends on which were looked at, in whatever order they were named.
    """
    if config.mitigation.keeps_best:
        return sorted(config.data.volumes)
    return list(config.data.volumes) if config.trajectory == "independent" else None


def derived_id(run_id: str, coefficient: float) -> str:
    """Return the id of the run that measures a run's weights changed by a coefficient."""
    return f"{run_id}-{coefficient:g}"


def training_id(run_id: str) -> str:
    """Return the id of the run that trained the weights which a run measures: of a derived run its parent, else the run itself."""
    found = re.fullmatch(r"([0-9a-f]{12})-[0-9.e+-]+", run_id)
    return found[1] if found else run_id


def identify(values: Mapping[str, Any]) -> str:
    """Hash an identity (canonical JSON) to 12 hexadecimal digits."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def recorded(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as it is recorded: plain values, and ``settings``, a hash of all of them but the volumes.

    Two configurations with equal settings ask for the same; fields added later count only where
    they are set.
    """
    values = identifying(config)
    data = {key: value for key, value in values["data"].items() if key != "volumes"}
    found: dict[str, Any] = plain(config)
    return found | {"settings": identify(values | {"data": data})}
