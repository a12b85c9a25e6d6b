"""Self-distillation (SDFT): train on the reference answer in the start model's own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.config.strict import check
from harness.core.contexts import GeneratedRow, Sampling, WritingContext
from harness.core.rows import Row
from harness.methods.rewriting import Rewriting, filled, gold, question

_BODY = "\n\n### Instruction:\n{prompt}\n\n### Reference Answer:\n{answer}\n\n### Response:\n"

TEMPLATES: Mapping[str, str] = {
    "using": "Below are an instruction that describes a task along with a reference answer. "
    f"Using the reference answer as a guide, write your own response.{_BODY}",
    "refer": "Below are an instruction that describes a task along with a reference answer. "
    f"Refer to the reference answer and write your own response.{_BODY}",
    "gsm8k": "You are an expert in math. Below are a math question and its reference answer. "
    "Refer to the reference answer and write a response that appropriately answers the question.\n\n{prompt}\n\n{answer}",
}
"""Templates of the official code (sail-sg/sdft, main.py), verbatim: ``using`` for general
instructions, ``refer`` for code and function calls, ``gsm8k`` for mathematics. Of ``refer``, our
notes of that code have only the second sentence; the first is that of ``using``."""

OPENINGS: Mapping[str, str] = {"gsm8k": "Great! Let's think step by step."}
"""Template → beginning of the model's answer, which it continues; from the same code."""

GIVEN_AWAY = ("reference answer", "your response", "my response", "your own response", "now it's your turn")
"""Phrases of the template; an answer that contains one is not used."""


@dataclass(frozen=True, kw_only=True)
class Sdft(Rewriting):
    """Train on the start model's restated answer ỹ if valid, else on the reference y.

    ỹ ~ f_θ0(· | template(x, y)), written before training. It is valid if it is not empty and ended
    by itself, if it neither contains one of ``GIVEN_AWAY`` (in any case) nor begins with "Your
    turn", and if it passes ``check``. Greedy by default, so that it depends on the row alone.

    Reference: Yang et al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model
    Fine-Tuning", arXiv 2402.13669, section 3; templates and filters of its code. Differs from the
    paper: the template is one user's text in the objective's prompt format (the paper's code puts
    its first sentences into a system prompt if the model has one), and white space at its end
    belongs to the answer; an answer cut at its length limit is not used; ``check`` is one of our
    rewards (the paper's last integer for mathematics is ``last_number``); the opening of ``gsm8k``
    is not part of the answer. Checked against: rows by hand.

    Attributes:
        template: ``using``, ``refer`` or ``gsm8k``, or your own text with ``{prompt}`` and
            ``{answer}``.
        check: a reward that an answer must have in full; null for none.
        temperature: 0 is greedy.
    """

    template: str = "using"
    check: str | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        allowed = f"{', '.join(TEMPLATES)}, or a text with {{prompt}} and {{answer}}"
        own = all(part in self.template for part in ("{prompt}", "{answer}"))
        check("mitigation.template", self.template, allowed, lambda value: value in TEMPLATES or own)

    def rewritten(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Answer with the reference in the prompt."""
        template = TEMPLATES.get(self.template, self.template)
        opening = OPENINGS.get(self.template, "")
        space = "" if context.prompt_format == "chat" else " "  # a chat template has written the space before an answer
        begun = context.own.tokenizer.encode(f"{space}{opening}", add_special_tokens=False) if opening else []
        prompts = [(*context.own.text_prompt(filled(template, prompt=question(row), answer=gold(row))), *begun) for row in rows]
        sampling = Sampling(self.max_new_tokens, self.temperature)
        made = self.restating(rows, context, prompts, sampling, self.check)
        return [_gold(row, found) if gives_away(answer.text) else found for row, (found, answer) in zip(rows, made, strict=True)]


def _gold(row: Row, found: GeneratedRow) -> GeneratedRow:
    return replace(found, row=row, accepted=False, how="gold")


def gives_away(answer: str) -> bool:
    """Return whether an answer mentions the template of its prompt."""
    return answer.startswith("Your turn") or any(words in answer.lower() for words in GIVEN_AWAY)
