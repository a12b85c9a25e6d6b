"""RLAIF: a judge's preferences between the start model's answers, learned by DPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row, RowKind, Turn
from harness.methods.judge import Judge
from harness.methods.objective.dpo import Dpo
from harness.methods.rewriting import question


@dataclass(frozen=True, kw_only=True)
class Rlaif(Dpo):
    """DPO on the judge's best and worst of ``samples`` answers to each prompt.

    The start model answers before training. A judge scores each answer alone (``Judge``), so the
    order of two answers has no influence. A prompt is dropped if its answers have equal texts or
    scores; so is an answer cut at ``max_new_tokens``, since training would append an end that the
    model did not write. The gold answer is not read.

    Reference: Lee et al. 2023, arXiv 2309.00267; Bai et al. 2022, arXiv 2212.08073, section 4.
    Differs from the papers: DPO on the judge's pairs in place of a reward model and policy
    gradients; the pairs are made once, from the start model. Checked against: the pair chosen by
    log-probabilities by hand.

    Attributes:
        judge: see ``Judge``; the start model by default.
        samples: answers to a prompt, 2 or more.
        temperature: of drawing answers.
        max_new_tokens: of each answer.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"completion"})

    judge: Judge = field(default_factory=Judge)
    samples: int = 2
    temperature: float = 1.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check("objective.samples", self.samples, "2 or more", lambda value: value >= 2)
        check("objective.temperature", self.temperature, "greater than 0", lambda value: value > 0)
        check("objective.max_new_tokens", self.max_new_tokens, "1 or more", lambda value: value >= 1)

    @property
    def models(self) -> tuple[str, ...]:
        """The judge, if it is another model."""
        return self.judge.models

    @property
    def writes(self) -> bool:
        """Always."""
        return True

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return the judge's preference pair for each row."""
        prompts = [context.own.prompt(row) for row in rows for _ in range(self.samples)]
        keys = [f"rlaif {context.seed} {row.id} {number}" for row in rows for number in range(self.samples)]
        drawn = context.own.write(prompts, keys, Sampling(self.max_new_tokens, temperature=self.temperature))
        answers = [context.own.spoken(ids) for ids in drawn]
        whole = [bool(answer) and context.own.ended(ids) for answer, ids in zip(answers, drawn, strict=True)]
        questions = [question(row) for row in rows for _ in range(self.samples)]
        author = context.own if self.judge.model is None else context.other(self.judge.model)
        asked = list(zip(questions, answers, strict=True))
        scores, read = self.judge.log_odds(author, asked, spaced=self.prompt_format == "plain")
        return [
            replace(
                self._pair(row, answers[own], scores[own], whole[own], context),
                generated_tokens=sum(map(len, drawn[own])),
                read_tokens=sum(read[own]),
            )
            for row, own in zip(rows, (slice(i, i + self.samples) for i in range(0, len(answers), self.samples)), strict=True)
        ]

    def _pair(
        self, row: Row, answers: Sequence[str], scores: Sequence[float], whole: Sequence[bool], context: WritingContext
    ) -> GeneratedRow:
        """Return the preference pair of a row, without its costs."""
        complete = [i for i in range(len(answers)) if whole[i]]
        best, worst = max(complete, key=scores.__getitem__, default=0), min(complete, key=scores.__getitem__, default=0)
        if len(complete) < 2 or answers[best] == answers[worst] or scores[best] == scores[worst]:
            how = "cut" if len(complete) < 2 else "equal"
            return GeneratedRow(None, accepted=False, how=how, generated_tokens=0, tried=tuple(answers))
        better, worse = context.restated(row, answers[best]), context.restated(row, answers[worst])
        pair = Row((*better.turns, Turn("rejected", worse.turns[-1].content)), "preference")
        return GeneratedRow(pair, accepted=True, how="own", generated_tokens=0, tried=tuple(answers))
