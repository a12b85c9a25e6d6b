"""Measurement of kept weights: a suite added or changed later needs no training."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import RecordError, explain
from harness.evaluation.divergence import Base
from harness.methods.tuning.full import Full
from harness.models.hub import HubModel
from harness.models.loading import load
from harness.run.baseline import Before
from harness.run.preparation import Prepared
from harness.run.selection import measure_suites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"


def measure(prepared: Prepared, before: Before, volumes: Iterable[int]) -> None:
    """Measure points whose weights are on disk on the suites that they lack.

    Args:
        prepared: the run.
        before: its start model and suites.
        volumes: of the points.

    Raises:
        RecordError: weights that are not on disk.
        ModelError: weights that cannot be loaded.
    """
    for volume in sorted(volumes):
        point = prepared.experiment.point(prepared.run_id, volume)
        folder = prepared.experiment.run_folder(prepared.run_id) / (point.weights or "" if point else "")
        if point is None or not point.weights or not folder.is_dir():
            raise RecordError(explain(f"run {prepared.run_id}: weights at volume {volume}", got="none", fix="run the same command again"))
        lacking = prepared.experiment.unmeasured(prepared.run_id, volume, prepared.evaluation_ids)
        compares = any(before.suites[name].suite.kind == "divergence" for name in lacking)
        model = _loaded(prepared, before, folder)
        measure_suites(before, model, point, f"after {volume} rows, kept weights", base=_base(before, model) if compares else None)
        prepared.experiment.write_point(point)


def _loaded(prepared: Prepared, before: Before, folder: Path) -> PreTrainedModel:
    """Return the tuned model in evaluation mode: an adapter on its base, or whole weights."""
    if not (folder / ADAPTER).is_file():
        trusts = getattr(prepared.config.model, "trust_remote_code", False)
        return load(HubModel(name=str(folder), trust_remote_code=trusts), prepared.resolved.device)
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, about an attribute that PEFT reads
        adapted: Any = PeftModel.from_pretrained(before.load(), str(folder))
    model: PreTrainedModel = adapted.eval()
    return model


def _base(before: Before, model: PreTrainedModel) -> Base:
    """Return how the model computes as its base, for a suite that compares with it."""
    if hasattr(model, "peft_config"):
        return dataclasses.replace(before.base_model, weights=lambda live: before.config.tuning.base_weights(live, {}))
    start = dict(before.load().state_dict())
    return dataclasses.replace(before.base_model, weights=lambda live: Full().base_weights(live, start))
