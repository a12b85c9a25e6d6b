"""lm-eval's output for tests, written by hand in the layout of 0.4.13."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STAMP = "2026-01-02T03-04-05.678900"
LATER = "2026-02-03T04-05-06.789000"
CHOICES = [" red", " green", " blue", " grey"]

Sample = dict[str, Any]

Run = Callable[..., tuple[int, str, str]]
"""Runs the command with options: exit code, standard output, standard error."""


def digest(text: str) -> str:
    """Return lm-eval's ``hash_string`` of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def choice(number: int, *, right: bool, metric: str = "acc", prompt: str = "", **changes: Any) -> Sample:
    """Return question ``number`` with four choices, of which the first is right.

    The model prefers the first choice if ``right``, else the second.
    """
    doc = {"question": f"q{number}", "choices": CHOICES, "answer": 0}
    prompt = prompt or f"question {number}:"
    scores = ["-1.0", "-2.0", "-3.0", "-4.0"] if right else ["-2.0", "-1.0", "-3.0", "-4.0"]
    return {
        "doc_id": number,
        "doc": doc,
        "target": "0",
        "arguments": {f"gen_args_{i}": {"arg_0": prompt, "arg_1": text} for i, text in enumerate(CHOICES)},
        "resps": [[[score, "False"]] for score in scores],
        "filtered_resps": [[score, "False"] for score in scores],
        "filter": "none",
        "metrics": [metric],
        "doc_hash": digest(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": digest(prompt),
        "target_hash": digest("0"),
        metric: 1.0 if right else 0.0,
        **changes,
    }


def written(number: int, *, right: bool, filter_name: str = "none", until: str = "\n", repeats: int = 1, **changes: Any) -> Sample:
    """Return question ``number`` with a generated answer."""
    doc, prompt, answer = {"question": f"g{number}"}, f"write {number}:", "yes" if right else "no"
    return {
        "doc_id": number,
        "doc": doc,
        "target": "yes",
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": [until], "do_sample": False}}},
        "resps": [[answer] * repeats],
        "filtered_resps": [answer],
        "filter": filter_name,
        "metrics": ["exact_match"],
        "doc_hash": digest(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": digest(prompt),
        "target_hash": digest("yes"),
        "exact_match": 1.0 if right else 0.0,
        **changes,
    }


def outcomes(right: int, lost: int, gained: int, wrong: int) -> tuple[list[Sample], list[Sample]]:
    """Return items before and after, by counts of outcomes.

    The second model is another one: its log-likelihoods are all 0.125 nats lower.

    Args:
        right: items that are right on both sides.
        lost: items that are right before and wrong after.
        gained: items that are wrong before and right after.
        wrong: items that are wrong on both sides.
    """
    before = [True] * (right + lost) + [False] * (gained + wrong)
    after = [True] * right + [False] * lost + [True] * gained + [False] * wrong
    sides = [[choice(i, right=is_right) for i, is_right in enumerate(side)] for side in (before, after)]
    return sides[0], [lowered(sample) for sample in sides[1]]


def lowered(sample: Sample, nats: float = 0.125) -> Sample:
    """Return a question with lower log-likelihoods, which leave every answer as it is."""
    scores = [[str(float(score) - nats), greedy] for score, greedy in sample["filtered_resps"]]
    return {**sample, "filtered_resps": scores, "resps": [[score] for score in scores]}


def config(metric: str = "acc", **changes: Any) -> dict[str, Any]:
    """Return the relevant part of a task's resolved configuration."""
    return {
        "output_type": "multiple_choice",
        "num_fewshot": 0,
        "repeats": 1,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
        **changes,
    }


def write(
    folder: Path,
    tasks: Mapping[str, Sequence[Sample]],
    *,
    model: str = "some/model",
    stamp: str = STAMP,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    results: Mapping[str, Mapping[str, float]] | None = None,
    versions: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Path:
    """Write a results file and samples into lm-eval's folder of the model.

    Returns:
        The outer folder.
    """
    place = folder / model.replace("/", "__")
    place.mkdir(parents=True, exist_ok=True)
    found = {name: dict((configs or {}).get(name, config(samples[0]["metrics"][0]))) for name, samples in tasks.items()}
    written_results = {name: {"name": name, **_means(samples), **(results or {}).get(name, {})} for name, samples in tasks.items()}
    values = {
        "results": written_results,
        "group_subtasks": {name: list(members) for name, members in (groups or {}).items()},
        "configs": found,
        "versions": dict.fromkeys(tasks, 1.0) | dict(versions or {}),
        "n-shot": {name: settings["num_fewshot"] for name, settings in found.items()},
        "higher_is_better": {
            name: {entry["metric"]: entry.get("higher_is_better") for entry in settings.get("metric_list", [])}
            for name, settings in found.items()
        },
        "config": {"model": "hf", "model_args": {"pretrained": model}, "model_dtype": "torch.float32", "batch_size": "8", "limit": None},
        "lm_eval_version": "0.4.13",
        "model_name": model,
        "chat_template_sha": None,
        **facts,
    }
    (place / f"results_{stamp}.json").write_text(json.dumps(values, indent=2), encoding="utf-8")
    for name, samples in tasks.items():
        lines(place / f"samples_{name}_{stamp}.jsonl", samples)
    return folder


def lines(file: Path, samples: Sequence[Sample]) -> None:
    """Write a samples file."""
    file.write_text("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples), encoding="utf-8")


def _means(samples: Sequence[Sample]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], int | float):
                found.setdefault(f"{metric},{sample['filter']}", []).append(float(sample[metric]))
    return {key: sum(values) / len(values) for key, values in found.items()}


def sides(
    folder: Path,
    before: Mapping[str, Sequence[Sample]],
    after: Mapping[str, Sequence[Sample]],
    *,
    only_after: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write both folders with different models; ``only_after`` are options of the second."""
    write(folder / "before", before, model="base", **options)
    write(folder / "after", after, model="tuned", **options, **(only_after or {}))


def planted(folder: Path) -> None:
    """Write 500 items: 300 right on both sides, 45 lost, 20 gained, 135 wrong."""
    before, after = outcomes(300, 45, 20, 135)
    sides(folder, {"colours": before}, {"colours": after})
