"""The suite `format`: its checks on answers written by hand, its items and its tasks."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.config import paths
from harness.evaluation import evaluator
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import load

FOLDER = next(folder / "format" for folder in paths.folders("benchmarks/tasks") if (folder / "format").is_dir())
ITEMS: list[dict[str, Any]] = [json.loads(line) for line in (FOLDER / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


checks = module(FOLDER / "checks.py")

GOOD_AND_BAD: list[tuple[str, Any, list[str], list[str]]] = [
    ("word", None, ["Paris", "Paris.", " green\n"], ["The capital is Paris.", "", "...", "Paris\nFrance"]),
    ("words", 3, ["big and red", "Big, and red!", "one - two three"], ["big red", "it is big red", ""]),
    ("at_most", 3, ["one", "one two three."], ["one two three four", "", "!"]),
    ("yes_no", None, ["Yes", "no.", " YES! "], ["Yes, it is", "maybe", "yes no", ""]),
    ("repeat", "I am ready", ["I am ready.", '"I am ready"', "i am ready"], ["I am ready. And you?", "I am", "You said: I am ready."]),
    ("question", None, ["Why?", ' "Can you?" '], ["Because.", "Why? Because.", "What a question! Why?", "?", "Why?\nWhen?", ""]),
    ("mention", ["cat", "old"], ["The old Cat.", "cat, old"], ["The older cat.", "cats are old", ""]),
    (
        "commas",
        3,
        ["a, b, c", "red wine, beer, and tea.", "1,2,3"],
        ["a, b", "a\nb\nc", "a, b, c\nd", "a,,c", "Well, I like my red hat, no"],
    ),
    (
        "json",
        ["a", "b"],
        ['{"a": 1, "b": [2]}', '```json\n{"b": null, "a": {}}\n```'],
        ['{"a": 1}', '{"a":1,"b":2,"c":3}', "a, b", '["a", "b"]'],
    ),
    ("json", ["a"], [' {"a": 1}\n'], ['Here: {"a": 1}', '{"a": 1', '```json\n{"a": 1}\n``` That is it.', "1"]),
    ("capitals", None, ["RED", "HELLO, 2 YOU!"], ["Red", "12", "", "RED is it"]),
    (
        "begin",
        "First of all",
        ["First of all, tea", "first of all tea", '"First of all"'],
        ["Well, first of all", "First of allergies", "First"],
    ),
    ("end", "that is all", ["A star, that is all.", "THAT IS ALL!"], ["That is all I know", "what is all", "all"]),
    ("end", "bed", ["Go to bed."], ["Stay in a flowerbed.", "bed and rest", ""]),
    ("sentences", 2, ["One. Two.", "Is it? Yes!", "It costs 2.50 here. Good."], ["One.", "One. Two", "One. Two. Three.", "", "one two"]),
    ("numbered", 2, ["1. a\n2. b", "1) a\n\n2) b\n"], ["1. a", "1. a\n2. b\n3. c", "Two:\n1. a\n2. b", "2. a\n1. b", "a\nb", "1.\n2.", ""]),
]


@pytest.mark.parametrize(("kind", "want", "good", "bad"), GOOD_AND_BAD)
def test_a_check_tells_good_answers_from_bad(kind: str, want: Any, good: list[str], bad: list[str]) -> None:
    """Answers written by hand, at the edges of each rule, get 1 or 0."""
    doc = {"kind": kind} if want is None else {"kind": kind, "want": want}
    assert {answer: checks.followed(doc, [answer]) for answer in good} == {answer: {"followed": 1.0} for answer in good}
    assert {answer: checks.followed(doc, [answer]) for answer in bad} == {answer: {"followed": 0.0} for answer in bad}


def test_every_kind_is_tried_and_has_ten_items_and_a_task() -> None:
    """Checks, items, task files and the suite name the same kinds."""
    kinds = set(checks.CHECKS)
    assert {kind for kind, *_ in GOOD_AND_BAD} == kinds
    assert Counter(item["kind"] for item in ITEMS) == dict.fromkeys(kinds, 10)
    assert {file.stem for file in FOLDER.glob("format_*.yaml")} == {f"format_{kind}" for kind in kinds} == set(load("format").tasks)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: f"{item['kind']}: {item['prompt'][:30]}")
def test_an_items_own_example_follows_and_a_loose_answer_does_not(item: dict[str, Any]) -> None:
    """The example follows each item; an empty answer or one about something else does not."""
    assert checks.followed(item, [item["example"]]) == {"followed": 1.0}
    assert checks.followed(item, [""]) == {"followed": 0.0}
    talk = "Well, there is, of course, a great deal more that could be said of it\nand we would say so, if we had the time. So " * 2
    assert checks.followed(item, [talk]) == {"followed": 0.0}


def test_no_prompt_stands_twice() -> None:
    """Items are joined by content."""
    assert len({item["prompt"] for item in ITEMS}) == len(ITEMS)


def test_the_tasks_are_built_and_score_an_answer() -> None:
    """lm-eval builds every task.

    The reported and the kept items are disjoint; a finished answer gets its score.
    """
    suite = load("format")
    prepared = evaluator.prepare(suite, HfEvaluation())
    kept = evaluator.prepare(suite, HfEvaluation(items="select"))
    assert {name: len(items) for name, items in prepared.items.items()} == dict.fromkeys(suite.tasks, 8)
    assert {name: len(items) for name, items in kept.items.items()} == dict.fromkeys(suite.tasks, 2)
    for name, task in prepared.tasks.items():
        assert not set(prepared.items[name]) & set(kept.items[name])
        doc = task.eval_docs[0]
        assert task.doc_to_text(doc) == doc["prompt"]
        assert task.process_results(doc, [task.doc_to_target(doc)]) == {"followed": 1.0}
