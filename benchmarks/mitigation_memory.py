"""Print the peak memory of one training with each mitigation, as a table. CPU, random weights.

python benchmarks/mitigation_memory.py

With PYTHONPATH naming another version of this repository, that version is measured.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoConfig, AutoModelForCausalLM

MIB = 2**20
WIDTH, LAYERS, MLP, VOCABULARY = 256, 6, 704, 16_384
LENGTH, ROWS = 320, 8

SETTINGS: dict[str, dict[str, Any]] = {"none": {}, "replay": {"fraction": 0.5}, "kl": {}, "ewc": {"fisher_rows": 16}, "l2": {}}
"""Mitigation → settings. The others train as ``none`` does: they change rows or trained weights."""


class Peak(TorchDispatchMode):
    """Bytes of the tensors given, or made since the block began, and still alive; their peak.

    Attributes:
        live, most: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known: dict[int, Any] = {}

    def given(self, *tensors: torch.Tensor) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self._count(tensor.untyped_storage())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_iter((args, found)):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return found

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known[key] = weakref.finalize(storage, self._free, key, size)
        self.live += size
        self.most = max(self.most, self.live)

    def _free(self, key: int, size: int) -> None:
        self.known.pop(key, None)
        self.live -= size


class Saved(torch.autograd.graph.saved_tensors_hooks):
    """Bytes that autograd keeps for backward passes at once, weights left out.

    Attributes:
        live, most: bytes.
    """

    def __init__(self, weights: list[torch.Tensor]) -> None:
        self.live = self.most = 0
        self.weights = weights
        self.uses: dict[int, int] = {}
        super().__init__(self._keep, lambda kept: kept.tensor)

    def _keep(self, tensor: torch.Tensor) -> Any:
        key, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
        kept = _Kept(tensor)
        if all(key != weight.untyped_storage()._cdata for weight in self.weights):  # their storage changes with their dtype
            if not self.uses.get(key):
                self.live += size
                self.most = max(self.most, self.live)
            self.uses[key] = self.uses.get(key, 0) + 1
            weakref.finalize(kept, self._drop, key, size)
        return kept

    def _drop(self, key: int, size: int) -> None:
        self.uses[key] -= 1
        if not self.uses[key]:
            self.live -= size


class _Kept:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def measured(mitigation: str, tuning: Any, *, half: bool) -> tuple[int, int]:
    """Return the peak of all tensors, and of those that autograd keeps, in bytes.

    Two steps of 8 rows; weights are such that bfloat16 holds them, as those of most files.
    """
    from harness.config import composition
    from harness.methods.contract import tiny
    from harness.methods.objective.sft import Sft

    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "intermediate_size": MLP, "vocab_size": VOCABULARY}
    config = AutoConfig.for_model("llama", **sizes, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    start: Any = tiny.seeded(lambda: AutoModelForCausalLM.from_config(config).bfloat16().float())
    base = tiny.copied(start.state_dict())
    model: Any = tuning.prepare(start, 0)
    chosen = dataclasses.replace(composition.member("mitigation", mitigation), **SETTINGS[mitigation])
    rows = [_row(number) for number in range(2 * ROWS)]
    steps, anchor = [rows[:ROWS], rows[ROWS:]], [_row(number, "anchor") for number in range(16)]
    steps = chosen.mix(steps, anchor)
    saved = Saved(list(model.parameters()))
    with Peak() as peak, saved:
        peak.given(*model.parameters())
        dtype = "bfloat16" if half else "float32"
        options: dict[str, Any] = {"max_length": LENGTH, "dtype": dtype, "tuning": tuning, "base": base}
        tiny.run(model, steps, Sft(), mitigation=chosen, anchor=anchor, **options)
    return peak.most, saved.most


def _row(number: int, origin: Any = "target") -> Any:
    from harness.core.rows import Example

    ids = tuple(3 + (7 * number + place) % 1000 for place in range(LENGTH))
    return Example(ids, (True,) * LENGTH, origin, row_id=f"{origin} {number}")


def main() -> None:
    """Print the table."""
    from harness.methods.tuning.full import Full
    from harness.methods.tuning.lora import Lora

    torch.set_num_threads(os.cpu_count() or 1)
    names = " | ".join(f"{name} {what}" for name in ("full", "lora") for what in ("peak", "kept"))
    sys.stdout.write(f"| mitigation | {names} |\n|---|---|---|---|---|\n")
    for mitigation in sys.argv[1:] or SETTINGS:
        found = [size for tuning in (Full(), Lora()) for size in measured(mitigation, tuning, half=True)]
        sys.stdout.write(f"| {mitigation} | " + " | ".join(f"{size / MIB:.0f}" for size in found) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
