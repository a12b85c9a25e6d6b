"""Models of `bench-eval`, and ``prefix`` of another checkout in a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation_cases import CASES, requests_of

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Processor time is comparable on a busy machine, with one thread: threads that wait burn it."""

GEMMA: dict[str, Any] = {
    **{"vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4, "num_key_value_heads": 1},
    **{"head_dim": 256, "sliding_window": 512, "num_hidden_layers": 6, "max_position_embeddings": 8192},
    "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
}
"""Gemma 3 270M (google/gemma-3-270m, config.json), with 6 of its 18 layers."""


@dataclass
class Measurement:
    """One call on one case."""

    seconds: float
    peak_bytes: int
    answers: list[Any]


def measure(lm: Any, requests: Sequence[Any], clock: str = "wall") -> Measurement:
    """Answer requests once; return time, peak memory and answers."""
    from harness.records import provenance

    provenance.reset_peak_memory()
    kind, now = requests[0].request_type, CLOCKS[clock]
    began = now()
    answers = getattr(lm, kind)(list(requests), disable_tqdm=True)
    return Measurement(now() - began, provenance.peak_memory_bytes(), answers)


def quiet() -> None:
    """Silence the libraries."""
    warnings.simplefilter("ignore")
    os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "DATASETS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}


def loaded(name: str, dtype: str, *, gemma: bool = False) -> dict[str, Any]:
    """Load a model, or build a random one of Gemma's shape, and return what all classes share.

    Raises OSError.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if gemma:
        torch.manual_seed(0)  # noqa: TID251 - random weights, equal in both processes
        model = Gemma3ForCausalLM(Gemma3TextConfig(**GEMMA)).to(getattr(torch, dtype)).eval().to(device)
    else:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).to(device)
    return {"pretrained": model, "tokenizer": AutoTokenizer.from_pretrained(name), "softmax_dtype": "float32"}


def mixed(half: bool) -> dict[str, Any]:
    """Return the argument of both classes for bfloat16 in mixed precision."""
    return {"mixed_precision_dtype": "bfloat16"} if half else {}


def matmul_rate(model: Any, now: Callable[[], float] = time.perf_counter, rows: int = 1024) -> float:
    """Return the current rate of matrix products of the model's linear shapes.

    In operations per second, on this machine.
    """
    import torch

    shapes = [tuple(module.weight.shape) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unique = {shape: shapes.count(shape) for shape in shapes}
    dtype = model.dtype
    total, seconds = 0.0, 0.0
    for (wide, narrow), count in unique.items():
        if wide > 8 * narrow:  # the output head, applied to few tokens
            continue
        x, w = torch.randn(rows, narrow, dtype=dtype, device=model.device), torch.randn(wide, narrow, dtype=dtype, device=model.device)
        torch.nn.functional.linear(x, w)
        times = []
        for _ in range(5):
            began = now()
            torch.nn.functional.linear(x, w)
            _synchronise()
            times.append(now() - began)
        total += count * 2.0 * rows * wide * narrow
        seconds += count * statistics.median(times)
    return total / seconds


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Other:
    """``prefix`` of another checkout, measured on demand.

    Args:
        folder: the checkout; its ``harness`` is imported there.
        arguments: of the benchmark.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        given = {name: getattr(arguments, name) for name in ("model", "dtype", "threads", "clock", "mixed", "token_budget")}
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(given)],
            env=os.environ | {"PYTHONPATH": str(folder.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, case: int, requests: int | None = None) -> Measurement:
        """Answer the first requests of a case, or all."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([case, requests]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("bench-eval: the process of the other checkout ended")
        found = Measurement(**json.loads(line))
        found.answers = [tuple(answer) if isinstance(answer, list) else answer for answer in found.answers]
        return found


def _serve(given: dict[str, Any]) -> None:
    """Answer the cases that standard input names, one a line."""
    import torch
    from lm_eval.api.registry import get_model

    import harness.evaluation  # noqa: F401 - registers prefix

    torch.set_num_threads(given["threads"])
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    models: dict[bool, Any] = {}
    for line in sys.stdin:
        number, count = json.loads(line)
        case = CASES[number]
        if case.gemma not in models:
            shared = loaded(given["model"], given["dtype"], gemma=case.gemma)
            models[case.gemma] = get_model("prefix")(**shared, token_budget=given["token_budget"], **mixed(given["mixed"]))
        found = measure(models[case.gemma], requests_of(case)[1][:count], given["clock"])
        sys.stdout.write(json.dumps({"seconds": found.seconds, "peak_bytes": found.peak_bytes, "answers": found.answers}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    quiet()
    _serve(json.loads(sys.argv[1]))
