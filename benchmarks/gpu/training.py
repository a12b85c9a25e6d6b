"""Tokens per second of a training, and the peak of its memory against the formula."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.gpu.models import Built, write_rows
from benchmarks.gpu.report import Plan, Report
from harness.config import composition
from harness.core.memory import release
from harness.core.progress import Silent
from harness.methods.contract import tiny
from harness.models import loading
from harness.run.fitting import GB, in_words
from harness.run.generated.data import Data
from harness.run.preparation import prepare
from harness.run.steps import steps_of
from harness.run.workspace import Workspace
from harness.sweep.plan.device import needed
from harness.training import token_loss

WITHIN = 0.1
"""Largest relative difference of the peak from the formula's, which promises it."""

STEPS, WARM = 5, 2
"""Optimizer steps, of which the first are not timed."""

LESS = 0.98
"""Largest ratio to the peak of a case that has to need more."""

SAME = 1e-2
"""Largest relative difference of the losses with whole and chunked logits, under bfloat16."""

ON, OFF = "training.gradient_checkpointing=true", "training.gradient_checkpointing=false"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training.

    Attributes:
        model: of ``conf/model`` here, or a folder.
        overrides: the tuning, and what else differs.
        chunked: whether the logits are computed in chunks; None leaves that to their number.
        below: the case whose peak is larger.
        equal: the case that has the same loss.
    """

    model: str
    overrides: tuple[str, ...]
    chunked: bool | None = None
    below: str = ""
    equal: str = ""


@dataclass(frozen=True)
class Found:
    """What a training took: bytes at its peak, tokens per second, nats per target."""

    peak: float
    speed: float
    loss: float


class Clock(Silent):
    """Times the steps after the first ones, and begins to look for the peak there."""

    def __init__(self, reset: Callable[[], object]) -> None:
        """Take what forgets an earlier peak."""
        self.reset, self.steps, self.began, self.ended = reset, 0, math.nan, math.nan

    def advance(self, units: int = 1) -> None:
        """Note the end of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.steps, self.ended = self.steps + 1, time.perf_counter()
        if self.steps == WARM:
            self.began = self.ended
            self.reset()


def cases(plan: Plan, folder: str | None) -> Mapping[str, Case]:
    """Return the trainings; ``folder`` holds a model to quantise, None leaves QLoRA out."""
    small, rows = "gpu-tiny" if plan.tiny else "gpu-1b", "training.micro_batch_rows=4"
    full, lora = ("tuning=full", rows), ("tuning=lora", rows)
    found = {
        "full": Case(model=small, overrides=(*full, OFF)),
        "full, checkpointing": Case(model=small, overrides=(*full, ON), below="full"),
        "LoRA": Case(model=small, overrides=(*lora, OFF), below="full"),
        "LoRA, checkpointing": Case(model=small, overrides=(*lora, ON), below="LoRA"),
        "logits whole": Case(model=small, overrides=(*lora, ON), chunked=False),
        "logits in chunks": Case(model=small, overrides=(*lora, ON), chunked=True, below="logits whole", equal="logits whole"),
    }
    if not plan.tiny:
        found["8B, LoRA, checkpointing by default"] = Case(model="gpu-8b", overrides=lora)
    if folder is not None:
        found["QLoRA, checkpointing"] = Case(model=folder, overrides=(*lora, ON, "model.quantization=nf4"), below="LoRA, checkpointing")
    return found


def run(plan: Plan, report: Report) -> None:
    """Train every case, and compare."""
    has_quantizer = importlib.util.find_spec("bitsandbytes") is not None
    folder = _folder(plan) if has_quantizer else None
    if folder is None:
        report.skip("QLoRA", "no bitsandbytes")
    found: dict[str, Found] = {}
    workspace = Workspace()
    for name, case in cases(plan, folder).items():
        found[name] = _measured(plan, report, name, case, workspace)
        if case.below:
            report.at_most(f"{name}: peak over that of {case.below}", found[name].peak / found[case.below].peak, LESS)
        if case.equal:
            report.at_most(f"{name}: loss", abs(found[name].loss / found[case.equal].loss - 1), SAME)


def _measured(plan: Plan, report: Report, name: str, case: Case, workspace: Workspace) -> Found:
    """Train a case; record it, and compare its peak with the formula's."""
    length = 48 if plan.tiny else 512
    rows = write_rows(plan.work / "rows.jsonl", 8 * STEPS, length)  # BOS, and one word that is cut
    common = [f"data={rows}", f"data.volumes=[{8 * STEPS}]", "probe_suites=[tinyworld_text]", f"results={plan.work / 'results'}"]
    dtype = ["training.dtype=bfloat16", f"training.max_length={length}", "training.learning_rate=1e-5"]
    config = composition.compose([*common, *dtype, f"model={case.model}", *case.overrides])
    prepared = prepare(config, workspace)
    setup, expected = needed(prepared)
    examples = steps_of(prepared, Data(target=prepared.rows, anchor=prepared.anchor)).examples
    with _peak(plan) as (peak, reset), patch.object(token_loss, "NUMBERS_AT_ONCE", _at_once(case, plan)):
        model: Any = config.tuning.prepare(loading.load(config.model, plan.device), 0)
        loaded, clock = peak(), Clock(reset)
        stops = tiny.run(
            model,
            examples,
            config.objective,
            tuning=config.tuning,
            training=config.training,
            base={"none": torch.zeros(1)},  # no mitigation reads it
            progress=clock,
            **dataclasses.asdict(prepared.resolved),
        )
        most = peak()
        device = model.device
        del model
        release(device)
    loss = stops[-1].counts.train_loss or math.nan
    speed = 8 * length * (STEPS - WARM) / (clock.ended - clock.began)
    sizes = {"peak_gb": most / GB, "formula_gb": expected.peak / GB, "loading_gb": loaded / GB}
    report.measured(name, tokens_per_second=speed, **sizes, loss=loss, formula=in_words(expected, setup))
    if case.chunked is None:
        report.at_most(f"{name}: peak against the formula", abs(most / expected.peak - 1), WITHIN)
    return Found(most, speed, loss)


def _at_once(case: Case, plan: Plan) -> int:
    """Return the logits that may be computed at once."""
    default = token_loss.NUMBERS_AT_ONCE
    if case.chunked is None:
        return default
    return (2**15 if plan.tiny else default) if case.chunked else 2**62


@contextlib.contextmanager
def _peak(plan: Plan) -> Iterator[tuple[Callable[[], float], Callable[[], object]]]:
    """Yield functions that return the peak in bytes, and that forget it.

    Without a GPU it is that of the bytes of tensors alive.
    """
    if plan.has_gpu:
        torch.cuda.reset_peak_memory_stats()
        yield torch.cuda.max_memory_allocated, torch.cuda.reset_peak_memory_stats
        return
    from benchmarks.mitigation_memory import Peak

    with Peak() as counted:
        yield lambda: float(counted.most), lambda: setattr(counted, "most", counted.live)


def _folder(plan: Plan) -> str:
    """Save a model that can be quantised; return its folder."""
    source = Built(size="tiny" if plan.tiny else "llama-3.2-1b")
    folder: Path = plan.work / "to-quantise"
    model: Any = source.load()
    device = model.device
    model.bfloat16().save_pretrained(folder)
    source.tokenizer().save_pretrained(folder)
    del model
    release(device)
    return str(folder)
