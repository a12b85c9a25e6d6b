"""A judge's preferences: the pair it makes of the start model's answers, what is left out, and the training that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.contexts import Sampling, WritingContext
from harness.interfaces import Example, Row, Silent
from harness.judging import Judge
from harness.objective.rlaif import Rlaif
from harness.writing.author import restated
from tests.contract import tiny

JUDGE = Judge(template="{answer}", words=("w1", "w2"))


def text(ids: Sequence[int]) -> str:
    return str(tiny.tokenizer().decode(list(ids)))


class Scripted:
    """Writes what it is told, and scores an answer by what it is told."""

    def __init__(self, answers: dict[str, str], odds: dict[str, float]) -> None:
        self.tokenizer, self.answers, self.odds = tiny.tokenizer(), answers, odds
        self.asked: list[tuple[str, Sampling]] = []

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        self.asked += [(key, sampling) for key in keys]
        return [tuple(self.tokenizer.encode(self.answers[key.rsplit(" ", 1)[1]], add_special_tokens=False)) for key in keys]

    def nats(self, examples: Sequence[Example]) -> list[float]:
        return [-self.odds[text(example.input_ids[:-1])] if text(example.input_ids[-1:]) == "w1" else 0.0 for example in examples]


def context(author: Scripted) -> WritingContext:
    encode = lambda text: tuple(tiny.tokenizer().encode(text, add_special_tokens=False))  # noqa: E731
    return WritingContext(
        own=author,
        other=lambda _: author,
        prompt=lambda row: encode(row.turns[0].content),
        text_prompt=encode,
        spoken=text,
        restated=restated,
        anchor=[],
        seed=3,
        progress=Silent(),
    )


def test_the_better_of_two_answers_is_chosen() -> None:
    """By the judge's odds, whichever was written first; both are the model's own, and all it wrote is counted."""
    rows: list[Row] = tiny.rows("completion", 2)
    for first, second in (("w5", "w6 w7"), ("w6 w7", "w5")):
        author = Scripted({"0": first, "1": second}, {"w5": -1.0, "w6 w7": 0.5})
        written = Rlaif(judge=JUDGE).write(rows, context(author))
        for row, made in zip(rows, written, strict=True):
            assert made.row is not None
            assert [(turn.role, turn.content) for turn in made.row.turns] == [
                ("user", row.turns[0].content),
                ("assistant", " w6 w7"),
                ("rejected", " w5"),
            ]
            assert (made.row.kind, made.accepted, made.how, made.generated_tokens, made.tried) == (
                "preference",
                True,
                "own",
                3,
                (first, second),
            )
        assert author.asked[0] == (f"rlaif 3 {rows[0].id} 0", Sampling(64, temperature=1.0))


def test_equal_answers_are_left_out() -> None:
    """The same words, or words that are worth the same; their tokens are counted all the same."""
    row = tiny.rows("completion", 1)
    for second in ("w5", "w6"):
        author = Scripted({"0": "w5", "1": second}, {"w5": 0.25, "w6": 0.25})
        (made,) = Rlaif(judge=JUDGE).write(row, context(author))
        assert (made.row, made.accepted, made.how, made.generated_tokens) == (None, False, "equal", 2)


def test_pairs_are_learned_as_by_dpo() -> None:
    """The pair made is a row that it takes, and its first loss is log 2."""
    objective = Rlaif(judge=JUDGE)
    assert (objective.needs, objective.learns, objective.writes) == (frozenset({"completion"}), "pairs", True)
    author = Scripted({"0": "w5", "1": "w6"}, {"w5": -1.0, "w6": 0.5})
    made = [one.row for one in objective.write(tiny.rows("completion", 4), context(author)) if one.row is not None]
    examples = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in made]
    stops = tiny.run(tiny.llama().requires_grad_(True), [examples] * 2, objective, stops={1: 4, 2: 8})
    assert stops[0].train_loss is not None
    assert abs(stops[0].train_loss - math.log(2)) < 1e-6
    assert (stops[1].train_loss or 1.0) < math.log(2)
