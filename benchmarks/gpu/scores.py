"""``prefix`` against lm-eval's HFLM: the same requests, float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval.api.instance import Instance

from benchmarks.gpu import requests
from benchmarks.gpu.models import Built
from benchmarks.gpu.report import Plan, Report
from harness.core.progress import Silent
from harness.evaluation.backends import HfEvaluation, PrefixEvaluation

NATS = 1e-3
"""Largest difference of a log-likelihood in float32."""

HALF_SHARE = 2.0
"""Under bfloat16, ``prefix`` may be so many times as far from HFLM's float32 score as HFLM is."""

LONGEST = 4096


def run(plan: Plan, report: Report) -> None:
    """Compare log-likelihoods, greedy flags and generated texts."""
    source = Built(size="tiny" if plan.tiny else "llama-3.2-1b")
    model, asked = source.load(), _requests(plan)
    backends = {"hflm": HfEvaluation(), "prefix": PrefixEvaluation()}
    found: dict[tuple[str, str, str], list[Any]] = {}
    for dtype in ("float32", "bfloat16"):
        for name, backend in backends.items():
            lm: Any = backend.model(model, source.tokenizer(), LONGEST, dtype, Silent(), name)
            for kind, instances in asked.items():
                found[name, dtype, kind] = getattr(lm, instances[0].request_type)(instances, disable_tqdm=True)
            if name == "prefix":
                report.at_most(f"{dtype}: requests on the plain path", lm.plain_requests, 0)
                report.facts(**{f"token_budget_{dtype}": lm.engine.tokens})
    for kind in asked:
        _compare(report, kind, {key[:2]: answers for key, answers in found.items() if key[2] == kind})


def _compare(report: Report, kind: str, found: Mapping[tuple[str, str], list[Any]]) -> None:
    reference = found["hflm", "float32"]
    if isinstance(reference[0], str):
        differ = sum(one != other for one, other in zip(found["prefix", "float32"], reference, strict=True))
        report.at_most(f"{kind}, float32: texts that differ", differ, 0, f"of {len(reference)}")
        half = zip(found["prefix", "bfloat16"], found["hflm", "bfloat16"], strict=True)
        report.measured(f"{kind}, bfloat16: texts that differ", value=sum(one != other for one, other in half))
        return
    report.at_most(f"{kind}, float32", furthest(found["prefix", "float32"], reference), NATS, "nats")
    own = furthest(found["hflm", "bfloat16"], reference)
    report.at_most(f"{kind}, bfloat16, against float32", furthest(found["prefix", "bfloat16"], reference), HALF_SHARE * own, "nats")


def furthest(found: list[Any], expected: list[Any]) -> float:
    """Return the largest difference of two lists of log-likelihoods, in nats."""
    values = [[one[0] if isinstance(one, tuple) else one for one in answers] for answers in (found, expected)]
    return max(abs(one - other) for one, other in zip(*values, strict=True))


def _requests(plan: Plan) -> Mapping[str, list[Instance]]:
    if plan.tiny:
        return {
            "letters": requests.letters(subjects=1, questions=3, shots=2, words=8),
            "endings": requests.endings(questions=3, shots=2, words=8, choice=5),
            "whole texts": requests.rolled(texts=3, words=20),
            "generation": requests.answers(prompts=3, shots=1, words=8, most=6),
        }
    return {
        "letters": requests.letters(subjects=2, questions=16, shots=5, words=100),
        "endings": requests.endings(questions=16, shots=4, words=80, choice=20),
        "whole texts": requests.rolled(texts=16, words=20),  # HFLM adds up in float32: above 2,000 nats in steps of 2e-4
        "generation": requests.answers(prompts=8, shots=4, words=80, most=16),
    }
