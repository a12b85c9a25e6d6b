"""Rejection-sampling fine-tuning: train on the model's own right answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row, RowKind
from harness.methods.objective.sft import Sft
from harness.methods.rewriting import check_given, check_sampling, first_right


@dataclass(frozen=True, kw_only=True)
class Rft(Sft):
    """Cross-entropy on (x, ŷ), ŷ ~ f_θ0(· | x) with R(x, ŷ) = 1.

    The start model writes once, before training. An answer is right if it ended by itself and has
    the full reward ``check``. The first right one of n is learned, so that drawing stops there and
    a row counts once; a row without one is dropped. An answer that equals the gold one still
    counts as the model's own. The remaining rows, in permutation order, fill the steps: ``volume``
    counts accepted rows, and a run reads as much of the data as it needs; rejected answers count as
    generated. Volumes that all accepted rows are too few for are not reached.

    Reference: RAFT, Dong et al. 2023, arXiv 2304.06767; Self-SFT in Chen et al. 2025, arXiv
    2510.18874; n = 5 and T = 0.8. Differs from the papers: a right answer in place of the one of
    highest reward; once, not every epoch from the newest model. Checked against: rows by hand.

    Attributes:
        samples: n.
        temperature: above 0 if there are several samples.
        top_p: draw from the likeliest tokens that together have this probability.
        max_new_tokens: of each answer.
        until: a text before which an answer is cut, such as an empty line; empty for none.
        check: a reward that an answer must have in full; required.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"completion"})

    samples: int = 5
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 256
    until: str = ""
    check: str | None = None

    def __post_init__(self) -> None:
        """Check ranges."""
        check_sampling("objective", vars(self))
        if self.temperature == 0:
            check("objective.samples", self.samples, "1 at temperature 0, where all are equal", lambda value: value == 1)
        check_given("objective", self.check)

    @property
    def writes(self) -> bool:
        """Always."""
        return True

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return each row with its first right answer, or dropped without one."""
        sampling = Sampling(self.max_new_tokens, self.temperature, top_p=self.top_p)
        found = first_right(rows, context, context.own, sampling, samples=self.samples, name=self.check, until=self.until)
        return [
            GeneratedRow(
                None if text is None else context.restated(row, text),
                accepted=text is not None,
                how="none" if text is None else "own",
                generated_tokens=tokens,
                tried=tried,
            )
            for row, (text, tokens, tried) in zip(rows, found, strict=True)
        ]
