"""Self-distillation (SDFT): the start model says the reference answer in its own words, and that is learned."""

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
"""The templates of the official code (sail-sg/sdft, main.py), word for word: ``using`` for general instructions, ``refer`` for code and
function calls, ``gsm8k`` for mathematics. Of ``refer``, the notes this was written from give the
second sentence; the first is that of ``using``."""

OPENINGS: Mapping[str, str] = {"gsm8k": "Great! Let's think step by step."}
"""What the model's answer begins with before it goes on, by template; from the same place."""

GIVEN_AWAY = ("reference answer", "your response", "my response", "your own response", "now it's your turn")
"""An answer in which one of these stands speaks of the template, and is not used."""


@dataclass(frozen=True, kw_only=True)
class Sdft(Rewriting):
    """Train on ỹ where it is fit, else on y: ỹ ~ f_θ0(· | template(x, y)), written by the start model before training.

    ỹ is fit if it is not empty and ended by itself, if it neither contains one of ``GIVEN_AWAY``
    (in any case) nor begins with "Your turn", and if it passes ``check``. Greedy by default, so it
    depends on the row alone.

    Reference: Yang et al. 2024, "Self-Distillation Bridges Distribution Gap in Language Model
    Fine-Tuning", arXiv 2402.13669, section 3; templates and filters of its code. Differs from the
    paper: the template is one user's text in the objective's prompt format (the paper's code puts
    its first sentences into a system prompt where the model has one), white space at its end goes
    with the answer; an answer that was cut at its limit of length is not used; ``check`` is one of
    our rewards (its last integer for mathematics is ``last_number``), and the opening of ``gsm8k``
    is not made part of the answer. Checked against: rows by hand.

    Attributes:
        template: ``using``, ``refer`` or ``gsm8k``, else a text of one's own with ``{prompt}`` and
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
        """Let the start model answer with the reference before it."""
        template = TEMPLATES.get(self.template, self.template)
        opening = OPENINGS.get(self.template, "")
        space = "" if context.prompt_format == "chat" else " "  # a chat template has written what stands before an answer
        begun = context.own.tokenizer.encode(f"{space}{opening}", add_special_tokens=False) if opening else []
        prompts = [(*context.own.text_prompt(filled(template, prompt=question(row), answer=gold(row))), *begun) for row in rows]
        sampling = Sampling(self.max_new_tokens, self.temperature)
        made = self.restating(rows, context, prompts, sampling, self.check)
        return [_gold(row, found) if gives_away(answer.text) else found for row, (found, answer) in zip(rows, made, strict=True)]


def _gold(row: Row, found: GeneratedRow) -> GeneratedRow:
    return replace(found, row=row, accepted=False, how="gold")


def gives_away(answer: str) -> bool:
    """Say whether an answer speaks of the template that it was asked with."""
    return answer.startswith("Your turn") or any(words in answer.lower() for words in GIVEN_AWAY)
