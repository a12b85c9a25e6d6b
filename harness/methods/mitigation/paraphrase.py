"""Paraphrase: train on the gold answer as the start model restates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row
from harness.methods.rewriting import Rewriting, filled, gold, question


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Rewriting):
    """Train on a valid paraphrase ỹ of the gold answer y, else on y.

    ỹ ~ f_θ0(· | "say y in other words"), written by the start model before training. It is valid if
    it is not empty, ended by itself and passes ``check``. It is drawn at ``temperature``, by random
    numbers of its row.

    Reference: the paraphrase arm that self-distillation is compared with in Yang et al. 2024, arXiv
    2402.13669, and the rephrasing of training data in general; there is no single source. Differs
    from the paper: our own prompt; a fallback to the gold answer, so that the questions are those
    of the plain run. Checked against: rows by hand.

    Attributes:
        template: a text with ``{answer}``, and optionally ``{prompt}``.
        check: a reward that a paraphrase must have in full; null for none.
        temperature: 0 is greedy.
        top_p: draw from the likeliest tokens that together have this probability.
    """

    template: str = "Question: {prompt}\nAnswer: {answer}\n\nSay the answer in other words, keeping its meaning:"
    check: str | None = None
    temperature: float = 0.7
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check("mitigation.template", self.template, "a text with {answer}", lambda value: "{answer}" in value)

    def rewritten(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Restate the gold answers."""
        prompts = [context.own.text_prompt(filled(self.template, prompt=question(row), answer=gold(row))) for row in rows]
        sampling = Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)
        return [found for found, _ in self.restating(rows, context, prompts, sampling, self.check)]
