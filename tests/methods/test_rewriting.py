"""Shared parts of methods that generate rows."""

from __future__ import annotations

from typing import Any

import pytest

from harness.core.contexts import GeneratedRow, Sampling
from harness.core.errors import ConfigError
from harness.core.rows import Row, Turn
from harness.data.tinyworld.targets import Tinyworld
from harness.methods.mitigation.minimum_change import MinimumChange
from harness.methods.mitigation.paraphrase import Paraphrase
from harness.methods.mitigation.self_output import SelfOutput
from harness.methods.objective.clm import Clm
from harness.methods.objective.rft import Rft
from harness.methods.objective.sft import Sft
from harness.methods.rewriting import Answer, edit_distance, edit_rate, filled, first_right, gold, question, right
from harness.methods.tuning.full import Full
from tests.support.scripted import CUT, Scripted, context, row


@pytest.mark.parametrize(
    ("first", "second", "distance", "rate"),
    [
        ("a b c", "a b c", 0, 0.0),
        ("a b c", "a x c", 1, 1 / 3),
        ("a b c", "b c", 1, 1 / 3),
        ("", "a b", 2, 1.0),
        ("", "", 0, 0.0),
        ("the answer is 4", "so the answer is 5 now", 3, 0.5),
    ],
)
def test_edits_are_counted_in_words(first: str, second: str, distance: int, rate: float) -> None:
    """Insertions, deletions, substitutions; the rate is over the longer text."""
    assert (edit_distance(first, second), edit_distance(second, first)) == (distance, distance)
    assert edit_rate(first, second) == pytest.approx(rate)


def test_a_template_is_filled_with_texts_as_they_are() -> None:
    """Braces in a text are kept, even if they look like a placeholder."""
    assert filled("{prompt} | {answer} | {prompt}", prompt="{answer} {x}", answer="{prompt}") == "{answer} {x} | {prompt} | {answer} {x}"
    assert filled("no place", prompt="x") == "no place"


def test_what_is_right_is_there_has_ended_and_has_the_whole_reward() -> None:
    """An answer cut at its limit is not right."""
    one = row("two and two", "it is 4")
    assert right("last_number", one, Answer("4", "4", 2, ended=True))
    assert not right("exact", one, Answer("4", "4", 2, ended=True))
    assert not right("last_number", one, Answer("4", "4", 2, ended=False))
    assert not right(None, one, Answer("", "", 1, ended=True))
    assert right(None, one, Answer("whatever", "whatever", 2, ended=True))


def test_question_and_gold_answer_of_a_row() -> None:
    """The system's text precedes the question.

    White space around the answer is not part of it.
    """
    found = Row((Turn("system", "be brief"), Turn("user", "why ?"), Turn("assistant", " so .\n")), "completion")
    assert (question(found), gold(found)) == ("be brief\n\nwhy ?", "so .")


def test_answers_are_drawn_until_one_is_right() -> None:
    """Each row costs the tokens written for it, ends included.

    The number of a draw is part of its key.
    """
    own = Scripted({"q1": ["yes"], "q2": [f"yes{CUT}", "no no", "yes"], "q3": ["no", "no", "no"]})
    rows = [row("q1", "yes"), row("q2", "yes"), row("q3", "yes")]
    found = first_right(rows, context(own), own, Sampling(8, 0.8), samples=3, name="exact")
    assert found == [("yes", 2, ("yes",)), ("yes", 1 + 3 + 2, ("yes", "no no", "yes")), (None, 6, ("no", "no", "no"))]
    assert [asked for asked, _, _ in own.asked] == ["q1", "q2", "q3", "q2", "q3", "q2", "q3"]
    assert len({key for _, key, _ in own.asked}) == 7


def test_an_answer_is_cut_before_a_text_that_ends_it() -> None:
    """The tokens behind it count; the answer counts as ended."""
    own = Scripted({"q": [f"4 Question: what{CUT}"]})
    assert first_right([row("q", "4")], context(own), own, Sampling(8), samples=1, name="exact", until="Question:") == [
        ("4", 3, ("4 Question: what",))
    ]


def test_the_rows_of_a_smaller_share_are_among_those_of_a_larger_one() -> None:
    """By a hash of row and seed: other rows under another seed.

    About as many as the share, all at 1 and none at 0.
    """
    rows = [row(f"q{i}", "a") for i in range(400)]
    chosen = {share: {one.id for one in rows if Paraphrase(fraction=share).treats(one, 7)} for share in (0.0, 0.25, 0.5, 1.0)}
    assert chosen[0.0] < chosen[0.25] < chosen[0.5] < chosen[1.0] == {one.id for one in rows}
    assert 70 < len(chosen[0.25]) < 130
    assert chosen[0.25] != {one.id for one in rows if Paraphrase(fraction=0.25).treats(one, 8)}


def test_rows_that_are_not_treated_stay_and_cost_nothing() -> None:
    """Only treated rows are generated; at fraction 0 the method writes nothing."""
    rows = [row(f"q{i}", "a") for i in range(40)]
    method = Paraphrase(fraction=0.5, template="{prompt} {answer}")
    own = Scripted({f"{question(one)} a": ["b"] for one in rows})
    written = method.write(rows, context(own))
    treated = [method.treats(one, 0) for one in rows]
    assert [one.accepted for one in written] == treated
    assert {one.how for one, asked in zip(written, treated, strict=True) if not asked} == {"untreated"}
    assert len(own.asked) == sum(treated)
    assert (Paraphrase(fraction=0.0).writes, method.writes) == ("", "targets")


def test_a_copy_of_the_gold_answer_is_gold() -> None:
    """White space aside, it trains the plain run's row.

    A method that wrote nothing else did not act. The tokens still count.
    """
    rows = [row(f"q{i}", "it  is\n4") for i in range(2)]
    own = Scripted({"q0": ["it is 4"], "q1": ["well 4"]})
    copied, changed = SelfOutput(check="last_number").write(rows, context(own))
    assert copied == GeneratedRow(rows[0], accepted=False, how="gold", generated_tokens=4, tried=("it is 4",))
    assert (changed.accepted, changed.how, changed.row and changed.row.turns[-1].content) == (True, "own", " well 4")
    said = Scripted({"q0 it is 4": ["it is 4"], "q1 it is 4": ["4"]})
    written = Paraphrase(template="{prompt} {answer}").write(rows, context(said))
    assert [(one.accepted, one.how) for one in written] == [(False, "gold"), (True, "restated")]
    (kept,) = MinimumChange(check="last_number").write(rows[:1], context(Scripted({"q0": ["it is 4"]})))
    assert (kept.row, kept.accepted, kept.how, kept.edit_rate) == (rows[0], False, "gold", 0.0)


def test_incompatible_objectives_and_rows_are_rejected() -> None:
    """Text rows have no answer.

    An objective that writes its targets has no given answers to rewrite.
    """
    skill, base = Tinyworld(part="skill"), Tinyworld(part="base")
    assert Paraphrase().rejects(Sft(), Full(), skill) == ""
    assert "text rows" in Paraphrase().rejects(Clm(), Full(), base)
    assert "writes its targets itself" in Paraphrase().rejects(Rft(check="exact"), Full(), skill)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 1.1}, "mitigation.fraction: got 1.1"),
        ({"check": "nothing"}, "mitigation.check: got 'nothing'; allowed: one of exact"),
        ({"temperature": 0.0}, "mitigation.samples: got 4; allowed: 1 at temperature 0"),
        ({"top_p": 0.0}, "mitigation.top_p: got 0.0"),
        ({"max_new_tokens": 0}, "mitigation.max_new_tokens: got 0"),
        ({}, "mitigation.check: got nothing; allowed: one of exact"),
    ],
)
def test_ranges_of_self_output(settings: dict[str, object], message: str) -> None:
    """One line each."""
    with pytest.raises(ConfigError) as error:
        SelfOutput(**settings)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize("make", [SelfOutput, MinimumChange, Rft])
def test_a_reward_is_required(make: Any) -> None:
    """A missing reward is an error in one line.

    Several greedy samples, which would be equal, are rejected too, unless none are drawn.
    """
    with pytest.raises(ConfigError, match=r"^(mitigation|objective)\.check: got nothing; allowed: one of .*; fix: \w+\.check=last_number"):
        make()
    with pytest.raises(ConfigError, match=r"samples: got \d; allowed: 1 at temperature 0"):
        make(temperature=0.0, check="exact")
    assert make(temperature=0.0, samples=1, check="exact").check == "exact"
    assert MinimumChange(temperature=0.0, editor="large", check="exact").samples > 1
