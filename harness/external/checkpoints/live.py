"""A model in training, measured in process against itself before the first step, as a run."""

from __future__ import annotations

import copy
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.config import composition
from harness.config.overrides import quoted
from harness.config.resolution import Machine
from harness.core.display import quieted
from harness.core.errors import ConfigError, explain
from harness.core.progress import Silent
from harness.core.sources import ModelFacts
from harness.evaluation import suites
from harness.external import models
from harness.external.checkpoints import summary_file, told
from harness.external.checkpoints.measuring import MeasuredRun
from harness.external.checkpoints.outcome import Outcome, outcome
from harness.external.checkpoints.plan import Training
from harness.external.checkpoints.states import TrainerState
from harness.external.checkpoints.stopping import Rule, check_units
from harness.external.checkpoints.untouched import untouched
from harness.external.judge import Comparison
from harness.models import rotary
from harness.models.weights import state_sha256, trained_sha256
from harness.records import provenance
from harness.records.writer import ExperimentWriter
from harness.run import preparation
from harness.run.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHERE = "ForgettingCallback"


@dataclass(frozen=True, kw_only=True)
class Request:
    """Request of a training's script, with what its arguments say.

    Attributes:
        suites, target, limit, stop_at, name, results, overrides: as given to the callback.
        measurements: planned after the start.
        rows_per_step: None where unknown; points are then counted in steps.
        half_precision: whether the training's forward passes are in half precision.
        training: its name, which tells the runs of an experiment apart.
        resumed_at: steps before this process trains, 0 for a new training.
        planned_steps: of the whole training.
    """

    suites: tuple[str, ...]
    target: tuple[str, ...]
    limit: int | None
    stop_at: Mapping[str, float]
    name: str
    results: str
    overrides: tuple[str, ...]
    measurements: int
    rows_per_step: int | None
    half_precision: bool
    training: str
    resumed_at: int
    planned_steps: int


@dataclass(frozen=True, kw_only=True)
class LiveModel:
    """A model in training as the start model of a run.

    Attributes:
        name: for people.
        weights: hash of its weights before the first step.
    """

    name: str
    weights: str

    def of(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LiveModel:
        """Return this source with the live model and tokenizer, which are no settings of it."""
        object.__setattr__(self, "live", (model, tokenizer))
        return self

    def facts(self) -> ModelFacts:
        """Return what an evaluation needs to know."""
        model: Any = self._live[0]
        return ModelFacts(
            params_total=sum(parameter.numel() for name, parameter in model.named_parameters() if not _is_added(model, name)),
            context_length=self.longest_input(),
            content={"live": self.weights},
            vocabulary=int(model.get_input_embeddings().weight.shape[0]),
            batch_limit=rotary.limit(model.config),
        )

    @property
    def _live(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        found: tuple[PreTrainedModel, PreTrainedTokenizerBase] = vars(self)["live"]
        return found

    def longest_input(self) -> int:
        """Return its context length in tokens. Raises ConfigError."""
        config: Any = self._live[0].config
        length = getattr(config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(length, int) or length < 1:
            got = "a model whose config has no max_position_embeddings"
            raise ConfigError(explain(WHERE, got=got, allowed="a causal language model with a context length"))
        return length

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return a copy of the trainer's: lm-eval changes its padding."""
        return copy.deepcopy(self._live[1])

    def load(self) -> PreTrainedModel:
        """Return the live model."""
        return self._live[0]

    def weights_sha256(self) -> str:
        """Return the hash of its weights before the first step."""
        return self.weights


class LiveRun:
    """A training that is measured as it goes."""

    def __init__(
        self,
        request: Request,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        say: Callable[[str], object],
        optimizer: Any = None,
    ) -> None:
        if tokenizer is None:
            fix = "Trainer(processing_class=tokenizer)"
            raise ConfigError(explain(WHERE, got="a trainer without a tokenizer", allowed="one with it", fix=fix))
        _check_suites((*request.target, *request.suites))
        models.check_overrides(request.overrides, f"{WHERE}: overrides", "use suites, target, name and results")
        self.request, self.say, self.begun = request, say, False
        self.rule = Rule(limits=request.stop_at, measurements=request.measurements)
        self.training = Training(name=request.training, tuning=_tuning(model), axis="rows" if request.rows_per_step else "steps")
        self.name = _name(model)
        with _quietly(), untouched(model, optimizer):  # the weights that are measured, also of a schedule-free optimizer
            self.run = self._earlier(model, tokenizer) or self._of(state_sha256(model), model, tokenizer)

    def measure(self, step: int, model: PreTrainedModel, optimizer: Any, **known: Any) -> Outcome:
        """Measure the live model, record the point, and judge it against the start.

        Args:
            step: optimizer steps so far.
            model: live.
            optimizer: of the training.
            known: ``tokens`` and ``loss`` of the training so far, None if unknown.
        """
        began = time.perf_counter()
        with _quietly(), untouched(model, optimizer):
            if not self.begun:
                self._begin(model)
            found = self._comparison(step, model, **known)
        check_units(f"{WHERE}: stop_at", self.request.stop_at, found.aggregates)
        of_suites = summary_file.suites_of(found, told.of_suites(found))
        seconds = time.perf_counter() - began
        return outcome(f"step {step}", of_suites, self.rule.test(found.aggregates), seconds, starts=step == self.start)

    def _comparison(self, step: int, model: PreTrainedModel, *, tokens: int | None = None, loss: float | None = None) -> Comparison:
        """Return the start against the live model, recorded as a point after the start."""
        asked = self.request
        if step == self.start:
            return self.run.comparison(0)
        state = TrainerState(
            step=step,
            planned_steps=asked.planned_steps,
            tokens=tokens,
            loss=loss,
            world_size=None,
            rows_per_step=asked.rows_per_step,
            is_finished=step >= asked.planned_steps,
        )
        weights = trained_sha256(model, self.run.prepared.before_sha256)
        return self.run.measure(self._volume(step), weights, lambda: model, source=f"step {step}, live", state=state)

    def _begin(self, model: PreTrainedModel) -> None:
        """Measure the start unless it is known, and drop the points after it, of an earlier try."""
        self.run.start(model)
        experiment, run_id = self.run.prepared.experiment, self.run.run_id
        later = [volume for volume in experiment.volumes(run_id) if volume > self._volume(self.request.resumed_at)]
        for volume in later:
            shutil.rmtree(experiment.point_folder(run_id, volume))
        if later:
            self.say(f"{len(later)} points of an earlier training of {self.training.name} after step {self.request.resumed_at} are dropped")
        self.begun = True

    def _volume(self, step: int) -> int:
        return step * (self.request.rows_per_step or 1)

    def _earlier(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> MeasuredRun | None:
        """Return the run of a resumed training whose start was measured; None for others.

        Its point at the step of resume has the live model's weights: the output folder alone does
        not tell trainings apart. Without it, the live model is the start: it is said.
        """
        self.start = 0
        asked = self.request
        if not asked.resumed_at:
            return None
        experiment = ExperimentWriter(Path(asked.results) / asked.name)
        for run_id in sorted(experiment.asked()):
            known = experiment.config(run_id)
            weights = known.get("model", {}).get("weights")
            point = experiment.point(run_id, self._volume(asked.resumed_at))
            if not weights or point is None or known["labels"]["data"] != self.training.name:
                continue
            run = self._of(weights, model, tokenizer)
            start = run.prepared.before_sha256
            is_known = all(experiment.is_measured(one, start) for one in run.prepared.evaluation_ids.values())
            if is_known and point.weights_sha256 == trained_sha256(model, start):
                return run
        self.start = asked.resumed_at
        self.say(
            f"{asked.name} has no training with these weights at step {self.start} and these suites at step 0: "
            f"losses are relative to step {self.start}, at which the training resumes"
        )
        return None

    def _of(self, weights: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> MeasuredRun:
        """Return the run of a training that started from weights with this hash."""
        source = LiveModel(name=self.name, weights=weights).of(model, tokenizer)
        config = composition.compose(self._asked(model))
        config = dataclasses.replace(config, model=source, labels=dataclasses.replace(config.labels, model=self.name))
        machine = Machine(cores=provenance.cores(), gpus=int(model.device.type == "cuda"))
        return MeasuredRun(preparation.prepare(config, Workspace(), machine, trains=False), self.training, Said(self.say))

    def _asked(self, model: PreTrainedModel) -> list[str]:
        """Return the overrides of the evaluation."""
        import torch

        asked = self.request
        half = asked.half_precision or next(model.parameters()).dtype != torch.float32
        return [
            f"name={asked.name}",
            f"results={quoted(asked.results)}",
            f"target_suites=[{','.join(asked.target)}]",
            f"probe_suites=[{','.join(asked.suites)}]",
            f"evaluation.dtype={'bfloat16' if half else 'float32'}",
            f"training.threads={torch.get_num_threads()}",
            *([f"evaluation.limit={asked.limit}"] if asked.limit else []),
            *asked.overrides,
        ]


class Said(Silent):
    """A progress that passes lines on."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say  # type: ignore[method-assign, assignment]


def _name(model: Any) -> str:
    """Return the name of the model that was loaded: of a folder, its last part."""
    name = str(getattr(model.config, "name_or_path", "") or "model")
    return Path(name).name if Path(name).is_dir() else name


def _is_added(model: Any, name: str) -> bool:
    """Return whether a parameter is of an adapter, not of the model that it is on."""
    prefix = getattr(model.base_model, "prefix", None) if hasattr(model, "peft_config") else None
    return ".modules_to_save." in name or (bool(prefix) and f".{prefix}" in name)


def _tuning(model: Any) -> str:
    """Return ``full``, or the kind of the active adapter."""
    adapters = getattr(model, "peft_config", None)
    if not adapters:
        return "full"
    kind = next(iter(adapters.values())).peft_type
    return str(getattr(kind, "value", kind)).lower()


def _check_suites(names: Sequence[str]) -> None:
    """Raise ConfigError for a suite that needs a base model or the rows of one of our runs."""
    for name in names:
        suite = suites.load(name)
        if not models.needs_no_run(suite):
            got, fix = f"{name}, of kind {suite.kind} on data={suite.data}", "a suite of tasks, or one with a data set of its own"
            raise ConfigError(explain(f"{WHERE}: suites", got=got, allowed="a suite that needs neither base model nor our rows", fix=fix))


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence libraries, and lm-eval's bars, which tqdm shows if it was imported before."""
    from lm_eval.api import task

    with quieted():
        shown: Any = task.tqdm
        task.tqdm = partial(shown, disable=True)
        try:
            yield
        finally:
            task.tqdm = shown
