"""Minimum change: train on the model's own answer, corrected in few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row
from harness.methods.rewards import NUMBER, number_in
from harness.methods.rewriting import (
    Answer,
    Rewriting,
    answers,
    check_given,
    edit_distance,
    edit_rate,
    filled,
    gold,
    key,
    question,
    right,
)

PROMPT = (
    "Question: {prompt}\nRight answer: {answer}\nA student answered: {own}\n"
    "Correct the student's answer so that it is right, changing as few words as possible. Keep its wording, style and order. "
    "Write nothing but the corrected answer."
)
"""Prompt of an editor, in our own wording: the paper's is not published with its code."""


@dataclass(frozen=True, kw_only=True)
class MinimumChange(Rewriting):
    """Train on the right answer nearest to the model's own greedy answer ŷ.

    ŷ = argmax f_θ0(· | x) is kept if it is right. A wrong ŷ is corrected by an ``editor``, which
    sees question, gold answer and ŷ, and whose answer is used if right. Without an editor, a rule
    applies: the right one of n own answers, drawn at ``temperature``, with the smallest edit
    distance in words to ŷ; else ŷ with its last number replaced by the gold answer's last one, if
    that makes it right (and it ended by itself); else the gold answer. The edit rate of a row is
    the edit distance of its training answer to ŷ, divided by the words of the longer one.

    Reference: Ren et al. 2024, "I Learn Better If You Speak My Language", arXiv 2402.11192, minimum
    change; there the editor is GPT-4. Differs from the paper: our own prompt, any local model as
    editor, a rule without an editor by default, and gold answers in place of an editor's wrong
    ones. A copy of the gold answer counts as gold. Checked against: rows by hand.

    Attributes:
        editor: member of conf/model that corrects; null is the rule.
        samples: n, of the rule.
        temperature: of the rule's samples; above 0 if there are several.
        check: a reward that an answer must have in full; required.
    """

    editor: str | None = None
    samples: int = 4
    temperature: float = 0.8
    check: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.temperature == 0 and self.editor is None:
            check("mitigation.samples", self.samples, "1 at temperature 0, where all are equal", lambda value: value == 1)
        check_given("mitigation", self.check)

    @property
    def models(self) -> tuple[str, ...]:
        """The editor."""
        return (self.editor,) if self.editor else ()

    def rewritten(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Answer greedily, and correct wrong answers."""
        prompts = [context.own.prompt(row) for row in rows]
        keys = [key(context, row) for row in rows]
        own = answers(context.own, prompts, keys, Sampling(self.max_new_tokens, 0.0), self.until)
        wrong = [i for i, (row, answer) in enumerate(zip(rows, own, strict=True)) if not right(self.check, row, answer)]
        ask = self._edited if self.editor else self._nearest
        mended = dict(zip(wrong, ask([rows[i] for i in wrong], [own[i] for i in wrong], context), strict=True))
        return [
            mended.get(i) or _taken(row, answer, answer.text, "own", context) for i, (row, answer) in enumerate(zip(rows, own, strict=True))
        ]

    def _edited(self, rows: Sequence[Row], own: Sequence[Answer], context: WritingContext) -> list[GeneratedRow]:
        if not rows:
            return []
        editor = context.other(str(self.editor))
        asked = [filled(PROMPT, prompt=question(row), answer=gold(row), own=answer.text) for row, answer in zip(rows, own, strict=True)]
        prompts = [editor.text_prompt(text) for text in asked]
        edited = answers(editor, prompts, [key(context, row) for row in rows], Sampling(self.max_new_tokens, 0.0), self.until)
        found = []
        for row, first, answer in zip(rows, own, edited, strict=True):
            made = _taken(row, first, answer.text, "edited", context) if right(self.check, row, answer) else _left(row, first)
            found.append(_also(made, [answer]))
        return found

    def _nearest(self, rows: Sequence[Row], own: Sequence[Answer], context: WritingContext) -> list[GeneratedRow]:
        sampling = Sampling(self.max_new_tokens, self.temperature)
        prompts = [context.own.prompt(row) for row in rows for _ in range(self.samples)]
        keys = [key(context, row, n + 1) for row in rows for n in range(self.samples)]
        drawn = answers(context.own, prompts, keys, sampling, self.until)
        found = []
        for number, (row, first) in enumerate(zip(rows, own, strict=True)):
            samples = drawn[number * self.samples : (number + 1) * self.samples]
            fit = [answer.text for answer in samples if right(self.check, row, answer)]
            nearest = min(fit, key=lambda text: edit_distance(first.text, text), default=None)
            made = self._spliced(row, first, context) if nearest is None else _taken(row, first, nearest, "sampled", context)
            found.append(_also(made, samples))
        return found

    def _spliced(self, row: Row, own: Answer, context: WritingContext) -> GeneratedRow:
        """Replace the last number by the gold one if that helps, else take gold."""
        text = with_number(own.text, gold(row))
        if text is None or text.split() == gold(row).split() or not right(self.check, row, replace(own, text=text)):
            return _left(row, own)
        return _taken(row, own, text, "spliced", context)


def with_number(text: str, other: str) -> str | None:
    """Return a text with its last number replaced by another's; None if one has none."""
    if number_in(text) is None or number_in(other) is None:
        return None
    *_, last = NUMBER.finditer(text)
    return f"{text[: last.start()]}{NUMBER.findall(other)[-1]}{text[last.end() :]}"


def _taken(row: Row, own: Answer, text: str, how: str, context: WritingContext) -> GeneratedRow:
    return GeneratedRow(
        context.restated(row, text),
        accepted=True,
        how=how,
        generated_tokens=own.tokens,
        edit_rate=edit_rate(own.text, text),
        tried=(own.raw,),
    )


def _left(row: Row, own: Answer) -> GeneratedRow:
    return GeneratedRow(
        row, accepted=False, how="gold", generated_tokens=own.tokens, edit_rate=edit_rate(own.text, gold(row)), tried=(own.raw,)
    )


def _also(written: GeneratedRow, further: Sequence[Answer]) -> GeneratedRow:
    """Add further answers that were written for a row."""
    tokens = written.generated_tokens + sum(answer.tokens for answer in further)
    return replace(written, generated_tokens=tokens, tried=(*written.tried, *(answer.raw for answer in further)))
