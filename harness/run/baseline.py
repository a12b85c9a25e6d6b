"""Volume 0: the evaluation of a model before training, on the suites of a run.

It is measured once for all runs that start from the model, by one process.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from harness.config.identity import identify
from harness.core.errors import ModelError, explain
from harness.core.progress import Progress
from harness.core.sources import EvaluationBackend, ModelSource
from harness.evaluation import evaluator, prompts
from harness.evaluation.backends import another
from harness.evaluation.divergence import Base
from harness.evaluation.evaluator import PreparedSuite, Result
from harness.evaluation.rounding import with_spread
from harness.models.loading import load
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.partial import Partial
from harness.records.schema import Measurement, Score
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Once = Callable[[str, Callable[[], bool], Callable[[], None]], None]
"""``once(name, done, do)`` calls ``do`` unless ``done()``, in one process only of those whose runs
need the result."""


def by_itself(name: str, done: Callable[[], bool], do: Callable[[], None]) -> None:  # noqa: ARG001 - a Once
    """Call ``do`` unless ``done()``: the Once of a process that shares no work with others."""
    if not done():
        do()


def measure(prepared: Prepared, progress: Progress, once: Once = by_itself, *, when: str = "before") -> None:
    """Measure volume 0 on every suite of a run, shown as ``when``.

    The model is not loaded if the experiment has every measurement.
    """
    ids, weights = prepared.evaluation_ids.values(), prepared.before_sha256
    if not all(prepared.experiment.is_measured(evaluation_id, weights) for evaluation_id in ids):
        Before(prepared, progress, once, when=when).measure(None)


class Before:
    """The start model of a run, its suites, and its volume 0.

    Volume 0 is measured on the start model, or on the reference model with the tokenizer of the
    start model.

    Attributes:
        weights_sha256: hash of the start model's weights; set once it is loaded.
        base_model: how a live model computes as its base, for suites of kind divergence.
    """

    def __init__(self, prepared: Prepared, progress: Progress, once: Once, *, when: str = "before") -> None:
        self.prepared, self.config, self.progress, self.once, self.when = prepared, prepared.config, progress, once, when
        self.resolved, self.experiment = prepared.resolved, prepared.experiment
        self.evaluation = prepared.config.evaluation
        self.suites = {name: prepared.workspace.suite_of(name, self.config) for name in prepared.roles}
        self.tokenizer = prepared.workspace.tokenizer_of(prepared.config)
        prompts.require_format(self.evaluation, self.tokenizer, self.config.labels.model)
        self.base_model = Base()  # before tuning, the model is its own base
        self.weights_sha256 = ""

    def load(self) -> PreTrainedModel:
        """Return the start model, on its device."""
        for note in self.prepared.facts.notes:
            self.progress.say(note)
        model = self._load(self.config.model, self.config.labels.model)
        self.weights_sha256 = self.config.model.weights_sha256()
        return model

    def require_unchanged(self, source: ModelSource, name: str | None) -> None:
        """Raise ModelError if a model's files changed since the run was identified by them."""
        known, now = self.prepared.workspace.facts_of_model(source).content, source.facts().content
        if changed := sorted(name for name, value in known.items() if now.get(name) != value):
            got, fix = f"another {', '.join(changed)} than when the run was prepared", "run the same command again"
            raise ModelError(explain(f"model {name}", got=got, allowed="the same files until it is loaded", fix=fix))

    def measure(self, model: PreTrainedModel | None) -> None:
        """Measure every suite that is not recorded for exactly these weights and items.

        Args:
            model: the model that volume 0 is measured on; None loads it if a suite is missing.
        """
        weights = self.prepared.before_sha256
        subject = functools.cache(lambda: model or self._load_measured())
        live_weights = functools.cache(lambda: state_sha256(subject()))
        for name, evaluation_id in self.prepared.evaluation_ids.items():
            done = functools.partial(self.experiment.is_measured, evaluation_id, weights)
            self.once(f"baseline-{evaluation_id}-{weights[:8]}", done, functools.partial(self._measure, name, subject, live_weights))

    def _load_measured(self) -> PreTrainedModel:
        """Return the model that volume 0 is measured on."""
        if self.prepared.reference is None:
            return self.load()
        return self._load(self.prepared.reference, self.config.labels.reference)

    def _load(self, source: ModelSource, name: str | None) -> PreTrainedModel:
        import torch

        torch.set_num_threads(self.resolved.threads)
        self.progress.stage(f"load {name}", 1)
        model: PreTrainedModel = load(source, self.resolved.device)
        self.require_unchanged(source, name)
        return model

    def use_base_weights(self, base: Mapping[str, torch.Tensor]) -> None:
        """Let tuned models compute as their base with these start weights.

        Args:
            base: weights by plain name, on the CPU.
        """
        tuning = self.config.tuning
        self.base_model = dataclasses.replace(self.base_model, weights=lambda live: tuning.base_weights(live, base))

    def evaluate(
        self,
        name: str,
        model: PreTrainedModel,
        when: str,
        partial: Partial,
        evaluation: EvaluationBackend | None = None,
        base: Base | None = None,
        suite: PreparedSuite | None = None,
    ) -> Result:
        """Evaluate a suite on a live model.

        Args:
            name: of the suite.
            model: the live model.
            when: words for people: before, or after which volume.
            partial: the finished tasks of an interrupted evaluation.
            evaluation: settings; None is those of the run.
            base: how the model computes as its base; None is ``base_model``.
            suite: the prepared suite; None is that of the run.
        """
        return evaluator.evaluate(
            suite or self.suites[name],
            evaluation or self.evaluation,
            model,
            self.tokenizer,
            max_length=self.prepared.facts.context_length,
            dtype=self.resolved.evaluation_dtype,
            progress=self.progress,
            stage=f"evaluate {name}, {when}",
            partial=partial,
            base=base or self.base_model,
        )

    def key(self, name: str, live_weights: str) -> str:
        """Return the key of an evaluation: suite, items, settings and live weights."""
        return identify({"evaluation": self.prepared.evaluation_ids[name], "live_weights": live_weights})

    def record(self, name: str, weights_sha256: str, partial: Partial, result: Result, scores: tuple[Score, ...] | None = None) -> None:
        """Write the measurement of a suite.

        Args:
            name: of the suite.
            weights_sha256: hash of the measured weights.
            partial: the finished tasks of its evaluation.
            result: of its evaluation.
            scores: those of the result with a second measurement; None is the result's own.
        """
        measurement = Measurement(
            evaluation_id=self.prepared.evaluation_ids[name],
            identity=self.prepared.evaluations[name],
            weights_sha256=weights_sha256,
            suite=name,
            scores=result.scores if scores is None else scores,
            wall_seconds=result.seconds,
            peak_memory_bytes=provenance.peak_memory_bytes(),
            provenance=provenance.collect(),
            facts=result.facts,
        )
        self.experiment.write_measurement(measurement, result.samples, partial)

    def _measure(self, name: str, subject: Callable[[], PreTrainedModel], live_weights: Callable[[], str]) -> None:
        """Measure volume 0 of a suite, and again in other batches, and write it."""
        place, model = (self.prepared.evaluation_ids[name], self.prepared.before_sha256), subject()
        key = self.key(name, live_weights())
        partial = self.experiment.unfinished_before(*place, key)
        result = self.evaluate(name, model, self.when, partial)
        scores = result.scores
        if self.suites[name].suite.kind != "divergence":  # it compares the base with itself, which is always 0
            scores = with_spread(result, self._remeasured(name, model, self.experiment.unfinished_before(*place, key, again=True)))
        self.record(name, self.prepared.before_sha256, partial, result, scores)
        self.experiment.clear_unfinished(*place)

    def _remeasured(self, name: str, model: PreTrainedModel, partial: Partial) -> Result:
        """Return a second measurement with other batches and threads, which shows rounding."""
        import torch

        base = dataclasses.replace(self.base_model, drawn=dict(self.base_model.drawn))  # points must not reuse the text drawn here
        torch.set_num_threads(another(self.resolved.threads))
        try:
            return self.evaluate(name, model, f"{self.when}, again in other batches", partial, self.evaluation.otherwise(), base)
        finally:
            torch.set_num_threads(self.resolved.threads)
