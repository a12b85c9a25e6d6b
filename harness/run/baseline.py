"""Volume 0: a model as it is, on the suites of a run.

Measured once for all runs that start from it, by one process only.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from harness.config.identity import identify
from harness.config.strict import plain
from harness.core.errors import ModelError
from harness.core.progress import Progress
from harness.core.sources import ModelSource
from harness.evaluation import evaluator, prompts
from harness.evaluation.backends import Evaluation, another
from harness.evaluation.divergence import Base
from harness.evaluation.evaluator import PreparedSuite, Result
from harness.evaluation.rounding import with_spread
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.partial import Partial
from harness.records.schema import Baseline, complete
from harness.run.preparation import Prepared

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Once = Callable[[str, Callable[[], bool], Callable[[], None]], None]
"""``once(name, done, do)`` sees to it that something that several runs need is done, by one
process only."""


def by_itself(name: str, done: Callable[[], bool], do: Callable[[], None]) -> None:  # noqa: ARG001 - a Once
    """Do it here unless it is done: a Once for a process that need not think of others."""
    if not done():
        do()


def measure(prepared: Prepared, progress: Progress, once: Once = by_itself) -> None:
    """Measure volume 0 on every suite of a run.

    The model is loaded only if one is missing, as far as can be told without it.
    """
    known = prepared.experiment.baseline_keys()
    if not all(known.get(key, False) for key in prepared.baseline_keys.values()):
        before = Before(prepared, progress, once)
        before.measure(before.load() if prepared.reference is None else None)


def _weights_of(model: ModelSource) -> str:
    """Return the bytes of a model's weights, made first where they are not here yet."""
    try:
        return model.weights_sha256()
    except ModelError:
        model.load()
        return model.weights_sha256()


class Before:
    """The start model of a run, and its volume 0: of the start model, or of the reference model, asked with the start model's tokenizer.

    Attributes:
        weights_sha256: bytes of the start model's weights; set once it is loaded.
        ids: suite → baseline id; set then, or when volume 0 is measured.
        base_model: how the model computes as its own base.
    """

    def __init__(self, prepared: Prepared, progress: Progress, once: Once) -> None:
        self.prepared, self.config, self.progress, self.once = prepared, prepared.config, progress, once
        self.resolved, self.experiment = prepared.resolved, prepared.experiment
        self.evaluation = cast(Evaluation, prepared.config.evaluation)
        self.suites = {name: prepared.workspace.suite_of(name, self.config) for name in prepared.roles}
        self.tokenizer = prepared.workspace.tokenizer_of(prepared.config)
        prompts.require_format(self.evaluation, self.tokenizer, self.config.labels.model)
        self.base_model = Base()  # the model itself, until it is tuned
        self.weights_sha256 = self.measured_sha256 = ""
        self.ids: dict[str, str] = {}

    def load(self) -> PreTrainedModel:
        """Return the model, on its device."""
        import torch

        torch.set_num_threads(self.resolved.threads)
        self.progress.stage(f"load {self.config.labels.model}", 1)
        model: PreTrainedModel = self.config.model.load().to(self.resolved.device)  # type: ignore[arg-type]
        self.weights_sha256 = self.config.model.weights_sha256()
        self._identify()
        return model

    def _identify(self) -> None:
        """Find the ids of volume 0, by the bytes of the weights that it is measured on."""
        if self.prepared.reference is None:
            self.measured_sha256 = self.weights_sha256
        else:
            self.measured_sha256 = _weights_of(self.prepared.reference)
        self.ids = {name: identify({**self._identity(name), "weights": self.measured_sha256}) for name in self.suites}

    def measure(self, model: PreTrainedModel | None) -> None:
        """Measure every suite that is not recorded for these very weights and items.

        Args:
            model: what volume 0 is measured on; None is the reference model, which is loaded only
                if one is missing.
        """
        if not self.ids:
            self._identify()
        subject = functools.cache(lambda: model or self._load_reference())
        live_weights = functools.cache(lambda: state_sha256(subject()))
        for name, baseline_id in self.ids.items():
            done, do = functools.partial(self._known, baseline_id), functools.partial(self._measure, name, subject, live_weights)
            self.once(f"baseline-{baseline_id}", done, do)

    def _load_reference(self) -> PreTrainedModel:
        import torch

        assert self.prepared.reference is not None
        torch.set_num_threads(self.resolved.threads)
        self.progress.stage(f"load {self.config.labels.reference}", 1)
        model: PreTrainedModel = self.prepared.reference.load().to(self.resolved.device)  # type: ignore[arg-type]
        return model

    def measure_against(self, base: Mapping[str, torch.Tensor]) -> None:
        """Let the tuned model compute as its base with these start weights, by plain name, on the CPU."""
        tuning = self.config.tuning
        self.base_model = dataclasses.replace(self.base_model, weights=lambda live: tuning.base_weights(live, base))

    def evaluate(
        self,
        name: str,
        model: PreTrainedModel,
        when: str,
        partial: Partial,
        evaluation: Evaluation | None = None,
        base: Base | None = None,
        suite: PreparedSuite | None = None,
    ) -> Result:
        """Evaluate a suite, as the run asks it unless told otherwise, on a live model."""
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
        """Identify the evaluation of a suite under way: what is measured, and how."""
        return identify({"baseline": self.ids[name], "live_weights": live_weights})

    def _identity(self, name: str) -> dict[str, Any]:
        return {**self.prepared.baseline_identities[name], "tasks": plain(self.suites[name].content)}

    def _known(self, baseline_id: str) -> bool:
        known = self.experiment.baseline(baseline_id)
        return known is not None and complete(known)

    def _measure(self, name: str, subject: Callable[[], PreTrainedModel], live_weights: Callable[[], str]) -> None:
        """Measure volume 0 of a suite, twice."""
        baseline_id, model = self.ids[name], subject()
        key = self.key(name, live_weights())
        result = self.evaluate(name, model, "before", self.experiment.unfinished_baseline(baseline_id, key))
        scores = result.scores
        if self.suites[name].suite.kind != "divergence":  # there, the base is compared with itself: always 0, which says nothing
            scores = with_spread(result, self._otherwise(name, model, self.experiment.unfinished_baseline(baseline_id, key, again=True)))
        baseline = Baseline(
            baseline_id=baseline_id,
            suite=name,
            identity=self._identity(name),
            weights_sha256=self.measured_sha256,
            scores=scores,
            wall_seconds=result.seconds,
            provenance=provenance.collect(),
            evaluation_facts=result.facts,
        )
        self.experiment.write_baseline(baseline, result.samples)

    def _otherwise(self, name: str, model: PreTrainedModel, partial: Partial) -> Result:
        """Measure a suite with other batches and another number of threads: how far that moves a score is rounding."""
        import torch

        base = dataclasses.replace(self.base_model, drawn=dict(self.base_model.drawn))  # text drawn in here is not that of the points
        torch.set_num_threads(another(self.resolved.threads))
        try:
            return self.evaluate(name, model, "before, again in other batches", partial, self.evaluation.otherwise(), base)
        finally:
            torch.set_num_threads(self.resolved.threads)
