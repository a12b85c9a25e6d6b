"""`make test-exact`: `prefix` against HFLM on a real model and the project's suites.

It needs a hub on disk and a quarter of an hour.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from harness.evaluation import evaluator, suites
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.prefix.lm import PrefixLM
from harness.methods.tuning.lora import Lora
from harness.models.hub import HubModel

pytestmark = pytest.mark.hub

MODEL = "offline/SmolLM2-135M-Instruct-Q4"
MAX_LENGTH = 2048
TOLERANCE = 1e-3
ITEMS = int(os.environ.get("HARNESS_EXACT_ITEMS", "0"))
"""Items of every task, for a quick try; 0 takes the numbers below."""

Table = list[tuple[str, ...]]

SUITES = [
    ("blimp", 0, 1),  # items in each of 67 tasks
    ("commonsense", 0, 6),
    ("commonsense", 5, 2),
    ("values", 0, 6),
    ("medicine", 0, 6),
    ("medicine", 5, 2),
]
GENERATED = [("math", 5, 2), ("reasoning", 0, 1)]
REASONING = 4
"""Number of its 27 tasks that are asked."""


@pytest.fixture(scope="module")
def source() -> HubModel:
    return HubModel(name=MODEL)


@pytest.fixture(scope="module")
def model(source: HubModel) -> Iterator[Any]:
    """In float32, on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    yield source.load().eval()
    torch.set_num_threads(threads)


class Classes:
    """Both classes on one model, and their answers."""

    def __init__(self, model: Any, tokenizer: Any, **changes: Any) -> None:
        arguments = {"pretrained": model, "tokenizer": tokenizer, "max_length": MAX_LENGTH, "softmax_dtype": "float32"} | changes
        self.hf, self.prefix = HFLM(batch_size=1, **arguments), PrefixLM(**arguments)

    def ask(self, kind: str, requests: list[Instance]) -> tuple[list[Any], list[Any], float, float]:
        """Return the answers of HFLM and of ``prefix``, and the seconds of each."""
        answers, seconds = [], []
        for lm in (self.hf, self.prefix):
            began = time.perf_counter()
            answers.append(getattr(lm, kind)(requests, disable_tqdm=True))
            seconds.append(time.perf_counter() - began)
        assert self.prefix.plain_requests == 0
        return answers[0], answers[1], seconds[0], seconds[1]

    def tokens(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return a request as HFLM's tokens."""
        if not context:
            return [self.hf.prefix_token_id], self.hf.tok_encode(continuation)
        before, after = self.hf._encode_pair(context, continuation)
        return before, after

    def gap(self, context: str, continuation: str) -> float:
        """Return the smallest gap of the two best tokens in a continuation, by HFLM's logits."""
        before, after = self.tokens(context, continuation)
        ids = [*before, *after][-(MAX_LENGTH + 1) :][:-1]
        best = self.hf._model_call(torch.tensor([ids]))[0, -len(after) :].float().log_softmax(dim=-1).topk(2).values
        return float((best[:, 0] - best[:, 1]).min())


@pytest.fixture(scope="module")
def classes(model: Any, source: HubModel) -> Classes:
    return Classes(model, source.tokenizer())


def tasks(name: str, shots: int, items: int) -> dict[str, Any]:
    """Return a suite's tasks with their requests built."""
    suite = dataclasses.replace(suites.load(name), num_fewshot=shots, report=ITEMS or items, select=0)
    prepared = evaluator.prepare(suite, HfEvaluation())
    for task in prepared.tasks.values():
        task.set_fewshot_seed(seed=1234)
        task.build_all_requests(limit=None, samples=None, rank=0, world_size=1)
    return dict(prepared.tasks)


def judged(made: dict[str, Any], answers: list[Any]) -> list[dict[str, Any]]:
    """Return lm-eval's judgement of each item of some tasks, from ordered answers."""
    found: list[dict[str, Any]] = []
    left = iter(answers)
    for task in made.values():
        given: dict[tuple[str, int], list[Any]] = {}
        for request in task.instances:
            request.resps = [next(left)]
        task.apply_filters()
        for request in task.instances:
            for name, response in request.filtered_resps.items():
                given.setdefault((name, request.doc_id), []).append(response)
        docs = {request.doc_id: request.doc for request in task.instances}
        found += [{"filter": name} | task.process_results(docs[number], responses) for (name, number), responses in given.items()]
    return found


def mean(judged: list[dict[str, Any]], suite: str) -> str:
    metric = suites.load(suite)
    values = [item[metric.metric] for item in judged if item["filter"] == metric.filter]
    return f"{sum(values) / len(values):.3f}"


def compare(classes: Classes, name: str, shots: int, items: int, table: Table, label: str = "base") -> None:
    """Score a suite with both, add a line to the table, assert agreement."""
    made = tasks(name, shots, items)
    requests = [request for task in made.values() for request in task.instances]
    one, other, slow, fast = classes.ask("loglikelihood", requests)
    worst = max(abs(a[0] - b[0]) for a, b in zip(one, other, strict=True))
    pairs = zip(requests, one, other, strict=True)
    gaps = [classes.gap(*request.args) for request, a, b in pairs if a[1] != b[1]]
    first, second = judged(made, one), judged(made, other)
    flags = f"{len(gaps)}{''.join(f' ({gap:.0e})' for gap in gaps)}"
    asked = sum(sum(map(len, classes.tokens(*request.args))) - 1 for request in requests)
    line = (name, str(shots), label, str(len(requests)), f"{worst:.1e}", flags, mean(first, name), mean(second, name))
    table.append((*line, f"{classes.prefix.engine.computed} of {asked}", f"{slow:.1f}", f"{fast:.1f}"))
    assert worst < TOLERANCE
    assert all(gap < TOLERANCE for gap in gaps)
    assert first == second


@pytest.mark.parametrize(("name", "shots", "items"), SUITES)
def test_suites_by_choice(classes: Classes, name: str, shots: int, items: int, table: Table) -> None:
    """Log-likelihoods within 0.001 nats; the same flags and judgement of every item."""
    compare(classes, name, shots, items, table)


@pytest.mark.parametrize("merge", [False, True], ids=["active", "merged"])
def test_an_adapter_that_has_learned(source: HubModel, merge: bool, table: Table) -> None:
    """Separate from the weights and merged into them."""
    wrapped: Any = Lora(rank=8).prepare(source.load(), 0)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02, generator=draw)
    wrapped = (wrapped.merge_and_unload() if merge else wrapped).eval()
    compare(Classes(wrapped, source.tokenizer()), "commonsense", 0, 4, table, "LoRA merged" if merge else "LoRA active")


def test_whole_texts(classes: Classes, model: Any, source: HubModel, table: Table) -> None:
    """Worked answers of math, in windows of 64 tokens."""
    from harness.data.sources import Hub

    rows = Hub(name="openai/gsm8k", config="main", splits={"test": "test[:8]"}, kind="completion", fields=ANSWERS).rows("test")
    short = Classes(model, source.tokenizer(), max_length=64)
    texts = [Instance("loglikelihood_rolling", {}, (row.turns[0].content + row.turns[1].content,), i) for i, row in enumerate(rows)]
    one, other, slow, fast = short.ask("loglikelihood_rolling", texts)
    worst = max(abs(first - second) for first, second in zip(one, other, strict=True))
    table.append(("gsm8k, rolling", "", "base", str(len(texts)), f"{worst:.1e}", "", "", "", "", f"{slow:.1f}", f"{fast:.1f}"))
    assert worst < TOLERANCE


ANSWERS = {"prompt": "Question: {{ question }}\nAnswer:", "completion": " {{ answer }}"}


@pytest.mark.parametrize(("name", "shots", "items"), GENERATED)
def test_suites_by_generation(classes: Classes, name: str, shots: int, items: int, table: Table) -> None:
    """The same answers, token for token."""
    made = tasks(name, shots, items)
    made = dict(list(made.items())[:: max(1, len(made) // REASONING)][:REASONING])
    requests = [request for task in made.values() for request in task.instances]
    one, other, slow, fast = classes.ask("generate_until", requests)
    first, second = judged(made, one), judged(made, other)
    same = sum(a == b for a, b in zip(one, other, strict=True))
    line = (
        name,
        str(shots),
        "base",
        str(len(requests)),
        "",
        f"{same} of {len(one)} texts equal",
        mean(first, name),
        mean(second, name),
    )
    table.append((*line, "", f"{slow:.1f}", f"{fast:.1f}"))
    assert other == one
