"""Memory that a run needs on its GPU, before anything is loaded, and the check that it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from harness.config.resolution import Machine, Resolved
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, explain
from harness.core.footprint import USABLE, Footprint, Setup, footprint
from harness.core.rows import Example
from harness.core.sources import ModelFacts
from harness.methods.tuning.lora import Lora
from harness.run.workspace import Workspace, content_key

GB = 2**30
SAMPLE = 64
"""Rows whose tokens are counted: longer ones need more, so the check rejects nothing that fits."""


def fits(found: Footprint, gpu_bytes: float) -> bool:
    """Return whether a step fits into a GPU."""
    return found.peak <= USABLE * gpu_bytes


def check_fits(config: RunConfig, facts: ModelFacts, resolved: Resolved, workspace: Workspace, machine: Machine) -> None:
    """Reject a training that no micro-batch fits into the GPU. Raises ConfigError.

    A run that drops has only its own micro-batch: another one would change its weights. On a CPU,
    or where the GPU's memory is unknown, nothing is rejected.
    """
    if not machine.gpus or machine.gpu_bytes is None:
        return
    setup = setup_of(config, facts, resolved, workspace)
    least = setup if resolved.drops else dataclasses.replace(setup, rows=1, accumulates=setup.accumulates or setup.rows > 1)
    found = memory_of(least, facts, config, resolved)
    if fits(found, machine.gpu_bytes):
        return
    fixes = [name for name, one in _others(facts, least) if fits(memory_of(one, facts, config, resolved), machine.gpu_bytes)]
    enough = f"a GPU of {_gb(found.peak / USABLE)} GB"
    raise ConfigError(
        explain(
            f"memory of model={config.labels.model} tuning={config.labels.tuning}",
            got=f"{in_words(found, least)} at least",
            allowed=f"{_gb(USABLE * machine.gpu_bytes)} GB, {USABLE:.0%} of the GPU",
            fix=", or ".join([*fixes[:3], enough if fixes else f"{enough}, or a smaller model"]),
        )
    )


def in_words(found: Footprint, setup: Setup) -> str:
    """Return a footprint in words: its parts, or that the rest is not measured."""
    static = f"weights {_gb(found.weights)}, moments {_gb(found.moments)}, gradients {_gb(found.gradients)}"
    if not found.is_measured:
        return f"{_gb(found.static)} GB without activations, which are not measured ({static})"
    batch = f"activations {_gb(found.activations)} and logits {_gb(found.logits)} of {setup.rows} × {setup.length} tokens"
    return f"{_gb(found.peak)} GB ({static}, {batch})"


def _gb(size: float) -> str:
    """Return bytes as gibibytes, which makers of GPUs call GB."""
    return f"{size / GB:.1f}" if size >= GB else f"{size / GB:.2g}"


def memory_of(setup: Setup, facts: ModelFacts, config: RunConfig, resolved: Resolved) -> Footprint:
    """Return the memory of a training.

    Pairs, rewards, dropout and other tunings keep other tensors, which are not measured.
    """
    moves = setup.frozen or setup.trained == setup.params
    measured = config.objective.learns == "tokens" and not resolved.drops and moves
    return footprint(setup, facts.dimensions if measured else None)


def setup_of(config: RunConfig, facts: ModelFacts, resolved: Resolved, workspace: Workspace) -> Setup:
    """Return the part of a run that decides its memory."""
    tuning = config.tuning
    share = -(-config.training.batch_rows // resolved.processes)
    return Setup(
        params=facts.params_total,
        trained=tuning.trainable(facts),
        frozen=isinstance(tuning, Lora),
        half=resolved.dtype == "bfloat16",
        rows=resolved.micro_batch_rows,
        length=_length(config, resolved, workspace),
        accumulates=resolved.micro_batch_rows < share,
        checkpointing=resolved.gradient_checkpointing,
        rank=tuning.rank if isinstance(tuning, Lora) else 0,
        shared=resolved.processes > 1,
    )


def _length(config: RunConfig, resolved: Resolved, workspace: Workspace) -> int:
    """Return the width of a batch: its longest row, of a sample, or a block of packed ones."""
    if config.objective.learns != "tokens":
        return resolved.max_length

    def find() -> int:
        rows = workspace.taught(config, resolved, config.data).rows
        size = min(SAMPLE, len(rows))
        examples: Sequence[Example] = workspace.encoded(config, resolved, [rows[i * len(rows) // size] for i in range(size)], "target")
        return int(config.objective.collate(examples, 0, resolved.max_length)["input_ids"].shape[1]) if examples else resolved.max_length

    key = ("length", content_key(config.model, config.objective, config.data), resolved.max_length)
    return workspace.once(key, find)


def _others(facts: ModelFacts, setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Yield settings that need less memory, the smallest change first."""
    if setup.rows > 1:
        yield "training.micro_batch_rows=1, another run since dropout draws by micro-batch", dataclasses.replace(setup, rows=1)
    checked = dataclasses.replace(setup, checkpointing=True)
    if not setup.checkpointing:
        yield "training.gradient_checkpointing=true", checked
    if setup.frozen:
        return
    lora = Lora()
    for name, one in (("tuning=lora", setup), ("tuning=lora training.gradient_checkpointing=true", checked)):
        if name == "tuning=lora" or not setup.checkpointing:
            yield name, dataclasses.replace(one, trained=lora.trainable(facts), frozen=True, rank=lora.rank)
