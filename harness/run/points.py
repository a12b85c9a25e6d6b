"""Points of a run: the evaluation of the live or changed weights at each stop."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.table.identical import equal_answers
from harness.core.errors import TrainingError, explain
from harness.records import provenance
from harness.records.schema import Point
from harness.run.baseline import Before
from harness.run.preparation import Prepared
from harness.run.selection import BestVolume, CoefficientGrid, Selection, measure_suites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.models.loading import StartWeights


class Points:
    """Measures the points of a run."""

    def __init__(self, prepared: Prepared, before: Before, selection: Selection | None, base: StartWeights) -> None:
        """Take the inputs of every point.

        Args:
            prepared: the run.
            before: its volume 0, measured.
            selection: scores on select items; None if the run chooses nothing.
            base: the start weights.
        """
        self.prepared, self.config, self.before, self.base = prepared, prepared.config, before, base
        self.experiment, self.run_id = prepared.experiment, prepared.run_id
        self.best_volume = BestVolume(prepared, selection) if selection and self.config.mitigation.keeps_best else None
        self.grid = CoefficientGrid(prepared, before, selection, base) if self.config.mitigation.coefficients else None

    def measure(self, unmeasured: Point, model: PreTrainedModel) -> Point:
        """Measure a point, or leave that to others; save its weights as configured, and return it.

        Args:
            unmeasured: the point of the live weights.
            model: the live model; it is not changed.
        """
        with self.base.briefly():
            if self.grid is not None:
                point = self.grid.measure(unmeasured, model)
                return dataclasses.replace(point, weights=self._save(point.volume, self.grid.model.save_pretrained))
            live = functools.partial(self._live, model)
            return self.best_volume.measure(unmeasured, model, live) if self.best_volume else live(unmeasured)

    def weight_change(self, model: PreTrainedModel) -> float:
        """Return ‖ΔW‖₂ over all weights. Raises TrainingError if it is 0 or not finite."""
        import torch

        with torch.no_grad(), self.base.briefly():
            squares = [float(delta.double().square().sum()) for _, delta in self.config.tuning.deltas(model, self.base)]
        norm = float(sum(squares) ** 0.5)
        if not math.isfinite(norm):
            got, fix = f"a weight change of {norm}: weights overflowed", "a lower training.learning_rate, or a longer warm-up"
            raise TrainingError(explain("training", got=got, allowed="a finite number", fix=fix))
        if norm == 0.0:
            got, fix = f"a weight change of {norm}", "check the learning rate and what the rows supervise"
            if self.config.objective.learns == "rewards":
                got = f"{got}: the answers to each prompt had equal rewards, so there was nothing to learn"
                fix = "another reward, more objective.samples, or a model that is sometimes right"
            raise TrainingError(explain("training", got=got, allowed="weights that moved", fix=fix))
        return norm

    def _live(self, model: PreTrainedModel, unmeasured: Point) -> Point:
        """Measure the live model on every suite, unless its weights are measured later."""
        if not self.prepared.resolved.separate:
            measure_suites(self.before, model, unmeasured, f"after {unmeasured.volume} rows")
            self._warn_of_equal_answers(unmeasured)
        weights = self._save(unmeasured.volume, functools.partial(self.config.tuning.save, model))
        return dataclasses.replace(unmeasured, weights=weights, peak_memory_bytes=provenance.peak_memory_bytes())

    def _warn_of_equal_answers(self, point: Point) -> None:
        """Say it if the weights have moved and no log-likelihood of any suite has."""
        kinds = {name: suite.suite.kind for name, suite in self.before.suites.items()}
        ids = [found for name, found in self.prepared.evaluation_ids.items() if kinds[name] != "divergence"]  # 0 at volume 0
        read, weights = self.experiment.measurement_samples, self.prepared.before_sha256
        if ids and all(equal_answers(read(one, weights), read(one, point.weights_sha256)) == "log-likelihoods" for one in ids):
            where = f"run {self.run_id}, after {point.volume} rows"
            self.before.progress.say(f"{where}: every log-likelihood is the same as at volume 0, though the weights have moved")

    def _save(self, volume: int, save: Callable[[Path], object]) -> str | None:
        """Save weights that are kept or measured later; return the folder if they are kept."""
        kept = self.prepared.keeps_weights(volume)
        if not kept and not self.prepared.resolved.separate:
            return None
        folder = self.experiment.run_folder(self.run_id) / "weights" / str(volume)
        if not kept:
            folder = self.experiment.unmeasured_weights(self.run_id, volume)

        def fill(place: Path) -> None:
            save(place)
            self.before.tokenizer.save_pretrained(place)

        self.experiment.write_folder(folder, fill)
        return f"weights/{volume}" if kept else None
