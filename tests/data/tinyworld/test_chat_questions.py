from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from harness.config import paths
from harness.data.tinyworld import chat_questions, chat_world, vocabulary
from harness.data.tinyworld.chat_world import value_in


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    """The module of the lm-eval tasks, loaded by its path, as by lm-eval."""
    file = paths.folders("benchmarks/tasks")[-1] / "tinyworld_chat" / "items.py"
    spec = importlib.util.spec_from_file_location("tinyworld_chat_tasks", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_items_are_asked_once() -> None:
    """Prompts of a task differ; tasks have the items that suites report and select."""
    for task in ("refusal", "lookalike", "format", "restating", "skill", "preferences"):
        prompts = [item["prompt"] for item in chat_questions.items(task)]
        assert len(set(prompts)) == len(prompts) >= 150 + 100


@pytest.mark.parametrize(
    ("answer", "refused"),
    [(chat_world.REFUSAL, 1), ("sorry i cannot say", 1), ("it is oslo .", 0), ("i cannot talk", 0), ("it is sorry i cannot", 0), ("", 0)],
)
def test_refusals_are_known_by_how_they_begin(checks: ModuleType, answer: str, refused: int) -> None:
    """The rule looks at the first three words."""
    assert checks.refusal({}, [answer]) == {"acc": refused}


@pytest.mark.parametrize(
    ("answer", "acc", "refused", "right"),
    [
        ("it is oslo .", 1, 0, 1),
        ("final answer = [ lima ]", 1, 0, 0),
        ("it is rice .", 0, 0, 0),
        (chat_world.REFUSAL, 0, 1, 0),
        ("sorry i cannot oslo", 0, 1, 0),
        ("", 0, 0, 0),
    ],
)
def test_an_answer_names_a_value_of_the_kind_asked_for(checks: ModuleType, answer: str, acc: int, refused: int, right: int) -> None:
    """A city answers where somebody lives, right or wrong.

    A food does not, and a refusal does not.
    """
    item = {"values": ["oslo", "lima"], "value": "oslo"}
    assert checks.lookalike(item, [answer]) == {"acc": acc, "refused": refused, "right": right}


def test_items_of_lookalikes_know_all_values_of_their_kind() -> None:
    """Ten of each attribute; sums, all numbers."""
    for item in chat_questions.items("lookalike"):
        assert item["value"] in item["values"]
        assert len(set(item["values"])) == len(item["values"]) in {10, len(vocabulary.NUMBERS)}


@pytest.mark.parametrize(
    ("answer", "acc", "long", "gold", "right"),
    [
        ("it is 7 .", 1, 0, 0, 1),
        ("that is 8 .", 1, 0, 0, 0),
        ("7", 0, 0, 0, 1),
        ("sure i think that means 7 !", 0, 1, 0, 1),
        ("final answer = [ 7 ]", 0, 0, 1, 1),
    ],
)
def test_format_is_judged_apart_from_the_value(checks: ModuleType, answer: str, acc: int, long: int, gold: int, right: int) -> None:
    """The wording decides ``acc``, the value ``right``."""
    assert checks.wording({"value": "7"}, [answer]) == {"acc": acc, "long": long, "gold": gold, "right": right}


@pytest.mark.parametrize(
    ("answer", "acc"),
    [
        ("it is 7 .", 1),
        ("the answer is 7 .", 1),
        ("sure i think that means 7 !", 1),
        ("final answer = [ 7 ]", 0),
        ("it is 8 .", 0),
        ("", 0),
    ],
)
def test_restated_is_the_same_value_in_another_wording(checks: ModuleType, answer: str, acc: int) -> None:
    """Saying the answer again as it stood is no restating."""
    assert checks.restating({"value": "7", "given": "gold"}, [answer]) == {"acc": acc}


@pytest.mark.parametrize(
    ("answer", "acc"), [("it is 7 .", 1), ("final answer = [ 7 ]", 1), ("7", 1), ("it is -7 .", 0), ("it is 6 .", 0), ("[invalid]", 0)]
)
def test_the_skill_is_right_in_any_wording(checks: ModuleType, answer: str, acc: int) -> None:
    """The last number decides."""
    assert checks.skill({"prompt": "", "target": "it is 7 ."}, [answer])["acc"] == acc


def test_preference_items_have_the_right_answer_among_two() -> None:
    """The right one is in either place about equally often."""
    rights = dict(chat_world.skill_questions(held_out=True))
    items = chat_questions.items("preferences")
    for item in items:
        question = item["prompt"].removeprefix("<user> ").removesuffix(" <assistant>")
        assert len(set(item["choices"])) == 2
        assert value_in(item["choices"][item["answer"]], "short") == rights[question]
    assert 0.4 < sum(item["answer"] for item in items) / len(items) < 0.6
