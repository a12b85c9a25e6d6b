"""Every shipped experiment composes to the points in points.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import paths
from harness.config.run_config import RunConfig
from harness.config.strict import plain
from harness.sweep import axes

POINTS = Path(__file__).with_name("points.json")
LISTED: dict[str, list[str]] = json.loads(POINTS.read_text()) if POINTS.exists() else {}

NAMES = ("labels", "name", "results")
"""Fields that name a point and do not change what it computes."""


def described(config: RunConfig) -> str:
    """Return a line that identifies a point: its methods, and a hash of its configuration."""
    values = {key: value for key, value in plain(config).items() if key not in NAMES}
    classes = " ".join(values[group]["class"] for group in ("model", "tuning", "objective", "mitigation", "data"))
    digest = hashlib.sha256(json.dumps(with_classes(values), sort_keys=True).encode()).hexdigest()[:12]
    return f"{classes} {values['trajectory']} seed {values['seed']} volumes {values['data']['volumes']}: {digest}"


def with_classes(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with the class of every part, as they were in the list's version."""
    parts = {name: {"class": name.capitalize(), **values[name]} for name in ("training", "declared")}
    evaluation = {key: value for key, value in values["evaluation"].items() if key != "where"}  # moves no number
    parts["training"] |= {"gradient_checkpointing": bool(parts["training"]["gradient_checkpointing"])}  # null below a billion parameters
    parts["declared"] = {key: value for key, value in parts["declared"].items() if key not in {"law", "question"}}  # likewise
    objective = dict(values["objective"])
    if "judge" in objective:
        objective["judge"] = {"class": "Judge", **objective["judge"]}
    kept = {"keep_state": values["keep_state"] is not False}  # null below a billion parameters
    return {"class": "RunConfig", **values, **parts, "objective": objective, "evaluation": evaluation, **kept}


def composed(experiment: str) -> list[str]:
    """Return the points of an experiment, sorted."""
    return sorted(described(asked.config) for asked in axes.expand([f"experiment={experiment}"]).asked)


@pytest.mark.parametrize("experiment", sorted(LISTED))
def test_an_experiment_composes_to_its_points(experiment: str) -> None:
    """A change of this list is a change of what a sweep computes."""
    assert composed(experiment) == LISTED[experiment]


def test_every_experiment_has_its_points_listed() -> None:
    """A new experiment adds its points: ``python -m tests.golden.test_points``."""
    assert sorted(LISTED) == sorted(paths.members("conf/experiment"))


if __name__ == "__main__":
    POINTS.write_text(json.dumps({name: composed(name) for name in sorted(paths.members("conf/experiment"))}, indent=1) + "\n")
