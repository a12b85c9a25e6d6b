"""Evaluation loads: the time of ``prefix``, HFLM, and transformers' continuous batching."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Mapping
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.gpu import requests
from benchmarks.gpu.models import Built
from benchmarks.gpu.report import Plan, Report
from benchmarks.gpu.scores import LONGEST, furthest
from harness.core.memory import release
from harness.core.progress import Silent
from harness.evaluation.backends import HfEvaluation, PrefixEvaluation

ROWS = 32
"""Batch size of HFLM."""

NATS = 0.5
"""Largest difference of a log-likelihood, a gross error; ``scores`` has the strict limits."""

FASTER = 1.0
"""Times of HFLM over those of ``prefix``, at least, on a GPU."""


def run(plan: Plan, report: Report) -> None:
    """Time every load with every backend that can carry it; answers have to agree."""
    source = Built(size="tiny" if plan.tiny else "llama-3.2-1b")
    model, dtype = source.load(), "float32" if plan.tiny else "bfloat16"
    backends = {"HFLM": HfEvaluation(batch_size=ROWS), "prefix": PrefixEvaluation()}
    for load, instances in _loads(plan).items():
        seconds, answers = {}, {}
        for name, backend in backends.items():
            lm: Any = backend.model(model, source.tokenizer(), LONGEST, dtype, Silent(), name)
            answer = functools.partial(getattr(lm, instances[0].request_type), disable_tqdm=True)
            answer(instances[:2])  # warm-up
            seconds[name], answers[name] = timed(functools.partial(answer, instances))
            report.measured(
                load, backend=name, requests=len(instances), seconds=seconds[name], **same_texts(answers[name], answers["HFLM"])
            )
            del lm, answer
            release(model.device)
        if plan.has_gpu:
            report.at_least(f"{load}: time of HFLM over that of prefix", seconds["HFLM"] / seconds["prefix"], FASTER)
        if instances[0].request_type == "loglikelihood":
            report.at_most(f"{load}: prefix against HFLM", furthest(answers["prefix"], answers["HFLM"]), NATS, "nats")
        else:
            _continuous(report, load, model, source.tokenizer(), instances, answers)


def timed(call: Any) -> tuple[float, Any]:
    """Return the seconds of a call, and what it returns."""
    began = time.perf_counter()
    found = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def same_texts(found: list[Any], expected: list[Any]) -> dict[str, int]:
    """Return the number of texts that are HFLM's, by name; nothing where answers are numbers."""
    if not isinstance(expected[0], str):
        return {}
    return {"texts_of_hflm": sum(one.strip() == other.strip() for one, other in zip(found, expected, strict=False))}


def _continuous(report: Report, load: str, model: Any, tokenizer: Any, instances: list[Instance], answers: dict[str, Any]) -> None:
    """Time transformers' continuous batching on the same prompts, from bfloat16 weights."""
    half = copy.deepcopy(model).bfloat16() if model.device.type == "cuda" else copy.deepcopy(model)
    most = int(instances[0].args[1]["max_gen_toks"])
    config = GenerationConfig(
        max_new_tokens=most, do_sample=False, eos_token_id=model.generation_config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    # By itself it takes all memory that is free.
    cache = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=128) if model.device.type == "cpu" else ContinuousBatchingConfig()
    prompts = [tokenizer(one.args[0])["input_ids"] for one in instances]
    seconds, found = timed(lambda: half.generate_batch(inputs=prompts, generation_config=config, continuous_batching_config=cache))
    texts = [tokenizer.decode(one.generated_tokens, skip_special_tokens=True) for one in found.values()]
    same = same_texts(texts, answers["HFLM"])
    report.measured(load, backend="continuous batching", requests=len(texts), seconds=seconds, **same)
    report.at_least(f"{load}: answers of continuous batching", len(texts), len(instances))
    report.at_least(f"{load}: answers of prefix that are not empty", sum(map(bool, answers["prefix"])), len(instances) // 2)


def _loads(plan: Plan) -> Mapping[str, list[Instance]]:
    if plan.tiny:
        return {
            "MMLU, 5-shot": requests.letters(subjects=1, questions=2, shots=5, words=6),
            "HellaSwag, 10-shot": requests.endings(questions=2, shots=10, words=4, choice=4),
            "generation, 5-shot": requests.answers(prompts=3, shots=5, words=6, most=6),
        }
    return {
        "MMLU, 5-shot": requests.letters(subjects=8, questions=32, shots=5, words=100),
        "HellaSwag, 10-shot": requests.endings(questions=64, shots=10, words=70, choice=25),
        "generation, 5-shot": requests.answers(prompts=64, shots=5, words=120, most=128),
    }
