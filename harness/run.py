"""RunConfig to Record: the only place that knows the order of the steps.

preparation   every check of config, data and suites, and the run's identity; nothing is built or written
inspect       suites build, rows have something to learn: still nothing is built or written
execute       load → baselines → tuning.prepare → train, evaluating at each volume → record
"""

from __future__ import annotations

import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pandas as pd

from harness import plan, provenance
from harness.config import plain
from harness.data import overlap, subsets, tokens
from harness.errors import TrainingError, explain
from harness.evaluation import adapter, prompts
from harness.evaluation.adapter import Result
from harness.evaluation.backends import Evaluation, another
from harness.evaluation.divergence import Base
from harness.evaluation.spread import with_spread
from harness.interfaces import Example, PenaltyContext, Progress, Silent
from harness.models.weights import state_sha256
from harness.preparation import Prepared, done
from harness.records import BASELINES, Partial
from harness.schema import Baseline, Failure, Point, Record, Score
from harness.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.training import Stop

Outcome = Literal["done", "already done", "measured in part"]


def inspect(prepared: Prepared) -> None:
    """Check what takes a look at the data: suites build, items suffice, rows have something to learn. Raises HarnessError."""
    _Execution(prepared, Silent())


def execute(prepared: Prepared, progress: Progress) -> Outcome:
    """Do what is missing of a run: train through its volumes, evaluate each, write each point when reached, then the record.

    A model, and so a baseline, is loaded only if something is missing.
    """
    if done(prepared):
        prepared.experiment.drop_failure(prepared.run_id)
        return "already done"
    _Execution(prepared, progress).run()
    return "done" if done(prepared) else "measured in part"


class _Execution:
    """One run under way: what its steps share."""

    def __init__(self, prepared: Prepared, progress: Progress) -> None:
        self.prepared, self.config, self.progress = prepared, prepared.config, progress
        self.resolved, self.experiment, self.run_id = prepared.resolved, prepared.experiment, prepared.run_id
        self.evaluation = cast(Evaluation, prepared.config.evaluation)
        self.suites = {name: prepared.workspace.suite_of(name, self.config) for name in prepared.roles}
        self.tokenizer = prepared.workspace.tokenizer_of(prepared.config)
        prompts.require_format(self.evaluation, self.tokenizer, self.config.labels.model)
        self.steps = self._steps()

    def _steps(self) -> list[list[Example]]:
        """Return the examples of every optimizer step, target and anchor. Raises DataError before any model is built."""
        config, size = self.config, self.config.training.batch_rows
        encoded = self.prepared.workspace.encoded
        target = encoded(config, self.resolved, self.prepared.rows, "target")
        self.anchor_examples = encoded(config, self.resolved, self.prepared.anchor, "anchor")
        facts = dataclasses.asdict(tokens.supervision(target))
        self.data_facts = facts | {"repeated_rows": subsets.duplicates(self.prepared.rows[: self.prepared.volumes[-1]])}
        return config.mitigation.mix([target[i : i + size] for i in range(0, len(target), size)], self.anchor_examples)

    def run(self) -> None:
        """Go through the steps."""
        import torch

        torch.set_num_threads(self.resolved.threads)
        provenance.reset_peak_memory()
        self.seconds = 0.0
        self.experiment.require_writable()
        self.progress.say(self._opening())
        self.progress.stage(f"load {self.config.labels.model}", 1)
        model = self.config.model.load().to(self.resolved.device)  # type: ignore[arg-type]
        self.weights_sha256 = self.config.model.weights_sha256()
        self.baselines = {name: self._baseline_id(name) for name in self.suites}
        self._drop_other_inputs()
        self._write_prompts()
        known = self.experiment.config(self.run_id).get(BASELINES, {})  # kept until those of this try are measured
        self.experiment.write_config(self.run_id, plain(self.config), self.weights_sha256, known)
        self.base_model = Base()  # the model itself, until it is tuned
        live_weights = functools.cache(lambda: state_sha256(model))
        for name in self.suites:
            self._measure_before(name, model, live_weights)
        self.experiment.write_config(self.run_id, plain(self.config), self.weights_sha256, self.baselines)
        self.base = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
        self.base_model = dataclasses.replace(self.base_model, weights=lambda live: self.config.tuning.base_weights(live, self.base))
        model = self.config.tuning.prepare(model, derive(self.config.seed, "adapter"))
        self._train(model)
        self._record(model)

    def _opening(self) -> str:
        labels = self.config.labels
        what = f"{labels.model}, {labels.tuning}, {labels.objective}, {labels.mitigation}, data {labels.data}, seed {self.config.seed}"
        return (
            f"run {self.run_id}: {what}, volumes {self.prepared.volumes}, {sum(len(s) for s in self.steps)} rows in {len(self.steps)} steps"
        )

    def _drop_other_inputs(self) -> None:
        """Drop results that started from other bytes than these, or were compared with other items: no hash of the run tells of them.

        A nursery model may have been rebuilt under the same recipe, a data set of lm-eval may have changed.
        """
        known = self.experiment.config(self.run_id).get(BASELINES, {})
        other_items = any(known.get(name, baseline_id) != baseline_id for name, baseline_id in self.baselines.items())
        if other_items or self.experiment.start_weights_sha256(self.run_id) not in {None, self.weights_sha256}:
            self.experiment.forget(self.run_id)

    def _write_prompts(self) -> None:
        for name, suite in self.suites.items():
            shown = prompts.shown(suite, self.evaluation, self.tokenizer, self.prepared.facts.context_length)
            self.experiment.write_prompts(self.run_id, name, shown)

    def _evaluate(
        self, name: str, model: PreTrainedModel, when: str, partial: Partial, evaluation: Evaluation | None = None, base: Base | None = None
    ) -> Result:
        return adapter.evaluate(
            self.suites[name],
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

    def _key(self, name: str, live_weights: str) -> str:
        """Identify the evaluation of a suite under way: what is measured, and how."""
        return plan.identify({"baseline": self.baselines[name], "live_weights": live_weights})

    def _baseline_identity(self, name: str) -> dict[str, Any]:
        return {**self.prepared.baseline_identities[name], "tasks": plain(self.suites[name].content)}

    def _baseline_id(self, name: str) -> str:
        return plan.identify({**self._baseline_identity(name), "weights": self.weights_sha256})

    def _measure_before(self, name: str, model: PreTrainedModel, live_weights: Callable[[], str]) -> None:
        """Measure volume 0 of a suite, twice, unless it is recorded for these very weights and items."""
        baseline_id = self.baselines[name]
        known = self.experiment.baseline(baseline_id)
        if known is not None and all(score.status == "ok" for score in known.scores):
            return
        key = self._key(name, live_weights())
        result = self._evaluate(name, model, "before", self.experiment.unfinished_baseline(baseline_id, key))
        scores = result.scores
        if self.suites[name].suite.kind != "divergence":  # there, the base is compared with itself: always 0, which says nothing
            scores = with_spread(result, self._otherwise(name, model, self.experiment.unfinished_baseline(baseline_id, key, again=True)))
        baseline = Baseline(
            baseline_id=baseline_id,
            suite=name,
            identity=self._baseline_identity(name),
            weights_sha256=self.weights_sha256,
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
            return self._evaluate(name, model, "before, again in other batches", partial, self.evaluation.otherwise(), base)
        finally:
            torch.set_num_threads(self.resolved.threads)

    def _train(self, model: PreTrainedModel) -> None:
        from harness.training import train

        config = self.config
        context = PenaltyContext(model, self.base, self.anchor_examples, config.tuning, derive(config.seed, "penalty"))
        self.progress.stage(f"train {config.labels.model} {config.labels.tuning}", len(self.steps))
        largest = self.prepared.volumes[-1]
        recorded = [volume for volume in self.experiment.volumes(self.run_id) if volume < largest]  # so that losses are since the last
        steps_of = {self._steps_at(volume): volume for volume in [*recorded, *self.prepared.volumes]}
        train(
            model,
            steps=self.steps,
            objective=config.objective,
            penalty=config.mitigation.penalty(context),
            training=config.training,
            resolved=self.resolved,
            stops=steps_of,
            on_stop=lambda stop: self._point(stop, model),
            seed=derive(config.seed, "training"),
            pad_id=_pad_id(self.tokenizer),
            progress=self.progress,
        )

    def _steps_at(self, volume: int) -> int:
        return volume // self.config.training.batch_rows * self.config.training.epochs

    def _point(self, stop: Stop, model: PreTrainedModel) -> None:
        """Evaluate and record the live model at a volume, unless that point stands already."""
        self.seconds += stop.wall_seconds
        known = self.experiment.point(self.run_id, stop.volume)
        if known is None or any(score.status == "failed" for score in known.scores):
            began = time.perf_counter()
            change = self._weight_change(model)
            live, volume = state_sha256(model), stop.volume
            kept = {name: self.experiment.unfinished_point(self.run_id, volume, self._key(name, live)) for name in self.suites}
            results = [self._evaluate(name, model, f"after {volume} rows", partial) for name, partial in kept.items()]
            point = self._describe(stop, change, results, time.perf_counter() - began)
            point = dataclasses.replace(point, weights=self._save(model, stop.volume))
            self.experiment.write_point(point, pd.concat([result.samples for result in results], ignore_index=True))
        self.progress.stage(f"train {self.config.labels.model} {self.config.labels.tuning}", len(self.steps))
        self.progress.advance(stop.step)

    def _weight_change(self, model: PreTrainedModel) -> float:
        """Return ‖ΔW‖₂ over all weights; refuse a run that moved nothing."""
        import torch

        with torch.no_grad():
            squares = [float(delta.double().square().sum()) for _, delta in self.config.tuning.deltas(model, self.base)]
        norm = float(sum(squares) ** 0.5)
        if norm == 0.0 or norm != norm:
            fix = "check the learning rate and what the rows supervise"
            raise TrainingError(explain("training", got=f"a weight change of {norm}", allowed="weights that moved", fix=fix))
        return norm

    def _describe(self, stop: Stop, change: float, results: Sequence[Result], seconds: float) -> Point:
        examples = [example for step in self.steps[: stop.step] for example in step]
        anchor = [example for example in examples if example.origin == "anchor"]
        scores: list[Score] = [score for result in results for score in result.scores]
        return Point(
            run_id=self.run_id,
            volume=stop.volume,
            steps=stop.step,
            target_rows=len(examples) - len(anchor),
            anchor_rows=len(anchor),
            train_tokens=sum(len(example.input_ids) for example in examples),
            supervised_tokens=sum(example.supervised_tokens for example in examples),
            anchor_tokens=sum(len(example.input_ids) for example in anchor),
            truncated_rows=sum(example.truncated for example in examples),
            train_loss=stop.train_loss,
            weight_change=change,
            flops=stop.flops,
            wall_seconds=self.seconds,
            evaluation_seconds=seconds,
            peak_memory_bytes=provenance.peak_memory_bytes(),
            scores=tuple(scores),
            evaluation_facts={name: result.facts for name, result in zip(self.suites, results, strict=True)},
        )

    def _save(self, model: PreTrainedModel, volume: int) -> str | None:
        policy = self.config.save_weights
        if policy == "none" or (policy == "last" and volume != self.prepared.volumes[-1]):
            return None
        folder = self.experiment.run_folder(self.run_id) / "weights" / str(volume)
        self.experiment.write_folder(folder, lambda place: self._save_into(model, place))
        return f"weights/{volume}"

    def _save_into(self, model: PreTrainedModel, folder: Path) -> None:
        self.config.tuning.save(model, folder)
        self.tokenizer.save_pretrained(folder)

    def _record(self, model: PreTrainedModel) -> None:
        earlier = self.experiment.record(self.run_id)
        longer = earlier if earlier and max(earlier.volumes) > self.prepared.volumes[-1] else None
        config, resolved = self.config, self.resolved
        record = Record(
            run_id=self.run_id,
            experiment=config.name,
            identity=self.prepared.identity,
            labels={key: value for key, value in plain(config.labels).items() if key != "class"},
            config=longer.config if longer else plain(config),
            volumes=tuple(sorted({*self.prepared.volumes, *(earlier.volumes if earlier else ())})),
            baselines=self.baselines,
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
            start_weights_sha256=self.weights_sha256,
            provenance=provenance.collect(),
            data_facts=longer.data_facts if longer else self.data_facts,
        )
        self.experiment.write_record(record)

    def _overlap(self) -> dict[str, Any]:
        """Return, by suite, how much of its items' text stands in the rows trained on."""
        texts = [row.text for row in {row.id: row for row in self.prepared.rows}.values()]
        found: dict[str, Any] = {}
        for name, suite in self.suites.items():
            if suite.suite.overlap == "expected":
                found[name] = "expected"
                continue
            samples = self.experiment.baseline_samples(self.baselines[name])
            items = samples[~samples["task"].map(suite.apart).astype(bool)].drop_duplicates(["task", "doc_hash"])
            found[name] = overlap.shares(texts, items["item"].tolist()) if len(items) else {}
        return found


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id to pad with; padding is masked, so any id serves where a tokenizer has none."""
    return cast(int, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0)


def record_failure(prepared: Prepared, error: Exception) -> None:
    """Record why a run did not finish, with its traceback."""
    failure = Failure(
        run_id=prepared.run_id,
        experiment=prepared.config.name,
        labels={key: value for key, value in plain(prepared.config.labels).items() if key != "class"},
        config=plain(prepared.config),
        reason=f"{type(error).__name__}: {' '.join(str(error).split())}",
        traceback="".join(traceback.format_exception(error)),
    )
    prepared.experiment.write_failure(failure)
