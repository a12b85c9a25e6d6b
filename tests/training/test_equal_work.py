"""Two processes do the work of one: every objective, and every mitigation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cache
from multiprocessing import get_context
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.config.run_config import Training
from harness.core.methods import Mitigation
from harness.core.rows import Example
from harness.methods.contract import outcome
from harness.methods.contract.case import Case, rejection, shipped
from harness.methods.mitigation.kl import Kl
from harness.methods.mitigation.none import NoMitigation
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training import processes
from harness.training.checkpoint import Checkpoint, Checkpoints
from harness.training.job import Callbacks, Job, Stop
from harness.training.loop import train
from harness.training.step import ProcessGroup, SingleProcess
from tests.support import tiny

pytestmark = pytest.mark.model

KINDS = {"dpo": "preference", "clm": "text"}
"""Objective → rows of its case; completions elsewhere."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The two-layer model, made anew in every process."""

    def load(self) -> PreTrainedModel:
        return tiny.llama()

    def weights_sha256(self) -> str:
        return ""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return tiny.tokenizer()


def cases() -> dict[str, Case]:
    """Each objective that processes share, and each mitigation with supervised training."""
    objectives = {name: one for name, one in shipped("objective").items() if one.learns != "rewards"}
    found = {name: Case(Full(), one, cast(Any, KINDS.get(name, "completion")), NoMitigation()) for name, one in objectives.items()}
    found["dpo, lora"] = dataclasses.replace(found["dpo"], tuning=Lora(rank=2))
    mitigations: dict[str, Mitigation] = {**shipped("mitigation"), "kl of the anchor": Kl(inputs="anchor", anchor_batch=3)}
    return found | {name: Case(Full(), Sft(), "completion", one) for name, one in mitigations.items() if name != "none"}


def job(case: Case) -> Job:
    """Steps of all rows, of one (so that one of two processes has none), and of five."""
    assert not rejection(case)
    rows, anchor_rows, _ = outcome.generated(case, tiny.llama(), 0)
    plain, anchor = outcome.steps_of(case.objective, rows), outcome.encoded(case.objective, anchor_rows, "anchor")
    first, second = case.mitigation.mix(plain, anchor)
    return Job(
        model=cast(Any, Source()),
        tuning=case.tuning,
        objective=case.objective,
        mitigation=case.mitigation,
        # Two and three rows in micro-batches of two: one process has one of them, the other two.
        training=Training(micro_batch_rows=2, max_grad_norm=1e9),
        resolved=tiny.resolved(processes=2, learning_rate=1e-4),
        seed=0,
        steps=[first, second[:1], second[1:6]],
        anchor=anchor,
        stops={1: 8, 3: 24},
        pad_id=tiny.PAD,
        checkpoints=cast(Checkpoints, None),  # none is read
    )


@dataclasses.dataclass
class Trained:
    """Stops, and the weights and moments at the last one."""

    stops: list[Stop]
    tensors: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)


def trained(made: Job, group: ProcessGroup) -> Trained:
    model = made.tuned(made.model.load())
    found = Trained([])

    def keep(checkpoint: Checkpoint) -> None:
        found.tensors = {name: value for name, value in tiny.copied(checkpoint.tensors).items() if not name.startswith("streams/")}

    train(made, model, tiny.copied(tiny.llama().state_dict()), Callbacks(on_stop=found.stops.append, on_checkpoint=keep), group=group)
    return found


def in_a_group(jobs: Sequence[Job], rank: int, stores: Iterable[Any]) -> list[Trained]:
    """Train jobs one after the other as a member of a group of two."""
    found = []
    for made, store in zip(jobs, stores, strict=True):
        group = processes._meet(made, rank, store)
        found.append(trained(made, group))
        processes._part()
    return found


def other(jobs: Sequence[Job], ports: Sequence[int]) -> None:
    in_a_group(jobs, 1, (dist.TCPStore(processes.HERE, port, is_master=False) for port in ports))  # type: ignore[attr-defined]


@cache
def jobs() -> dict[str, Job]:
    return {name: job(case) for name, case in cases().items()}


@pytest.fixture(scope="module")
def together() -> dict[str, Trained]:
    """All jobs in two processes; one other process serves them all, since it starts slowly."""
    made = list(jobs().values())
    stores = [dist.TCPStore(processes.HERE, 0, is_master=True, wait_for_workers=False) for _ in made]  # type: ignore[attr-defined]
    child = get_context("spawn").Process(target=other, args=(made, [store.port for store in stores]))
    child.start()
    try:
        return dict(zip(jobs(), in_a_group(made, 0, stores), strict=True))
    finally:
        child.join(20)
        child.kill()


@pytest.mark.parametrize("name", cases())
def test_two_processes_do_the_work_of_one(name: str, together: dict[str, Trained]) -> None:
    """The same losses, gradients (as the optimizer's moments), weights and counts."""
    alone, shared = trained(jobs()[name], SingleProcess()), together[name]
    assert alone.tensors.keys() == shared.tensors.keys()
    for key, value in alone.tensors.items():
        torch.testing.assert_close(shared.tensors[key], value, rtol=1e-3, atol=1e-6, msg=key)
    for one, both in zip(alone.stops, shared.stops, strict=True):
        assert both.counts.train_loss == pytest.approx(one.counts.train_loss, rel=1e-5)
        assert (both.counts.train_penalty or 0.0) == pytest.approx(one.counts.train_penalty or 0.0, rel=1e-2)  # a difference of logarithms
        assert both.counts.flops == pytest.approx(one.counts.flops, rel=0.5)  # other rows are padded together
        rest: dict[str, Any] = {"nats": 0.0, "penalty": None, "flops": 0.0, "seconds": 0.0}
        assert dataclasses.replace(both.counts, **rest) == dataclasses.replace(one.counts, **rest)


def test_the_loss_of_dpo_is_the_same_before_the_first_step(together: dict[str, Trained]) -> None:
    """A pair has log 2 where both answers are as likely as at the start."""
    assert together["dpo"].stops[0].counts.train_loss == pytest.approx(0.693147, abs=1e-5)


def examples(made: Job) -> list[Example]:
    return [example for step in made.steps for example in step]


def test_pairs_read_by_the_start_model_count_once(together: dict[str, Trained]) -> None:
    """As many tokens as the pairs have, both answers with their prompt."""
    assert together["dpo"].stops[-1].counts.read_tokens == sum(example.tokens for example in examples(jobs()["dpo"]))
