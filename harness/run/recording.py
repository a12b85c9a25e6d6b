"""The files of a run: configuration, prompts, points, record and summary."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from harness.config.identity import recorded
from harness.config.strict import plain
from harness.core import files
from harness.core.counts import Counts
from harness.core.progress import Progress
from harness.core.rows import Example, Row
from harness.data import overlap
from harness.evaluation import prompts
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.schema import Point, Record
from harness.records.store import Experiment
from harness.run.baseline import Before
from harness.run.generated.binding import generated_for
from harness.run.preparation import Prepared
from harness.run.selection import derived_config
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
        with settling(self.prepared):
            for run_id in (self.run_id, *self.prepared.derived.values()):
                self.experiment.clear_leftovers(run_id)

    def write_prompts(self) -> None:
        """Write one item of each task as the model sees it."""
        for name, suite in self.before.suites.items():
            shown = prompts.shown(suite, self.before.evaluation, self.before.tokenizer, self.prepared.facts.context_length)
            self.experiment.write_prompts(self.run_id, name, shown)

    def write_start(self) -> None:
        """Write the prompts and the configuration of a run that begins."""
        self.write_prompts()
        prepared = self.prepared
        configs = {self.run_id: recorded(self.config)}
        configs |= {run_id: derived_config(prepared, coefficient) for coefficient, run_id in prepared.derived.items()}
        for run_id, config in configs.items():
            self.experiment.write_config(run_id, config, prepared.evaluation_ids, prepared.before_sha256)

    def restart(self) -> None:
        """Set all results of the run aside, and write the files that a run starts with."""
        self.experiment.set_aside(self.run_id)
        self.write_start()

    def is_complete(self, volume: int) -> bool:
        """Return whether training need not stop at a volume again.

        Its point is measured on every suite, also in derived runs, or its weights are on disk, to
        be measured separately.
        """
        if self.prepared.resolved.separate and self.experiment.has_weights(self.run_id, volume):
            return True
        every = (self.run_id, *self.prepared.derived.values())
        return not any(self.experiment.unmeasured(one, volume, self.prepared.evaluation_ids) for one in every)

    def point(self, stop: Stop, steps: Steps, weight_change: float, model: PreTrainedModel) -> Point:
        """Return the point of a stop, of the live weights, which is not measured yet."""
        examples = [example for step in steps.examples[: stop.counts.step] for example in step]
        anchor = [example for example in examples if example.origin == "anchor"]
        return Point(
            run_id=self.run_id,
            volume=stop.volume,
            weights_sha256=state_sha256(model),
            counts=self._counts(stop, steps, examples),
            target_rows=len(examples) - len(anchor),
            anchor_rows=len(anchor),
            anchor_tokens=sum(example.tokens for example in anchor),
            truncated_rows=sum(example.truncated for example in examples),
            weight_change=weight_change,
            peak_memory_bytes=0,
        )

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
        with settling(self.prepared):
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
            overlap=longer.overlap if longer else self._overlap(steps.data.target),
            start_weights_sha256=self.before.weights_sha256,
            provenance=provenance.collect(),
            data_facts=longer.data_facts if longer else dict(steps.facts),
            micro_batch_rows=micro_batch_rows,
            writing=longer.writing if longer else {**steps.data.statistics, **target_nats, **generated_for(config)},
            incomplete=_incomplete(self.prepared, self.run_id, volumes),
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
            incomplete=_incomplete(self.prepared, run_id, record.volumes),
            derived_from=record.run_id,
        )

    def _write(self, record: Record) -> None:
        self.experiment.write_record(record)
        summarise(self.experiment, record.run_id, self.progress)

    def measured_later(self) -> None:
        """Let the record say what is measured by now, also suites measured after training.

        The overlap of such suites with generated rows stays unknown.
        """
        record, generates = self.experiment.record(self.run_id), bool(generated_for(self.config))
        if record is not None and not generates and set(self.before.suites) - set(record.overlap):
            overlap = {**self._overlap(self.prepared.rows), **record.overlap}
            with settling(self.prepared):
                self.experiment.write_record(dataclasses.replace(record, overlap=overlap))
            self.write_prompts()
        settle(self.prepared, self.progress)

    def _overlap(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return suite → shares of its items' text that occur in the training rows."""
        texts = [row.text for row in {row.id: row for row in rows}.values()]
        found: dict[str, Any] = {}
        for name, suite in self.before.suites.items():
            if suite.suite.overlap == "expected":
                found[name] = "expected"
                continue
            samples = self.experiment.measurement_samples(self.prepared.evaluation_ids[name], self.prepared.before_sha256)
            items = samples[~samples["task"].map(suite.apart).astype(bool)].drop_duplicates(["task", "doc_hash"])
            found[name] = overlap.shares(texts, items["item"].tolist()) if len(items) else {}
        return found


def is_settled(prepared: Prepared) -> bool:
    """Return whether the record of a run shows what is asked of it."""
    found = prepared.experiment.glance("runs", prepared.run_id, "record.json")
    shown = (found.get("evaluations"), found.get("before_sha256"), found.get("incomplete"))
    return shown == (prepared.evaluation_ids, prepared.before_sha256, [])


def settling(prepared: Prepared) -> AbstractContextManager[None]:
    """Return a lock on a run's record, which workers that measure its points update too."""
    folder = prepared.experiment.run_folder(prepared.run_id)
    return files.locked(folder / "record.lock") if prepared.resolved.separate and folder.is_dir() else nullcontext()


def settle(prepared: Prepared, progress: Progress) -> None:
    """Let the record of a run say what is asked of it by now, if all of that is measured.

    Clears outdated failures and incompleteness; the suites that are shown are those asked for last.
    """
    with settling(prepared):
        _settle(prepared, progress)


def _settle(prepared: Prepared, progress: Progress) -> None:
    experiment, run_id = prepared.experiment, prepared.run_id
    for one in (*prepared.derived.values(), run_id):
        record = experiment.record(one)
        if record is not None:
            labels = {**record.labels, "reference": prepared.config.labels.reference}
            asked = {
                "evaluations": prepared.evaluation_ids,
                "before_sha256": prepared.before_sha256,
                "roles": prepared.roles,
                "labels": labels,
            }
            now = dataclasses.replace(record, **asked, incomplete=_incomplete(prepared, one, record.volumes))  # type: ignore[arg-type]
            if now != record:
                experiment.write_record(now)
        experiment.drop_failure(one)
        summarise(experiment, one, progress)


def summarise(experiment: Experiment, run_id: str, progress: Progress) -> None:
    """Write the summary of a recorded run, so that no table reads its items again."""
    from harness.analysis.table import runs  # imports SciPy, which only the end of a run needs

    if reason := runs.summarise(experiment, run_id):
        progress.say(f"run {run_id}: recorded; its summary could not be computed: {reason}")


def _incomplete(prepared: Prepared, run_id: str, volumes: Iterable[int]) -> tuple[int, ...]:
    """Return the volumes with a failed or missing measurement; 0 is volume 0.

    Those of derived runs are included in the run that trained.
    """
    experiment, ids = prepared.experiment, prepared.evaluation_ids
    every = (run_id, *prepared.derived.values()) if run_id == prepared.run_id else (run_id,)
    points = [volume for volume in volumes if any(experiment.unmeasured(one, volume, ids) for one in every)]
    before = all(experiment.is_measured(evaluation_id, prepared.before_sha256) for evaluation_id in ids.values())
    return (*([] if before else [0]), *points)
