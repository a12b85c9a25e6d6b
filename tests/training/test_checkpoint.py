"""Going on from a saved state is, to the last bit, as if training had never stopped."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from harness.config.run_config import Training
from harness.core.counts import Counts
from harness.core.progress import Interrupted
from harness.core.rows import Example
from harness.methods import contract
from harness.methods.mitigation.replay import Replay
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.methods.tuning.peft import Peft
from harness.records.writer import ExperimentWriter
from harness.training import checkpoint, loop
from harness.training.checkpoint import Checkpoint, Checkpoints
from harness.training.job import Stop
from tests.support import sealing, tiny

STEPS, ROWS = 6, 8
STOPS = {2: 16, 6: 48}


def steps(mitigation: Any = None) -> list[list[Example]]:
    """Completion rows of different lengths; with anchor rows where there is a mitigation."""
    learned = [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", STEPS * ROWS)]
    plain = [learned[i : i + ROWS] for i in range(0, len(learned), ROWS)]
    anchor = [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "anchor") for row in tiny.rows("completion", 24, seed=1)]
    return mitigation.mix(plain, anchor) if mitigation else plain


def dropping() -> PreTrainedModel:
    return tiny.llama(attention_dropout=0.3)


@dataclasses.dataclass
class Case:
    """A way to train, and its states on disk."""

    folder: Path
    tuning: Any = dataclasses.field(default_factory=Full)
    make: Callable[..., PreTrainedModel] = dropping
    training: Training = dataclasses.field(default_factory=Training)
    steps: list[list[Example]] = dataclasses.field(default_factory=steps)

    @property
    def states(self) -> Checkpoints:
        """Those of the run."""
        return Checkpoints(ExperimentWriter(self.folder), "run")

    def train(
        self, start: Checkpoint | None = None, *, until: int = 0, on_stop: Callable[[Stop], None] = lambda _: None
    ) -> tuple[Any, Any]:
        """Train from the start or a state, perhaps interrupted.

        Return the weights and the stops.
        """
        model = self.tuning.prepare(self.make(), 0)
        stops = {step: volume for step, volume in STOPS.items() if step <= len(self.steps)}
        options: dict[str, Any] = {"training": self.training, "stops": stops, "on_stop": on_stop, "seed": 3}
        options |= {"progress": tiny.Until(until), "start": start, "on_state": self.states.save}
        try:
            reached = tiny.run(model, self.steps, Sft(), **options)
        except Interrupted:
            return self.tuning.merged(model), []
        return self.tuning.merged(model), reached

    def newest(self) -> Checkpoint:
        """The newest state on disk."""
        found = self.states.newest(lambda _: True)
        assert found is not None
        return found


CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"tuning": Lora(rank=2, dropout=0.2)},
    "dora": {"tuning": Peft(config=str(Path(contract.__file__).with_name("dora.yaml")))},
    "micro-batches": {"training": Training(micro_batch_rows=3)},
    "replay": {"steps": steps(Replay(fraction=0.5))},
    "warm-up and cosine": {"training": Training(warmup_rows=24, decay="cosine", weight_decay=0.1)},
    "checkpointing": {"training": Training(gradient_checkpointing=True)},
    "gpt_neox": {"make": lambda: tiny.gpt_neox(hidden_dropout=0.1)},
}


@pytest.mark.parametrize("name", CASES)
def test_resuming_equals_never_having_stopped(name: str, tmp_path: Path) -> None:
    """Weights and stops agree bit for bit, after an interrupt at every kind of step.

    The kinds are the first step, a stop, one in between, and the one before the end.
    """
    whole = Case(tmp_path / "whole", **CASES[name])
    weights, stops = whole.train()
    assert not tiny.same(weights, whole.tuning.merged(whole.tuning.prepare(whole.make(), 0)))
    for until in (1, 2, 4, 5):
        case = Case(tmp_path / str(until), **CASES[name])
        half, _ = case.train(until=until)
        assert not tiny.same(half, weights)
        torch.rand(5)  # another process stands elsewhere in its streams
        after, reached = case.train(case.newest())
        assert tiny.same(after, weights), f"interrupted at step {until}"
        assert tiny.but_for_time(reached) == tiny.but_for_time(stops)[1 if until > 2 else 0 :], f"interrupted at step {until}"


def test_every_interruption_may_be_followed_by_another(tmp_path: Path) -> None:
    """Stopped at each step, the run arrives where an undisturbed one does.

    Its clock is the sum of the tries.
    """
    weights, stops = Case(tmp_path / "whole").train()
    case = Case(tmp_path / "often")
    reached: list[Stop] = []
    case.train(until=1, on_stop=reached.append)
    spent = [case.newest().counts.seconds]
    for _ in range(1, STEPS):
        after, _ = case.train(case.newest(), until=1, on_stop=reached.append)
        spent.append(case.newest().counts.seconds)
    after, _ = case.train(case.newest(), on_stop=reached.append)
    assert tiny.same(after, weights)
    assert tiny.but_for_time(reached) == tiny.but_for_time(stops)
    assert spent == sorted(spent)
    assert spent[0] > 0
    assert [stop.counts.seconds for stop in reached] == [spent[1], spent[5]]


def test_a_state_is_saved_before_a_volume_is_evaluated(tmp_path: Path) -> None:
    """An evaluation that dies is done again from there, without a step of training."""
    weights, (_, last) = Case(tmp_path / "whole").train()
    case = Case(tmp_path / "dies")

    def die(stop: Stop) -> None:
        if stop.counts.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.train(on_stop=die)
    assert case.newest().counts.step == 6
    after, reached = case.train(case.newest())
    assert tiny.same(after, weights)
    assert tiny.but_for_time(reached) == tiny.but_for_time([last])


def test_a_longer_run_goes_on_from_the_last_volume(tmp_path: Path) -> None:
    """At a constant rate, four steps and then two more are six."""
    weights, stops = Case(tmp_path / "whole").train()
    case = Case(tmp_path / "longer", steps=steps()[:2])
    case.train()
    case.steps = steps()
    after, reached = case.train(case.newest())
    assert tiny.same(after, weights)
    assert tiny.but_for_time(reached) == tiny.but_for_time(stops)


def test_states_are_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many seconds of training, which need not fall on a volume.

    The newest alone is kept.
    """
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    saved: list[list[int]] = []
    case = Case(tmp_path)
    experiment = ExperimentWriter(tmp_path)
    case.train(on_stop=lambda stop: saved.append(experiment.states("run")))
    assert saved == [[2], [6]]
    case = Case(tmp_path / "killed")

    def killed(_: Any) -> None:
        if case.states.experiment.states("run") == [4]:
            raise KeyboardInterrupt

    monkeypatch.setattr(tiny.Until, "advance", lambda self, units=1: killed(self))
    with pytest.raises(KeyboardInterrupt):
        case.train()
    assert case.newest().counts.step == 4


def state(step: int) -> Checkpoint:
    return Checkpoint(Counts(step=step, since=1, nats=0.1, seconds=1 / 3), {"weight/a": torch.full((2, 2), float(step))})


def test_a_damaged_or_foreign_state_is_dropped_and_an_older_one_taken(tmp_path: Path) -> None:
    """Cut off, changed in a byte, without its JSON, of another format or run, other counts."""
    experiment = ExperimentWriter(tmp_path)
    states = Checkpoints(experiment, "run")
    Checkpoints(experiment, "other").save(state(9))
    damages: list[Callable[[Path], Any]] = [
        lambda folder: (folder / "state.json").unlink(),
        lambda folder: (folder / "state.json").write_text("{"),
        lambda folder: sealing.edit(folder / "state.json", format=0),
        lambda folder: sealing.edit(folder / "state.json", run_id="another"),
        lambda folder: (folder / "state.json").write_text((folder / "state.json").read_text().replace('"nats": 0.1', '"nats": 0.2')),
        lambda folder: (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-3]),
        lambda folder: (folder / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:-1] + b"\1"),
        lambda folder: (folder / "state.safetensors").unlink(),
        lambda folder: (folder / "state.json").write_text("[" * 100_000),
        lambda folder: (folder / "state.json").write_text((folder / "state.json").read_text().replace('"flops": 0.0', '"flops": -5.0')),
        lambda folder: (folder / "state.json").write_text((folder / "state.json").read_text().replace('"since": 1', '"since": 0')),
        lambda folder: shutil.copytree(experiment.state_folder("other", 9), folder, dirs_exist_ok=True),
    ]
    for damage in damages:
        states.save(state(9))
        damage(experiment.state_folder("run", 9))
        experiment.write_folder(experiment.state_folder("run", 3), lambda folder: checkpoint._write(folder, state(3), "run"))
        said: list[str] = []
        found = states.newest(lambda _: True, said.append)
        assert said == ["run run: the checkpoint after step 9 is damaged or of another run, and is dropped"]
        assert found is not None
        assert found.counts == state(3).counts
        assert torch.equal(found.tensors["weight/a"], state(3).tensors["weight/a"])
        assert experiment.states("run") == [3]


def test_the_newest_usable_state_is_taken_and_others_stay(tmp_path: Path) -> None:
    """One beyond what a run needs is left for a run that needs it.

    A newer one takes the place of older ones.
    """
    experiment = ExperimentWriter(tmp_path)
    states = Checkpoints(experiment, "run")
    for step in (2, 8, 4):
        states.save(state(step))
    assert experiment.states("run") == [8, 4]
    found = states.newest(lambda counts: counts.step <= 5)
    assert found is not None
    assert found.counts.step == 4
    assert states.newest(lambda counts: counts.step <= 3) is None
    states.keep_only(8)
    assert experiment.states("run") == [8]
    states.keep_only(None)
    assert experiment.states("run") == []
