"""Paraphrase: the start model restates the gold answer, and that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row
from harness.methods.rewriting import Rewriting, filled, gold, question


@dataclass(frozen=True, kw_only=True)
class Paraphrase(Rewriting):
    """Train on ỹ ~ f_θ0(· | "say y in other words") where it is fit, else on y.

    Written by the start model before training.

    ỹ is fit if it is not empty, ended by itself and passes ``check``. Drawn at ``temperature``, by
    numbers of its own row.

    Reference: the paraphrase arm that self-distillation is compared with in Yang et al. 2024, arXiv
    2402.13669, and the rephrasing of training data in general; there is no one source. Differs from
    the paper: a prompt of our own wording; a fallback to the gold answer, so that the questions are
    the plain run's. Checked against: rows by hand.

    Attributes:
        template: a text with ``{answer}`` in it, and ``{prompt}`` where the question is to be seen.
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
        """Let the start model restate the gold answers."""
        prompts = [context.own.text_prompt(filled(self.template, prompt=question(row), answer=gold(row))) for row in rows]
        sampling = Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)
        return [found for found, _ in self.restating(rows, context, prompts, sampling, self.check)]
