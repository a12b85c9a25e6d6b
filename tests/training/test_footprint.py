"""The formula of memory against the bytes of live tensors in the real training loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.config.run_config import Training
from harness.core.footprint import SAVED, Setup, dimensions, footprint
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from tests.support import tiny
from tests.support.peaks import Peak

SIZES = {"small": (64, 4, 160, 512), "medium": (128, 6, 384, 1024), "large": (256, 8, 704, 2048)}
"""Width, blocks, MLP and vocabulary."""

LENGTH, ROWS = 96, 4


def config(family: str, width: int, layers: int, mlp: int, vocabulary: int) -> Any:
    """A config with grouped queries, where the family has them."""
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": mlp, "vocab_size": vocabulary}
    heads = {"num_attention_heads": 4} | ({} if family == "gpt_neox" else {"num_key_value_heads": 2})
    heads |= {"head_dim": 32} if family == "qwen3" else {}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": family != "gpt_neox"}
    return AutoConfig.for_model(family, **sizes, **heads, **ends)


def measured_and_expected(made: Any, tuning: Any, *, half: bool, **training: Any) -> tuple[int, int]:
    """The peak of a training of two steps, and the formula's, in bytes."""
    size = dimensions(made.to_dict())
    model = tuning.prepare(tiny.seeded(lambda: AutoModelForCausalLM.from_config(made)), 0)
    assert size is not None
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = [tiny.example(*[3 + (7 * row + i) % 40 for i in range(LENGTH - 8 * (row == 0))]) for row in range(ROWS)]
    before = [*model.parameters(), *model.buffers()]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with Peak() as peak:
        peak.given(*before)
        settings = Training(**training)
        dtype, base = "bfloat16" if half else "float32", {"none": torch.zeros(1)}
        tiny.run(model, [rows, rows], Sft(), tuning=tuning, base=base, training=settings, dtype=dtype, max_length=LENGTH)
    micro, lora = settings.micro_batch_rows, isinstance(tuning, Lora)
    setup = Setup(
        params=size.params,
        trained=trained,
        frozen=lora,
        half=half,
        rows=micro or ROWS,
        length=LENGTH,
        accumulates=micro is not None,
        checkpointing=bool(settings.gradient_checkpointing),
        rank=tuning.rank if lora else 0,
    )
    return peak.most + weights, footprint(setup, size).peak


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("size", SIZES)
def test_the_formula_is_within_a_tenth_of_the_peak(size: str, tuning: Any, checkpointing: bool, half: bool) -> None:
    """Tensor bytes of the training loop as it is, at three sizes."""
    found, expected = measured_and_expected(config("llama", *SIZES[size]), tuning, half=half, gradient_checkpointing=checkpointing)
    assert expected == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("family", sorted(SAVED))
def test_it_is_for_every_family_that_counts_as_measured(family: str, tuning: Any) -> None:
    """In micro-batches too, where gradients are there from the first one on."""
    for half in (False, True):
        found, expected = measured_and_expected(config(family, *SIZES["small"]), tuning, half=half, micro_batch_rows=2)
        assert expected == pytest.approx(found, rel=0.1), half


@pytest.mark.parametrize("family", sorted(SAVED))
def test_parameters_are_those_of_the_model_that_transformers_builds(family: str) -> None:
    """Counted on the meta device."""
    made = config(family, *SIZES["medium"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    size = dimensions(made.to_dict())
    assert size is not None
    assert size.params == sum(parameter.numel() for parameter in model.parameters())
    blocks = [module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "layers." in name]
    assert size.rank_one == sum(module.in_features + module.out_features for module in blocks)
