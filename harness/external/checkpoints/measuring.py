"""A training elsewhere as a run: its checkpoints are points, its base is volume 0.

Nothing is trained. The run is identified by the content of its base, the experiment and the
training's name, a point by its weights. Points are measured like those of our own runs: with the
tokenizer and the evaluations of the base, so that the same prompts are paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.config.identity import identify, recorded
from harness.config.strict import plain
from harness.core.counts import Counts
from harness.core.errors import ConfigError, explain
from harness.core.files import say_busy
from harness.core.progress import Progress
from harness.evaluation.divergence import Base
from harness.external import judge, models
from harness.external.checkpoints.plan import Training
from harness.external.checkpoints.states import TrainerState
from harness.external.judge import Comparison
from harness.external.sides import Measured, Side
from harness.methods.tuning.full import Full
from harness.records import provenance
from harness.records.schema import Axis, Point, Record
from harness.run.baseline import Before, by_itself
from harness.run.preparation import Prepared
from harness.run.selection import measure_suites
from harness.run.settling import incomplete, write_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TRAINING = "training_elsewhere"
"""Key of a run's configuration: place of the training, unit of its volumes."""

ELSEWHERE = "elsewhere"
"""Label of the objective and mitigation of a training whose settings are not known."""


@dataclass
class MeasuredRun:
    """The run of a training elsewhere.

    Attributes:
        prepared: its base, with the suites and the experiment.
        training: whose checkpoints are measured.
        progress: receives the stages.
    """

    prepared: Prepared
    training: Training
    progress: Progress
    margin: float = 0.02
    before: Before = field(init=False)

    def __post_init__(self) -> None:
        self.before = Before(self.prepared, self.progress, by_itself)

    @property
    def run_id(self) -> str:
        """Hash of what identifies the run."""
        return identify(self._identity())

    def start(self, model: PreTrainedModel | None = None) -> None:
        """Measure volume 0, of a live model if given, and write the files of a run that starts."""
        experiment = self.prepared.experiment
        experiment.require_writable()
        self._require_same_training()
        say_busy(experiment.folder)
        self.before.measure(model)
        if not experiment.config(self.run_id) or experiment.evaluations(self.run_id) != self.prepared.evaluation_ids:
            write_prompts(self.prepared, self.run_id)
            experiment.write_config(self.run_id, self._config(), self.prepared.evaluation_ids, self.prepared.before_sha256)
        experiment.write_manifest({self.run_id: self._config()}, keep=True)

    def _require_same_training(self) -> None:
        """Reject another training, or another axis, under one name. Raises ConfigError."""
        known, now = self.prepared.experiment.config(self.run_id).get(TRAINING, {}), self._training()
        where, fix = f"results/{self.prepared.config.name}: training {self.training.name}", "--name OTHER"
        if known.get("key") and now["key"] and known["key"] != now["key"]:
            raise ConfigError(explain(where, got=now["key"], allowed=f"{known['key']}, whose checkpoints have this name there", fix=fix))
        if known.get("key") and now["key"] and known != now:
            words = [f"{of['axis']}{' of ' + str(of['rows_per_step']) + ' a step' if of['rows_per_step'] else ''}" for of in (now, known)]
            fix = f"{fix}, or the same --rows-per-step as before"
            raise ConfigError(explain(f"{where}: axis", got=words[0], allowed=f"{words[1]}, as its points have", fix=fix))

    def lacks(self, volume: int, weights_sha256: str) -> tuple[str, ...]:
        """Return the suites that a checkpoint is not measured on; all if its point has others."""
        point = self.prepared.experiment.point(self.run_id, volume)
        if point is None or point.weights_sha256 != weights_sha256:
            return tuple(self.prepared.evaluation_ids)
        return self.prepared.experiment.unmeasured(self.run_id, volume, self.prepared.evaluation_ids)

    def measure(
        self, volume: int, weights_sha256: str, live: Callable[[], PreTrainedModel], *, source: str, state: TrainerState | None = None
    ) -> Comparison:
        """Measure a checkpoint on the suites that it lacks, and record it.

        Args:
            volume: its place on the axis, at least 1.
            weights_sha256: hash of its content, which names its measurements.
            live: returns the model in evaluation mode on its device; called if a suite is missing.
            source: of the checkpoint, for the record.
            state: of its trainer; None if unknown.

        Returns:
            Base against checkpoint, suite by suite.
        """
        experiment, point = self.prepared.experiment, self._point(volume, weights_sha256, source, state)
        if self.lacks(volume, weights_sha256):
            if not all(experiment.is_measured(one, weights_sha256) for one in self.prepared.evaluation_ids.values()):
                model = live()
                compares = any(suite.suite.kind == "divergence" for suite in self.before.suites.values())
                base = self._base() if compares else None
                measure_suites(self.before, model, point, f"{self.training.name} at {self.in_words(volume)}", base=base)
            known = experiment.point(self.run_id, volume)
            if known is not None and known.weights_sha256 != weights_sha256:
                self.progress.say(f"{source}: other weights than were measured at {self.in_words(volume)}: they replace them")
            experiment.write_point(dataclasses.replace(point, peak_memory_bytes=provenance.peak_memory_bytes()))
        self._record()
        return self.comparison(volume)

    def comparison(self, volume: int) -> Comparison:
        """Return base against a checkpoint that is measured; 0 is the base itself."""
        labels = self.prepared.config.labels
        first = self._side(labels.model, labels.model, self.prepared.before_sha256)
        if not volume:
            return judge.compare(first, first, self.margin)
        point = self.prepared.experiment.point(self.run_id, volume)
        if point is None:
            raise ConfigError(explain(f"run {self.run_id}: volume {volume}", got="no point", fix="measure it"))
        return judge.compare(
            first, self._side(point.source, f"{self.training.name} at {self.in_words(volume)}", point.weights_sha256), self.margin
        )

    def in_words(self, volume: int) -> str:
        """Return a volume with its unit."""
        return in_words(volume, self.training.axis)

    def _side(self, source: str, model: str, weights: str) -> Side:
        experiment, suites = self.prepared.experiment, dict[str, Measured]()
        for name, evaluation_id in self.prepared.evaluation_ids.items():
            if self.before.suites[name].suite.kind == "divergence":  # a distance, which is no loss
                continue
            found = models.complete(experiment.measurement(evaluation_id, weights), f"{model}, suite {name}")
            suites[name] = Measured(scores=found.scores, samples=experiment.measurement_samples(evaluation_id, weights))
        return Side(source=source, model=model, suites=suites, content=weights)

    def _base(self) -> Base:
        """Return how a checkpoint computes as its base, for suites that compare with it."""
        start = dict(self.before.load().state_dict())
        return dataclasses.replace(self.before.base_model, weights=lambda live: Full().base_weights(live, start))

    def _identity(self) -> dict[str, Any]:
        return {
            "measured": {
                "base": plain(self.prepared.facts.content),
                "tokenizer": self.prepared.workspace.tokenizer_content_of(self.prepared.config),
                "experiment": self.prepared.config.name,
                "training": self.training.name,
            }
        }

    def _config(self) -> dict[str, Any]:
        """Return what is known of the run's configuration, plain values."""
        asked = recorded(self.prepared.config)
        kept = {
            name: asked[name] for name in ("model", "evaluation", "target_suites", "probe_suites", "name", "seed", "trajectory", "declared")
        }
        return {
            **kept,
            TRAINING: self._training(),
            "labels": self._labels(),
            "settings": identify({"training": self.training.name, "model": asked["model"]}),
        }

    def _training(self) -> dict[str, Any]:
        training = self.training
        return {"key": training.key, "axis": training.axis, "rows_per_step": training.rows_per_step}

    def _labels(self) -> dict[str, Any]:
        model, training = self.prepared.config.labels.model, self.training
        own = {"model": model, "tuning": training.tuning, "objective": ELSEWHERE, "mitigation": ELSEWHERE, "data": training.name}
        return own | {"anchor": None, "reference": None}

    def _point(self, volume: int, weights_sha256: str, source: str, state: TrainerState | None) -> Point:
        step, tokens, loss = (state.step, state.tokens, state.loss) if state else (0, None, None)
        counts = Counts(step=step, trained_tokens=tokens or 0, nats=loss or 0.0, targets=0 if loss is None else 1)
        return Point(
            run_id=self.run_id,
            volume=volume,
            weights_sha256=weights_sha256,
            counts=counts,
            target_rows=volume if self.training.axis == "rows" else 0,
            anchor_rows=0,
            anchor_tokens=0,
            truncated_rows=0,
            weight_change=None,
            peak_memory_bytes=0,
            source=source,
        )

    def _record(self) -> None:
        """Write the record, which names every point."""
        prepared, experiment = self.prepared, self.prepared.experiment
        volumes = tuple(experiment.volumes(self.run_id))
        record = Record(
            run_id=self.run_id,
            experiment=prepared.config.name,
            identity=self._identity(),
            labels=self._labels(),
            config=self._config(),
            volumes=volumes,
            evaluations=prepared.evaluation_ids,
            before_sha256=prepared.before_sha256,
            roles=prepared.roles,
            params_total=prepared.facts.params_total,
            params_trainable=None,
            learning_rate=None,
            lr_tuned=None,
            seed=prepared.config.seed,
            trajectory="shared",
            dtype=None,
            threads=prepared.resolved.threads,
            tuning_facts={},
            overlap={},
            start_weights_sha256=prepared.before_sha256,
            provenance=provenance.collect(),
            incomplete=incomplete(prepared, self.run_id, volumes),
            axis=self.training.axis,
        )
        experiment.write_record(record)  # its summary, of all points, is made by the first table that reads it


def in_words(volume: int, axis: Axis) -> str:
    """Return a volume with its unit, such as ``300 steps``."""
    return "its end" if axis == "checkpoint" else f"{volume:,} {axis}"
