"""Measurement of kept weights: a suite added or changed later needs no training."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import RecordError, explain
from harness.evaluation.divergence import Base
from harness.methods.tuning.full import Full
from harness.models.hub import HubModel
from harness.models.loading import load
from harness.models.weights import state_sha256
from harness.run.baseline import Before
from harness.run.preparation import Prepared
from harness.run.selection import measure_suites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"


def measure(prepared: Prepared, before: Before, volumes: Iterable[int]) -> None:
    """Measure points whose weights are on disk on the suites that they lack.

    Weights that are not to be kept are removed once every suite is measured.

    Args:
        prepared: the run.
        before: its start model and suites.
        volumes: of the points.

    Raises:
        RecordError: weights that are not on disk, or not those of the point.
        ModelError: weights that cannot be loaded.
    """
    experiment, place = prepared.experiment, (prepared.run_id, prepared.evaluation_ids)
    for volume in sorted(volumes):
        if lacking := experiment.unmeasured(place[0], volume, place[1]):
            _measure(prepared, before, volume, lacking)
        if not experiment.unmeasured(place[0], volume, place[1]):
            experiment.drop_unmeasured_weights(prepared.run_id, volume)
        experiment.clear_unfinished_point(prepared.run_id, volume)


def _measure(prepared: Prepared, before: Before, volume: int, lacking: Sequence[str]) -> None:
    """Load the weights of a point, check that they are its own, and measure them."""
    point, folder = prepared.experiment.point(prepared.run_id, volume), prepared.experiment.weights_folder(prepared.run_id, volume)
    where = f"run {prepared.run_id}: weights at volume {volume}"
    if point is None or folder is None:
        raise RecordError(explain(where, got="none", fix="run the same command again"))
    import torch

    torch.set_num_threads(prepared.resolved.threads)
    model = _loaded(prepared, before, folder)
    if state_sha256(model) != point.weights_sha256:
        fix = f"delete {folder} and run the same command again, which trains for them"
        raise RecordError(explain(where, got="other weights than were trained", allowed="those of its point.json", fix=fix))
    compares = any(before.suites[name].suite.kind == "divergence" for name in lacking)
    measure_suites(before, model, point, f"after {volume} rows, kept weights", base=_base(before, model) if compares else None)


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
