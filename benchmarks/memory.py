"""Write docs/memory.md: the micro-batches that fit, by model, tuning and GPU. No model is built.

python -m benchmarks.memory
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from harness.config import composition, paths
from harness.config.yaml_files import load_yaml
from harness.core.footprint import USABLE, Dimensions, Setup, dimensions, footprint
from harness.core.sources import ModelFacts
from harness.core.tuning import Tuning
from harness.run.fitting import GB

LENGTH, MOST = 512, 64
GPUS = (24, 80, 141)
LIST, PAGE = Path(__file__).with_name("dimensions.yaml"), Path(__file__).parents[1] / "docs" / "memory.md"
BEGIN = "<!-- table: python -m benchmarks.memory -->\n"


def known() -> dict[str, Dimensions]:
    """Return the dimensions of every member of conf/model but ``hf``, which is any model."""
    listed = load_yaml(LIST)
    found: dict[str, Dimensions] = {}
    for name in paths.members("conf/model"):
        size = dimensions(listed[name]["config"]) if name in listed else None
        if name != "hf" and (size or name not in listed):
            size = size or composition.member("model", name).facts().dimensions
        if size is not None:
            found[name] = size
    return found


def facts(size: Dimensions) -> ModelFacts:
    """Return the facts that tunings count parameters by."""
    ends = (1 if size.tied else 2) * size.vocabulary * size.width
    final = 2 * size.width if size.family == "gpt_neox" else size.width
    block = (size.params - ends - final) // size.layers
    embeddings = size.vocabulary * size.width  # an untied head moves
    return ModelFacts(
        params_total=size.params,
        context_length=LENGTH,
        content={},
        linear={"all": size.rank_one},
        blocks=(block,) * size.layers,
        embeddings=embeddings,
    )


def setup(size: Dimensions, tuning: Tuning, rows: int, *, checkpointing: bool, quantized: bool = False) -> Setup:
    """Return a training under bfloat16 in several micro-batches."""
    return Setup(
        params=size.params,
        trained=tuning.trainable(facts(size)),
        frozen=tuning.adapts,
        half=True,
        rows=rows,
        length=LENGTH,
        accumulates=True,
        checkpointing=checkpointing,
        rank=tuning.adapter_rank,
        quantized=quantized,
    )


def most(found: Setup, size: Dimensions, gpu: int) -> int:
    """Return the largest micro-batch that fits, a power of two; 0 where a single row does not."""
    rows = MOST
    while rows and footprint(dataclasses.replace(found, rows=rows), size).peak > USABLE * gpu * GB:
        rows //= 2
    return rows


def row(name: str, size: Dimensions, called: str, found: Setup) -> str:
    """Return a line of the table."""
    both = [dataclasses.replace(found, checkpointing=one) for one in (False, True)]
    measured = found.rank > 0 or found.trained == found.params
    least = footprint(both[1], size if measured else None)
    if measured:
        fits = [[most(one, size, gpu) for one in both] for gpu in GPUS]
        cells = ["no" if not any(rows) else f"{rows[0]} / {rows[1]}" for rows in fits]
    else:
        cells = ["no" if least.static > USABLE * gpu * GB else "not measured" for gpu in GPUS]
    static = (least.weights + least.moments + least.gradients, least.stop)
    return (
        f"| {name} | {_count(size.params)} | {called} | "
        + " | ".join(f"{one / GB:.3g}" for one in static)
        + " | "
        + " | ".join(cells)
        + " |"
    )


def table() -> Iterator[str]:
    """Yield the lines of the table."""
    tunings = {name: composition.member("tuning", name) for name in paths.members("conf/tuning") if name != "peft"}
    yield "| model | parameters | tuning | step GB | stop GB | " + " | ".join(f"{gpu} GB" for gpu in GPUS) + " |"
    yield "|---|---|---|---|---|" + "---|" * len(GPUS)
    for name, size in known().items():
        if name.startswith("nursery-"):
            continue
        for called, tuning in tunings.items():
            yield row(name, size, called, setup(size, tuning, 1, checkpointing=True))
        yield row(name, size, "lora, nf4", setup(size, tunings["lora"], 1, checkpointing=True, quantized=True))


def _count(params: int) -> str:
    for unit, word in ((1e9, "B"), (1e6, "M")):
        if params >= unit:
            return f"{params / unit:.3g}{word}"
    return f"{params / 1e3:.3g}k"


def page() -> str:
    """Return the page with its table anew."""
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n" + "\n".join(table()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
