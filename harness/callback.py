"""Forgetting measured while a Trainer of transformers or TRL trains, for the user's own script.

    from harness import ForgettingCallback

    callback = ForgettingCallback(["blimp"], every=100, limit=200, stop_at={"blimp": 0.05})
    callback.attach(trainer)
    trainer.train()

Importing this file imports transformers and the standard library; all else is imported when the
training begins.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transformers import TrainerCallback

from harness.core import extras
from harness.core.errors import ConfigError, HarnessError, explain

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from harness.external.checkpoints.outcome import Outcome


class Run(Protocol):
    """A training that is measured here, or followed."""

    def measure(self, step: int, model: Any, optimizer: Any, **known: Any) -> Outcome:
        """Return what is to be logged and decided after a step."""
        ...


WHERE = "ForgettingCallback"
PREFIX = "eval_forgetting_"
"""Beginning of the keys that are logged: reporters file `eval_` keys under evaluation."""

FLAGS = ("should_training_stop", "should_epoch_stop", "should_save", "should_evaluate", "should_log")


class ForgettingCallback(TrainerCallback):
    """Measures what a training forgets, records it like any run, and may stop it.

    The model is measured before the first step, every ``every`` steps and at the end, in process,
    against itself before the first step. Losses, weights and optimizer are those of a training
    without it, to the bit.

    Args:
        suites: that the model may forget; names of ``harness list suites``, lm-eval's tasks, paths.
        every: optimizer steps between two measurements.
        limit: most items of a task; None measures all items of the suites.
        stop_at: suite → loss in the suite's own unit at which the training stops: 0.05 is 5 points
            of accuracy, or 0.05 nats. It is stopped when the loss is shown to exceed the limit; at
            a true loss equal to it, at most 5% of trainings are stopped.
        target: suites that are to be learned, which are measured too.
        name: the folder in ``results`` that it is recorded in: ``harness table NAME``.
        results: the folder of results.
        overrides: of the evaluation, such as ``["evaluation.prompt_format=chat"]``.
        follow: path of the file that ``harness watch`` writes. Nothing is measured here: the file
            is read every ``every`` steps, logged, and the training stopped by ``stop_at``.

    Raises:
        ConfigError: for arguments that contradict each other.
    """

    def __init__(
        self,
        suites: Sequence[str] | str = (),
        *,
        every: int,
        limit: int | None = None,
        stop_at: Mapping[str, float] | None = None,
        target: Sequence[str] | str | None = None,
        name: str = "callback",
        results: str | Path = "results",
        overrides: Sequence[str] = (),
        follow: str | Path | None = None,
    ) -> None:
        self.suites, self.target = _names(suites), _names(target or ())
        self.every, self.limit, self.stop_at = every, limit, dict(stop_at or {})
        self.name, self.results, self.overrides = name, Path(results).absolute(), tuple(overrides)
        self.follow = None if follow is None else Path(follow).absolute()
        _check(self)
        self.trainer: Any = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.run: Run | None = None
        self.measured: int | None = None
        self.saved: int | None = None
        self.seconds, self.began = 0.0, time.perf_counter()

    def attach(self, trainer: Any) -> ForgettingCallback:
        """Add this callback to a trainer, whose reporters then receive what is measured.

        Args:
            trainer: of transformers or TRL.

        Returns:
            This callback.

        Raises:
            ConfigError: for a training whose weights are split over processes.
        """
        _require_whole(trainer.args, trainer.model)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self.trainer = trainer
        return self

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Measure the model before the first step; a resumed training has that measurement."""
        _require_whole(args, given["model"])
        self._start_afresh()
        error = self._measure(args, state, control, given)
        if error is not None:
            raise error

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Measure every ``every`` steps, and at the last one: afterwards the best may be loaded."""
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._measure(args, state, control, given)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Keep the step that the trainer saved last."""
        self.saved = state.global_step

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Measure a training that ended before its last step, unless other weights are loaded."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._measure(args, state, control, given)
        self.run = None  # it holds the model
        if self.follow is None and state.is_world_process_zero:
            share = self.seconds / max(time.perf_counter() - self.began, 1e-9)
            _say(f"measuring took {self.seconds:.0f} s, {share:.0%} of the training's time; {self._saved(args, state)}")
            folder = self.results / self.name
            named = self.name if self.results == Path("results").absolute() else folder
            _say(f"recorded in {folder}; next: harness report {named}")

    def _saved(self, args: TrainingArguments, state: TrainerState) -> str:
        """Return the checkpoint of the last step, or that there is none."""
        if self.saved == state.global_step:
            return f"checkpoint saved: {Path(str(args.output_dir)) / f'checkpoint-{self.saved}'}"
        return f"no checkpoint of step {state.global_step} was saved (trainer.save_model saves the weights)"

    def _measure(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, given: Mapping[str, Any]) -> Exception | None:
        """Measure once a step, on the first process; log and decide on all of them.

        Returns:
            The error of a measurement that failed, which is shown: it does not end the training.
        """
        step = int(state.global_step)
        if self.measured == step:
            return None
        self.measured, began = step, time.perf_counter()
        found, error = _on_first_process(lambda: self._found(args, state, given))
        self.seconds += time.perf_counter() - began
        if error is not None or found is None:
            _say(f"step {step} could not be measured: {'nothing was found' if error is None else _in_words(error)}", state)
            return error
        if found.line:
            _say(found.line, state)
        self._log(control, found.values)
        if found.stop:
            control.should_training_stop = control.should_save = True
        return None

    def _found(self, args: TrainingArguments, state: TrainerState, given: Mapping[str, Any]) -> Outcome:
        """Measure, or follow; called on the first process."""
        if self.run is None:
            self.run = self._begun(args, state, given)
        known = {"tokens": int(state.num_input_tokens_seen) or None, "loss": _last_loss(state)}
        return self.run.measure(int(state.global_step), given["model"], given.get("optimizer"), **known)

    def _begun(self, args: TrainingArguments, state: TrainerState, given: Mapping[str, Any]) -> Run:
        """Prepare for a training: every check of suites, limits and model."""
        measurements = -(-state.max_steps // self.every)
        if self.follow is not None:
            from harness.external.checkpoints.following import Following
            from harness.external.checkpoints.stopping import Rule

            return Following(self.follow, Rule(limits=self.stop_at, measurements=measurements))
        extras.require(WHERE, "measure")
        from harness.external.checkpoints.live import LiveRun, Request

        tokenizer = given.get("processing_class")
        request = Request(
            suites=self.suites,
            target=self.target,
            limit=self.limit,
            stop_at=self.stop_at,
            name=self.name,
            results=str(self.results),
            overrides=self.overrides,
            measurements=measurements,
            rows_per_step=_rows_per_step(args, state),
            half_precision=bool(args.bf16 or args.fp16),
            training=str(args.output_dir),
            resumed_at=int(state.global_step),
            planned_steps=int(state.max_steps),
        )
        return LiveRun(request, given["model"], getattr(tokenizer, "tokenizer", tokenizer), _say, given.get("optimizer"))

    def _log(self, control: TrainerControl, values: Mapping[str, float]) -> None:
        """Hand numbers to the trainer's reporters; the log of the step itself is still due."""
        if self.trainer is None or not values:
            return
        from transformers import Trainer

        flags = {name: getattr(control, name) for name in FLAGS}
        try:  # of the base class: those of TRL clear the metrics that they collect until the next log
            Trainer.log(self.trainer, {f"{PREFIX}{name}": float(value) for name, value in values.items()})
        except Exception as error:  # noqa: BLE001 - a reporter that fails must not end the training
            _say(f"a reporter of the trainer failed: {_in_words(error)}")
        finally:
            for name, value in flags.items():
                setattr(control, name, value)


def _on_first_process(make: Callable[[], Outcome]) -> tuple[Outcome | None, Exception | None]:
    """Return a result, or an error, of the first process to all of them, which wait for it."""
    from torch import distributed

    is_spread = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    found, error = None, None
    if not is_spread or distributed.get_rank() == 0:
        try:
            found = make()
        except Exception as caught:  # noqa: BLE001 - the other processes wait for an answer
            error = caught
    if not is_spread:
        return found, error
    answer: list[Any] = [found, None if error is None else _in_words(error)]
    distributed.broadcast_object_list(answer, src=0)
    return answer[0], error or (None if answer[1] is None else HarnessError(answer[1]))


def _in_words(error: Exception) -> str:
    """Return an error as one line."""
    return str(error) if isinstance(error, HarnessError) else " ".join(f"{type(error).__name__}: {error}".split())


def _say(text: str, state: TrainerState | None = None) -> None:
    """Write a line to standard error, above progress bars; on the first process only."""
    if state is None or state.is_world_process_zero:
        from tqdm import tqdm

        tqdm.write(f"forgetting: {text}", file=sys.stderr)


def _last_loss(state: TrainerState) -> float | None:
    """Return the training loss that was logged last, a mean since the log before it."""
    return next((float(entry["loss"]) for entry in reversed(state.log_history) if "loss" in entry), None)


def _rows_per_step(args: TrainingArguments, state: TrainerState) -> int | None:
    """Return the rows of a step; None where batches are of something else (packed, completions)."""
    if getattr(args, "packing", False) or getattr(args, "num_generations", None):
        return None
    rows = int(getattr(state, "train_batch_size", None) or args.train_batch_size)
    return rows * int(args.gradient_accumulation_steps) * int(args.world_size)


def _require_whole(args: TrainingArguments, model: Any) -> None:
    """Raise ConfigError where a process does not hold the whole model."""
    parameters = list(model.parameters())
    is_zero3 = any(hasattr(one, "ds_id") for one in parameters) or bool(
        getattr(args, "hf_deepspeed_config", None) and args.hf_deepspeed_config.is_zero3()
    )
    is_fsdp = bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in {"1", "true"}
    is_fsdp = is_fsdp or any("FullyShardedDataParallel" in type(one).__name__ for one in model.modules())
    is_split = any(type(one).__name__ == "DTensor" for one in parameters)
    kinds = {"ZeRO-3": is_zero3, "FSDP": is_fsdp, "tensor parallelism": is_split}
    if got := next((kind for kind, holds in kinds.items() if holds), None):
        fix = "use harness watch BASE OUTPUT_DIR, which measures the checkpoints"
        raise ConfigError(explain(WHERE, got=f"{got}, which splits the weights over processes", allowed="one process, or DDP", fix=fix))


def _names(given: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([given] if isinstance(given, str) else given))


def _check(given: ForgettingCallback) -> None:
    """Raise ConfigError for arguments that contradict each other."""
    both = (*given.target, *given.suites)
    follows = given.follow is not None
    named = {f"{WHERE}: stop_at[{name!r}]": (name, limit) for name, limit in given.stop_at.items()}
    rules: list[tuple[str, Any, bool, str]] = [
        (f"{WHERE}: every", given.every, _is_count(given.every), "a number of optimizer steps, 1 or more"),
        (f"{WHERE}: limit", given.limit, given.limit is None or _is_count(given.limit), "None, or a number of items, 1 or more"),
        (f"{WHERE}: suites", given.suites, bool(given.suites) != follows, "suites to measure, or follow=FILE of harness watch"),
        (f"{WHERE}: target", given.target, not (follows and given.target), "none with follow: harness watch measures"),
        *(
            (f"{WHERE}: overrides", one, not one.startswith(("name=", "results=")), "name and results as arguments")
            for one in given.overrides
        ),
        *((where, name, follows or name in both, f"one of {', '.join(both)}") for where, (name, _) in named.items()),
        *(
            (where, limit, _is_loss(limit), "a loss in the suite's own unit, 0 or more: 0.05 is 5 points")
            for where, (_, limit) in named.items()
        ),
    ]
    for where, got, holds, allowed in rules:
        if not holds:
            raise ConfigError(explain(where, got=repr(got), allowed=allowed))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_loss(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
