"""Records of Every Eval Ever, schema 0.3.0: one for a point, one for its volume 0.

The schema has no link from one record to another: ``additional_details`` name the pair. Its values
are texts. A score must be finite, so a failed measurement is a text there, with its reason.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from harness import __version__
from harness.report.exports.points import Exported, Told, cleaned, metric_name, missing, records, slug, title

SCHEMA = "0.3.0"

SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "exact_match", "agreement", "mc1", "mc2"})
"""Metrics between 0 and 1; others have the bounds that the schema calls infinite."""

UNKNOWN = "unknown"

CHANGES = {"before": (), "after": ("before", "delta", "delta_low", "delta_high")}
"""Side → columns of the tidy table in the details of a score."""


@dataclass(frozen=True, kw_only=True)
class _Side:
    """A model of a pair: ``key`` is equal for runs that share a volume 0."""

    side: str
    key: str
    model: str
    rows: pd.DataFrame
    time: str

    @property
    def moment(self) -> str:
        """When it was measured, in Unix seconds; 0 if unknown."""
        return str(int(datetime.fromisoformat(self.time).timestamp())) if self.time else "0"


def files(one: Exported, told: Told, organization: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of both records of a point.

    Args:
        one: the point.
        told: notes measurements without a value.
        organization: who measured it; the folder of its models.
    """
    weights = {"before": one.record.before_sha256, "after": one.point.weights_sha256}
    shared = _digest(weights["before"], *one.record.evaluations.values())
    before = _Side(side="before", key=shared[:12], model=slug(one.base), rows=one.before, time=one.measured_at(weights["before"]))
    after = _Side(side="after", key=one.key, model=slug(one.name), rows=one.after, time=one.measured_at(weights["after"]))
    for side in (before, after):
        record = _record(one, side, before, organization, told)
        if not record["evaluation_results"]:
            continue
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        name = uuid.UUID(hex=_digest(one.experiment.name, side.side, side.key)[:32], version=4)  # the same when exported again
        yield f"data/{slug(one.experiment.name)}/{slug(organization)}/{side.model}/{name}.json", text


def _digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _id(one: Exported, side: _Side, organization: str) -> str:
    return f"{slug(one.experiment.name)}/{slug(organization)}/{side.model}/{side.key}/{side.moment}"


def _record(one: Exported, side: _Side, before: _Side, organization: str, told: Told) -> dict[str, Any]:
    found = list(records(side.rows))
    failed = {f"{row['suite']}.{title(row)}.{metric_name(row)}": missing(row) for row in found if row["value"] is None}
    for row in found:
        if row["value"] is None:
            told.lacks(f"{side.model}, {side.side}", row)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": _id(one, side, organization),
        **({"evaluation_timestamp": side.time} if side.time else {}),
        "retrieved_timestamp": side.moment,
        "source_metadata": {
            "source_name": "forgetting-harness",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party" if side.side == "after" else "other",
            "additional_details": {"missing": json.dumps(failed, ensure_ascii=False)} if failed else {},
        },
        "eval_library": {"name": "forgetting-harness", "version": __version__, "additional_details": _versions(one)},
        "model_info": {
            "name": side.model,
            "id": f"{slug(organization)}/{side.model}",
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": UNKNOWN,
                "side": side.side,
                **(_training(one, before, organization) if side.side == "after" else {"description": f"{one.base}, before training"}),
            },
        },
        "evaluation_results": [_result(row, side.side) for row in found if row["value"] is not None],
    }


def _training(one: Exported, before: _Side, organization: str) -> dict[str, str]:
    """Return what joins a point to its volume 0, and its method."""
    labels = {name: cleaned(str(value)) for name, value in one.record.labels.items() if value is not None and name != "model"}
    pair = {"base_model": one.base, "before_evaluation_id": _id(one, before, organization), "description": one.description}
    return {**pair, "run_id": one.record.run_id, "volume": str(one.point.volume), "seed": str(one.record.seed), **labels}


def _versions(one: Exported) -> dict[str, str]:
    versions = one.record.provenance.get("versions", {})
    found = {"protocol_version": str(one.record.protocol_version)}
    return found | {name: str(versions[name]) for name in ("lm_eval", "transformers", "torch") if versions.get(name)}


def _result(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return a score; its change from before training is in its details."""
    name, metric = title(row), metric_name(row)
    changes = {key: repr(float(row[key])) for key in CHANGES[side] if row[key] is not None}
    least, most = (0.0, 1.0) if row["metric"] in SHARES else ("-Infinity", "Infinity")
    uncertainty: dict[str, Any] = {"num_samples": int(row["n"])} if row["n"] else {}
    if row["stderr"] is not None:
        uncertainty["standard_error"] = {"value": row["stderr"], "method": "analytic"}
    if row["value_low"] is not None and row["value_high"] is not None:
        interval = {"lower": row["value_low"], "upper": row["value_high"], "confidence_level": 0.95}
        uncertainty["confidence_interval"] = interval
    return {
        "evaluation_result_id": f"{row['suite']}.{row['task']}.{metric}",
        "evaluation_name": name,
        "source_data": {"dataset_name": name, "source_type": "other"},
        "metric_config": {
            "metric_id": row["metric"],
            "metric_name": metric,
            "lower_is_better": not row["higher_is_better"],
            "score_type": "continuous",
            "min_score": least,
            "max_score": most,
            "additional_details": {"suite": str(row["suite"]), "role": str(row["role"]), "primary": str(bool(row["primary"])).lower()},
        },
        "score_details": {
            "score": row["value"],
            **({"details": changes} if changes else {}),
            **({"uncertainty": uncertainty} if uncertainty else {}),
        },
    }
