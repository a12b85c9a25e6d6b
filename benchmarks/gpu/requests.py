"""Requests like those of lm-eval's tasks, of random words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance

from benchmarks.gpu.models import text


def letters(subjects: int, questions: int, shots: int, words: int) -> list[Instance]:
    """Return questions as MMLU asks them: the same examples for a subject, four letters each."""
    found: list[tuple[str, str]] = []
    for subject in range(subjects):
        examples = "\n\n".join(f"{text(words, 'mmlu', subject, shot)} = A" for shot in range(shots))
        asked = [f"{examples}\n\n{text(words, 'mmlu', subject, 'asks', number)} =" for number in range(questions)]
        found += [(question, f" {choice}") for question in asked for choice in text(4, "letters").split()]
    return _instances("loglikelihood", found)


def endings(questions: int, shots: int, words: int, choice: int) -> list[Instance]:
    """Return questions as HellaSwag asks them: examples drawn for each, four long endings."""
    found: list[tuple[str, str]] = []
    for number in range(questions):
        drawn = random.Random(f"hellaswag {number}").sample(range(4 * shots or 1), shots)
        examples = "".join(f"{text(words + choice, 'hellaswag', shot)}\n\n" for shot in drawn)
        context = examples + text(words, "hellaswag", "asks", number)
        found += [(context, f" {text(choice + ending, 'ending', number, ending)}") for ending in range(4)]
    return _instances("loglikelihood", found)


def rolled(texts: int, words: int) -> list[Instance]:
    """Return whole texts to score."""
    return _instances("loglikelihood_rolling", [(text(words + 7 * number, "rolled", number),) for number in range(texts)])


def answers(prompts: int, shots: int, words: int, most: int) -> list[Instance]:
    """Return prompts to continue greedily, with the same examples, by up to ``most`` tokens."""
    examples = "".join(f"{text(words, 'answer', shot)}\n\n" for shot in range(shots))
    settings = {"until": ["<nothing>"], "max_gen_toks": most, "do_sample": False}
    return _instances("generate_until", [(examples + text(words, "answer", "asks", number), dict(settings)) for number in range(prompts)])


def _instances(kind: Any, arguments: Sequence[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=number) for number, one in enumerate(arguments)]
