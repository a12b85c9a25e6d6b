"""`make bench-training`: overhead of `harness/training/loop.py` over a bare torch loop.

The bare loop has only forward, cross-entropy, backward, clipping, fused AdamW and schedule. Its
batches are collated beforehand; `train` collates its own, which counts. Both start from the same
weights and run in turn, each first every other time. The overhead is the median over the pairs of
the ratio of processor (or wall) times of the whole call, and also from the first step to the last,
without set-up.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DEFAULT_OUTPUT = Path(__file__).resolve().parent / "training.json"
REACH = {"nursery-xs": 1.5, "5M": 1.1, "hub": 1.05}
"""Largest allowed ratio of processor times of the whole call."""


@dataclass(frozen=True)
class Case:
    """A model, its training and its steps of examples."""

    name: str
    tuning: str
    model: Any
    steps: list[list[Any]]
    training: Any
    resolved: Any


@dataclass(frozen=True)
class Times:
    """Times of a whole call, and from the first step's end to the last's."""

    wall: float
    processor: float
    wall_of_steps: float
    processor_of_steps: float


@dataclass(frozen=True)
class Found:
    """Result of a case.

    Ratios are `train` over the bare loop, times in milliseconds per step, set-up in milliseconds
    per call.
    """

    model: str
    tuning: str
    parameters: int
    threads: int
    steps: int
    tokens: int
    bare_milliseconds: float
    train_milliseconds: float
    bare_setup_milliseconds: float
    train_setup_milliseconds: float
    wall_ratio: float
    processor_ratio: float
    wall_ratio_of_steps: float
    processor_ratio_of_steps: float
    collating_milliseconds: float
    largest_weight_difference: float
    reach: float


class Clock:
    """Progress display that only notes the time after every step."""

    def __init__(self) -> None:
        self.began, self.steps = self._now(), list[tuple[float, float]]()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def advance(self, units: int = 1) -> None:
        """Note a step."""
        self.steps.append(self._now())

    def stage(self, name: str, total: int) -> None:
        """Show nothing."""

    def say(self, message: str) -> None:
        """Say nothing."""

    def read(self) -> Times:
        """Return the times so far."""
        over, first, last = self._now(), self.steps[0], self.steps[-1]
        return Times(over[0] - self.began[0], over[1] - self.began[1], last[0] - first[0], last[1] - first[1])


def ours(case: Case, model: Any) -> Times:
    """Train with the harness."""
    from harness.methods.objective.sft import Sft
    from harness.training.loop import train

    clock = Clock()
    train(
        model,
        steps=case.steps,
        objective=Sft(),
        penalty=None,
        training=case.training,
        resolved=case.resolved,
        stops={len(case.steps): len(case.steps) * case.training.batch_rows},
        on_stop=lambda _: None,
        seed=0,
        pad_id=0,
        progress=clock,
    )
    return clock.read()


def bare(case: Case, model: Any, batches: Sequence[dict[str, Any]]) -> Times:
    """Train with torch alone."""
    import torch

    from harness.training.loop import rate_multiplier

    clock, training = Clock(), case.training
    torch.set_num_threads(case.resolved.threads)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in moving if parameter.ndim >= 2]}]
    groups += [{"params": vectors, "weight_decay": 0.0} for vectors in [[one for one in moving if one.ndim < 2]] if vectors]
    betas = (training.beta1, training.beta2)
    decay = training.weight_decay
    optimizer = torch.optim.AdamW(groups, case.resolved.learning_rate, betas, training.epsilon, decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_multiplier(step, len(batches), training))
    model.train()
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        labels = torch.nn.functional.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / (labels != -100).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving, training.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.advance()
    return clock.read()


def compare(case: Case, pairs: int) -> Found:
    """Time both on one case, in turn."""
    from harness.methods.objective.sft import Sft

    began = time.process_time()
    batches = [Sft().collate(step, 0, case.resolved.max_length) for step in case.steps]
    collating = time.process_time() - began
    runs: dict[str, Callable[[Any], Times]] = {"train": lambda model: ours(case, model), "bare": lambda model: bare(case, model, batches)}
    times: dict[str, list[Times]] = {name: [] for name in runs}
    tuned: dict[str, Any] = {}
    for turn in range(pairs + 1):  # the first pair is a warm-up
        for name in list(runs) if turn % 2 else list(runs)[::-1]:
            tuned[name] = copy.deepcopy(case.model)
            times[name].append(runs[name](tuned[name]))
    ours_, theirs = times["train"][1:], times["bare"][1:]
    steps = len(case.steps)

    def ratio(pick: str) -> float:
        return statistics.median(getattr(a, pick) / getattr(b, pick) for a, b in zip(ours_, theirs, strict=True))

    def a_step(of: Sequence[Times]) -> float:
        return 1e3 * statistics.median(one.wall_of_steps / (steps - 1) for one in of)

    def setup(of: Sequence[Times]) -> float:
        return 1e3 * statistics.median(one.wall - one.wall_of_steps * steps / (steps - 1) for one in of)

    weights = zip(tuned["train"].parameters(), tuned["bare"].parameters(), strict=True)
    return Found(
        model=case.name,
        tuning=case.tuning,
        parameters=sum(parameter.numel() for parameter in case.model.parameters()),
        threads=case.resolved.threads,
        steps=steps,
        tokens=sum(batch["input_ids"].numel() for batch in batches),
        bare_milliseconds=a_step(theirs),
        train_milliseconds=a_step(ours_),
        bare_setup_milliseconds=setup(theirs),
        train_setup_milliseconds=setup(ours_),
        wall_ratio=ratio("wall"),
        processor_ratio=ratio("processor"),
        wall_ratio_of_steps=ratio("wall_of_steps"),
        processor_ratio_of_steps=ratio("processor_of_steps"),
        collating_milliseconds=1e3 * collating / steps,
        largest_weight_difference=max(float((a - b).detach().abs().max()) for a, b in weights),
        reach=REACH.get(case.name, REACH["hub"]),
    )


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases.

    They are the smallest nursery model on its own rows, and a random Llama and a model of the hub
    on random tokens.
    """
    from harness.config import composition
    from harness.run import preparation
    from harness.run.workspace import Workspace

    for tuning in ("full", "lora"):
        config = composition.compose(["model=nursery-xs", f"tuning={tuning}", f"data.volumes=[{8 * arguments.steps}]"])
        prepared = preparation.prepare(config, Workspace())
        examples = prepared.workspace.encoded(config, prepared.resolved, prepared.rows, "target")
        steps = [examples[start : start + 8] for start in range(0, len(examples), 8)]
        yield Case("nursery-xs", tuning, config.tuning.prepare(config.model.load(), 0), steps, config.training, prepared.resolved)
        for name, model, shape in _larger(arguments):
            rate = config.tuning.default_learning_rate(model.num_parameters())
            resolved = dataclasses.replace(prepared.resolved, learning_rate=rate, threads=arguments.threads, max_length=512)
            yield Case(
                name, tuning, config.tuning.prepare(model, 0), _random_steps(model.config.vocab_size, *shape), config.training, resolved
            )


def _larger(arguments: argparse.Namespace) -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Yield name, model, and (steps, longest row) of its training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.core.errors import ModelError
    from harness.core.seeds import seed_torch
    from harness.models.hub import HubModel

    seed_torch(0)
    shape = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=688, num_hidden_layers=6, num_attention_heads=4)
    yield "5M", LlamaForCausalLM(shape).eval(), (max(4, arguments.steps // 4), 96)
    if arguments.model:
        try:
            yield arguments.model, HubModel(name=arguments.model).load(), (max(3, arguments.steps // 32), 128)
        except ModelError as error:
            sys.stderr.write(f"bench-training: left out: {error}\n")


def _random_steps(vocabulary: int, steps: int, longest: int) -> list[list[Any]]:
    """Return steps of eight rows; the first third of each row has no loss.

    Lengths are between half the longest and the longest.
    """
    from harness.core.rows import Example
    from harness.core.seeds import stream

    draw = stream(0, "bench-training")

    def row(number: int) -> Any:
        length = int(draw.integers(longest // 2, longest + 1))
        ids = tuple(int(token) for token in draw.integers(0, vocabulary, length))
        return Example(ids, tuple(position >= length // 3 for position in range(length)), "target", str(number), truncated=False)

    return [[row(8 * step + number) for number in range(8)] for step in range(steps)]


def show(found: Sequence[Found]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="harness/training/loop.py over a bare torch loop, the same batches")
    names = [
        "model",
        "tuning",
        "parameters",
        "threads",
        "steps",
        "bare, ms per step",
        "train, ms per step",
        "set-up, ms",
        "processor",
        "wall",
    ]
    for name in [*names, "processor, steps alone", "wall, steps alone", "weights differ by", "at most", ""]:
        table.add_column(name, justify="left" if name in {"model", "tuning"} else "right")
    for item in found:
        table.add_row(
            item.model,
            item.tuning,
            f"{item.parameters:,}",
            str(item.threads),
            str(item.steps),
            f"{item.bare_milliseconds:.1f}",
            f"{item.train_milliseconds:.1f}",
            f"{item.bare_setup_milliseconds:.0f} {item.train_setup_milliseconds:.0f}",
            f"{item.processor_ratio:.2f}",
            f"{item.wall_ratio:.2f}",
            f"{item.processor_ratio_of_steps:.2f}",
            f"{item.wall_ratio_of_steps:.2f}",
            f"{item.largest_weight_difference:.1e}",
            f"{item.reach:.2f}",
            "reached" if item.processor_ratio <= item.reach else "not reached",
        )
    Console(width=200).print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="of the hub, or a folder; '' for none")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each, in turn, after a warm-up")
    parser.add_argument("--steps", type=int, default=128, help="of the smallest model; a quarter of it at 5M, a 32nd at --model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of all but the smallest, which has one")
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    return parser.parse_args()


def main() -> int:
    """Run the benchmark."""
    arguments = _arguments()
    warnings.simplefilter("ignore")
    os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

    from harness.records import provenance

    found: list[Found] = []
    for case in cases(arguments):
        found.append(compare(case, arguments.pairs))
        sys.stderr.write(f"{case.name}, {case.tuning}: {found[-1].processor_ratio:.2f}\n")
        written = {"cases": [asdict(item) for item in found], "provenance": provenance.collect() | {"command": "make bench-training"}}
        arguments.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    show(found)
    sys.stderr.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
