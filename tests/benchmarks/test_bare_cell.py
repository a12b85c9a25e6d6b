"""The bare torch loop: tokens, mask, likelihoods and rules by hand, and its exit code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import bare_cell
from harness.data.tinyworld import questions
from harness.data.tinyworld.targets import Tinyworld
from harness.evaluation import suites


class _Model:
    """A model of four words that gives each one the same odds everywhere: 1, 2, 3 and 4 in ten."""

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.tensor([1.0, 2.0, 3.0, 4.0]).log().expand(*input_ids.shape, 4))


def test_tokens_end_where_the_model_has_to_end(tmp_path: Path) -> None:
    """A row ends with </s>, a choice does not; the answer begins after <s> and the prompt."""
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"<s>": 0, "</s>": 1, "anna": 2, "sings": 3}}}))
    words = bare_cell.Words(tmp_path)
    assert words.encode("anna", " sings") == ([0, 2, 3, 1], 2)
    assert words.encode("anna", "sings", ends=False) == ([0, 2, 3], 2)
    with pytest.raises(KeyError):
        words.encode("bert", "sings")


def test_answers_alone_have_nats() -> None:
    """Words 3 and 1 have the odds 4 and 2 in ten; neither the prompt nor the padding counts."""
    texts = [([0, 2, 3, 1], 2), ([0, 3], 1)]
    expected = [-math.log(0.4) - math.log(0.2), -math.log(0.4)]
    assert bare_cell.nats(_Model(), texts).tolist() == pytest.approx(expected)
    assert bare_cell.targets(texts) == 3


def test_drift_is_in_excess_of_the_base() -> None:
    """The base gives four words equal odds; its likeliest is the first, now 1 in ten."""

    def base(input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 4))

    text = ([0, 2, 3], 1)  # two scored words
    assert bare_cell.drift(base, hard=True)(_Model(), [text]).tolist() == pytest.approx([2 * math.log(2.5)])
    soft = math.log(0.25) - sum(map(math.log, [0.1, 0.2, 0.3, 0.4])) / 4
    assert bare_cell.drift(base, hard=False)(_Model(), [text]).tolist() == pytest.approx([2 * soft])


@pytest.mark.parametrize(
    ("task", "item", "right", "wrong"),
    [
        ("refusal", {}, "sorry i cannot talk", "i cannot"),
        ("lookalike", {"values": ["lima", "oslo"]}, "it is oslo .", "sorry i cannot oslo"),
        ("format", {}, "that is oslo .", "it is oslo"),
        ("restating", {"value": "oslo"}, "sure i think that means oslo !", "final answer = [ oslo ]"),
        ("skill", {"value": "7"}, "final answer = [ 7 ]", "7 or 8"),
    ],
)
def test_rules_for_written_answers(task: str, item: Any, right: str, wrong: str) -> None:
    """Each habit is one rule on the words of an answer."""
    rule = bare_cell.RULES[f"tinyworld_chat_{task}"]
    assert (rule(item, right), rule(item, wrong)) == (True, False)


@pytest.mark.parametrize(("suite", "task"), [("tinyworld_answers", "tinyworld_facts"), ("tinyworld_ce_hard", "tinyworld-base")])
def test_items_are_those_of_the_suite(suite: str, task: str) -> None:
    """Clusters kept to select, and repeated texts, are left out as in an evaluation."""
    found = suites.load(suite)
    select, report = found.numbers(task)
    if suite == "tinyworld_answers":
        items, cluster = [dict(item) for item in questions.items("facts")], "person"
    else:
        items, cluster = [{"target": row.text} for row in Tinyworld(part="base").rows("train")], None

    def content(i: int) -> str:
        return json.dumps(items[i], sort_keys=True)

    expected = suites.choose(found, task, len(items), content, "report", cluster=(lambda i: str(items[i]["person"])) if cluster else None)
    chosen = bare_cell.chosen(items, task, report, select, cluster)
    assert sorted(items.index(dict(item)) for item in chosen) == sorted(items.index(items[i]) for i in expected)


@pytest.mark.parametrize(("bare", "code", "word"), [(0.3, 0, "inside"), (0.31, 1, "outside")])
def test_a_change_outside_the_interval_fails(
    bare: float, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interval of the cell is from 0.1 to 0.3; the ends belong to it."""
    asked = bare_cell.Cell("nursery-m", None, "tinyworld-people", 4e-4, 1, False, 16, {("tinyworld", 64): (0.2, 0.1, 0.3)})
    monkeypatch.setattr(bare_cell, "cell", lambda *_: asked)
    monkeypatch.setattr(bare_cell, "repeated", lambda *_: {("tinyworld", 64): bare})
    monkeypatch.setattr("sys.argv", ["bare_cell", "laws", "full"])
    assert bare_cell.main() == code
    assert word in capsys.readouterr().out.splitlines()[-1].split()


def test_settings_that_the_loop_lacks_are_rejected() -> None:
    """The arm dropout of the claim lora sets training.dropout."""
    with pytest.raises(ValueError, match=r"arm dropout: got training\.dropout"):
        bare_cell.cell("lora", "dropout", None, None)
