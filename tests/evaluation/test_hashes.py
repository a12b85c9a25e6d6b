"""Hashes of the content that decides a task's scores."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from harness.evaluation import evaluator, hashes, suites
from harness.evaluation.backends import HfEvaluation


@pytest.fixture(scope="module")
def prepared() -> evaluator.PreparedSuite:
    return evaluator.prepare(suites.load("tinyworld-people"), HfEvaluation())


def task_and_items(prepared: evaluator.PreparedSuite) -> tuple[Any, list[int]]:
    ((name, task),) = prepared.tasks.items()
    return task, list(prepared.items[name])


def test_the_same_task_built_again_is_the_same(prepared: evaluator.PreparedSuite) -> None:
    """It contains no memory address, path or time."""
    again = evaluator.prepare(suites.load("tinyworld-people"), HfEvaluation())
    assert again.content == prepared.content
    assert set(prepared.content["tinyworld_people"]) == {"version", "settings", "items", "prompts"}


def test_another_setting_or_item_is_another_content(prepared: evaluator.PreparedSuite) -> None:
    """A template, a metric's options, a function's source or an item more changes its hash."""
    task, items = task_and_items(prepared)
    known = hashes.of_task(task, items)
    assert hashes.of_task(task, items[1:])["items"] != known["items"]
    for key, value in {"doc_to_text": "Q: {{prompt}}", "target_delimiter": "", "process_results": lambda doc, results: {}}.items():
        before = task.get_config(key)
        task.set_config(key, value)
        assert hashes.of_task(task, items) != known, key
        task.set_config(key, before)
    assert hashes.of_task(task, items) == known


def test_no_path_of_a_machine_is_in_it(prepared: evaluator.PreparedSuite) -> None:
    """lm-eval's note of a file's place does not count."""
    task, items = task_and_items(prepared)
    known = hashes.of_task(task, items)
    task.config.metadata["config_source"] = "elsewhere.yaml"
    task.set_config("process_docs", lambda docs: docs)  # the documents count, the code that builds them does not
    assert hashes.of_task(task, items) == known
    task.set_config("process_docs", None)
    task.config.metadata["version"] = 7
    assert hashes.of_task(task, items)["version"] == "7"
    task.config.metadata["version"] = float(known["version"])


def test_a_tokenizer_is_its_vocabulary_rules_and_template(words: PreTrainedTokenizerBase) -> None:
    """A chat template, word or special token changes it, a padded batch does not."""
    import copy

    known, other = hashes.of_tokenizer(words), copy.deepcopy(words)
    other(["karin nord", "karin"], padding="longest")
    assert hashes.of_tokenizer(other) == known
    other.chat_template = "{{ messages[0]['content'] }}"
    assert hashes.of_tokenizer(other) != known
    other.chat_template = None
    assert hashes.of_tokenizer(other) == known
    other.add_tokens(["another"])
    assert hashes.of_tokenizer(other) != known


def test_contents_are_plain_values(prepared: evaluator.PreparedSuite) -> None:
    """They are in measurement.json."""
    assert json.loads(json.dumps(prepared.content)) == prepared.content
