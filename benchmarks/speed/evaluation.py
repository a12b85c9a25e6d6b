"""`make bench-eval`: `prefix` against lm-eval's HFLM on real suites: speed, memory, scores.

Each case is a task with a number of examples. Both classes are warmed up, and HFLM takes the best
of the batch sizes 1, 8 and 32 on a third of the items (or ``--batch``); then both run in turn, each
first every other time, and with ``--against FOLDER`` the ``prefix`` of another checkout too, in a
process of its own. The speed-up is the median over the pairs of the ratio of their times,
tokenisation included; "over before" is that of the other checkout's times to ours.

The operations that any arrangement needs (each token with a different past once, its attention, the
output head at wanted places) are counted in floating-point operations. "Of operations" is HFLM's
number as a multiple of these; "of matmul rate" is their rate as a share of the rate that plain
matrix products of the model's own shapes reach on this machine at that time. Peak memory is that of
a separate process, for the first case of each group.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation_cases import CASES, LEAST_WORDED, MOST_MEMORY, REACH, Case, requests_of
from evaluation_models import CLOCKS, Measurement, Other, loaded, matmul_rate, measure, mixed, quiet

DEFAULT_OUTPUT = Path(__file__).resolve().parent / "evaluation.json"
BATCH_SIZES = (1, 8, 32)


@dataclass
class Found:
    """Result of a case; log-likelihoods in nats, memory in bytes."""

    case: Case
    requests: int
    hf_batch_size: int
    hf_seconds_tried: dict[int, float]
    hf_seconds: float
    prefix_seconds: float
    speedup: float
    before_seconds: float | None
    over_before: float | None
    before_difference: float | None
    operations_ratio: float | None
    largest_difference: float | None
    flags_that_differ: int
    texts_that_differ: int
    accuracy_hf: float | None
    accuracy_prefix: float | None
    tokens_asked: int | None
    tokens_computed: int | None
    matmul_share: float | None
    hf_peak_bytes: int | None
    prefix_peak_bytes: int | None
    facts: dict[str, Any]


@dataclass
class Classes:
    """The classes to compare on one model.

    Attributes:
        hf: lm-eval's, by batch size.
        prefix: of this checkout.
        other: measures the first items of a case (None: all) with ``prefix`` of another checkout.
        rate: current rate of matrix products.
        clock: of the times.
        batch: HFLM's batch size; None tries several.
    """

    hf: Callable[[int], Any]
    prefix: Any
    other: Callable[[int | None], Measurement] | None
    rate: Callable[[], float]
    clock: str
    batch: int | None


def _best_batch(classes: Classes, requests: Sequence[Any]) -> dict[int, Measurement]:
    """Return measurements of a third of the items by batch size, the best one first."""
    third = [request for request in requests if request.doc_id <= requests[len(requests) // 3].doc_id]
    sizes = [classes.batch] if classes.batch else BATCH_SIZES
    tried = {size: measure(classes.hf(size), third, classes.clock) for size in sizes}
    return dict(sorted(tried.items(), key=lambda item: item[1].seconds))


def compare(case: Case, classes: Classes, pairs: int) -> Found:
    """Time the classes on one case, in turn."""
    task, requests = requests_of(case)
    prefix, clock = classes.prefix, classes.clock
    few = requests[: max(4, len(requests) // 8)]
    measure(classes.hf(1), few)
    tried = _best_batch(classes, requests)
    best = next(iter(tried))
    measure(prefix, few)
    ours, theirs, others, rates = [], [], [], []
    runs: list[Callable[[], None]] = [
        lambda: ours.append(measure(prefix, requests, clock)),
        lambda: theirs.append(measure(classes.hf(best), requests, clock)),
    ]
    if (other := classes.other) is not None:
        other(len(few))
        runs.insert(1, lambda: others.append(other(None)))
    for turn in range(pairs):
        rates.append(classes.rate())
        for run in runs if turn % 2 == 0 else reversed(runs):
            run()
    computed, operations = prefix.engine.computed, prefix.engine.operations
    facts = {"plain_requests": prefix.plain_requests, "halvings": prefix.engine.halvings, "token_budget": prefix.engine.tokens}
    asked = _tokens_asked(prefix, requests)
    seconds = statistics.median(item.seconds for item in ours)
    reference, answers = theirs[-1].answers, ours[-1].answers
    return Found(
        case=case,
        requests=len(requests),
        hf_batch_size=best,
        hf_seconds_tried={size: item.seconds for size, item in tried.items()},
        hf_seconds=statistics.median(item.seconds for item in theirs),
        prefix_seconds=seconds,
        speedup=_ratio(theirs, ours) or 0.0,
        before_seconds=statistics.median(item.seconds for item in others) if others else None,
        over_before=_ratio(others, ours),
        before_difference=_difference(others[-1].answers, answers) if others else None,
        operations_ratio=_operations_of_hf(prefix, requests) / operations if requests[0].request_type == "loglikelihood" else None,
        largest_difference=_difference(reference, answers),
        flags_that_differ=sum(a[1] != b[1] for a, b in zip(reference, answers, strict=True) if isinstance(a, tuple)),
        texts_that_differ=sum(a != b for a, b in zip(reference, answers, strict=True) if isinstance(a, str)),
        accuracy_hf=_accuracy(task, requests, reference),
        accuracy_prefix=_accuracy(task, requests, answers),
        tokens_asked=asked,
        tokens_computed=computed,
        matmul_share=operations / seconds / statistics.median(rates),
        hf_peak_bytes=None,
        prefix_peak_bytes=None,
        facts=facts,
    )


def _ratio(theirs: Sequence[Measurement], ours: Sequence[Measurement]) -> float | None:
    """Return the median over pairs of their time over ours."""
    return statistics.median(b.seconds / a.seconds for a, b in zip(ours, theirs, strict=True)) if theirs else None


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
    scores = [float(task.process_results(found[0][0].doc, [answer for _, answer in found])["acc"]) for found in by_item.values()]
    return statistics.mean(scores)


def _operations_of_hf(lm: Any, requests: Sequence[Any]) -> float:
    """Return the floating-point operations of HFLM without padding.

    It runs a context once for answers of one token, and computes all logits.
    """
    from harness.evaluation.prefix import budget

    linear, pair, head = budget.operations(lm.model)
    rows = set()
    for request in requests:
        context, continuation = request.args
        if context:
            before, after = lm._encode_pair(context, continuation)
        else:
            before, after = [lm.prefix_token_id], lm.tok_encode(continuation)
        rows.add(tuple([*before, *after][:-1]))
    return float(sum((linear + head) * len(row) + pair * len(row) ** 2 / 2 for row in rows))


def _tokens_asked(lm: Any, requests: Sequence[Any]) -> int:
    return sum(len(lm.tok_encode("".join(part for part in request.args if isinstance(part, str)))) for request in requests)


def _peak(arguments: argparse.Namespace, case: int, batch: int) -> int:
    """Return the peak memory of one class on one case, in a separate process."""
    same = ["--model", arguments.model, "--dtype", arguments.dtype, "--threads", str(arguments.threads)]
    command = [sys.executable, __file__, *same, "--peak", str(case), str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def summary(found: Sequence[Found]) -> dict[str, float]:
    """Return the geometric mean of the speed-ups by group, and those of all cases."""
    groups: dict[str, list[float]] = {}
    for item in found:
        groups.setdefault(item.case.group, []).append(item.speedup)
    worded = [value for name in ("worded, zero-shot", "worded, five-shot") for value in groups.get(name, [])]
    if worded:
        groups["worded, both"] = worded
    groups["all cases"] = [item.speedup for item in found]
    if before := [item.over_before for item in found if item.over_before]:
        groups["all cases, over before"] = before
    return {name: math.exp(statistics.mean(map(math.log, values))) for name, values in groups.items()}


def show(found: Sequence[Found], rate: float, dtype: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=200)
    table = Table(title=f"prefix against HFLM ({dtype}); matrix products of the model's shapes reach {rate / 1e9:.0f} GFLOP/s")
    names = ["task", "shots", "requests", "HFLM s (batch)", "prefix s", "speed-up", "before s", "over before", "of operations"]
    for name in [*names, "largest Δ nats", "flags", "texts", "accuracy", "computed / asked", "of matmul rate", "peak memory"]:
        table.add_column(name, justify="left" if name == "task" else "right")
    for item in found:
        accuracy = "-" if item.accuracy_hf is None else f"{item.accuracy_hf:.3f} {item.accuracy_prefix:.3f}"
        table.add_row(
            item.case.task.removeprefix("bigbench_").removesuffix("_multiple_choice"),
            f"{item.case.shots}{' same' if item.case.same_shots else ''}",
            str(item.requests),
            f"{item.hf_seconds:.2f} ({item.hf_batch_size})",
            f"{item.prefix_seconds:.2f}",
            f"{item.speedup:.2f}",
            "-" if item.before_seconds is None else f"{item.before_seconds:.2f}",
            "-" if item.over_before is None else f"{item.over_before:.2f}",
            "-" if item.operations_ratio is None else f"{item.operations_ratio:.2f}",
            "-" if item.largest_difference is None else f"{item.largest_difference:.1e}",
            str(item.flags_that_differ),
            str(item.texts_that_differ),
            accuracy,
            f"{item.tokens_computed} / {item.tokens_asked}",
            f"{100 * (item.matmul_share or 0):.0f}%",
            "-" if not (item.prefix_peak_bytes and item.hf_peak_bytes) else f"{item.prefix_peak_bytes / item.hf_peak_bytes:.2f}",
        )
    console.print(table)
    groups = Table(title="geometric mean of the speed-ups")
    for name in ["group", "speed-up", "target", ""]:
        groups.add_column(name)
    for name, value in summary(found).items():
        target = REACH.get(name)
        verdict = "" if target is None else "reached" if value >= target else "not reached"
        groups.add_row(name, f"{value:.2f}", "" if target is None else f"{target:.1f}", verdict)
    slowest = [item.speedup for item in found if item.case.group.startswith("worded")]
    memory = [item.prefix_peak_bytes / item.hf_peak_bytes for item in found if item.prefix_peak_bytes and item.hf_peak_bytes]
    if memory:
        verdict = "kept" if max(memory) <= MOST_MEMORY else "not kept"
        groups.add_row("largest peak memory, over HFLM's", f"{max(memory):.2f}", f"at most {MOST_MEMORY:.1f}", verdict)
    if slowest:
        verdict = "reached" if min(slowest) >= LEAST_WORDED else "not reached"
        groups.add_row("worded, slowest suite", f"{min(slowest):.2f}", f"{LEAST_WORDED:.1f}", verdict)
    console.print(groups)


def _asked_for(case: Case, only: str) -> bool:
    return any(word in f"{case.group} {case.task}" for word in only.split(";"))


def half(lm: Any, other: Any, pairs: int, only: str) -> list[dict[str, Any]]:
    """Compare bfloat16 with float32, both through prefix: speed and scores, by task."""
    found = []
    for case in CASES:
        if case.gemma or not _asked_for(case, only) or case.group.startswith(("generation", "rolling")):
            continue
        task, requests = requests_of(case)
        measure(other, requests[:8])
        times = [(measure(lm, requests), measure(other, requests)) for _ in range(pairs)]
        before, after = times[-1][0].answers, times[-1][1].answers
        moved = [abs(a[0] - b[0]) for a, b in zip(before, after, strict=True)]
        chosen = [_choices(requests, answers) for answers in (before, after)]
        found.append(
            {
                "task": case.task,
                "shots": case.shots,
                "items": len(chosen[0]),
                "speedup": statistics.median(a.seconds / b.seconds for a, b in times),
                "median_difference_nats": statistics.median(moved),
                "largest_difference_nats": max(moved),
                "accuracy_float32": _accuracy(task, requests, before),
                "accuracy_bfloat16": _accuracy(task, requests, after),
                "answers_that_differ": sum(a != b for a, b in zip(*chosen, strict=True)),
            }
        )
        sys.stdout.write(f"{json.dumps(found[-1])}\n")
    return found


def _choices(requests: Sequence[Any], answers: Sequence[Any]) -> list[int]:
    """Return the likeliest choice of each item."""
    by_item: dict[int, list[float]] = {}
    for request, answer in zip(requests, answers, strict=True):
        by_item.setdefault(request.doc_id, []).append(answer[0])
    return [values.index(max(values)) for values in by_item.values()]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="name or folder")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each class, in turn")
    parser.add_argument("--only", default="", help="cases whose group or task contains one of these words, separated by ;")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the weights")
    parser.add_argument("--batch", type=int, default=None, help="batch size of HFLM; by default the best of 1, 8 and 32")
    parser.add_argument("--against", type=Path, default=None, help="another checkout, whose prefix is timed in the same run")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="processor: for busy machines, with --threads 1")
    parser.add_argument("--mixed", action="store_true", help="all classes in bfloat16 mixed precision")
    parser.add_argument("--half", action="store_true", help="compare prefix in bfloat16 (mixed precision) with prefix in float32 instead")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--token-budget", type=int, default=None)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "BATCH"), help="print the peak memory of one case alone; batch 0 is prefix")
    return parser.parse_args()


def _classes(arguments: argparse.Namespace, shared: dict[str, Any], other: Other | None, number: int) -> Classes:
    """Return the classes of a case."""
    from lm_eval.api.registry import get_model

    more = mixed(arguments.mixed)
    return Classes(
        hf=lambda size: get_model("hf")(**shared, **more, batch_size=size),
        prefix=get_model("prefix")(**shared, **more, token_budget=arguments.token_budget),
        other=None if other is None else lambda requests: other.measure(number, requests),
        rate=lambda: matmul_rate(shared["pretrained"], CLOCKS[arguments.clock]),
        clock=arguments.clock,
        batch=arguments.batch,
    )


def _compare_all(
    arguments: argparse.Namespace, models: Callable[[bool], dict[str, Any]], save: Callable[[list[Found]], None]
) -> list[Found]:
    found: list[Found] = []
    other = Other(arguments.against, arguments) if arguments.against else None
    for number, case in enumerate(CASES):
        if not _asked_for(case, arguments.only):
            continue
        item = compare(case, _classes(arguments, models(case.gemma), other, number), arguments.pairs)
        if not other and case.group not in {one.case.group for one in found}:
            item.hf_peak_bytes, item.prefix_peak_bytes = _peak(arguments, number, item.hf_batch_size), _peak(arguments, number, 0)
        before = "" if item.over_before is None else f", over before {item.over_before:.2f}"
        sys.stderr.write(f"{case.group}: {case.task}: {item.speedup:.2f}{before}\n")
        found.append(item)
        save(found)
    return found


def main() -> int:
    """Run the benchmark."""
    arguments = _arguments()
    quiet()

    import torch

    import harness.evaluation  # noqa: F401 - registers prefix
    from harness.records import provenance

    torch.set_num_threads(arguments.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    models = functools.cache(lambda gemma: loaded(arguments.model, arguments.dtype, gemma=gemma))
    if arguments.peak:
        number, batch = map(int, arguments.peak)
        classes = _classes(arguments, models(CASES[number].gemma), None, number)
        sys.stdout.write(f"{measure(classes.hf(batch) if batch else classes.prefix, requests_of(CASES[number])[1]).peak_bytes}\n")
        return 0
    try:
        classes = _classes(arguments, models(False), None, 0)
    except OSError as error:
        sys.stderr.write(f"bench-eval: {arguments.model}: got {str(error).splitlines()[0]}; fix: set HF_HOME, or pass --model\n")
        return 2
    written: dict[str, Any] = {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "clock": arguments.clock,
        "token_budget": classes.prefix.engine.tokens,
        "matmul_flops_per_second": classes.rate(),
        "provenance": provenance.collect() | {"command": "make bench-eval"},
    }
    if arguments.half:
        other = _classes(argparse.Namespace(**vars(arguments) | {"mixed": True}), models(False), None, 0).prefix
        written["bfloat16"] = half(classes.prefix, other, arguments.pairs, arguments.only)
        arguments.output.write_text(json.dumps(written, indent=1) + "\n")
    else:

        def save(found: list[Found]) -> None:
            more = {"geometric_means": summary(found), "meant_to_reach": REACH, "cases": [asdict(item) for item in found]}
            arguments.output.write_text(json.dumps(written | more, indent=1) + "\n")

        show(_compare_all(arguments, models, save), written["matmul_flops_per_second"], arguments.dtype)
    sys.stderr.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
