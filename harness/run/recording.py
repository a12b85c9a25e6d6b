"""The files of a run: configuration, prompts, points, record and summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING

from harness.config.strict import plain
from harness.core.counts import Counts
from harness.core.progress import Progress
from harness.core.rows import Example, Row, anchor_share
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.schema import Point, Record
from harness.run.baseline import Before
from harness.run.generated.binding import generated_for
from harness.run.preparation import Prepared
from harness.run.selection import derived_config
from harness.run.settling import incomplete, lock, overlap_of, summarise, write_configs, write_prompts
from harness.run.steps import Steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.training.job import Stop


class Recorder:
    """The files of one run."""

    def __init__(self, prepared: Prepared, before: Before, progress: Progress) -> None:
        self.prepared, self.config, self.before, self.progress = prepared, prepared.config, before, progress
        self.experiment, self.run_id = prepared.experiment, prepared.run_id

    def begin(self) -> None:
        """Remove partial files of a killed process. Raises ConfigError if writing fails."""
        self.experiment.require_writable()
        with lock(self.prepared):
            for run_id in (self.run_id, *self.prepared.derived.values()):
                self.experiment.clear_leftovers(run_id)

    def write_start(self) -> None:
        """Write the prompts and the configuration of a run that begins."""
        write_prompts(self.prepared)
        write_configs(self.prepared)

    def restart(self) -> None:
        """Set all results of the run aside, and write the files that a run starts with."""
        self.experiment.set_aside(self.run_id)
        self.write_start()

    def is_complete(self, volume: int) -> bool:
        """Return whether training need not stop at a volume again.

        Its point is measured on every suite, also in derived runs, or its weights are on disk, to
        be measured separately.
        """
        if volume not in self.prepared.volumes:  # not asked for now: it stays as it was measured
            return self.experiment.point(self.run_id, volume) is not None
        if self.prepared.resolved.separate and self.experiment.weights_folder(self.run_id, volume):
            return True
        every = (self.run_id, *self.prepared.derived.values())
        return not any(self.experiment.unmeasured(one, volume, self.prepared.evaluation_ids) for one in every)

    def point(self, stop: Stop, steps: Steps, weight_change: float, model: PreTrainedModel) -> Point:
        """Return the point of a stop, of the live weights, which is not measured yet."""
        done = steps.examples[: stop.counts.step]
        examples = [example for step in done for example in step]
        anchor = [example for example in examples if example.origin == "anchor"]
        return Point(
            run_id=self.run_id,
            volume=stop.volume,
            weights_sha256=state_sha256(model),
            counts=self._counts(stop, steps, examples),
            target_rows=len(examples) - len(anchor),
            anchor_rows=len(anchor),
            anchor_tokens=sum(example.tokens for example in anchor),
            anchor_supervised_tokens=sum(example.supervised_tokens for example in anchor),
            anchor_loss_share=fmean(anchor_share(step) or 0.0 for step in done) if anchor else 0.0,
            truncated_rows=sum(example.truncated for example in examples),
            weight_change=weight_change,
            peak_memory_bytes=0,
        )

    def _learned(self, steps: Steps) -> list[Row]:
        """Return the rows that are trained on: those of the target, and the anchor's as drawn."""
        drawn = sum(example.origin == "anchor" for step in steps.examples for example in step)
        return [*steps.data.target, *steps.data.anchor[:drawn]]

    def _counts(self, stop: Stop, steps: Steps, examples: list[Example]) -> Counts:
        """Return the totals of training, its rows, generated rows and the mitigation's passes."""
        generated = steps.data.generated_up_to(stop.volume, self.config.training.epochs)
        own_passes = self.config.mitigation.extra_tokens(steps.examples[: stop.counts.step], steps.anchor)
        rows = Counts()
        if self.config.objective.learns != "rewards":
            answers = [one for example in examples for one in (example, example.rejected) if one is not None]
            rows = Counts(
                trained_tokens=sum(example.tokens for example in examples),
                supervised_tokens=sum(one.supervised_tokens for one in answers),
            )
        generation = Counts(
            generated_tokens=sum(one.generated_tokens for one in generated),
            read_tokens=sum(one.read_tokens for one in generated) + own_passes,
        )
        return stop.counts.plus(rows).plus(generation)

    def write_record(self, model: PreTrainedModel, micro_batch_rows: int | None, steps: Steps, target_nats: Mapping[str, float]) -> None:
        """Write the record that marks the run as done, and those of derived runs.

        Args:
            model: the live model.
            micro_batch_rows: rows of one forward pass, as used last.
            steps: the rows it was trained on.
            target_nats: likelihood of the targets, for ``Record.writing``.
        """
        with lock(self.prepared):
            record = self._record(model, micro_batch_rows, steps, target_nats)
            for coefficient, run_id in self.prepared.derived.items():
                self._write(self._derived(record, coefficient, run_id))
            self._write(record)

    def _record(self, model: PreTrainedModel, micro_batch_rows: int | None, steps: Steps, target_nats: Mapping[str, float]) -> Record:
        earlier = self.experiment.record(self.run_id)
        longer = earlier if earlier and max(earlier.volumes) > self.prepared.volumes[-1] else None
        config, resolved = self.config, self.prepared.resolved
        volumes = tuple(sorted({*self.prepared.volumes, *(earlier.volumes if earlier else ())}))
        return Record(
            run_id=self.run_id,
            experiment=config.name,
            identity=self.prepared.identity,
            labels=plain(config.labels),
            config=longer.config if longer else plain(config),
            volumes=volumes,
            evaluations=self.prepared.evaluation_ids,
            before_sha256=self.prepared.before_sha256,
            roles=self.prepared.roles,
            params_total=self.prepared.facts.params_total,
            params_trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            learning_rate=resolved.learning_rate,
            lr_tuned=resolved.lr_tuned,
            seed=config.seed,
            trajectory=config.trajectory,
            dtype=resolved.dtype,
            threads=resolved.threads,
            tuning_facts=config.tuning.facts(model),
            overlap=longer.overlap if longer else overlap_of(self.prepared, self._learned(steps), self.before.suites),
            start_weights_sha256=self.before.weights_sha256,
            provenance=provenance.collect(),
            data_facts=longer.data_facts if longer else dict(steps.facts),
            micro_batch_rows=micro_batch_rows,
            writing=longer.writing if longer else {**steps.data.statistics, **target_nats, **generated_for(config)},
            incomplete=incomplete(self.prepared, self.run_id, volumes),
        )

    def _derived(self, record: Record, coefficient: float, run_id: str) -> Record:
        """Return the record of a derived run, made from the record of its parent."""
        config = derived_config(self.prepared, coefficient)
        return dataclasses.replace(
            record,
            run_id=run_id,
            identity={**record.identity, "coefficient": coefficient},
            labels={**record.labels, "mitigation": config["labels"]["mitigation"]},
            config={**record.config, "labels": config["labels"]},
            incomplete=incomplete(self.prepared, run_id, record.volumes),
            derived_from=record.run_id,
        )

    def _write(self, record: Record) -> None:
        self.experiment.write_record(record)
        summarise(self.experiment, record.run_id, self.progress)
