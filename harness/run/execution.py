"""RunConfig to Record: the only place that knows the order of the steps.

preparation   every check of config, data and suites, and the run's identity; nothing is built or written
inspect       suites build, rows have something to learn: still nothing is built or written
execute       load → baselines → tuning.prepare → train, evaluating at each volume → record

A run that was interrupted, or that is asked for a larger volume, goes on from its last saved state
of training.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from harness.config.identity import recorded
from harness.config.strict import plain
from harness.core.errors import TrainingError, explain
from harness.core.progress import Progress, Silent
from harness.core.rows import Example
from harness.data import overlap, subsets, tokens
from harness.evaluation import prompts
from harness.models.weights import state_sha256
from harness.records import provenance
from harness.records.schema import BASELINES, Point, Record, complete
from harness.records.store import Experiment
from harness.run import baseline
from harness.run.baseline import Before, Once, by_itself
from harness.run.generated import binding
from harness.run.generated.data import Data, Writing, summed_up, target_nats
from harness.run.preparation import Prepared, done
from harness.run.selection import BestVolume, CoefficientGrid, Measured, Selection, derived_config, measured
from harness.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.training.loop import Stop
    from harness.training.trajectory import Trajectory

__all__ = ["Once", "Outcome", "execute", "inspect", "measure_baselines"]

Outcome = Literal["done", "already done", "measured in part"]


def inspect(prepared: Prepared) -> None:
    """Check what takes a look at the data: suites build, items suffice, rows have something to learn. Raises HarnessError."""
    _Execution(prepared, Silent())


def execute(prepared: Prepared, progress: Progress, once: Once = by_itself) -> Outcome:
    """Do what is missing of a run: train through its volumes, evaluate each, write each point when reached, then the record.

    A model, and so a baseline, is loaded only if something is missing.

    Args:
        prepared: the run.
        progress: told of stages and steps. Where it raises Interrupted, what is under way is saved,
            and a later call goes on from there.
        once: sees to it that a baseline is measured by one process only.
    """
    if done(prepared):
        _settle(prepared, progress)
        return "already done"
    _Execution(prepared, progress, once).run()
    return "done" if done(prepared) else "measured in part"


def _settle(prepared: Prepared, progress: Progress) -> None:
    """Take back what was said of a run before all it lacked was there: a failed try, measurements that another run has made since."""
    experiment, run_id = prepared.experiment, prepared.run_id
    for one in (*prepared.derived.values(), run_id):
        record = experiment.record(one)
        if record is not None and record.incomplete:
            derived = prepared.derived.values() if one == run_id else ()
            now = incomplete(experiment, one, record.volumes, record.baselines.values(), derived)
            experiment.write_record(dataclasses.replace(record, incomplete=now))
        experiment.drop_failure(one)
        _summarise(experiment, one, progress)


def _summarise(experiment: Experiment, run_id: str, progress: Progress) -> None:
    """Keep what a recorded run comes to, so that no table reads its items again."""
    from harness.analysis.table import runs  # brings SciPy along, which only the end of a run needs

    if reason := runs.summarise(experiment, run_id):
        progress.say(f"run {run_id}: recorded; what it comes to could not be worked out: {reason}")


def incomplete(
    experiment: Experiment, run_id: str, volumes: Iterable[int], baseline_ids: Iterable[str], derived: Iterable[str] = ()
) -> tuple[int, ...]:
    """Return the volumes with a score whose measurement failed, its own or one of a run derived from it; 0 stands for the baselines."""
    every = (run_id, *derived)
    points = [volume for volume in volumes if not all(_stands(experiment, one, volume) for one in every)]
    before = [experiment.baseline(baseline_id) for baseline_id in baseline_ids]
    return (*([] if all(one is not None and complete(one) for one in before) else [0]), *points)


def _stands(experiment: Experiment, run_id: str, volume: int) -> bool:
    """Say whether a point is recorded, and nothing is missing of it."""
    known = experiment.point(run_id, volume)
    return known is not None and complete(known)


def measure_baselines(prepared: Prepared, progress: Progress, once: Once = by_itself) -> None:
    """Measure volume 0 of a run's model on its suites, where one is missing; nothing is trained."""
    baseline.measure(prepared, progress, once)


class _Execution:
    """One run under way: what its steps share."""

    def __init__(self, prepared: Prepared, progress: Progress, once: Once = by_itself) -> None:
        self.prepared, self.config, self.progress = prepared, prepared.config, progress
        self.resolved, self.experiment, self.run_id = prepared.resolved, prepared.experiment, prepared.run_id
        self.before = Before(prepared, progress, once)
        self.suites, self.tokenizer = self.before.suites, self.before.tokenizer
        self.states = Checkpoints(self.experiment, self.run_id)
        self.selection = Selection(prepared, self.before) if prepared.chooses else None
        self.writing, self.target_nats = Writing(prepared), dict[str, float]()
        self.data = Data(target=prepared.rows, anchor=prepared.anchor)  # with gold rows, until others are written
        self.steps = self._steps(are_written=not self.writing.is_needed)

    def _steps(self, *, are_written: bool) -> list[list[Example]]:
        """Return the examples of every optimizer step, target and anchor.

        Nothing is mixed in before the rows are written.

        Raises:
            DataError: before any model is built, where what there is has nothing to learn, or too
                little to be mixed in.
        """
        config, size = self.config, self.config.training.batch_rows
        encoded = self.prepared.workspace.encoded
        target = encoded(config, self.resolved, self.data.target, "target")
        self.anchor_examples = encoded(config, self.resolved, self.data.anchor, "anchor")
        facts = dataclasses.asdict(tokens.supervision(target))
        self.data_facts = facts | {"repeated_rows": subsets.duplicates(self.data.target[: self.prepared.volumes[-1]])}
        steps = [target[i : i + size] for i in range(0, len(target), size)]
        return config.mitigation.mix(steps, self.anchor_examples) if are_written else steps

    def _write_rows(self, model: PreTrainedModel) -> None:
        """Have models write what the run is trained on, where it is not there yet.

        And note how likely the start model finds it.
        """
        if self.writing.is_needed:
            self.data = self.writing.data(lambda: model, self.progress)
            self.steps = self._steps(are_written=True)
            self.progress.say(f"run {self.run_id}: written rows: {summed_up(self.data.facts)}")
            binding.bind(self.prepared, self.data, self._begin_again, self.progress)
        self.target_nats = target_nats(self.prepared, self.data, model)

    def _begin_again(self) -> None:
        """Drop what there is of the run, and write what every run begins with."""
        self.experiment.forget(self.run_id)
        self._write_prompts()
        self._write_config(self.before.ids)

    def run(self) -> None:
        """Go through the steps."""
        provenance.reset_peak_memory()
        self.experiment.require_writable()
        for run_id in (self.run_id, *self.prepared.derived.values()):
            self.experiment.clear_leftovers(run_id)
        self.progress.say(self._opening())
        model = self.before.load()
        self._drop_other_inputs()
        self._write_prompts()
        known = self.experiment.config(self.run_id).get(BASELINES, {})  # kept until those of this try are measured
        self._write_config(known)
        self.before.measure(model if self.prepared.reference is None else None)
        self._write_config(self.before.ids)
        self.base = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
        tuned = lambda live: self.config.tuning.base_weights(live, self.base)  # noqa: E731
        self.before.base_model = dataclasses.replace(self.before.base_model, weights=tuned)
        self._write_rows(model)
        self.remedy = (
            CoefficientGrid(self.prepared, self.before, self.selection, self.base) if self.config.mitigation.coefficients else None
        )
        trajectory = self._trajectory(model)
        del model  # where memory runs out, the trajectory lets go of it and loads it again
        trajectory.run(self._point)
        self._record(trajectory.model, trajectory.micro_batch_rows)
        self.states.keep_only(max(self.experiment.states(self.run_id), default=None) if self.config.keep_state else None)

    def _opening(self) -> str:
        labels = self.config.labels
        what = f"{labels.model}, {labels.tuning}, {labels.objective}, {labels.mitigation}, data {labels.data}, seed {self.config.seed}"
        return (
            f"run {self.run_id}: {what}, volumes {self.prepared.volumes}, {sum(len(s) for s in self.steps)} rows in {len(self.steps)} steps"
        )

    def _write_config(self, baseline_ids: Mapping[str, str]) -> None:
        self.experiment.write_config(self.run_id, recorded(self.config), self.before.weights_sha256, baseline_ids)
        for coefficient, run_id in self.prepared.derived.items():
            config = derived_config(self.prepared, coefficient)
            self.experiment.write_config(run_id, config, self.before.weights_sha256, baseline_ids)

    def _drop_other_inputs(self) -> None:
        """Drop results that started from other bytes than these, or were compared with other items: no hash of the run tells of them.

        A nursery model may have been rebuilt under the same recipe, a data set of lm-eval may have
        changed.
        """
        known = self.experiment.config(self.run_id).get(BASELINES, {})
        other_items = any(known.get(name, baseline_id) != baseline_id for name, baseline_id in self.before.ids.items())
        if other_items or self.experiment.start_weights_sha256(self.run_id) not in {None, self.before.weights_sha256}:
            self.experiment.forget(self.run_id)

    def _write_prompts(self) -> None:
        for name, suite in self.suites.items():
            shown = prompts.shown(suite, self.before.evaluation, self.tokenizer, self.prepared.facts.context_length)
            self.experiment.write_prompts(self.run_id, name, shown)

    def _trajectory(self, model: PreTrainedModel) -> Trajectory:
        from harness.training.job import Job
        from harness.training.trajectory import Trajectory

        config, largest = self.config, self.prepared.volumes[-1]
        recorded = [volume for volume in self.experiment.volumes(self.run_id) if volume < largest]  # so that losses are since the last
        job = Job(
            model=config.model,
            tuning=config.tuning,
            objective=config.objective,
            mitigation=config.mitigation,
            training=config.training,
            resolved=self.resolved,
            seed=config.seed,
            steps=self.steps,
            anchor=self.anchor_examples,
            stops={self._steps_at(volume): volume for volume in [*recorded, *self.prepared.volumes]},
            pad_id=_pad_id(self.tokenizer),
            states=self.states,
            restarts=subsets.restarts(config.data, config.training.batch_rows),
        )
        name = f"{config.labels.model} {config.labels.tuning}"
        return Trajectory(job, model, self.base, reload=self.before.load, stands=self._stands, progress=self.progress, name=name)

    def _steps_at(self, volume: int) -> int:
        return volume // self.config.training.batch_rows * self.config.training.epochs

    def _stands(self, volume: int) -> bool:
        return all(_stands(self.experiment, one, volume) for one in (self.run_id, *self.prepared.derived.values()))

    def _point(self, stop: Stop, model: PreTrainedModel) -> None:
        """Evaluate and record the live model at a volume, or what is made of its weights there, unless that point stands already."""
        if self._stands(stop.volume):
            return
        whole, evaluate = self._describe(stop, self._weight_change(model)), functools.partial(self._evaluated, model)
        if self.remedy is not None:
            point, samples = self.remedy.measure(whole, model)
            point = dataclasses.replace(point, weights=self._save(stop.volume, self.remedy.model.save_pretrained))
        elif self.config.mitigation.keeps_best and self.selection is not None:
            point, samples = BestVolume(self.prepared, self.selection).measure(whole, model, evaluate)
        else:
            point, samples = evaluate(whole)
        self.experiment.write_point(point, samples)

    def _evaluated(self, model: PreTrainedModel, whole: Point) -> Measured:
        """Measure the live model on every suite, and save it where that is asked for."""
        began, volume, live = time.perf_counter(), whole.volume, state_sha256(model)
        kept = {name: self.experiment.unfinished_point(self.run_id, volume, self.before.key(name, live)) for name in self.suites}
        results = {name: self.before.evaluate(name, model, f"after {volume} rows", partial) for name, partial in kept.items()}
        seconds, save = time.perf_counter() - began, functools.partial(self.config.tuning.save, model)
        return measured(whole, results, seconds, weights=self._save(volume, save))

    def _weight_change(self, model: PreTrainedModel) -> float:
        """Return ‖ΔW‖₂ over all weights; refuse a run that moved nothing."""
        import torch

        with torch.no_grad():
            squares = [float(delta.double().square().sum()) for _, delta in self.config.tuning.deltas(model, self.base)]
        norm = float(sum(squares) ** 0.5)
        if norm == 0.0 or norm != norm:
            got, fix = f"a weight change of {norm}", "check the learning rate and what the rows supervise"
            if norm == 0.0 and self.config.objective.learns == "rewards":
                got = f"{got}: no group of answers to one prompt had answers of different worth, so there was nothing to learn"
                fix = "another reward, more objective.samples, or a model that is right sometimes"
            raise TrainingError(explain("training", got=got, allowed="weights that moved", fix=fix))
        return norm

    def _describe(self, stop: Stop, change: float) -> Point:
        """Return what is known of a point but for its scores."""
        examples = [example for step in self.steps[: stop.step] for example in step]
        written = self.data.paid(stop.volume, self.config.training.epochs)
        read = stop.read_tokens + sum(one.read_tokens for one in written)
        anchor = [example for example in examples if example.origin == "anchor"]
        trained, supervised = self._trained(stop, examples)
        return Point(
            run_id=self.run_id,
            volume=stop.volume,
            steps=stop.step,
            target_rows=len(examples) - len(anchor),
            anchor_rows=len(anchor),
            train_tokens=trained,
            supervised_tokens=supervised,
            anchor_tokens=sum(example.tokens for example in anchor),
            truncated_rows=sum(example.truncated for example in examples),
            train_loss=stop.train_loss,
            weight_change=change,
            flops=stop.flops,
            wall_seconds=stop.wall_seconds,
            evaluation_seconds=0.0,
            peak_memory_bytes=0,
            scores=(),
            train_penalty=stop.penalty,
            generated_tokens=stop.generated_tokens + sum(one.generated_tokens for one in written),
            extra_tokens=read + self.config.mitigation.extra_tokens(self.steps[: stop.step], self.anchor_examples),
        )

    def _trained(self, stop: Stop, examples: list[Example]) -> tuple[int, int]:
        """Return the tokens trained on and those with a loss: of rows, of both answers of a pair, or of what was written and rewarded."""
        if self.config.objective.learns == "rewards":
            return stop.trained_tokens, stop.supervised_tokens
        answers = [one for example in examples for one in (example, example.rejected) if one is not None]
        return sum(example.tokens for example in examples), sum(one.supervised_tokens for one in answers)

    def _save(self, volume: int, save: Callable[[Path], object]) -> str | None:
        """Save weights where that is asked for.

        Of early stop, those of each volume that was best when it was reached.
        """
        policy, best = self.config.save_weights, self.config.mitigation.keeps_best
        if policy == "none" or (policy == "last" and volume != self.prepared.volumes[-1] and not best):
            return None
        folder = self.experiment.run_folder(self.run_id) / "weights" / str(volume)

        def fill(place: Path) -> None:
            save(place)
            self.tokenizer.save_pretrained(place)

        self.experiment.write_folder(folder, fill)
        return f"weights/{volume}"

    def _record(self, model: PreTrainedModel, micro_batch_rows: int | None) -> None:
        earlier = self.experiment.record(self.run_id)
        longer = earlier if earlier and max(earlier.volumes) > self.prepared.volumes[-1] else None
        config, resolved = self.config, self.resolved
        volumes = tuple(sorted({*self.prepared.volumes, *(earlier.volumes if earlier else ())}))
        record = Record(
            run_id=self.run_id,
            experiment=config.name,
            identity=self.prepared.identity,
            labels=plain(config.labels),
            config=longer.config if longer else plain(config),
            volumes=volumes,
            baselines=self.before.ids,
            roles=self.prepared.roles,
            params_total=self.prepared.facts.params_total,
            params_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            learning_rate=resolved.learning_rate,
            lr_tuned=resolved.lr_tuned,
            seed=config.seed,
            trajectory=config.trajectory,
            dtype=resolved.dtype,
            threads=resolved.threads,
            tuning_facts=config.tuning.facts(model),
            overlap=longer.overlap if longer else self._overlap(),
            start_weights_sha256=self.before.weights_sha256,
            provenance=provenance.collect(),
            data_facts=longer.data_facts if longer else self.data_facts,
            micro_batch_rows=micro_batch_rows,
            writing=longer.writing if longer else {**self.data.facts, **self.target_nats, **binding.writers(self.config)},
            incomplete=incomplete(self.experiment, self.run_id, volumes, self.before.ids.values(), self.prepared.derived.values()),
        )
        for coefficient, run_id in self.prepared.derived.items():
            self._write(self._derived(record, coefficient, run_id))
        self._write(record)

    def _derived(self, record: Record, coefficient: float, run_id: str) -> Record:
        """Return the record of the run that measures this one's weights at a coefficient."""
        config, missing = derived_config(self.prepared, coefficient), self.before.ids.values()
        return dataclasses.replace(
            record,
            run_id=run_id,
            identity={**record.identity, "coefficient": coefficient},
            labels={**record.labels, "mitigation": config["labels"]["mitigation"]},
            config={**record.config, "labels": config["labels"]},
            incomplete=incomplete(self.experiment, run_id, record.volumes, missing),
            derived_from=record.run_id,
        )

    def _write(self, record: Record) -> None:
        self.experiment.write_record(record)
        _summarise(self.experiment, record.run_id, self.progress)

    def _overlap(self) -> dict[str, Any]:
        """Return, by suite, how much of its items' text stands in the rows trained on."""
        texts = [row.text for row in {row.id: row for row in self.data.target}.values()]
        found: dict[str, Any] = {}
        for name, suite in self.suites.items():
            if suite.suite.overlap == "expected":
                found[name] = "expected"
                continue
            samples = self.experiment.baseline_samples(self.before.ids[name])
            items = samples[~samples["task"].map(suite.apart).astype(bool)].drop_duplicates(["task", "doc_hash"])
            found[name] = overlap.shares(texts, items["item"].tolist()) if len(items) else {}
        return found


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with; padding is masked, so any id serves where a tokenizer has none."""
    return cast(int, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)
