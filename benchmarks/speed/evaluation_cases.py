"""Cases of `bench-eval`: tasks with their requests, and the speed-up each group has to reach."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parent / "tasks"
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class Case:
    """A task with a number of examples per question, and a number of timed items.

    Examples are drawn for each question, as lm-eval does by default, or are the same for every
    question, as in MMLU. A case ``gemma`` is asked of a random model of Gemma's shape. ``tokens``
    replaces a generation task's own stop sequences and length.
    """

    group: str
    task: str
    shots: int
    items: int
    same_shots: bool = False
    gemma: bool = False
    tokens: int | None = None


WORDED = {
    "bigbench_social_iqa_multiple_choice": (16, 4),
    "bigbench_hhh_alignment_multiple_choice": (8, 3),
    "bigbench_bbq_lite_json_multiple_choice": (12, 3),
    "bigbench_swahili_english_proverbs_multiple_choice": (12, 4),
    "bigbench_cause_and_effect_multiple_choice": (24, 8),
    "bigbench_hindu_knowledge_multiple_choice": (16, 5),
    "bigbench_strategyqa_multiple_choice": (64, 16),
}
"""Multiple choice with 2 to 6 worded choices: task, and items without and with examples."""

CASES = [
    *[Case("worded, zero-shot", task, 0, items) for task, (items, _) in WORDED.items()],
    *[Case("worded, five-shot", task, 5, items) for task, (_, items) in WORDED.items()],
    Case("worded, five-shot, same examples", "bigbench_social_iqa_multiple_choice", 5, 8, same_shots=True),
    Case("worded, five-shot, same examples", "bigbench_swahili_english_proverbs_multiple_choice", 5, 8, same_shots=True),
    Case("letters, zero-shot", "speed_letters_social_iqa", 0, 32),
    Case("letters, five-shot", "speed_letters_social_iqa", 5, 20),
    Case("blimp", "blimp_anaphor_gender_agreement", 0, 50),
    Case("blimp", "blimp_wh_island", 0, 50),
    Case("blimp", "blimp_principle_A_reconstruction", 0, 50),
    Case("rolling perplexity", "speed_rolling_gsm8k", 0, 12),
    Case("generation, five-shot", "gsm8k", 5, 8),
    Case("generation, 128 tokens", "gsm8k", 0, 40, tokens=128),
    Case("mix: worded, zero-shot", "bigbench_social_iqa_multiple_choice", 0, 16),
    Case("mix: long contexts, short choices", "pubmedqa", 0, 8),
    Case("mix: five-shot, same examples", "bigbench_social_iqa_multiple_choice", 5, 8, same_shots=True),
    Case("mix: five-shot, drawn", "bigbench_social_iqa_multiple_choice", 5, 4),
    Case("mix: gemma-like, zero-shot", "bigbench_social_iqa_multiple_choice", 0, 16, gemma=True),
]
"""Those of the mix (``--only mix``) are one of each kind, short enough to compare two versions."""

REACH = {
    "worded, zero-shot": 2.5,
    "worded, five-shot": 7.0,
    "worded, both": 4.5,
    "worded, five-shot, same examples": 7.0,
    "letters, zero-shot": 1.0,
    "letters, five-shot": 4.0,
    "blimp": 1.5,
    "rolling perplexity": 1.0,
    "generation, five-shot": 2.0,
}
"""Target speed-up of groups, as geometric mean over its cases; each worded case has to reach
``LEAST_WORDED``."""

LEAST_WORDED = 1.2
MOST_MEMORY = 1.2


@functools.cache
def _tasks() -> Any:
    """Index lm-eval's task files and ours, which takes seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(TASKS))


def requests_of(case: Case) -> tuple[Any, list[Any]]:
    """Return a case's task and its lm-eval requests."""
    task = _tasks().load([case.task])["tasks"][case.task]
    task.set_config(key="num_fewshot", value=case.shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    if case.same_shots:
        shots = task.sampler.sample(case.shots)
        task.sampler.sample = lambda *_, **__: shots
    chosen = list(range(case.shots, case.shots + case.items))  # after the first documents, which some tasks use as examples
    task.build_all_requests(samples=[index for index in chosen if index < len(task.eval_docs)])
    if case.tokens:
        for request in task.instances:
            request.arguments = (request.args[0], {"until": [], "max_gen_toks": case.tokens, "do_sample": False})
    return task, task.instances
