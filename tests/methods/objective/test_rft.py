"""Rejection-sampling fine-tuning: remaining rows, by hand."""

from __future__ import annotations

from harness.methods.objective.rft import Rft
from tests.support.scripted import Scripted, context, row


def test_rows_without_a_right_answer_are_left_out() -> None:
    """The first right answer is learned, with the gold answer's leading white space.

    Rejected answers count as generated.
    """
    own = Scripted({"q1": ["4"], "q2": ["5", "well 4"], "q3": ["5", "5"]})
    method = Rft(samples=2, check="last_number")
    rows = [row(f"q{i}", "it is 4") for i in (1, 2, 3)]
    written = method.write(rows, context(own))
    assert [one.row and one.row.turns[-1].content for one in written] == [" 4", " well 4", None]
    assert [(one.accepted, one.how, one.generated_tokens) for one in written] == [(True, "own", 2), (True, "own", 5), (False, "none", 4)]
    assert {sampling.temperature for _, _, sampling in own.asked} == {0.8}
    assert method.writes


def test_a_gold_answer_that_the_model_says_is_its_own() -> None:
    """For mitigations it is the plain run's row.

    Here it is the model's own answer.
    """
    (written,) = Rft(samples=1, check="exact").write([row("q", "4")], context(Scripted({"q": ["4"]})))
    assert (written.row, written.accepted, written.how) == (row("q", "4"), True, "own")
