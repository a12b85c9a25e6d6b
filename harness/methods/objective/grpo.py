"""Group-relative policy optimization: rollouts, rewarded by a rule or a judge."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from harness.config.strict import check
from harness.core.contexts import LearningContext, Rollouts, Sampling, Step
from harness.core.errors import TrainingError, explain
from harness.core.methods import Learns, Objective
from harness.core.rows import NO_LOSS, Example, Origin, PromptFormat, Row, RowKind
from harness.data import tokens
from harness.methods import rewards
from harness.methods.judge import Judge, probability
from harness.methods.objective.sft import supervised_ids
from harness.methods.rewriting import gold, question
from harness.models.batches import padded_batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer


FORMAT, JUDGE = "format", "judge"
"""Rewards that need a further setting: a pattern, a model."""


@dataclass(frozen=True, kw_only=True)
class Grpo(Objective):
    """GRPO: answer each prompt ``samples`` times, and learn the answers above their group's mean.

    A_i = (r_i - mean) / (std + 1e-4) over the answers to one prompt; a token's loss is -min(ρA,
    clip(ρ, 1±ε)A) + β·KL, with ρ the ratio to the model that wrote (equal to 1, so that the
    gradient is that of -A·log π) and KL = e^d - d - 1, d = log π_ref - log π, to the start model.
    ``loss_type``: ``grpo`` is the mean over an answer's tokens, then over answers; ``dapo`` the
    mean over all tokens of the step; ``dr_grpo`` divides by ``max_new_tokens`` instead of an
    answer's length and omits std from A. One optimizer step for each batch of rollouts. A prompt
    whose answers have equal rewards has no gradient.

    Volume counts prompts; only rewards read the gold answer. ``train_loss`` is minus the mean
    reward of the rollouts.

    Reference: Shao et al. 2024, arXiv 2402.03300, equations 3 and 4; Liu et al. 2025, arXiv
    2503.20783 (dr_grpo); Yu et al. 2025, arXiv 2503.14476 (dapo's mean over tokens). The loss is
    that of TRL's GRPOTrainer. Differs from the paper: β is 0 by default, and each batch gets one
    step. Differs from TRL: the harness's sampler writes, each answer by its own random numbers;
    nothing is padded on the left. Checked against: the formula in numpy on a model of two layers.

    The default rate is a tenth of that of supervised training: 5e-6 against 5e-5 at 7B to 8B, and
    against 1e-4 for smaller models, in the scripts of Chen et al. 2025, arXiv 2510.18874.

    Attributes:
        reward: rewards whose weighted sum an answer gets: names of
            ``harness.methods.rewards.REWARDS``, ``format`` (see ``pattern``), ``judge`` (the
            judge's P(yes) against no).
        weights: of each reward; empty is 1 each.
        pattern: of ``format``: a regular expression that a whole answer must match.
        judge: see ``Judge``.
        samples: answers to a prompt, 2 or more.
        temperature: of drawing answers, and of their log-probabilities.
        max_new_tokens: of each answer.
        beta: weight of the KL to the start model; 0 needs no reference.
        loss_type: see above.
        clip: ε.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"completion"})
    learns: ClassVar[Learns] = "rewards"
    rate_share: ClassVar[float] = 0.1
    library: ClassVar[str] = "trl"

    reward: tuple[str, ...] = ("exact",)
    weights: tuple[float, ...] = ()
    pattern: str = ""
    judge: Judge = field(default_factory=Judge)
    samples: int = 8
    temperature: float = 1.0
    max_new_tokens: int = 64
    beta: float = 0.0
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    clip: float = 0.2
    prompt_format: PromptFormat = "plain"

    def __post_init__(self) -> None:
        """Check ranges."""
        known = [*rewards.REWARDS, FORMAT, JUDGE]
        check("objective.reward", self.reward, f"one or more of {', '.join(known)}", lambda v: bool(v) and set(v) <= set(known))
        allowed = f"as many as rewards ({len(self.reward)}), or none"
        check("objective.weights", self.weights, allowed, lambda value: len(value) in (0, len(self.reward)))
        allowed = "a regular expression if reward has format, else nothing"
        check("objective.pattern", self.pattern, allowed, lambda value: bool(value) == (FORMAT in self.reward) and _compiles(value))
        check("objective.samples", self.samples, "2 or more", lambda value: value >= 2)
        check("objective.max_new_tokens", self.max_new_tokens, "1 or more", lambda value: value >= 1)
        check("objective.beta", self.beta, "0 or greater", lambda value: value >= 0)
        for name in ("temperature", "clip"):
            check(f"objective.{name}", getattr(self, name), "greater than 0", lambda value: value > 0)

    @property
    def models(self) -> tuple[str, ...]:
        """The judge, if it is used and is another model."""
        return self.judge.models if JUDGE in self.reward else ()

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a row as tokens, as ``Sft`` does.

        Its prompt is answered, and rewards compare with its answer.
        """
        return dataclasses.replace(tokens.encode(row, tokenizer, self.prompt_format, max_length, origin), row=row)

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return each prompt with its gold answer, (S, T), which is not what is learned."""
        labels = [[NO_LOSS, *supervised_ids(example)[1:]] for example in examples]
        return padded_batch([example.input_ids for example in examples], labels, pad_id)

    def trainer(self) -> type[Trainer]:
        """Return a Trainer with TRL's loss."""
        from harness.training.trl import reward_trainer

        return reward_trainer(
            beta=self.beta,
            temperature=self.temperature,
            loss_type=self.loss_type,
            clip=self.clip,
            max_new_tokens=self.max_new_tokens,
        )

    def answer(self, step: Step, context: LearningContext, pad_id: int) -> Rollouts:
        """Answer the prompts of a step with the live model, and return the rollouts.

        The random numbers of an answer depend on the run's seed, the step, the place of its prompt
        there and its number alone.

        Raises:
            TrainingError: if no prompt leaves room for an answer.
        """
        from harness.training.trl import advantages_of, stacked

        places = [place for place, example in enumerate(step.examples) if example.supervised_tokens]
        rows = [step.examples[place] for place in places for _ in range(self.samples)]
        keys = [f"grpo {context.seed} {step.number} {place} {number}" for place in places for number in range(self.samples)]
        prompts = [tokens.prompt_of(example) for example in rows]
        written = context.live.write(prompts, keys, Sampling(self.max_new_tokens, temperature=self.temperature))
        if not any(written):
            got, fix = f"no prompt of step {step.number + 1} that leaves room for an answer", "a larger training.max_length"
            raise TrainingError(explain("objective=grpo", got=got, allowed="prompts shorter than training.max_length", fix=fix))
        worth, judged = self._worth(rows, [context.live.spoken(ids) for ids in written], context)
        answers = list(zip(prompts, written, strict=True))
        advantages = advantages_of(worth, self.samples, scaled=self.loss_type != "dr_grpo")
        batch = stacked(answers, advantages, pad_id)
        read = int(batch["attention_mask"].sum())
        referred = read if self.beta else 0
        return Rollouts(batch, worth, sum(map(len, written)), read + referred, read_tokens=referred + judged)

    def worth(self, rows: Sequence[Example], answers: Sequence[str], context: LearningContext) -> list[float]:
        """Return the weighted sum of rewards of each answer."""
        return self._worth(rows, answers, context)[0]

    def _worth(self, rows: Sequence[Example], answers: Sequence[str], context: LearningContext) -> tuple[list[float], int]:
        """Return the rewards, and the tokens read by a judge."""
        total, read = [0.0] * len(rows), 0
        for name, weight in zip(self.reward, self.weights or [1.0] * len(self.reward), strict=True):
            found, tokens = self._judged(rows, answers, context) if name == JUDGE else (self._checked(name, rows, answers), 0)
            total, read = [before + weight * value for before, value in zip(total, found, strict=True)], read + tokens
        return total, read

    def _checked(self, name: str, rows: Sequence[Example], answers: Sequence[str]) -> list[float]:
        reward = rewards.matching(self.pattern) if name == FORMAT else rewards.REWARDS[name]
        asked = [example.row for example in rows if example.row is not None]
        return [reward(question(row), answer, gold(row)) for row, answer in zip(asked, answers, strict=True)]

    def _judged(self, rows: Sequence[Example], answers: Sequence[str], context: LearningContext) -> tuple[list[float], int]:
        author = context.own if self.judge.model is None else context.other(self.judge.model)
        asked = [(question(example.row), answer) for example, answer in zip(rows, answers, strict=True) if example.row is not None]
        odds, read = self.judge.log_odds(author, asked, spaced=self.prompt_format == "plain")
        return [probability(one) for one in odds], sum(read)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
