"""The callback in trainers of transformers and TRL; also run with older releases of both."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from harness import ForgettingCallback
from harness.core import extras
from harness.core.errors import ConfigError, EvaluationError, HarnessError, InstallError
from harness.external.checkpoints.live import LiveRun
from harness.external.checkpoints.outcome import Outcome
from harness.external.checkpoints.untouched import untouched
from tests.support import callbacks
from tests.support.callbacks import SUITE, Scripted, assert_same, model_of, same, train, trainer_of

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerBase:
    return callbacks.tokenizer()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return callbacks.own_folder(tmp_path, monkeypatch)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """The run of every callback."""
    run = Scripted()
    monkeypatch.setattr(ForgettingCallback, "_begun", lambda *_: run)
    return run


@pytest.mark.parametrize("case", ["full", "adapter", "plain sampler"])
def test_a_training_is_the_same_to_the_bit(words: PreTrainedTokenizerBase, case: str) -> None:
    """Two epochs, shuffled, with dropout: losses, weights and optimizer, with and without it."""
    settings: dict[str, Any] = {"accelerator_config": {"use_seedable_sampler": False}} if case == "plain sampler" else {}
    without, with_it = (trainer_of(words, model=model_of(adapter=case == "adapter"), **settings) for _ in range(2))
    ForgettingCallback([SUITE], every=2).attach(with_it)
    for trainer in (without, with_it):
        train(trainer)
    assert [entry["step"] for entry in with_it.state.log_history if f"eval_forgetting_{SUITE}" in entry] == [0, 2, 4, 6]
    assert_same(without, with_it)


def test_whatever_a_measurement_touches_is_restored_though_it_raises(
    words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Modes, streams, frozen weights, buffers, hooks, settings; the training continues."""
    without, with_it = (trainer_of(words, model=model_of(adapter=True)) for _ in range(2))
    for trainer in (without, with_it):
        base: Any = trainer.model
        next(one for name, one in base.named_parameters() if "lora_A" in name).requires_grad_(False)
    trained = {name: one.requires_grad for name, one in with_it.model.named_parameters()}
    settings = copy.deepcopy(with_it.model.config.to_dict())

    def spoil(run: LiveRun, step: int, model: Any, **known: Any) -> Any:
        if step == 0:
            return original(run, step, model)
        model.eval()
        model.requires_grad_(False)
        model.config.use_cache = not model.config.use_cache
        model.gradient_checkpointing_disable()
        model.base_model.disable_adapter_layers()
        model.register_forward_pre_hook(lambda *_: None)
        model.base_model.model.lm_head._parameters["weight"] = torch.nn.Parameter(torch.zeros(1))
        model.base_model.model.model.rotary_emb.register_buffer("inv_freq", torch.zeros(2))
        run.run.before.tokenizer.padding_side = "left"
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
        torch.set_num_threads(2)
        raise EvaluationError("suite short: got nothing")

    original = LiveRun._comparison
    monkeypatch.setattr(LiveRun, "_comparison", spoil)
    side = words.padding_side
    ForgettingCallback([SUITE], every=2).attach(with_it)
    for trainer in (without, with_it):
        train(trainer)
    assert_same(without, with_it)
    assert {name: one.requires_grad for name, one in with_it.model.named_parameters()} == trained
    assert with_it.model.config.to_dict() == settings
    assert not with_it.model._forward_pre_hooks
    assert words.padding_side == side
    assert torch.get_num_threads() == 1
    assert "forgetting: step 2 could not be measured: suite short: got nothing" in capsys.readouterr().err


class ScheduleFree(torch.optim.SGD):
    """Weights for training and for evaluation, as of schedule-free optimizers; the way rounds."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=1e-2)
        self.param_groups[0]["train_mode"] = True
        self.seen: list[str] = []

    def eval(self) -> None:
        self._move("eval", 1 / 3)

    def train(self) -> None:
        self._move("train", 3.0)

    def _move(self, mode: str, factor: float) -> None:
        if self.param_groups[0]["train_mode"] == (mode == "train"):
            return
        self.seen.append(mode)
        self.param_groups[0]["train_mode"] = mode == "train"
        for weight in self.param_groups[0]["params"]:
            weight.data.mul_(factor)


def test_a_schedule_free_optimizer_has_its_weights_back() -> None:
    """Measured in evaluation mode, trained on as if it had never left training."""
    model = model_of()
    optimizer = ScheduleFree(model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with untouched(model, optimizer):
        assert same(model.state_dict()["lm_head.weight"], before["lm_head.weight"] * (1 / 3))
    assert optimizer.seen == ["eval", "train"]
    assert same(dict(model.state_dict()), before)


def test_each_module_keeps_its_own_mode() -> None:
    """Also one that a user has in evaluation mode."""
    model = model_of()
    model.model.layers[0].mlp.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    with untouched(model):
        model.eval()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert set(modes.values()) == {True, False}


def test_steps_are_measured_once_and_the_last_before_the_best_is_loaded(words: PreTrainedTokenizerBase, scripted: Scripted) -> None:
    """Step 0, every fourth, and the last, at which step, epoch and training end at once."""
    rows = Dataset.from_list([{"input_ids": words.encode("a dog runs"), "labels": words.encode("a dog runs")}])
    best = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}
    trainer = trainer_of(words, held_out=rows, **best)
    ForgettingCallback([SUITE], every=4).attach(trainer)
    trainer.train()
    assert scripted.steps == [0, 4, 6]


def test_a_training_that_another_callback_ends_is_measured_at_its_end(words: PreTrainedTokenizerBase, scripted: Scripted) -> None:
    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 5

    trainer = trainer_of(words)
    ForgettingCallback([SUITE], every=4).attach(trainer)
    trainer.add_callback(Ends())
    trainer.train()
    assert scripted.steps == [0, 4, 5]


def test_the_step_is_logged_as_without_it(words: PreTrainedTokenizerBase, scripted: Scripted) -> None:
    """Its numbers reach reporters as plain numbers; the loss of the same step is still logged."""
    seen: list[Mapping[str, Any]] = []

    class Reporter(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    trainer = trainer_of(words, logging_steps=2)
    trainer.add_callback(Reporter())
    ForgettingCallback([SUITE], every=2).attach(trainer)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [2, 4, 6]
    assert [logs["eval_forgetting_s"] for logs in seen if "eval_forgetting_s" in logs] == [0.0, 0.2, 0.4, 0.6]
    assert all(type(value) in (int, float) for logs in seen for key, value in logs.items() if key.startswith("eval_forgetting"))


def test_without_reporters_and_with_a_broken_one_the_console_has_it(
    words: PreTrainedTokenizerBase, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if any(key.startswith("eval_forgetting") for key in logs):
                raise TypeError("no such\n  number")

    alone = trainer_of(words)
    alone.add_callback(ForgettingCallback([SUITE], every=3))
    alone.train()
    assert "forgetting: step 3: measured" in capsys.readouterr().err
    assert not any(key.startswith("eval_forgetting") for entry in alone.state.log_history for key in entry)
    broken = trainer_of(words)
    broken.add_callback(Broken())
    ForgettingCallback([SUITE], every=3).attach(broken)
    broken.train()
    assert broken.state.global_step == 6
    assert "a reporter of the trainer failed: TypeError: no such number" in capsys.readouterr().err


def test_a_stop_ends_the_training_and_saves_it(
    words: PreTrainedTokenizerBase, scripted: Scripted, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 4 of 6, with a checkpoint though none was due, which the last lines name."""
    scripted.says = lambda step: Outcome(values={}, line="", stop=step >= 4)
    trainer = trainer_of(words)
    ForgettingCallback([SUITE], every=2, stop_at={SUITE: 0.05}).attach(trainer)
    trainer.train()
    assert trainer.state.global_step == 4
    assert (here / "out" / "checkpoint-4" / "trainer_state.json").is_file()
    saved, record = capsys.readouterr().err.splitlines()[-2:]
    assert saved.endswith("; checkpoint saved: out/checkpoint-4")
    assert record == f"forgetting: recorded in {here}/results/callback; next: harness report callback"


def test_the_last_lines_say_that_nothing_was_saved(
    words: PreTrainedTokenizerBase, scripted: Scripted, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoint of that step is of an earlier training; results elsewhere have a path."""
    (here / "out" / "checkpoint-6").mkdir(parents=True)
    trainer = trainer_of(words)
    ForgettingCallback([SUITE], every=6, name="n", results=here / "other").attach(trainer)
    trainer.train()
    saved, record = capsys.readouterr().err.splitlines()[-2:]
    assert "no checkpoint of step 6 was saved" in saved
    assert record.endswith(f"next: harness report {here}/other/n")


def test_what_cannot_be_measured_is_said_before_the_first_step(words: PreTrainedTokenizerBase) -> None:
    """A suite that needs the rows of one of our runs."""
    trainer = trainer_of(words)
    ForgettingCallback(["drift_target"], every=2).attach(trainer)
    with pytest.raises(ConfigError, match="ForgettingCallback: suites: got drift_target, of kind divergence"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_without_the_packages_that_measure_one_line_says_so(words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.PACKAGES, "measure", {"no_such_module": "lm-eval"})
    trainer = trainer_of(words)
    ForgettingCallback([SUITE], every=2).attach(trainer)
    with pytest.raises(InstallError) as caught:
        trainer.train()
    assert str(caught.value) == (
        "ForgettingCallback: needs lm-eval, which is not installed; fix: pip install -e '.[measure]', in the checkout of forgetting-harness"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 0}, "every: got 0; allowed: a number of optimizer steps, 1 or more"),
        ({"every": 5, "limit": 0}, "limit: got 0"),
        ({"every": 5, "suites": []}, r"suites: got \(\); allowed: suites to measure, or follow=FILE"),
        ({"every": 5, "follow": "forgetting.json"}, "suites: got .*follow=FILE"),
        ({"every": 5, "overrides": ["name=x"]}, "overrides: got 'name=x'; allowed: name and results as arguments"),
        ({"every": 5, "stop_at": {"blimp": 0.1}}, r"stop_at\['blimp'\]: got 'blimp'; allowed: one of short"),
        ({"every": 5, "stop_at": {SUITE: -0.1}}, r"stop_at\['short'\]: got -0.1; allowed: a loss in the suite's own unit, 0 or more"),
    ],
)
def test_arguments_that_contradict_each_other_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ForgettingCallback(**{"suites": [SUITE], **given})


def test_weights_that_are_split_over_processes_are_rejected(words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP and ZeRO-3, when it is attached and, without that, when the training begins."""
    trainer = trainer_of(words)
    callback = ForgettingCallback([SUITE], every=2)
    trainer.add_callback(callback)
    next(iter(trainer.model.parameters())).ds_id = 1
    for begin in (lambda: callback.attach(trainer), trainer.train):
        with pytest.raises(ConfigError, match="got ZeRO-3, which splits the weights over processes; .* fix: use harness watch"):
            begin()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="got FSDP"):
        ForgettingCallback([SUITE], every=2).attach(trainer_of_arguments(trainer))


def trainer_of_arguments(trainer: Trainer) -> Any:
    """A stand-in with the arguments of a trainer, and another model."""

    class StandIn:
        args, model = trainer.args, torch.nn.Linear(1, 1)

    return StandIn()


def of_two(work: Callable[[int], object], folder: Path) -> list[Any]:
    """Return what two processes that share a gloo group return from ``work(rank)``."""
    context = torch.multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def process(rank: int) -> None:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
        try:
            answers.put((rank, work(rank)))
            torch.distributed.barrier()
        finally:
            torch.distributed.destroy_process_group()

    processes = [context.Process(target=process, args=(rank,)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(60)
        one.kill()  # one that still waits for the other
    found = [answers.get() for _ in range(2) if not answers.empty()]
    return [value for _, value in sorted(found)]


class Ranked(ForgettingCallback):
    """Of one process of two; only the first measures."""

    def __init__(self, rank: int, says: Callable[[int], Outcome], **given: Any) -> None:
        super().__init__([SUITE], every=1, **given)
        self.rank, self.says = rank, says

    def _begun(self, *_: Any) -> Any:
        assert self.rank == 0
        return Scripted(self.says)


def flags_of(callback: ForgettingCallback, steps: int) -> list[bool]:
    """Whether the training is asked to stop, after each step."""
    from transformers import TrainerControl, TrainerState

    state, control = TrainerState(max_steps=9, is_world_process_zero=False), TrainerControl()
    arguments: Any = type("Arguments", (), {"fsdp": "", "load_best_model_at_end": False})
    given = {"model": torch.nn.Linear(1, 1), "optimizer": None}
    callback.on_train_begin(arguments, state, control, **given)
    found = []
    for step in range(1, steps + 1):
        state.global_step = step
        callback.on_step_end(arguments, state, control, **given)
        found.append(bool(control.should_training_stop and control.should_save))
    return found


def test_two_processes_stop_at_the_same_step(here: Path) -> None:
    """Decided by the first; the second measures nothing."""

    def says(step: int) -> Outcome:
        return Outcome(values={"s": 0.1}, line="", stop=step == 2)

    assert of_two(lambda rank: flags_of(Ranked(rank, says), 2), here) == [[False, True], [False, True]]


def test_an_error_of_one_process_does_not_hang_the_other(here: Path) -> None:
    """Before the first step both raise it; later, both go on."""

    def fails(at: int) -> Callable[[int], Outcome]:
        def says(step: int) -> Outcome:
            if step == at:
                raise EvaluationError("a task failed")
            return Outcome(values={}, line="")

        return says

    def begins(rank: int) -> str:
        with pytest.raises(HarnessError) as caught:
            flags_of(Ranked(rank, fails(0)), 1)
        return str(caught.value)

    assert of_two(begins, here) == ["a task failed", "a task failed"]
    (here / "store").unlink(missing_ok=True)
    assert of_two(lambda rank: flags_of(Ranked(rank, fails(1)), 2), here) == [[False, False], [False, False]]
