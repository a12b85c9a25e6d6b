"""Self-output: train on the model's own right answer, or another model's, else on gold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row
from harness.methods.rewriting import Rewriting, check_given, first_right


@dataclass(frozen=True, kw_only=True)
class SelfOutput(Rewriting):
    """Train on the first right one of n own answers, else on the gold one.

    ŷ ~ f_θ0(· | x) is right if it ended by itself and has the full reward ``check``. Answers are
    drawn one after the other until one is right, by random numbers of their row and number, so that
    more samples change nothing if fewer were enough. An answer that equals the gold one, white
    space aside, counts as gold. With ``author``, another model answers in place of the start model:
    the effect that remains does not come from the words being the model's own.

    Reference: selective self-rehearsal, Gupta et al. 2024, arXiv 2409.04787 (n = 1, a model as
    judge); with n > 1, rejection sampling with a fallback. Differs from the paper: a rule in place
    of the judge. Checked against: rows by hand.

    Attributes:
        samples: n.
        temperature: 0 is greedy, and one sample.
        top_p: draw from the likeliest tokens that together have this probability.
        author: member of conf/model that answers; null is the start model.
        check: a reward that an answer must have in full; required.
    """

    samples: int = 4
    temperature: float = 0.8
    top_p: float = 1.0
    author: str | None = None
    check: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if self.temperature == 0:
            check("mitigation.samples", self.samples, "1 at temperature 0, where all are equal", lambda value: value == 1)
        check_given("mitigation", self.check)

    @property
    def models(self) -> tuple[str, ...]:
        """The author, where it is another model."""
        return (self.author,) if self.author else ()

    def rewritten(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Draw the author's answers, and keep right ones."""
        author = context.other(self.author) if self.author else context.own
        sampling = Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)
        found = first_right(rows, context, author, sampling, samples=self.samples, name=self.check, until=self.until)
        how = "other" if self.author else "own"
        return [
            GeneratedRow(row, accepted=False, how="gold", generated_tokens=tokens, tried=tried)
            if text is None
            else GeneratedRow(context.restated(row, text), accepted=True, how=how, generated_tokens=tokens, tried=tried)
            for row, (text, tokens, tried) in zip(rows, found, strict=True)
        ]
