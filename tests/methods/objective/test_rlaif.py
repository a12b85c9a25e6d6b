"""RLAIF: the pair of the judge, dropped rows, and the training that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.core.contexts import Sampling, WritingContext
from harness.core.progress import Silent
from harness.core.rows import Example, Row
from harness.methods.judge import Judge
from harness.methods.objective.rlaif import Rlaif
from harness.models.author import restated
from tests.support import tiny

JUDGE = Judge(template="{answer}", words=("w1", "w2"))


def text(ids: Sequence[int]) -> str:
    return str(tiny.tokenizer().decode(list(ids), skip_special_tokens=True))


class Scripted:
    """Writes scripted answers, ended unless by an ellipsis; scores by a table."""

    context_length = None

    def __init__(self, answers: dict[str, str], odds: dict[str, float]) -> None:
        self.tokenizer, self.answers, self.odds = tiny.tokenizer(), answers, odds
        self.asked: list[tuple[str, Sampling]] = []

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[tuple[int, ...]]:
        self.asked += [(key, sampling) for key in keys]
        texts = [self.answers[key.rsplit(" ", 1)[1]] for key in keys]
        ends = ["" if text.endswith("…") else " <eos>" for text in texts]
        return [
            tuple(self.tokenizer.encode(text.rstrip("…") + end, add_special_tokens=False)) for text, end in zip(texts, ends, strict=True)
        ]

    def nats(self, examples: Sequence[Example]) -> list[float]:
        return [-self.odds[text(example.input_ids[:-1])] if text(example.input_ids[-1:]) == "w1" else 0.0 for example in examples]

    def prompt(self, row: Row) -> tuple[int, ...]:
        return self.text_prompt(row.turns[0].content)

    def text_prompt(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def spoken(self, ids: Sequence[int]) -> str:
        return text(ids)

    def ended(self, ids: Sequence[int]) -> bool:
        return list(ids[-1:]) == [tiny.EOS]


def context(author: Scripted) -> WritingContext:
    return WritingContext(
        own=author,
        other=lambda _: author,
        restated=restated,
        prompt_format="plain",
        anchor=[],
        seed=3,
        progress=Silent(),
    )


def test_the_better_of_two_answers_is_chosen() -> None:
    """By the judge's odds, in any order.

    Both are the model's own, and every text counts.
    """
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
                5,
                (first, second),
            )
            assert made.read_tokens == 2 * (1 + 1) + 2 * (2 + 1)  # the judge: each answer, with either word behind it
        assert author.asked[0] == (f"rlaif 3 {rows[0].id} 0", Sampling(64, temperature=1.0))


def test_equal_answers_are_left_out() -> None:
    """Equal words, or words with equal scores; their tokens still count."""
    row = tiny.rows("completion", 1)
    for second in ("w5", "w6"):
        author = Scripted({"0": "w5", "1": second}, {"w5": 0.25, "w6": 0.25})
        (made,) = Rlaif(judge=JUDGE).write(row, context(author))
        assert (made.row, made.accepted, made.how, made.generated_tokens) == (None, False, "equal", 4)


def test_an_answer_that_was_cut_is_in_no_pair() -> None:
    """Training would append an end that nobody wrote.

    The best or worst of the others is taken, or the row is dropped.
    """
    row = tiny.rows("completion", 1)
    odds = {"w5": -1.0, "w6": 0.5, "w7": 2.0}
    (made,) = Rlaif(judge=JUDGE, samples=3).write(row, context(Scripted({"0": "w5", "1": "w7…", "2": "w6"}, odds)))
    assert made.row is not None
    assert [turn.content for turn in made.row.turns[1:]] == [" w6", " w5"]
    assert made.generated_tokens == 5
    (none,) = Rlaif(judge=JUDGE).write(row, context(Scripted({"0": "w5", "1": "w7…"}, odds)))
    assert (none.row, none.accepted, none.how, none.generated_tokens) == (None, False, "cut", 3)


def test_pairs_are_learned_as_by_dpo() -> None:
    """The pair is a row that DPO accepts, and its first loss is log 2."""
    objective = Rlaif(judge=JUDGE)
    assert (objective.needs, objective.learns, objective.writes) == (frozenset({"completion"}), "pairs", True)
    author = Scripted({"0": "w5", "1": "w6"}, {"w5": -1.0, "w6": 0.5})
    made = [one.row for one in objective.write(tiny.rows("completion", 4), context(author)) if one.row is not None]
    examples = [objective.encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target") for row in made]
    stops = tiny.run(tiny.llama().requires_grad_(True), [examples] * 2, objective, stops={1: 4, 2: 8})
    assert stops[0].counts.train_loss is not None
    assert abs(stops[0].counts.train_loss - math.log(2)) < 1e-6
    assert (stops[1].counts.train_loss or 1.0) < math.log(2)
