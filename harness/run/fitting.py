"""Memory that a run needs on its GPU, before anything is loaded, and the check that it is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from harness.config.resolution import Machine, Resolved
from harness.config.run_config import RunConfig
from harness.core.errors import ConfigError, explain
from harness.core.footprint import NUMBERS_AT_ONCE, USABLE, Footprint, Setup, footprint, on_cpu
from harness.core.methods import Mitigation
from harness.core.rows import Example
from harness.core.sources import ModelFacts
from harness.methods.tuning.lora import Lora
from harness.run.workspace import Workspace, content_key

GB = 2**30
SAMPLE = 64
"""Rows whose tokens are counted: longer ones need more, so the check rejects nothing that fits."""


def fits(found: Footprint, gpu_bytes: float) -> bool:
    """Return whether a training fits into a GPU."""
    return found.peak <= USABLE * gpu_bytes


def with_micro_batches(config: RunConfig, facts: ModelFacts, resolved: Resolved, workspace: Workspace, machine: Machine) -> Resolved:
    """Return resolved values with the largest micro-batch that fits into the GPU, if none is set.

    It is the whole share of a process, or a power of two that divides it. Where something drops it
    stays whole, since a micro-batch then changes the weights, and so where memory is not measured.
    """
    asked, share = config.training.micro_batch_rows, resolved.micro_batch_rows
    if asked is not None or resolved.drops or not machine.gpus or machine.gpu_bytes is None:
        return resolved
    whole = setup_of(config, facts, resolved, workspace)
    found = memory_of(whole, facts, config, resolved)
    if not found.is_measured or fits(found, machine.gpu_bytes):
        return resolved
    for rows in (2**power for power in range(share.bit_length(), -1, -1) if 2**power < share and share % 2**power == 0):
        part = dataclasses.replace(whole, rows=rows, accumulates=True)
        if fits(memory_of(part, facts, config, resolved), machine.gpu_bytes):
            return dataclasses.replace(resolved, micro_batch_rows=rows)
    return resolved


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
    others = _others(config, facts, least)
    fixes = [name for name, one in others if fits(memory_of(one, facts, config, resolved), machine.gpu_bytes)]
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
    """Return a footprint in words: its peak, when that is, and its parts."""
    if found.stop > found.step:
        which = "with 4 bits" if setup.quantized else "in float32"
        parts = f"weights {which} {_gb(found.stop - found.moments)}, moments {_gb(found.moments)}"
        return f"{_gb(found.stop)} GB at a stop, without its evaluation ({parts})"
    static = f"weights {_gb(found.weights)}, moments {_gb(found.moments)}, gradients {_gb(found.gradients)}"
    if not found.is_measured:
        return f"{_gb(found.static)} GB without activations, which are not measured ({static})"
    batch = f"activations {_gb(found.activations)} and logits {_gb(found.logits)} of {setup.rows} × {setup.length} tokens"
    return f"{_gb(found.step)} GB in a step ({static}, {batch})"


def _gb(size: float) -> str:
    """Return bytes as gibibytes, which makers of GPUs call GB."""
    return f"{size / GB:.1f}" if size >= GB else f"{size / GB:.2g}"


def memory_of(setup: Setup, facts: ModelFacts, config: RunConfig, resolved: Resolved) -> Footprint:
    """Return the memory of a training.

    Pairs, rewards, dropout and other tunings keep other tensors, which are not measured.
    """
    moves = setup.rank > 0 if setup.frozen else setup.trained == setup.params
    measured = config.objective.learns == "tokens" and not resolved.drops and moves
    return footprint(setup, facts.dimensions if measured else None)


def memory_on_cpu(config: RunConfig, params: int, trained: int, numbers: int) -> int:
    """Return the bytes of a training on a CPU, whose whole micro-batch has a number of logits."""
    chunks = config.objective.learns == "tokens"
    reads = not chunks or type(config.mitigation).penalty is not Mitigation.penalty
    at_once = min(numbers, NUMBERS_AT_ONCE) if chunks else numbers
    return on_cpu(params, trained, at_once, adapts=config.tuning.adapts, reads_start=reads)


def setup_of(config: RunConfig, facts: ModelFacts, resolved: Resolved, workspace: Workspace) -> Setup:
    """Return the part of a run that decides its memory.

    Parameters of adapters other than low-rank ones on every layer are few, and not counted.
    """
    tuning, batch, rows = config.tuning, config.training.batch_rows, resolved.micro_batch_rows
    share = -(-batch // resolved.processes)
    if (
        rows == share
        and config.training.micro_batch_rows is None
        and (config.mitigation.trains_on_anchor or config.mitigation.writes == "anchor")
    ):
        rows = -(-(batch + config.mitigation.anchor_rows(batch)) // resolved.processes)
    return Setup(
        params=facts.params_total,
        trained=tuning.trainable(facts) if tuning.adapter_rank or not tuning.adapts else 0,
        frozen=tuning.adapts,
        half=resolved.dtype == "bfloat16",
        rows=rows,
        length=_length(config, resolved, workspace),
        accumulates=resolved.micro_batch_rows < share,
        checkpointing=resolved.gradient_checkpointing,
        rank=tuning.adapter_rank,
        shared=resolved.processes > 1,
        quantized=getattr(config.model, "quantization", None) is not None,
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


def _others(config: RunConfig, facts: ModelFacts, setup: Setup) -> Iterator[tuple[str, Setup]]:
    """Yield settings that need less memory, the smallest change first."""
    if setup.rows > 1:
        yield "training.micro_batch_rows=1, another run since dropout draws by micro-batch", dataclasses.replace(setup, rows=1)
    named: list[tuple[str, Setup]] = [("", setup)]
    if not setup.half:
        named.append(("training.dtype=bfloat16", dataclasses.replace(setup, half=True)))
    if not setup.checkpointing:
        named += [_and(one, "training.gradient_checkpointing=true", checkpointing=True) for one in named]
    yield from named[1:]
    lora = Lora()
    if not setup.frozen:
        adapter = {"trained": lora.trainable(facts), "frozen": True, "rank": lora.rank}
        named = [_and(("tuning=lora", setup), name, **adapter | _changes(setup, one)) for name, one in named]
        yield from named
    base = getattr(config.model, "base_model", None)  # a method of models that come as files
    is_whole = hasattr(config.model, "quantization") and (base is None or base() is None)
    if is_whole and not setup.quantized and not config.mitigation.needs_weights:
        yield from [_and(one, "model.quantization=nf4", quantized=True) for one in named]


def _and(named: tuple[str, Setup], name: str, **changes: object) -> tuple[str, Setup]:
    """Return settings and their training with more changes."""
    return " ".join(filter(None, (named[0], name))), dataclasses.replace(named[1], **changes)  # type: ignore[arg-type]


def _changes(before: Setup, after: Setup) -> dict[str, object]:
    """Return the fields in which two trainings differ."""
    return {
        field.name: value for field in dataclasses.fields(after) if (value := getattr(after, field.name)) != getattr(before, field.name)
    }
