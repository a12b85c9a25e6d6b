"""The formula of memory against the bytes of live tensors in the real training loop."""

from __future__ import annotations

import itertools
import tempfile
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.mitigation_memory import Peak
from harness.config.run_config import Training
from harness.core.footprint import NUMBERS_AT_ONCE, SAVED, Setup, dimensions, footprint, on_cpu
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.models.halves import FrozenHalves
from harness.models.hub import HubModel
from harness.models.loading import load
from harness.training import token_loss
from tests.support import tiny

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


def quantised(model: Any) -> Any:
    """A model with weights of 4 bits."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        return load(HubModel(name=folder, quantization="nf4"))


def measured_and_expected(
    made: Any, tuning: Any, *, half: bool, at_once: int = NUMBERS_AT_ONCE, bits: int = 16, **training: Any
) -> tuple[int, int]:
    """The peak of the steps of a training of two, and the formula's, in bytes."""
    size = dimensions(made.to_dict())
    start = tiny.seeded(lambda: AutoModelForCausalLM.from_config(made)).bfloat16().float()
    model = tuning.prepare(quantised(start) if bits == 4 else start, 0)
    assert size is not None
    states = [one.quant_state for one in model.parameters() if hasattr(one, "quant_state")]
    scales = [value for state in states for value in (state.absmax, state.state2.absmax)]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = [tiny.example(*[3 + (7 * row + i) % 40 for i in range(LENGTH - 8 * (row == 0))]) for row in range(ROWS)]
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch, Peak() as peak:
        peak.given(*model.parameters(), *model.buffers(), *scales)
        halve, restore = FrozenHalves.halve, FrozenHalves.restore

        def halved(self: FrozenHalves) -> None:
            halve(self)
            peak.most = peak.live

        def restored(self: FrozenHalves) -> None:
            steps.append(peak.most)
            restore(self)

        patch.setattr(FrozenHalves, "halve", halved)
        patch.setattr(FrozenHalves, "restore", restored)
        patch.setattr(token_loss, "NUMBERS_AT_ONCE", at_once)
        settings = Training(**training)
        dtype, base = "bfloat16" if half else "float32", {"none": torch.zeros(1)}
        tiny.run(model, [rows, rows], Sft(), tuning=tuning, base=base, training=settings, dtype=dtype, max_length=LENGTH)
    micro = settings.micro_batch_rows
    setup = Setup(
        params=size.params,
        trained=trained,
        frozen=tuning.adapts,
        half=half,
        rows=micro or ROWS,
        length=LENGTH,
        accumulates=micro is not None,
        checkpointing=bool(settings.gradient_checkpointing),
        rank=tuning.adapter_rank,
        quantized=bits == 4,
        at_once=at_once,
    )
    return max(steps, default=peak.most), footprint(setup, size).step


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("at_once", [NUMBERS_AT_ONCE, 2**14], ids=["whole", "chunked"])
@pytest.mark.parametrize("size", SIZES)
def test_the_formula_is_within_a_tenth_of_the_peak(size: str, at_once: int, tuning: Any, checkpointing: bool, half: bool) -> None:
    """Tensor bytes of the training loop, at three sizes, with logits whole or in chunks."""
    made = config("llama", *SIZES[size])
    found, expected = measured_and_expected(made, tuning, half=half, at_once=at_once, gradient_checkpointing=checkpointing)
    assert expected == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize("tuning", [Full(), Lora()], ids=["full", "lora"])
@pytest.mark.parametrize("family", sorted(SAVED))
def test_it_is_for_every_family_that_counts_as_measured(family: str, tuning: Any) -> None:
    """In micro-batches too, where gradients are there from the first one on."""
    for half in (False, True):
        found, expected = measured_and_expected(config(family, *SIZES["small"]), tuning, half=half, micro_batch_rows=2)
        assert expected == pytest.approx(found, rel=0.1), half


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is an optional extra")
@pytest.mark.parametrize("family", sorted(SAVED))
def test_it_is_for_weights_of_4_bits(family: str) -> None:
    """As bitsandbytes computes on a CPU."""
    for half, checkpointing, at_once in itertools.product((False, True), (False, True), (NUMBERS_AT_ONCE, 2**14)):
        options: dict[str, Any] = {"half": half, "gradient_checkpointing": checkpointing, "at_once": at_once, "bits": 4}
        found, expected = measured_and_expected(config(family, *SIZES["small"]), Lora(), **options)
        assert expected == pytest.approx(found, rel=0.1), options


@pytest.mark.parametrize(("tuning", "kept"), [(Full(), 8), (Lora(), 0)], ids=["full", "lora"])
def test_at_a_stop_weights_are_float32_and_gradients_are_freed(tuning: Any, kept: int) -> None:
    """Weights and moments by hand: 4 and 8 bytes of what trains; the head is cast on top."""
    made = config("llama", *SIZES["small"])
    size, live = dimensions(made.to_dict()), list[int]()
    assert size is not None
    model = tuning.prepare(tiny.seeded(lambda: AutoModelForCausalLM.from_config(made)).bfloat16().float(), 0)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = [tiny.example(*[3 + (7 * row + i) % 40 for i in range(LENGTH)]) for row in range(ROWS)]
    with Peak() as peak:
        peak.given(*model.parameters())
        stopped, base = (lambda _: live.append(peak.live)), {"none": torch.zeros(1)}
        tiny.run(model, [rows], Sft(), tuning=tuning, base=base, stops={1: ROWS}, on_stop=stopped, dtype="bfloat16", max_length=LENGTH)
    added = 12 * trained if tuning.adapts else kept * size.params
    assert live[0] == pytest.approx(4 * size.params + added, rel=0.02)
    setup = Setup(params=size.params, trained=trained, frozen=tuning.adapts, half=True, rows=ROWS, length=LENGTH)
    assert footprint(setup, size).stop == 4 * size.params + added + 2 * 512 * 64


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


def test_a_training_on_a_cpu_has_the_start_weights_where_something_reads_them() -> None:
    """Ten parameters: bytes of weights, moments and gradients, of a second copy, and of logits.

    A stop has no gradients, but the second copy of a tuning that is no adapter.
    """
    assert on_cpu(10, 10, 0, adapts=False, reads_start=False) == 40 + 80 + 40
    assert on_cpu(10, 10, 5, adapts=False, reads_start=False) == 160 + 12 * 5
    assert on_cpu(10, 10, 0, adapts=False, reads_start=True) == 40 + 40 + 80 + 40
    assert on_cpu(10, 1, 0, adapts=False, reads_start=False) == 40 + 40 + 8
    assert on_cpu(10, 1, 0, adapts=True, reads_start=True) == 40 + 8 + 4
