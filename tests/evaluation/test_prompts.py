"""The shown item is the one that the model reads, token by token."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from harness.config import composition
from harness.core.errors import ConfigError, DataError, EvaluationError
from harness.core.progress import Silent
from harness.evaluation import evaluator, prompts, suites
from harness.evaluation.backends import Evaluation, HfEvaluation
from harness.evaluation.evaluator import PreparedSuite
from harness.evaluation.suites import Suite
from harness.models.vocabulary import read_tokenizer

CHAT = "{% for message in messages %}what {{ message['content'] }} {% endfor %}{% if add_generation_prompt %}the {% endif %}"


def ids_of(text: str) -> list[list[int]]:
    return [[int(number) for number in line.split()] for line in re.findall(r"^  ids: (.*)$", text, flags=re.MULTILINE)]


def read(prepared: PreparedSuite, evaluation: Evaluation, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, length: int) -> Any:
    """Return the ids, without padding, of every row that the model reads in an evaluation."""
    seen: list[list[int]] = []
    forward = model.forward

    def watched(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.extend(row.tolist() for row in input_ids)
        return forward(input_ids, *args, **kwargs)

    model.forward = watched
    try:
        with mock.patch("harness.models.whole.logits", return_value=torch.zeros(1)):  # reads a few tokens of its own
            evaluator.evaluate(prepared, evaluation, model, tokenizer, max_length=length, dtype="float32", progress=Silent(), stage="")
    finally:
        model.forward = forward
    return seen


def few(suite: Suite, evaluation: Evaluation, **changes: Any) -> PreparedSuite:
    rows = () if suite.kind == "lm_eval" else composition.member("data", str(suite.data)).rows(suite.split)
    return evaluator.prepare(dataclasses.replace(suite, report=3, select=0, **changes), evaluation, rows)


@pytest.mark.parametrize(("add_bos", "length"), [(None, 64), (False, 64), (None, 3)])
def test_choices_are_shown_as_they_are_read(
    add_bos: bool | None, length: int, random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase
) -> None:
    """Every row the model reads is a shown prompt with a choice, without its last token.

    With BOS or without it, cut or whole.
    """
    evaluation = HfEvaluation(batch_size=1, add_bos=add_bos)
    prepared = few(suites.load("tinyworld-people"), evaluation)
    rows = read(prepared, evaluation, random_model, words, length)
    shown = [prompts.shown(prepared, evaluation, words, length, number)["tinyworld_people"] for number in (1, 2, 3)]
    expected = []
    for text in shown:
        prompt, *choices = ids_of(text)
        assert len(choices) == 5
        assert (words.bos_token_id == prompt[0]) is (add_bos is None and length == 64)
        assert ("cut to fit the context" in text) is (length == 3)
        expected.append([*prompt, *choices[0][:-1]])
    assert sorted(rows) == sorted(expected)  # one-word choices share a row


def test_a_chat_template_is_shown_as_it_is_read(random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """The template's text around a prompt is there."""
    import copy

    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = CHAT
    evaluation = HfEvaluation(batch_size=1, prompt_format="chat")
    prepared = few(suites.load("tinyworld-people"), evaluation)
    rows = read(prepared, evaluation, random_model, tokenizer, 64)
    text = prompts.shown(prepared, evaluation, tokenizer, 64)["tinyworld_people"]
    prompt, *_ = ids_of(text)
    assert prompt in rows
    assert words.convert_ids_to_tokens(prompt[1:2]) == ["what"]
    assert words.convert_ids_to_tokens(prompt[-1:]) == ["the"]


def test_a_prompt_to_continue_is_shown_with_its_settings(random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """The first row for an answer is the shown prompt, cut to leave room."""
    evaluation = HfEvaluation(batch_size=1)
    prepared = few(suites.load("tinyworld_protocols"), evaluation, tasks=("tinyworld_arithmetic",), cluster=None)
    rows = read(prepared, evaluation, random_model, words, 8)
    text = prompts.shown(prepared, evaluation, words, 8)["tinyworld_arithmetic_generated"]
    (prompt,) = ids_of(text)
    assert prompt in rows
    assert "max_gen_toks" in text
    assert "before them cut" in text
    assert re.search(r"^right: '-?\d+'$", text, flags=re.MULTILINE)


def test_a_row_is_shown_with_the_answer_that_is_scored(random_model: LlamaForCausalLM, words: PreTrainedTokenizerBase) -> None:
    """Prompt and answer together are the row that the model reads."""
    evaluation = HfEvaluation(likelihood_tokens=1)
    suite = Suite(name="s", kind="likelihood", data="tinyworld-skill", metric="nats_per_token", higher_is_better=False, chance=None)
    prepared = few(suite, evaluation)
    rows = read(prepared, evaluation, random_model, words, 64)
    prompt, answer = ids_of(prompts.shown(prepared, evaluation, words, 64, 2)["tinyworld-skill"])
    assert [*prompt, *answer] in rows
    assert answer[-1] == words.eos_token_id


def test_an_item_that_is_not_there_is_refused(words: PreTrainedTokenizerBase) -> None:
    """The message has the number of items."""
    prepared = few(suites.load("tinyworld-people"), HfEvaluation())
    for number in (0, 4):
        with pytest.raises(EvaluationError, match="allowed: 1 to 3"):
            prompts.shown(prepared, HfEvaluation(), words, 64, number)


@pytest.mark.parametrize(
    ("template", "got"),
    [
        ("{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}", "more than 1,000,000 steps"),
        ("{{ 'a' * 10**11 }}", "more than 10,000,000"),
        ("{{ messages | random }}", "a random draw"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply"),
    ],
)
def test_chat_templates_that_would_not_end_or_draw_are_stopped(
    tmp_path: Path, words: PreTrainedTokenizerBase, template: str, got: str
) -> None:
    """A model's own, as soon as prompts in its format are asked for."""
    words.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(template)
    tokenizer = read_tokenizer("mine", tmp_path, trust=False)
    with pytest.raises(DataError, match=f"chat template: got '.*{got}") as error:
        prompts.require_format(HfEvaluation(prompt_format="chat"), tokenizer, "mine")
    assert "\n" not in str(error.value)


def test_chat_prompts_need_a_chat_template(words: PreTrainedTokenizerBase) -> None:
    """It is rejected before anything is evaluated."""
    with pytest.raises(ConfigError, match="no chat template"):
        prompts.require_format(HfEvaluation(prompt_format="chat"), words, "nursery")


def test_what_cannot_be_shown_says_why(words: PreTrainedTokenizerBase) -> None:
    """A run continues after a task that cannot be shown."""
    prepared = few(suites.load("tinyworld-people"), HfEvaluation())
    (task,) = prepared.tasks.values()
    task.set_config("doc_to_text", "{{ absent.field }}")
    assert "cannot be shown: " in prompts.shown(prepared, HfEvaluation(), words, 64)["tinyworld_people"]
