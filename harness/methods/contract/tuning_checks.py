"""Checks of a tuning, on a model after two steps of supervised training."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from harness.core.seeds import derive
from harness.methods.contract import tiny
from harness.methods.contract.broken import require, require_close, require_same
from harness.methods.contract.case import BATCH, Case
from harness.methods.contract.outcome import LEARNING_RATE, outcome, steps_of, target_rows

LARGEST_RATE = 0.1


def has_deltas(case: Case) -> None:
    """Check that deltas are differentiable, named as in the plain model, and every change."""
    seen, method = outcome(case), case.tuning
    deltas, merged = dict(method.deltas(seen.model, seen.base)), method.merged(seen.model)
    strange = sorted((deltas.keys() - merged.keys()) | (merged.keys() - seen.base.keys()))
    require(not strange, f"deltas and merged have names of the plain model: got {', '.join(strange)}")
    fixed = [name for name, delta in deltas.items() if not delta.requires_grad]
    require(not fixed, f"deltas are differentiable: got {', '.join(fixed)} without a gradient")
    for name, value in merged.items():
        moved = deltas[name].detach() if name in deltas else torch.zeros_like(value)
        require_close(value, seen.base[name] + moved, 1e-6, f"merged is base plus delta, of {name}")
    require(any(bool(delta.abs().max() > 0) for delta in deltas.values()), "training moves a weight: got deltas that are all 0")


def merges(case: Case) -> None:
    """Check a plain model with the merged weights, and that merging changes nothing."""
    seen = outcome(case)
    before = tiny.logits(seen.model)
    plain = tiny.MODELS[case.model]()
    merged, parameters = case.tuning.merged(seen.model), dict(plain.named_parameters())
    strange = ", ".join(sorted(merged.keys() ^ parameters.keys()))
    require(not strange, f"merged has every parameter of the plain model, a tied one once: got a difference in {strange}")
    plain.load_state_dict(merged, strict=False)
    plain.tie_weights()
    require_close(tiny.logits(plain), before, 1e-5, "logits of the plain model with merged weights are those of the tuned one")
    require(torch.equal(tiny.logits(seen.model), before), "merged leaves the model as it is: got other logits")


def computes_as_its_base(case: Case) -> None:
    """Check base_weights to the last bit, inside it and after it, also after an error."""
    seen = outcome(case)
    for broken in (False, True):
        before, state = tiny.logits(seen.model), tiny.copied(seen.model.state_dict())
        parameters = {name: (parameter, parameter.requires_grad) for name, parameter in seen.model.named_parameters()}
        with contextlib.suppress(_Broken), case.tuning.base_weights(seen.model, seen.base):
            exact = torch.equal(tiny.logits(seen.model), tiny.logits(tiny.MODELS[case.model]()))
            require(exact, "inside base_weights, logits are the start model's, bit for bit: got others")
            if broken:
                raise _Broken
        after = "after an error inside base_weights" if broken else "after base_weights"
        require(torch.equal(tiny.logits(seen.model), before), f"{after}, logits are the tuned model's, bit for bit: got others")
        require_same(seen.model.state_dict(), state, f"{after}, weights are those of before")
        now = {name: (parameter, parameter.requires_grad) for name, parameter in seen.model.named_parameters()}
        same = parameters.keys() == now.keys() and all(_same(parameters[name], now[name]) for name in now)
        require(same, f"{after}, parameters are the same objects and as trainable: got others")
        require_same(seen.base, tiny.MODELS[case.model]().state_dict(), f"{after}, the start weights are unchanged")


class _Broken(Exception):
    """An error inside ``base_weights``."""


def _same(first: tuple[Any, bool], second: tuple[Any, bool]) -> bool:
    return first[0] is second[0] and first[1] == second[1]


def leaves_training_alone(case: Case) -> None:
    """Check that two steps with base_weights between them give the weights of two steps."""
    model = tiny.MODELS[case.model]()
    base = tiny.copied(model.state_dict())
    model = case.tuning.prepare(model, derive(0, "adapter"))

    def ask(_: Any) -> None:
        with case.tuning.base_weights(model, base):
            tiny.logits(model)

    steps = steps_of(case.objective, target_rows(case))
    stops = {number: BATCH * number for number in range(1, len(steps) + 1)}
    tiny.run(model, steps, case.objective, stops=stops, on_stop=ask, learning_rate=LEARNING_RATE)
    require_same(case.tuning.merged(model), outcome(case).weights, "base_weights between two steps leaves the weights as they are")


def saves(case: Case) -> None:
    """Check that saved weights, loaded again, give the logits of the tuned model."""
    seen = outcome(case)
    with tempfile.TemporaryDirectory() as name, _quiet():
        folder = Path(name)
        case.tuning.save(seen.model, folder)
        other = sorted(path.name for path in folder.iterdir() if path.suffix not in {".safetensors", ".json"})
        require(not other, f"save writes safetensors and json: got {', '.join(other)}")
        if (folder / "adapter_config.json").exists():
            loaded: Any = PeftModel.from_pretrained(tiny.MODELS[case.model](), str(folder))
        else:
            loaded = AutoModelForCausalLM.from_pretrained(folder)
        require_close(tiny.logits(loaded.eval()), tiny.logits(seen.model), 1e-6, "logits of the loaded model are the tuned one's")


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT 0.21 asks the model for an attribute that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        yield


def reports(case: Case) -> None:
    """Check the reported number of trainable parameters, and default rates that fall with size."""
    seen = outcome(case)
    trainable = sum(parameter.numel() for parameter in seen.model.parameters() if parameter.requires_grad)
    found = case.tuning.facts(seen.model).get("trainable")
    require(found == trainable, f"facts has the number of trainable parameters, {trainable}: got {found}")
    large, small = (case.tuning.default_learning_rate(size) for size in (7_000_000_000, 100_000))
    fall = f"the default rate falls with size, between 0 and {LARGEST_RATE}: got {small:g} for 100k and {large:g} for 7B parameters"
    require(0 < large < small < LARGEST_RATE, fall)
