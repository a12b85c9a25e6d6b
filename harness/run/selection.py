"""What a run stands for where that is chosen on the target's select items, and the points of what a weight remedy makes of its weights.

A weight remedy changes the tuned weights by a coefficient. Each coefficient is a *derived run*:
measured at each volume of the run that trained, recorded as a run of its own, done and stale with
that one. The run itself stands for one of them, without being measured again. Early stop chooses
among the volumes so far instead. Neither ever looks at a probe.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.config import composition
from harness.config.identity import recorded
from harness.core.contexts import WeightsContext
from harness.core.errors import EvaluationError, TrainingError, explain
from harness.evaluation.divergence import Base
from harness.evaluation.evaluator import Result
from harness.methods.tuning.full import Full
from harness.models import arithmetic
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.schema import Point, Score, complete
from harness.run.baseline import Before
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Measured = tuple[Point, pd.DataFrame]
"""A point and its items."""


def measured(point: Point, results: Mapping[str, Result], seconds: float, **changes: Any) -> Measured:
    """Return a point with what suites gave, and their items.

    Args:
        point: what is known of it but for scores.
        results: by suite.
        seconds: that they took.
        changes: fields that are others.
    """
    scores = tuple(score for result in results.values() for score in result.scores)
    facts = {name: result.facts for name, result in results.items()}
    found = dataclasses.replace(point, scores=scores, evaluation_facts=facts, evaluation_seconds=seconds, **changes)
    samples = pd.concat([result.samples for result in results.values()], ignore_index=True)
    return dataclasses.replace(found, peak_memory_bytes=provenance.peak_memory_bytes()), samples


class Selection:
    """Scores on the select items of a run's target suites."""

    def __init__(self, prepared: Prepared, before: Before) -> None:
        """Build the suites. Raises EvaluationError where one has no select items."""
        self.experiment, self.before = prepared.experiment, before
        self.suites = prepared.workspace.select_suites(prepared.config)
        self.evaluation = dataclasses.replace(before.evaluation, items="select")

    def score(self, model: PreTrainedModel, run_id: str, volume: int, when: str, base: Base | None = None) -> float:
        """Return the mean over suites of their tasks' mean primary metric, higher is better.

        Args:
            model: the live one.
            run_id: of the point that the score is for.
            volume: of that point.
            when: in words.
            base: how the model computes as its base, where that is another way than the tuned
                model's.

        Raises:
            EvaluationError: if a measurement failed, since nothing can be chosen then.
        """
        live, means = state_sha256(model), []
        for name, suite in self.suites.items():
            partial = self.experiment.unfinished_point(run_id, volume, self.before.key(name, f"{live} select"), select=True)
            stage = f"{when}, to choose on"
            result = self.before.evaluate(name, model, stage, partial, self.evaluation, base, suite=suite)
            means.append(_mean(name, result.scores))
        return sum(means) / len(means)


def _mean(suite: str, scores: tuple[Score, ...]) -> float:
    primary = [score for score in scores if score.primary]
    if failed := next((score for score in primary if score.value is None), None):
        got = f"{failed.task} {failed.status}: {failed.reason}"
        raise EvaluationError(explain(f"suite {suite}: select items", got=got, allowed="all measured: something is chosen on them"))
    values = [score.value if score.higher_is_better else -score.value for score in primary if score.value is not None]
    return sum(values) / len(values)


def best(selected: Mapping[str, float]) -> str:
    """Return the key of the highest score; of several, the smallest number."""
    return min(selected, key=lambda key: (-selected[key], float(key)))


class BestVolume:
    """The choice among the volumes so far."""

    def __init__(self, prepared: Prepared, selection: Selection) -> None:
        self.prepared, self.experiment, self.selection = prepared, prepared.experiment, selection

    def measure(self, whole: Point, model: PreTrainedModel, evaluate: Callable[[Point], Measured]) -> Measured:
        """Return the point of a volume: measured, or where an earlier volume is better, with the scores and items of that one's.

        That one, best when it was reached, was measured then; so no weights are kept in memory, and
        nothing is measured twice.

        Args:
            whole: what is known of it but for scores.
            model: the live one.
            evaluate: measures it.
        """
        run_id, volume = whole.run_id, whole.volume
        earlier = {one: self._point(one) for one in self.prepared.volumes if one < volume}
        selected = {str(one): point.selected[str(one)] for one, point in earlier.items()}
        selected[str(volume)] = self.selection.score(model, run_id, volume, f"after {volume} rows")
        chosen = int(best(selected))
        if chosen == volume:
            return evaluate(dataclasses.replace(whole, selected=selected))
        other = earlier[chosen]
        taken = {name: getattr(other, name) for name in ("scores", "evaluation_facts", "evaluation_seconds", "weight_change", "weights")}
        return dataclasses.replace(whole, selected=selected, **taken), self.experiment.point_samples(run_id, chosen)

    def _point(self, volume: int) -> Point:
        found = self.experiment.point(self.prepared.run_id, volume)
        if found is None or str(volume) not in found.selected:
            got, fix = f"none of volume {volume}", "delete the run's folder and run again"
            raise TrainingError(explain(f"run {self.prepared.run_id}: point to compare with", got=got, fix=fix))
        return found


class CoefficientGrid:
    """A weight remedy at work on the tuned weights of a run."""

    def __init__(self, prepared: Prepared, before: Before, selection: Selection | None, base: Mapping[str, torch.Tensor]) -> None:
        """Take what the remedy works with.

        Args:
            prepared: the run.
            before: its volume 0, measured.
            selection: where a coefficient is chosen.
            base: the start weights by plain name, on the CPU.
        """
        self.prepared, self.config, self.before, self.base = prepared, prepared.config, before, base
        self.experiment, self.selection = prepared.experiment, selection
        self.base_model = Base(lambda live: Full().base_weights(live, base), before.base_model.drawn)  # the text that all points share

    def measure(self, whole: Point, tuned: PreTrainedModel) -> Measured:
        """Write the points of the derived runs that are missing at a volume, and return that of the run itself.

        Args:
            whole: what is known of it but for scores.
            tuned: the live model; stays as it is.
        """
        context = self._context(self.config.tuning.merged(tuned))
        for coefficient, run_id in self.prepared.derived.items():
            known = self.experiment.point(run_id, whole.volume)
            if known is None or not complete(known):
                self.experiment.write_point(*self._measure(dataclasses.replace(whole, run_id=run_id), coefficient, context))
        if self.prepared.stands_for is not None:
            return self._measure(whole, self.prepared.stands_for, context)
        return self._chosen(whole, context)

    def _chosen(self, whole: Point, context: WeightsContext) -> Measured:
        """Return the point of the coefficient that is best on the select items.

        Its weights are put into the plain model.
        """
        points = {run_id: self.experiment.point(run_id, whole.volume) for run_id in self.prepared.derived.values()}
        selected = {key: value for point in points.values() if point for key, value in point.selected.items()}
        coefficient = next(one for one in self.prepared.derived if f"{one:g}" == best(selected))
        run_id = self.prepared.derived[coefficient]
        point = points[run_id]
        assert point is not None  # it was measured above
        self._put(self.config.mitigation.weights(context, coefficient))
        found = dataclasses.replace(point, run_id=whole.run_id, selected=selected)
        return found, self.experiment.point_samples(run_id, whole.volume)

    def _measure(self, whole: Point, coefficient: float, context: WeightsContext) -> Measured:
        """Measure the weights of one coefficient.

        First, where something is chosen, on the select items.
        """
        weights = self.config.mitigation.weights(context, coefficient)
        self._put(weights)
        when, volume, model = f"after {whole.volume} rows, coefficient {coefficient:g}", whole.volume, self.model
        selected = {}
        if self.selection is not None:
            selected = {f"{coefficient:g}": self.selection.score(model, whole.run_id, volume, when, self.base_model)}
        began, live, results = time.perf_counter(), state_sha256(model), {}
        for name in self.before.suites:
            partial = self.experiment.unfinished_point(whole.run_id, volume, self.before.key(name, live))
            results[name] = self.before.evaluate(name, model, when, partial, base=self.base_model)
        change = arithmetic.norm(weights, self.base)
        seconds = time.perf_counter() - began
        return measured(whole, results, seconds, coefficient=coefficient, selected=selected, weight_change=change)

    @functools.cached_property
    def model(self) -> PreTrainedModel:
        """A plain model to put weights into, beside the live one.

        Its weights are those put there last.
        """
        self.before.progress.stage(f"load {self.config.labels.model}, to put changed weights into", 1)
        model: PreTrainedModel = self.config.model.load().to(self.prepared.resolved.device)  # type: ignore[arg-type]
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
        """Return the weights of another model, loaded once a run.

        Raises TrainingError for one that the method does not name.
        """
        if name not in self.config.mitigation.models:
            allowed = ", ".join(self.config.mitigation.models) or "none"
            raise TrainingError(explain(f"mitigation={self.config.labels.mitigation}: model", got=repr(name), allowed=allowed))
        if name not in self._others:
            self.before.progress.stage(f"load {name}", 1)
            loaded = composition.member("model", name).load()
            self._others[name] = {key: value.detach().float() for key, value in loaded.named_parameters()}
        return self._others[name]


def derived_config(prepared: Prepared, coefficient: float) -> dict[str, Any]:
    """Return the configuration of a derived run, plain: its parent's, with the coefficient in its label."""
    config = recorded(prepared.config)
    return config | {"labels": config["labels"] | {"mitigation": with_coefficient(config["labels"]["mitigation"], coefficient)}}


def with_coefficient(label: str, coefficient: float) -> str:
    """Return the label of a mitigation with this coefficient in place of its own: ``merge[coefficient=0.4]``."""
    name, _, details = label.removesuffix("]").partition("[")
    before, own, rest = details.partition("coefficient=")
    others = [part.strip(",") for part in (before, rest.partition(",")[2] if own else "") if part.strip(",")]
    return f"{name}[{','.join([f'coefficient={coefficient:g}', *others])}]"
