"""Several processes that train one run together do what one does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from harness.config.run_config import Training
from harness.core.contexts import PenaltyContext
from harness.core.errors import TrainingError
from harness.core.progress import Interrupted
from harness.core.rows import Example
from harness.methods.objective.grpo import Grpo
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.records.writer import ExperimentWriter
from harness.training import processes as processes_
from harness.training.checkpoint import Checkpoints
from harness.training.job import Callbacks, Job, Stop
from harness.training.loop import OutOfMemory, train
from harness.training.processes import joined
from harness.training.step import share
from tests.support import tiny


@dataclasses.dataclass(frozen=True)
class Tiny:
    """The two-layer model as a source; ``fault`` is what the other processes meet instead of it."""

    fault: str = ""

    def load(self) -> PreTrainedModel:
        if "-m" not in sys.orig_argv or "harness.training.processes" not in sys.orig_argv:
            return tiny.llama()
        if self.fault == "memory":
            raise OutOfMemory("training: got out of memory")
        if self.fault == "slow":
            time.sleep(600)
        return tiny.llama()

    def weights_sha256(self) -> str:
        return ""


@dataclasses.dataclass(frozen=True)
class Decay:
    """A mitigation that adds the squared weights to the loss."""

    def penalty(self, context: PenaltyContext) -> Any:
        return lambda model, _: 1e-2 * torch.stack([p.square().sum() for p in model.parameters() if p.requires_grad]).sum()


def steps() -> list[list[Example]]:
    """Steps of 8, 1, 8 and 3 rows: in the second, one of two processes has no row."""
    learned = [Sft().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in tiny.rows("completion", 20)]
    return [learned[:8], learned[8:9], learned[9:17], learned[17:]]


def job(folder: Path, tuning: Any, processes: int = 2, **changes: Any) -> Job:
    values: dict[str, Any] = {
        "model": Tiny(),
        "tuning": tuning,
        "objective": Sft(),
        "mitigation": Decay(),
        "training": Training(micro_batch_rows=3),
        "resolved": tiny.resolved(processes=processes, learning_rate=1e-3),
        "seed": 0,
        "steps": steps(),
        "anchor": [],
        "stops": {1: 8, 2: 16, 4: 32},
        "pad_id": tiny.PAD,
        "checkpoints": Checkpoints(ExperimentWriter(folder), "run"),
    }
    return Job(**{**values, **changes})


def trained(made: Job, *, until: int = 0, on_stop: Callable[[Stop], None] = lambda _: None) -> tuple[dict[str, torch.Tensor], list[Stop]]:
    """Train a job as rank 0.

    Return the weights and the stops, or what there is of them where it is interrupted.
    """
    model = made.tuned(made.model.load())
    base = tiny.copied(tiny.llama().state_dict())
    start = made.checkpoints.newest(lambda counts: counts.step == made.first) if made.first else None
    reached: list[Stop] = []

    def stopped(stop: Stop) -> None:
        on_stop(stop)
        reached.extend(tiny.but_for_time([stop]))

    try:
        with joined(made) as group:
            callbacks = Callbacks(on_stop=stopped, on_checkpoint=made.checkpoints.save, progress=tiny.Until(until))
            train(made, model, base, callbacks, start=start, group=group)
    except Interrupted:
        assert until
    return made.tuning.merged(model), reached


@pytest.mark.parametrize("tuning", [Full(), Lora(rank=4)], ids=["full", "lora"])
def test_two_processes_do_what_one_does(tuning: Any, tmp_path: Path) -> None:
    """The same losses, weights and operations but for rounding, with a penalty and micro-batches.

    Afterwards one trains alone again.
    """
    together, stops = trained(job(tmp_path / "two", tuning))
    assert not dist.is_initialized()
    alone, expected = trained(job(tmp_path / "one", tuning, processes=1))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-5)
    assert [(stop.counts.step, stop.volume) for stop in stops] == [(1, 8), (2, 16), (4, 32)]
    for one, other in zip(expected, stops, strict=True):
        assert one.counts.train_loss == pytest.approx(other.counts.train_loss, abs=1e-5)
        assert one.counts.flops == pytest.approx(other.counts.flops, rel=0.2)  # other rows are padded together


def test_two_processes_go_on_to_the_last_bit(tmp_path: Path) -> None:
    """Each has its own random streams, which a checkpoint saves, with evaluations in between."""
    lora = Lora(rank=2, dropout=0.3)
    whole, stops = trained(job(tmp_path / "whole", lora))
    half, before = trained(job(tmp_path / "half", lora), until=3)
    after, rest = trained(job(tmp_path / "half", lora, first=3), on_stop=lambda _: time.sleep(0.2))
    assert not tiny.same(half, whole)
    assert tiny.same(after, whole)
    assert before + rest == stops


def test_a_process_that_dies_ends_the_training_in_one_line(tmp_path: Path) -> None:
    """Though the other waits for it in the middle of a step."""

    def kill(stop: Stop) -> None:
        (other,) = [child for child in psutil.Process().children() if "harness.training.processes" in child.cmdline()]
        other.kill()

    with pytest.raises(TrainingError, match=r"^training: got training process 1, which ended early: killed by signal 9; [^\n]*$"):
        trained(job(tmp_path, Full()), on_stop=kill)
    assert not dist.is_initialized()


def test_memory_that_runs_out_in_one_process_is_known_as_such(tmp_path: Path) -> None:
    """So that the run goes on with smaller micro-batches, in all of them."""
    with pytest.raises(OutOfMemory, match=r"^training: got out of memory$"):
        trained(job(tmp_path, Full(), model=Tiny("memory")))


def test_the_others_end_with_rank_0(tmp_path: Path) -> None:
    """However it ended, the pipe to them is closed, and that ends them, whatever they are at."""
    helper = processes_._Helper(job(tmp_path, Full(), model=Tiny("slow")), 1, 1)
    assert helper.sent.wait(60)
    assert helper.process.poll() is None
    assert helper.process.stdin is not None
    helper.process.stdin.close()
    assert helper.process.wait(timeout=5) == 1
    helper.kill()


def test_rows_are_shared_in_order() -> None:
    """Five rows among three: one, two and two, each cut to its longest.

    One row among two leaves the first with nothing to learn.
    """
    batch = Sft().collate([tiny.example(*range(5, 6 + length)) for length in (4, 3, 2, 1, 1)], tiny.PAD, tiny.MAX_LENGTH)
    parts = [share(batch, rank, 3) for rank in range(3)]
    assert [part["input_ids"].shape for part in parts] == [(1, 5), (2, 4), (2, 2)]
    assert torch.equal(torch.cat([part["input_ids"][:, 0] for part in parts]), batch["input_ids"][:, 0])
    alone = {name: value[:1] for name, value in batch.items()}
    nothing, everything = share(alone, 0, 2), share(alone, 1, 2)
    assert nothing["labels"].tolist() == [[-100, -100]]
    assert everything["labels"].tolist() == alone["labels"].tolist()
    assert share(batch, 0, 1) is batch


def test_pairs_are_not_split() -> None:
    """Three pairs among two: one and two; of one pair, the first gets a pair without targets."""
    pairs = Sft().collate([tiny.example(5, 6, 7, 8 + number) for number in range(6)], tiny.PAD, tiny.MAX_LENGTH)
    assert [share(pairs, rank, 2, together=2)["input_ids"][:, 3].tolist() for rank in (0, 1)] == [[8, 9], [10, 11, 12, 13]]
    alone = {name: value[:2] for name, value in pairs.items()}
    assert share(alone, 0, 2, together=2)["labels"].tolist() == [[-100, -100], [-100, -100]]
    assert share(alone, 1, 2, together=2)["input_ids"].tolist() == alone["input_ids"].tolist()


def test_rewards_are_learned_in_one_process(tmp_path: Path) -> None:
    """Two would each write and learn every answer of a step."""
    made = job(tmp_path, Full(), objective=tiny_grpo())
    with (
        pytest.raises(TrainingError, match=r"^training.processes: got 2 processes for an objective that learns rewards; allowed: one; "),
        joined(made),
    ):
        raise AssertionError("two processes joined")


def tiny_grpo() -> Grpo:
    return Grpo(reward=("last_number",), max_new_tokens=4)


def test_a_class_of_a_users_own_reaches_the_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that holds one is unpickled from a folder of HARNESS_PATH."""
    (tmp_path / "ownjob.py").write_text("class OwnJob:\n    pass\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    job = b"cownjob\nOwnJob\n."  # the class itself, by name
    given = len(job).to_bytes(processes_.LENGTH_BYTES, "big") + job
    command = [sys.executable, "-m", "harness.training.processes", "1", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stderr is not None
        other.stdin.write(given)
        other.stdin.flush()  # and left open: its end would end the process
        assert b"type object 'OwnJob' has no attribute 'resolved'" in other.stderr.read()
