"""A live model of transformers that writes text and scores it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.contexts import Sampling
from harness.core.progress import Progress
from harness.core.rows import Example, PromptFormat, Row, Turn
from harness.data import tokens
from harness.models import halved
from harness.models.generate import Ids, draw, end_tokens
from harness.models.score import answer_nats

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

UNCUT = 2**30
"""Length limit in tokens for a prompt that is encoded whole."""

TOKENS = 16_384
"""Padded tokens, prompts and continuations, of one batch: many, since logits are computed at the
last place of each row alone."""


@dataclass(kw_only=True, eq=False)
class TransformersAuthor:
    """A live model that writes, scores and encodes its prompts; implements ``Author``.

    A text depends on model, prompt, key and sampling alone, up to rounding: the last digits of
    logits change with the batch, the number of threads and the device, so that between two almost
    equal tokens another may be drawn. So texts are written once and kept
    (``harness.run.generated.store``).

    Attributes:
        model: in evaluation mode, on its device.
        prompt_format: of its prompts.
        max_length: of prompt and text together, in tokens.
        dtype: ``float32`` or ``bfloat16``, of the forward passes.
        scored_tokens: padded tokens of one forward pass that scores.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    max_length: int
    dtype: str
    scored_tokens: int
    progress: Progress

    def write(self, prompts: Sequence[Sequence[int]], keys: Sequence[str], sampling: Sampling) -> list[Ids]:
        """Continue prompts, see ``harness.core.contexts.Author``.

        A prompt that fills the context is continued by no token.
        """
        fitting = [i for i, prompt in enumerate(prompts) if 0 < len(prompt) < self.max_length]
        found = draw(
            self.model,
            self.tokenizer,
            [tuple(prompts[i]) for i in fitting],
            [keys[i] for i in fitting],
            max_new_tokens=sampling.max_new_tokens,
            max_length=self.max_length,
            dtype=self.dtype,
            tokens=TOKENS,
            progress=self.progress,
            sampling=sampling,
        )
        written: list[Ids] = [()] * len(prompts)
        for i, ids in zip(fitting, found, strict=True):
            written[i] = ids
        return written

    def nats(self, examples: Sequence[Example]) -> list[float]:
        """Return the summed nats of each example's supervised tokens."""
        import torch

        half = self.dtype == "bfloat16"
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=half), halved.weights(self.model, half):
            return answer_nats(self.model, examples, self.scored_tokens, self.progress)

    @property
    def context_length(self) -> int | None:
        """Longest input in tokens, as the model's config states it; None if it does not."""
        length: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return length

    def prompt(self, row: Row) -> Ids:
        """Return the tokens of a completion row before its answer (``harness.data.tokens``)."""
        return tokens.prompt_of(tokens.encode(row, self.tokenizer, self.prompt_format, UNCUT, "target"))

    def text_prompt(self, text: str) -> Ids:
        """Return the tokens of a user's text, ready to be answered.

        White space at its end belongs to the answer.
        """
        return self.prompt(Row((Turn("user", text), Turn("assistant", " -")), "completion"))

    def spoken(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, stripped, without special tokens and ends of text or turn."""
        ends = end_tokens(self.model, self.tokenizer)
        return str(self.tokenizer.decode([token for token in ids if token not in ends], skip_special_tokens=True)).strip()

    def ended(self, ids: Sequence[int]) -> bool:
        """Return whether the last token ends a text or turn: no limit cut it."""
        return bool(ids) and ids[-1] in end_tokens(self.model, self.tokenizer)


def restated(row: Row, answer: str) -> Row:
    """Return a completion row with another answer.

    The white space before it stays that of the gold answer (``data/fields.py``).
    """
    *before, last = row.turns
    space = last.content[: len(last.content) - len(last.content.lstrip())]
    return Row((*before, Turn(last.role, f"{space}{answer.strip()}")), row.kind)
