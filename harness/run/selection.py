"""Points of mitigations that act after training: derived runs, and choices on select items.

A weight mitigation (merge, task arithmetic, chat vector) changes the tuned weights by a
coefficient, so one training gives several models to evaluate. The run that trains is the parent.
Each further coefficient is a *derived run*, with a run id, points and a record of its own, but no
training: its weights are computed from the parent's weights at each volume. A derived run is done
when its parent is done, and stale when its parent is stale.

The parent has one coefficient too. Either it is fixed (``Prepared.own_coefficient``), or the parent
copies, at each volume, the point of the derived run with the best score on the *select items* of
the target suites. Select items are never among the items that are reported.

Early stop has no derived runs. It chooses, in the same way, among the volumes so far.

Probes are never used to choose.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.config.identity import recorded
from harness.core.contexts import WeightsContext
from harness.core.errors import EvaluationError, TrainingError, explain
from harness.evaluation.divergence import Base
from harness.methods.tuning.full import Full
from harness.models import arithmetic
from harness.models.loading import load, load_member
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.schema import Point, Score
from harness.records.store import Experiment
from harness.run.baseline import Before
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def measure_suites(before: Before, model: PreTrainedModel, point: Point, when: str, base: Base | None = None) -> None:
    """Measure a model on the suites that its weights are not measured on.

    Args:
        before: volume 0 of the run, with its suites.
        model: has the weights of the point.
        point: names the weights, and the place of finished tasks.
        when: words for people: after which volume.
        base: how the model computes as its base; None is that of the run.
    """
    experiment, weights = before.experiment, point.weights_sha256
    for name, evaluation_id in before.prepared.evaluation_ids.items():
        if not experiment.is_measured(evaluation_id, weights):
            partial = experiment.unfinished_point(point.run_id, point.volume, before.key(name, weights))
            before.record(name, weights, partial, before.evaluate(name, model, when, partial, base=base))


class Selection:
    """Scores on the select items of a run's target suites, to choose by."""

    def __init__(self, prepared: Prepared, before: Before) -> None:
        """Build the suites. Raises EvaluationError if one has no select items."""
        self.experiment, self.before = prepared.experiment, before
        self.suites = prepared.workspace.select_suites(prepared.config)
        self.evaluation = before.evaluation.for_items("select")

    def score(self, model: PreTrainedModel, run_id: str, volume: int, when: str, base: Base | None = None) -> float:
        """Return the mean over suites of their primary metric; higher is better.

        The metric of a suite is the mean over its tasks, negated if lower is better.

        Args:
            model: the model to evaluate.
            run_id: run of the point that the score is for.
            volume: volume of that point.
            when: words for people: after which volume.
            base: how the model computes as its base; None is as the live model does.

        Raises:
            EvaluationError: if a measurement failed, because a choice needs all of them.
        """
        live, means = state_sha256(model), []
        for name, suite in self.suites.items():
            partial = self.experiment.unfinished_point(run_id, volume, self.before.key(name, f"{live} select"), select=True)
            stage = f"{when}, select items"
            result = self.before.evaluate(name, model, stage, partial, self.evaluation, base, suite=suite)
            means.append(_mean(name, result.scores))
        return sum(means) / len(means)


def _mean(suite: str, scores: tuple[Score, ...]) -> float:
    primary = [score for score in scores if score.primary]
    if failed := next((score for score in primary if score.value is None), None):
        got = f"{failed.task} {failed.status}: {failed.reason}"
        raise EvaluationError(explain(f"suite {suite}: select items", got=got, allowed="no failed task, because a choice depends on them"))
    values = [score.value if score.higher_is_better else -score.value for score in primary if score.value is not None]
    return sum(values) / len(values)


def best(selected: Mapping[str, float]) -> str:
    """Return the key of the highest score; ties go to the smallest key."""
    return min(selected, key=lambda key: (-selected[key], float(key)))


class BestVolume:
    """The points of a run with early stop: each has the best volume so far."""

    def __init__(self, prepared: Prepared, selection: Selection) -> None:
        self.prepared, self.experiment, self.selection = prepared, prepared.experiment, selection

    def measure(self, unmeasured: Point, model: PreTrainedModel, evaluate: Callable[[Point], Point]) -> Point:
        """Return the point of a volume, with the weights of the best volume so far.

        An earlier volume that is the best was measured when it was reached: no weights are kept in
        memory, and nothing is evaluated twice.

        Args:
            unmeasured: the point of the live weights.
            model: the live model.
            evaluate: measures the live model, if this volume is the best.
        """
        run_id, volume = unmeasured.run_id, unmeasured.volume
        earlier = {one: _scored(self.experiment, run_id, one, str(one)) for one in self.prepared.volumes if one < volume}
        selected = {str(one): point.selected[str(one)] for one, point in earlier.items()}
        selected[str(volume)] = self.selection.score(model, run_id, volume, f"after {volume} rows")
        chosen = int(best(selected))
        if chosen == volume:
            return evaluate(dataclasses.replace(unmeasured, selected=selected))
        best_so_far = earlier[chosen]
        return dataclasses.replace(
            unmeasured,
            selected=selected,
            weights_sha256=best_so_far.weights_sha256,
            weight_change=best_so_far.weight_change,
            weights=best_so_far.weights,
        )


def _scored(experiment: Experiment, run_id: str, volume: int, key: str) -> Point:
    """Return a recorded point with its score on select items; TrainingError without one."""
    found = experiment.point(run_id, volume)
    if found is None or key not in found.selected:
        got, fix = (
            f"no point of volume {volume} with a score on the select items",
            f"remove its record.json and points/{volume}/point.json, and rerun",
        )
        raise TrainingError(explain(f"run {run_id}", got=got, fix=fix))
    return found


class CoefficientGrid:
    """The points of a run with a weight mitigation, and of its derived runs.

    The changed weights are put into a second model, so that the live model trains undisturbed.
    """

    def __init__(self, prepared: Prepared, before: Before, selection: Selection | None, base: Mapping[str, torch.Tensor]) -> None:
        """Take the inputs of every point.

        Args:
            prepared: the run.
            before: its volume 0, measured.
            selection: scores on select items; None if no coefficient is chosen.
            base: the start weights by plain name, on the CPU.
        """
        self.prepared, self.config, self.before, self.base = prepared, prepared.config, before, base
        self.experiment, self.selection = prepared.experiment, selection
        self.base_model = Base(lambda live: Full().base_weights(live, base), before.base_model.drawn)  # all points share this text

    def measure(self, unmeasured: Point, tuned: PreTrainedModel) -> Point:
        """Write missing points of derived runs, and return the run's own point.

        Args:
            unmeasured: the run's own point, of the live weights.
            tuned: the live model; it is not changed.
        """
        context = self._context(self.config.tuning.merged(tuned))
        for coefficient, run_id in self.prepared.derived.items():
            if self.experiment.unmeasured(run_id, unmeasured.volume, self.prepared.evaluation_ids):
                self.experiment.write_point(self._measure(dataclasses.replace(unmeasured, run_id=run_id), coefficient, context))
        if self.prepared.own_coefficient is not None:
            return self._measure(unmeasured, self.prepared.own_coefficient, context)
        return self._best(unmeasured, context)

    def _best(self, unmeasured: Point, context: WeightsContext) -> Point:
        """Return a copy of the derived point that is best on the select items.

        The second model gets its weights, since the run may save them.
        """
        derived, volume = self.prepared.derived, unmeasured.volume
        points = {one: _scored(self.experiment, run_id, volume, f"{one:g}") for one, run_id in derived.items()}
        selected = {key: value for point in points.values() for key, value in point.selected.items()}
        coefficient = next(one for one in derived if f"{one:g}" == best(selected))
        self._put(self.config.mitigation.weights(context, coefficient))
        return dataclasses.replace(points[coefficient], run_id=unmeasured.run_id, selected=selected)

    def _measure(self, unmeasured: Point, coefficient: float, context: WeightsContext) -> Point:
        """Evaluate the weights of one coefficient, on the select items first if the run chooses."""
        weights = self.config.mitigation.weights(context, coefficient)
        self._put(weights)
        when, volume, model = f"after {unmeasured.volume} rows, coefficient {coefficient:g}", unmeasured.volume, self.model
        selected = {}
        if self.selection is not None:
            selected = {f"{coefficient:g}": self.selection.score(model, unmeasured.run_id, volume, when, self.base_model)}
        found = dataclasses.replace(unmeasured, weights_sha256=state_sha256(model))
        measure_suites(self.before, model, found, when, base=self.base_model)
        change, peak = arithmetic.norm(weights, self.base), provenance.peak_memory_bytes()
        return dataclasses.replace(found, coefficient=coefficient, selected=selected, weight_change=change, peak_memory_bytes=peak)

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        """A second model next to the live one; it has the weights last put in."""
        self.before.progress.stage(f"load {self.config.labels.model}, for changed weights", 1)
        model: PreTrainedModel = load(self.config.model, self.prepared.resolved.device)
        return model

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        import torch

        own = dict(self.model.named_parameters())
        arithmetic.require_alike(f"mitigation={self.config.labels.mitigation}", weights, own)
        with torch.no_grad():
            for name, value in weights.items():
                own[name].copy_(value)

    def _context(self, tuned: dict[str, torch.Tensor]) -> WeightsContext:
        ends = {self.model.get_input_embeddings(), self.model.get_output_embeddings()} - {None}
        parts = {id(weight) for module in ends for weight in module.parameters()}
        names = frozenset(name for name, weight in self.model.named_parameters() if id(weight) in parts)
        return WeightsContext(base={name: self.base[name] for name in tuned}, tuned=tuned, other=self._other, embeddings=names)

    @functools.cached_property
    def _others(self) -> dict[str, dict[str, torch.Tensor]]:
        return {}

    def _other(self, name: str) -> dict[str, torch.Tensor]:
        """Return the weights of another model, loaded once in a run.

        Raises ConfigError for a model that the method does not name.
        """
        if name not in self._others:
            self.before.progress.stage(f"load {name}", 1)
            loaded = load_member(name, allowed=self.config.mitigation.models).model
            self._others[name] = {key: value.detach().float() for key, value in loaded.named_parameters()}
        return self._others[name]


def derived_config(prepared: Prepared, coefficient: float) -> dict[str, Any]:
    """Return the plain configuration of a derived run: its parent's, with another label."""
    config = recorded(prepared.config)
    return config | {"labels": config["labels"] | {"mitigation": with_coefficient(config["labels"]["mitigation"], coefficient)}}


def with_coefficient(label: str, coefficient: float) -> str:
    """Return the label of a mitigation with another coefficient: ``merge[coefficient=0.4]``."""
    name, _, details = label.removesuffix("]").partition("[")
    before, own, rest = details.partition("coefficient=")
    others = [part.strip(",") for part in (before, rest.partition(",")[2] if own else "") if part.strip(",")]
    return f"{name}[{','.join([f'coefficient={coefficient:g}', *others])}]"
