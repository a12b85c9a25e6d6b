"""LLM judge: log-odds of one word against another, such as "yes" against "no"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.config.strict import Part, check
from harness.core.contexts import Author
from harness.core.errors import ConfigError, explain
from harness.core.rows import Example


@dataclass(frozen=True, kw_only=True)
class Judge(Part):
    """log P(yes) - log P(no) under a model that is asked about an answer.

    Each answer is scored alone, so the order of two answers has no influence. Each word may have
    several tokens; the end of the turn is not one of them.

    Reference: Lee et al. 2023, RLAIF, arXiv 2309.00267, where a preference is read off the
    probabilities of a model's words. Differs from the paper: one answer at a time, rated by two
    words, in place of a choice between two answers. Checked against: values by hand.

    Attributes:
        model: member of conf/model; null is the start model.
        template: the question to the judge, with {prompt} and {answer}.
        words: the judge's word for a good answer, and for a bad one, without surrounding white
            space.
    """

    model: str | None = None
    template: str = "Question:\n{prompt}\n\nAnswer:\n{answer}\n\nIs this a good answer to the question? Say yes or no.\nVerdict:"
    words: tuple[str, str] = ("yes", "no")

    def __post_init__(self) -> None:
        """Check that the question contains the answer, and that there are two words."""
        allowed = "text with {answer}, and optionally {prompt}"
        check("objective.judge.template", self.template, allowed, lambda value: "{answer}" in value)
        allowed = "two different words"
        check("objective.judge.words", self.words, allowed, lambda value: len({word.strip() for word in value} - {""}) == 2)

    @property
    def models(self) -> tuple[str, ...]:
        """Members of conf/model that it needs in addition to the start model."""
        return (self.model,) if self.model is not None else ()

    def log_odds(self, author: Author, asked: Sequence[tuple[str, str]], *, spaced: bool) -> tuple[list[float], list[int]]:
        """Return log P(good word) - log P(bad word), and the tokens read, for each answer.

        Args:
            author: the judge.
            asked: prompts and answers, as text.
            spaced: whether the judge's word follows a space, as in the plain prompt format.

        Returns:
            Log-odds in nats, and the tokens that the judge read.

        Raises:
            ConfigError: for a question that is longer than the judge's context.
        """
        spoken = [author.tokenizer.encode(" " * spaced + word.strip(), add_special_tokens=False) for word in self.words]
        examples = [_with_word(author.text_prompt(self._question(*one)), word) for one in asked for word in spoken]
        self._check_length(max((example.tokens for example in examples), default=0), author)
        nats = author.nats(examples)
        odds = [bad - good for good, bad in zip(nats[::2], nats[1::2], strict=True)]
        return odds, [good.tokens + bad.tokens for good, bad in zip(examples[::2], examples[1::2], strict=True)]

    def _check_length(self, longest: int, author: Author) -> None:
        """Raise ConfigError for a question longer than the judge's context.

        The maximum length of rows is no limit here.
        """
        limit = author.context_length
        if limit is not None and longest > limit:
            got, allowed = f"a question of {longest} tokens", f"at most {limit}, the context of {self.model or 'the start model'}"
            fix = "shorter prompts, a smaller objective.max_new_tokens or a shorter template"
            raise ConfigError(explain("objective.judge", got=got, allowed=allowed, fix=fix))

    def _question(self, prompt: str, answer: str) -> str:
        before, _, after = self.template.partition("{answer}")  # braces in an answer are not placeholders
        return before.replace("{prompt}", prompt) + answer + after.replace("{prompt}", prompt)


def probability(log_odds: float) -> float:
    """Return P(yes) / (P(yes) + P(no)), 0 to 1."""
    return 1.0 / (1.0 + math.exp(-log_odds)) if log_odds >= 0 else math.exp(log_odds) / (1.0 + math.exp(log_odds))


def _with_word(prompt: Sequence[int], word: Sequence[int]) -> Example:
    return Example((*prompt, *word), (*[False] * len(prompt), *[True] * len(word)), "target", row_id="")
