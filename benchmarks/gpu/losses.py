"""Losses, gradients and short trainings on the device, against the CPU."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.gpu.models import OWN
from benchmarks.gpu.report import Plan, Report
from harness.core.footprint import SAVED
from harness.core.methods import Mitigation, Objective
from harness.core.rows import RowKind
from harness.core.tuning import Tuning
from harness.methods.contract import tiny
from harness.methods.mitigation.ewc import Ewc
from harness.methods.mitigation.kl import Kl
from harness.methods.mitigation.l2 import L2
from harness.methods.objective.clm import Clm
from harness.methods.objective.dpo import Dpo
from harness.methods.objective.sft import Sft
from harness.methods.tuning.full import Full
from harness.methods.tuning.lora import Lora
from harness.training import token_loss

LOSS, GRADIENT, TRAINED = 1e-5, 1e-4, 1e-4
"""Largest relative differences in float32: of a loss, of a gradient (‖Δ‖ / ‖g‖), of the losses of a
short training."""

HALF_SHARE = 2.0
"""Under bfloat16, the device may be so many times as far from float32 as the CPU is."""

HALF_TRAINED = 1e-2
"""Largest relative difference of the losses of a short training under bfloat16."""

CASES: Mapping[str, tuple[Tuning, Objective, RowKind, Mitigation | None]] = {
    "sft, full": (Full(), Sft(), "completion", None),
    "sft, LoRA": (Lora(rank=4), Sft(), "completion", None),
    "clm, full": (Full(), Clm(), "text", None),
    "dpo, LoRA": (Lora(rank=4), Dpo(), "preference", None),
    "KL, full": (Full(), Sft(), "completion", Kl()),
    "KL, LoRA": (Lora(rank=4), Sft(), "completion", Kl()),
    "L2, full": (Full(), Sft(), "completion", L2(weight=0.1)),
    "L2, LoRA": (Lora(rank=4), Sft(), "completion", L2(weight=0.1)),
    "EWC, full": (Full(), Sft(), "completion", Ewc(fisher="empirical", fisher_rows=8)),
}
"""Trainings. EWC's sampled Fisher draws from each device's own generator, so it is not compared."""

ON_A_CPU = ("sft, full", "KL, LoRA")
"""Trainings under bfloat16 where it is compared with itself."""

Found = tuple[float, dict[str, torch.Tensor]]


def run(plan: Plan, report: Report) -> None:
    """Compare every measured family's loss and gradient, then the trainings."""
    for family in ("llama", "gpt_neox") if plan.tiny else sorted(SAVED):
        _kernels(plan, report, family)
    for name, case in CASES.items():
        for half in (False,) if plan.tiny and name not in ON_A_CPU else (False, True):
            cpu, device = (_trained(*case, half=half, model=one) for one in (tiny.llama(), moved(tiny.llama(), plan.device)))
            limit, dtype = (HALF_TRAINED, "bfloat16") if half else (TRAINED, "float32")
            report.at_most(f"training, {name}, {dtype}: loss", _apart(device, cpu, half=half, is_kl=isinstance(case[-1], Kl)), limit)


def moved(model: PreTrainedModel, device: str) -> PreTrainedModel:
    """Return a copy of a model on a device; on the CPU, one that computes attention another way."""
    copied: Any = copy.deepcopy(model)
    found: PreTrainedModel = copied.to(device)
    if device == "cpu":
        found.set_attn_implementation("eager")
    return found


def _kernels(plan: Plan, report: Report, family: str) -> None:
    """Compare loss and gradient of a model, logits whole and in chunks."""
    model = tiny.seeded(functools.partial(AutoModelForCausalLM.from_config, _config(family, "tiny" if plan.tiny else "small")))
    there, batch = moved(model, plan.device), _batch(*((4, 48) if plan.tiny else (4, 256)))
    expected = found_on(model, batch, half=False)
    for chunked in (False, True):
        name = f"{family}, {'chunked' if chunked else 'whole'} logits, float32"
        found = found_on(there, batch, half=False, chunked=chunked)
        report.at_most(f"{name}: loss", abs(found[0] - expected[0]) / abs(expected[0]), LOSS)
        report.at_most(f"{name}: gradient", _distance(found, expected), GRADIENT)
    on_cpu = _distance(found_on(model, batch, half=True), expected)
    for chunked in (False, True):
        on_device = _distance(found_on(there, batch, half=True, chunked=chunked), expected)
        name = f"{family}, {'chunked' if chunked else 'whole'} logits, bfloat16: gradient"
        report.at_most(name, on_device, HALF_SHARE * on_cpu)


def found_on(model: PreTrainedModel, batch: Mapping[str, torch.Tensor], *, half: bool, chunked: bool = False) -> Found:
    """Return the loss of a batch and its gradient, by parameter, on the CPU in float32."""
    there = {name: value.to(model.device) for name, value in batch.items()}
    model.zero_grad()
    inputs: dict[str, Any] = {name: there[name] for name in ("input_ids", "attention_mask")}
    numbers = batch["input_ids"].numel() * model.config.vocab_size
    with patch.object(token_loss, "NUMBERS_AT_ONCE", numbers // 5 if chunked else numbers):
        loss_of = token_loss.TokenLoss(model, half)
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half), loss_of.reading(there):
            loss = loss_of(model(**inputs, use_cache=False), there["labels"], int((batch["labels"][:, 1:] >= 0).sum()))
        loss.backward()
    return float(loss.detach()), {name: one.grad.float().cpu() for name, one in model.named_parameters() if one.grad is not None}


def _distance(found: Found, expected: Found) -> float:
    """Return ‖found − expected‖ / ‖expected‖ of two gradients; infinity if one has more parts."""
    if found[1].keys() != expected[1].keys():
        return math.inf
    apart = sum(float((found[1][name] - value).double().square().sum()) for name, value in expected[1].items())
    return math.sqrt(apart / sum(float(value.double().square().sum()) for value in expected[1].values()))


def _config(family: str, size: str) -> Any:
    """Return the config of a model of a family, with grouped queries where it has them."""
    sizes = dict(OWN[size]) | {"model_type": family, "pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    if family == "gpt_neox":
        del sizes["num_key_value_heads"]
        sizes["tie_word_embeddings"] = False
    return AutoConfig.for_model(**sizes, **({"head_dim": 32} if family == "qwen3" else {}))


def _batch(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return rows of different lengths, whose first half has no loss."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 1000, (rows, length), generator=draw)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, : length // 2] = -100
    for row in range(rows):
        end = length - row * (length // 8)
        mask[row, end:], labels[row, end:], ids[row, end:] = 0, -100, tiny.PAD
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _trained(
    tuning: Tuning, objective: Objective, kind: RowKind, mitigation: Mitigation | None, *, half: bool, model: PreTrainedModel
) -> tuple[float, float]:
    """Return the loss and the penalty of four steps."""
    device = model.device.type
    model = tuning.prepare(model, 0)
    encode = functools.partial(objective.encode, tokenizer=tiny.tokenizer(), max_length=tiny.MAX_LENGTH)
    examples = [encode(row, origin="target") for row in tiny.rows(kind, 16)]
    anchor = [encode(row, origin="anchor") for row in tiny.rows(kind, 8, seed=1)]
    stops = tiny.run(
        model,
        [examples[start : start + 4] for start in range(0, 16, 4)],
        objective,
        tuning=tuning,
        mitigation=mitigation,
        anchor=anchor,
        base=tiny.copied({name: value.cpu() for name, value in tiny.llama().state_dict().items()}),
        device=device,
        dtype="bfloat16" if half else "float32",
        learning_rate=1e-3,
    )
    counts = stops[-1].counts
    return counts.train_loss or math.nan, counts.train_penalty or 0.0


def _apart(found: tuple[float, float], expected: tuple[float, float], *, half: bool, is_kl: bool) -> float:
    """Return the larger relative difference of loss and penalty.

    That of a penalty is a share of itself; under bfloat16, whose rounding is as large as a small
    penalty, a share of the loss that it is added to. A KL divergence is a difference of
    log-probabilities, each rounded to float32: what that rounding can make of it does not count,
    since adapters of a few steps have a KL of 1e-4 nats.
    """
    loss, penalty = (abs(one - other) for one, other in zip(found, expected, strict=True))
    penalty = max(0.0, penalty - torch.finfo(torch.float32).eps * abs(expected[0])) if is_kl else penalty
    return max(loss / abs(expected[0]), penalty / (abs(expected[0]) if half else abs(expected[1]) or 1.0))
