"""Shared by methods that generate rows: treated rows, answers, correctness, edit distance.

The rows are generated before training (``harness.run.generated``), with the authors of a
``WritingContext``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.config.strict import check
from harness.core.contexts import Author, GeneratedRow, Sampling, WritingContext
from harness.core.errors import ConfigError, explain
from harness.core.methods import Mitigation, Objective
from harness.core.rows import Row
from harness.core.seeds import derive
from harness.core.sources import Source
from harness.core.tuning import Tuning
from harness.methods.rewards import REWARDS

if TYPE_CHECKING:
    from collections.abc import Mapping

UNTREATED = "untreated"
"""``GeneratedRow.how`` of a row that ``fraction`` did not choose."""


@dataclass(frozen=True)
class Answer:
    """An answer that an author wrote.

    Attributes:
        text: without special tokens, cut before ``until``.
        raw: the whole text, for people to read.
        tokens: written for it, the end of text or turn included.
        ended: whether it ended by itself, rather than at a length limit.
    """

    text: str
    raw: str
    tokens: int
    ended: bool


def answers(author: Author, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling, until: str = "") -> list[Answer]:
    """Return an author's answers to prompts, in their order.

    Args:
        author: the start model, or another.
        prompts: token ids of the author's tokenizer.
        keys: determine the random numbers of each answer.
        sampling: settings of generation.
        until: a text before which an answer is cut, such as an empty line; empty for none. The
            tokens behind it count as generated.
    """
    return [_answer(list(ids), author, until) for ids in author.write(prompts, keys, sampling)]


def _answer(ids: list[int], author: Author, until: str) -> Answer:
    raw = author.spoken(ids)
    text, found, _ = raw.partition(until) if until else (raw, "", "")
    return Answer(text.strip(), raw, len(ids), ended=bool(found) or author.ended(ids))


def question(row: Row) -> str:
    """Return the text before a row's answer: its turns, separated by empty lines."""
    return "\n\n".join(turn.content for turn in row.turns[:-1])


def gold(row: Row) -> str:
    """Return the answer of a completion row, stripped."""
    return row.turns[-1].content.strip()


def right(name: str | None, row: Row, answer: Answer) -> bool:
    """Return whether an answer is right.

    It is not empty, ended by itself and, unless ``name`` is None, has the full reward of that name.
    """
    whole = bool(answer.text) and answer.ended
    return whole and (name is None or REWARDS[name](question(row), answer.text, gold(row)) >= 1.0)


def filled(template: str, **texts: str) -> str:
    """Replace each ``{name}`` of a template by a text; braces in texts are kept."""
    found, rest = "", template
    while rest:
        places = {name: rest.find(f"{{{name}}}") for name in texts}
        name = min((name for name, place in places.items() if place >= 0), key=lambda name: places[name], default=None)
        if name is None:
            return found + rest
        found += rest[: places[name]] + texts[name]
        rest = rest[places[name] + len(name) + 2 :]
    return found


def edit_distance(first: str, second: str) -> int:
    """Return the Levenshtein distance of two texts, in words."""
    one, other = first.split(), second.split()
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != theirs))
    return row[-1]


def edit_rate(first: str, second: str) -> float:
    """Return the edit distance per word of the longer text, from 0 to 1."""
    longest = max(len(first.split()), len(second.split()))
    return edit_distance(first, second) / longest if longest else 0.0


def first_right(
    rows: Sequence[Row], context: WritingContext, author: Author, sampling: Sampling, *, samples: int, name: str | None, until: str = ""
) -> list[tuple[str | None, int, tuple[str, ...]]]:
    """Draw answers to each row until one is right, at most ``samples``.

    Returns:
        For each row the first right answer or None, the tokens written for it, and every text. The
        n-th answer to a row does not depend on the number drawn.
    """
    chosen: list[str | None] = [None] * len(rows)
    tokens, tried = [0] * len(rows), [()] * len(rows)  # type: list[int], list[tuple[str, ...]]
    prompts = [author.prompt(row) for row in rows]
    for n in range(samples):
        open_rows = [i for i, text in enumerate(chosen) if text is None]
        keys = [key(context, rows[i], n) for i in open_rows]
        for i, answer in zip(open_rows, answers(author, [prompts[i] for i in open_rows], keys, sampling, until), strict=True):
            tokens[i] += answer.tokens
            tried[i] += (answer.raw,)
            chosen[i] = answer.text if right(name, rows[i], answer) else None
    return list(zip(chosen, tokens, tried, strict=True))


def key(context: WritingContext, row: Row, number: int = 0) -> str:
    """Return the key of the n-th text to a row, which determines its random numbers."""
    return f"{context.seed} {row.id} {number}"


def check_sampling(where: str, values: Mapping[str, Any]) -> None:
    """Check the ranges of a method's settings of generation, by name. Raises ConfigError."""
    ranges: dict[str, tuple[str, Any]] = {
        "max_new_tokens": ("greater than 0", lambda value: value > 0),
        "samples": ("greater than 0", lambda value: value > 0),
        "temperature": ("0 or greater", lambda value: value >= 0),
        "top_k": ("null or greater than 0", lambda value: value is None or value > 0),
        "top_p": ("greater than 0, at most 1", lambda value: 0 < value <= 1),
        "repetition_penalty": ("greater than 0", lambda value: value > 0),
        "check": (f"one of {', '.join(REWARDS)}", lambda value: value is None or value in REWARDS),
    }
    for name in ranges.keys() & values.keys():
        allowed, accept = ranges[name]
        check(f"{where}.{name}", values[name], allowed, accept)


def check_given(where: str, name: str | None) -> None:
    """Raise ConfigError for a method without the reward that selects right answers."""
    if name is None:
        fix = f"{where}.check=last_number, or another reward that fits the data (exact accepts only the words of the gold answer)"
        raise ConfigError(explain(f"{where}.check", got="nothing", allowed=f"one of {', '.join(REWARDS)}", fix=fix))


@dataclass(frozen=True, kw_only=True)
class Rewriting(Mitigation):
    """Base class of mitigations that replace the answers of target rows.

    A subclass generates the treated rows in ``rewritten``. It falls back to the gold answer and
    drops no row, so that the questions of a run are those of the plain run. If the text equals the
    gold answer, white space aside, the row is the plain run's and counts as gold, not as accepted.

    Attributes:
        fraction: share of the target rows that are treated, chosen by a hash of row and seed; the
            rows of a smaller share or volume are among those of a larger one. 0 treats none.
        max_new_tokens: of each text.
        until: a text before which an answer is cut, such as an empty line, for models that do not
            end by themselves; empty for none.
    """

    strength: ClassVar[str] = "fraction"

    fraction: float = 1.0
    max_new_tokens: int = 256
    until: str = ""

    def __post_init__(self) -> None:
        """Check ranges."""
        check("mitigation.fraction", self.fraction, "from 0 to 1", lambda value: 0 <= value <= 1)
        check_sampling("mitigation", vars(self))

    @property
    def writes(self) -> Literal["", "targets", "anchor"]:
        """``targets`` if any row is treated."""
        return "targets" if self.fraction > 0 else ""

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Reject objectives without given answers to learn, and rows without an answer."""
        if objective.learns != "tokens":
            return f"an objective that learns {objective.learns}, not the tokens of an answer"
        if objective.writes:
            return "an objective that writes its targets itself"
        return (
            "" if data.kinds == {"completion"} else f"{', '.join(sorted(data.kinds))} rows, not a prompt and its answer (kind: completion)"
        )

    def treats(self, row: Row, seed: int) -> bool:
        """Return whether a row is treated; ``seed`` is that of the WritingContext."""
        return derive(seed, "treated", row.id) < self.fraction * 2**32

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return one generated row for each row."""
        treated = [row for row in rows if self.treats(row, context.seed)]
        made = [_plain(row, written) for row, written in zip(treated, self.rewritten(treated, context), strict=True)]
        found = dict(zip((row.id for row in treated), made, strict=True))
        return [found.get(row.id, GeneratedRow(row, accepted=False, how=UNTREATED, generated_tokens=0)) for row in rows]

    def rewritten(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return one generated row for each treated row."""
        raise NotImplementedError

    def restating(
        self, rows: Sequence[Row], context: WritingContext, prompts: Sequence[Sequence[int]], sampling: Sampling, name: str | None
    ) -> list[tuple[GeneratedRow, Answer]]:
        """Return each row with the start model's answer if right, else with the gold one.

        And the answer itself.
        """
        keys = [key(context, row) for row in rows]
        written = answers(context.own, prompts, keys, sampling, self.until)
        return [
            (restated(row, context, answer, accepted=right(name, row, answer)), answer) for row, answer in zip(rows, written, strict=True)
        ]


def _plain(row: Row, written: GeneratedRow) -> GeneratedRow:
    """Return a generated row, or the plain row if the text copies its gold answer."""
    if written.accepted and written.row is not None and gold(written.row).split() == gold(row).split():
        return replace(written, row=row, accepted=False, how="gold")
    return written


def restated(row: Row, context: WritingContext, answer: Answer, *, accepted: bool) -> GeneratedRow:
    """Return a row with an accepted answer, or the row itself."""
    made = context.restated(row, answer.text) if accepted else row
    return GeneratedRow(made, accepted, "restated" if accepted else "gold", answer.tokens, tried=(answer.raw,))


@dataclass(frozen=True, kw_only=True)
class Rehearsing(Mitigation):
    """Base class of mitigations whose anchor the start model writes.

    The texts are numbered; the i-th one does not depend on their number. A subclass generates them
    in ``made``.
    """

    @property
    def writes(self) -> Literal["", "targets", "anchor"]:
        """``anchor`` if any row is drawn."""
        return "anchor" if self.anchor_rows(10**9) else ""

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return the texts that a run of these target rows mixes in."""
        return self.made(range(self.anchor_rows(len(rows))), context)

    def made(self, numbers: Sequence[int], context: WritingContext) -> list[GeneratedRow]:
        """Return the texts of these numbers, from 0."""
        raise NotImplementedError
