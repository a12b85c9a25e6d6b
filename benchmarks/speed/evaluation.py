"""`make bench-eval`: the class `prefix` beside lm-eval's HFLM, in one run, in turn, on real suites: speed, memory, and the scores.

Each case is a task with a number of examples. HFLM is tried once at batch sizes 1, 8 and 32 and the best goes on; then both run in
turn. The speed-up is the median over the pairs of the ratio of their times, tokenisation included. What must be computed (each shared
token once, the output head at wanted places) is counted in floating-point operations and set beside the rate that plain matrix
products of the model's own shapes reach on this machine at that time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parent / "tasks"
DEFAULT_OUTPUT = Path(__file__).resolve().parent / "evaluation.json"
BATCH_SIZES = (1, 8, 32)
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Case:
    """A task with so many examples before each question, and how many of its items are timed."""

    group: str
    task: str
    shots: int
    items: int


WORDED = {
    "bigbench_social_iqa_multiple_choice": (48, 16),
    "bigbench_hhh_alignment_multiple_choice": (24, 8),
    "bigbench_bbq_lite_json_multiple_choice": (32, 12),
    "bigbench_swahili_english_proverbs_multiple_choice": (32, 12),
    "bigbench_cause_and_effect_multiple_choice": (48, 16),
    "bigbench_hindu_knowledge_multiple_choice": (48, 16),
    "bigbench_strategyqa_multiple_choice": (64, 16),
}
"""Multiple choice with 2 to 6 worded choices: task, and items without and with examples."""

CASES = [
    *[Case("worded, zero-shot", task, 0, items) for task, (items, _) in WORDED.items()],
    *[Case("worded, five-shot", task, 5, items) for task, (_, items) in WORDED.items()],
    Case("letters, zero-shot", "speed_letters_social_iqa", 0, 64),
    Case("letters, five-shot", "speed_letters_social_iqa", 5, 48),
    Case("blimp", "blimp_anaphor_gender_agreement", 0, 100),
    Case("blimp", "blimp_wh_island", 0, 100),
    Case("blimp", "blimp_principle_A_reconstruction", 0, 100),
    Case("rolling perplexity", "speed_rolling_gsm8k", 0, 24),
    Case("generation, five-shot", "gsm8k", 5, 8),
]

REACH = {
    "worded, zero-shot": 2.5,
    "worded, five-shot": 7.0,
    "worded, both": 4.5,
    "letters, zero-shot": 1.0,
    "letters, five-shot": 4.0,
    "blimp": 1.5,
    "rolling perplexity": 1.0,
    "generation, five-shot": 2.0,
}
"""The speed-up each group is meant to reach, geometric mean over its cases; no worded case under ``LEAST_WORDED``."""

LEAST_WORDED = 1.2


@dataclass
class Measurement:
    """One call on one case."""

    seconds: float
    peak_bytes: int
    answers: list[Any]


@dataclass
class Found:
    """What a case gave; log-likelihoods in nats, memory in bytes."""

    case: Case
    requests: int
    hf_batch_size: int
    hf_seconds: float
    prefix_seconds: float
    speedup: float
    largest_difference: float | None
    flags_that_differ: int
    texts_that_differ: int
    accuracy_hf: float | None
    accuracy_prefix: float | None
    tokens_asked: int | None
    tokens_computed: int | None
    matmul_share: float | None
    hf_peak_bytes: int
    prefix_peak_bytes: int


def requests_of(case: Case) -> tuple[Any, list[Any]]:
    """Return a case's task and its lm-eval requests."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS))
    task = manager.load([case.task])["tasks"][case.task]
    task.set_config(key="num_fewshot", value=case.shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    chosen = list(range(case.shots, case.shots + case.items))  # past the examples of a task that always takes the first
    task.build_all_requests(samples=[index for index in chosen if index < len(task.eval_docs)])
    return task, task.instances


def measure(lm: Any, requests: Sequence[Any]) -> Measurement:
    """Answer requests once and say how long it took and how much memory was held at most."""
    from harness import provenance

    provenance.reset_peak_memory()
    kind = requests[0].request_type
    began = time.perf_counter()
    answers = getattr(lm, kind)(list(requests), disable_tqdm=True)
    return Measurement(time.perf_counter() - began, provenance.peak_memory_bytes(), answers)


def compare(case: Case, hf: Callable[[int], Any], prefix: Any, pairs: int, rate: Callable[[], float]) -> Found:
    """Time both classes on one case, in turn."""
    task, requests = requests_of(case)
    first = {size: measure(hf(size), requests) for size in BATCH_SIZES}
    best = min(first, key=lambda size: first[size].seconds)
    measure(prefix, requests)
    ours, theirs, rates = [], [], []
    for _ in range(pairs):
        rates.append(rate())
        ours.append(measure(prefix, requests))
        theirs.append(measure(hf(best), requests))
    computed = prefix.engine.computed
    asked = _tokens_asked(prefix, requests)
    operations = prefix.engine.operations
    seconds = statistics.median(item.seconds for item in ours)
    reference, answers = theirs[-1].answers, ours[-1].answers
    return Found(
        case=case,
        requests=len(requests),
        hf_batch_size=best,
        hf_seconds=statistics.median(item.seconds for item in theirs),
        prefix_seconds=seconds,
        speedup=statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)),
        largest_difference=_difference(reference, answers),
        flags_that_differ=sum(a[1] != b[1] for a, b in zip(reference, answers, strict=True) if isinstance(a, tuple)),
        texts_that_differ=sum(a != b for a, b in zip(reference, answers, strict=True) if isinstance(a, str)),
        accuracy_hf=_accuracy(task, requests, reference),
        accuracy_prefix=_accuracy(task, requests, answers),
        tokens_asked=asked,
        tokens_computed=computed,
        matmul_share=operations / seconds / statistics.median(rates),
        hf_peak_bytes=max(item.peak_bytes for item in theirs),
        prefix_peak_bytes=max(item.peak_bytes for item in ours),
    )


def _difference(reference: Sequence[Any], answers: Sequence[Any]) -> float | None:
    value = lambda answer: answer[0] if isinstance(answer, tuple) else answer  # noqa: E731
    if isinstance(reference[0], str):
        return None
    return max(abs(value(a) - value(b)) for a, b in zip(reference, answers, strict=True))


def _accuracy(task: Any, requests: Sequence[Any], answers: Sequence[Any]) -> float | None:
    """Return the mean of the task's accuracy over its items, as lm-eval computes it."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    by_item: dict[int, list[Any]] = {}
    for request, answer in zip(requests, answers, strict=True):
        by_item.setdefault(request.doc_id, []).append((request, answer))
    scores = [
        float(task.process_results(found[0][0].doc, [answer for _, answer in found])["acc"])
        for found in by_item.values()
    ]
    return statistics.mean(scores)


def _tokens_asked(lm: Any, requests: Sequence[Any]) -> int:
    return sum(len(lm.tok_encode("".join(part for part in request.args if isinstance(part, str)))) for request in requests)


def matmul_rate(model: Any, rows: int = 1024) -> float:
    """Return the operations a second of matrix products of the model's own linear shapes, on this machine, now."""
    import torch

    shapes = [tuple(module.weight.shape) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unique = {shape: shapes.count(shape) for shape in shapes}
    dtype = model.dtype
    total, seconds = 0.0, 0.0
    for (wide, narrow), count in unique.items():
        if wide > 8 * narrow:  # the output head, which few tokens pass
            continue
        x, w = torch.randn(rows, narrow, dtype=dtype, device=model.device), torch.randn(wide, narrow, dtype=dtype, device=model.device)
        torch.nn.functional.linear(x, w)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.linear(x, w)
            _synchronise()
            times.append(time.perf_counter() - began)
        total += count * 2.0 * rows * wide * narrow
        seconds += count * statistics.median(times)
    return total / seconds


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(found: Sequence[Found]) -> dict[str, float]:
    """Return the geometric mean of the speed-ups by group."""
    groups: dict[str, list[float]] = {}
    for item in found:
        groups.setdefault(item.case.group, []).append(item.speedup)
    worded = [value for name in ("worded, zero-shot", "worded, five-shot") for value in groups.get(name, [])]
    if worded:
        groups["worded, both"] = worded
    return {name: math.exp(statistics.mean(map(math.log, values))) for name, values in groups.items()}


def show(found: Sequence[Found], rate: float, dtype: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    table = Table(title=f"prefix beside HFLM ({dtype}); matrix products of the model's shapes reach {rate / 1e9:.0f} GFLOP/s")
    for name in ["task", "shots", "requests", "HFLM s (batch)", "prefix s", "speed-up", "largest Δ nats", "flags", "texts", "accuracy"]:
        table.add_column(name, justify="left" if name == "task" else "right")
    for name in ["tokens once / asked", "of matmul rate", "memory"]:
        table.add_column(name, justify="right")
    for item in found:
        accuracy = "-" if item.accuracy_hf is None else f"{item.accuracy_hf:.3f} {item.accuracy_prefix:.3f}"
        table.add_row(
            item.case.task.removeprefix("bigbench_").removesuffix("_multiple_choice"),
            str(item.case.shots),
            str(item.requests),
            f"{item.hf_seconds:.2f} ({item.hf_batch_size})",
            f"{item.prefix_seconds:.2f}",
            f"{item.speedup:.2f}",
            "-" if item.largest_difference is None else f"{item.largest_difference:.1e}",
            str(item.flags_that_differ),
            str(item.texts_that_differ),
            accuracy,
            f"{item.tokens_computed} / {item.tokens_asked}",
            f"{100 * (item.matmul_share or 0):.0f}%",
            f"{item.prefix_peak_bytes / item.hf_peak_bytes:.2f}",
        )
    console.print(table)
    groups = Table(title="geometric mean of the speed-ups")
    for name in ["group", "speed-up", "meant to reach", ""]:
        groups.add_column(name)
    for name, value in summary(found).items():
        groups.add_row(name, f"{value:.2f}", f"{REACH[name]:.1f}", "reached" if value >= REACH[name] else "not reached")
    slowest = [item.speedup for item in found if item.case.group.startswith("worded")]
    if slowest:
        verdict = "reached" if min(slowest) >= LEAST_WORDED else "not reached"
        groups.add_row("worded, slowest suite", f"{min(slowest):.2f}", f"{LEAST_WORDED:.1f}", verdict)
    console.print(groups)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="offline/SmolLM2-135M-Instruct-Q4", help="name or folder")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each class, in turn")
    parser.add_argument("--only", default="", help="cases whose group or task contains this")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--token-budget", type=int, default=None)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    logging.disable(logging.WARNING)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import harness.evaluation  # noqa: F401 - registers prefix
    from harness import provenance
    from lm_eval.api.registry import get_model

    torch.set_num_threads(arguments.threads)
    dtype = getattr(torch, arguments.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).to(device)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    except OSError as error:
        sys.stderr.write(f"bench-eval: {arguments.model}: got {str(error).splitlines()[0]}; fix: set HF_HOME, or pass --model\n")
        return 2
    shared = {"pretrained": model, "tokenizer": tokenizer, "softmax_dtype": "float32"}
    prefix = get_model("prefix")(**shared, token_budget=arguments.token_budget)
    hf = lambda size: get_model("hf")(**shared, batch_size=size)  # noqa: E731
    rate = lambda: matmul_rate(model)  # noqa: E731
    found = []
    for case in CASES:
        if arguments.only in f"{case.group} {case.task}":
            sys.stderr.write(f"{case.group}: {case.task}\n")
            found.append(compare(case, hf, prefix, arguments.pairs, rate))
    speed = rate()
    show(found, speed, arguments.dtype)
    written = {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "token_budget": prefix.engine.tokens,
        "matmul_flops_per_second": speed,
        "provenance": provenance.collect() | {"command": "make bench-eval"},
        "geometric_means": summary(found),
        "meant_to_reach": REACH,
        "cases": [asdict(item) for item in found],
    }
    arguments.output.write_text(json.dumps(written, indent=1) + "\n")
    sys.stderr.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
