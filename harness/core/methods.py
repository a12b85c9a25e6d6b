"""Base classes of objectives and mitigations; ``core.tuning`` has that of tunings.

One word for one thing (yaml key = field = table column = axis label):

- run: one training trajectory (start model, tuning, objective, mitigation, data, schedule, seed).
- point: (run, volume), the state of a run after a given volume of data, evaluated. Volume 0 is
  *before*.
- volume: target rows seen once, in permutation order.
- target / probe: the role of a suite: measures learning / measures forgetting.
- anchor: the declared data that represent the past (replay draws on it), with a recorded budget.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.core.contexts import (
    GeneratedRow,
    LearningContext,
    Penalty,
    PenaltyContext,
    Rollouts,
    Step,
    WeightsContext,
    WritingContext,
)
from harness.core.rows import Example, Origin, PromptFormat, Row, RowKind
from harness.core.sources import Source
from harness.core.tuning import Tuning

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer

Learns = Literal["tokens", "pairs", "rewards"]
"""Signal of an objective: the tokens of rows, preference pairs, or rewards of rollouts."""


class Objective(ABC):
    """Objective of training: the rows it needs, their batches, and the Trainer that learns them.

    Attributes:
        needs: kinds of rows that it accepts.
        learns: see ``Learns``; determines the mitigations that it combines with.
        rate_share: factor on the default learning rate of a tuning, which is that of supervised
            training.
        splits_texts: whether a text beyond ``max_length`` becomes several rows; else it is cut.
        library: package whose loss it is, such as trl; its version is part of a run's identity.
            Empty if the loss is the harness's.
    """

    needs: ClassVar[frozenset[RowKind]]
    learns: ClassVar[Learns] = "tokens"
    rate_share: ClassVar[float] = 1.0
    splits_texts: ClassVar[bool] = False
    library: ClassVar[str] = ""

    @property
    def models(self) -> tuple[str, ...]:
        """Members of conf/model that it needs in addition to the start model (a judge)."""
        return ()

    @property
    def writes(self) -> bool:
        """Whether ``write`` is called before training."""
        return False

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return the rows to train on in place of ``rows``, as ``Mitigation.write`` does."""
        return []

    @property
    @abstractmethod
    def prompt_format(self) -> PromptFormat:
        """Whether rows are joined as plain text or go through the chat template."""

    @abstractmethod
    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a row as tokens with its mask, at most ``max_length`` of them."""

    @abstractmethod
    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return ``input_ids``, ``attention_mask`` and ``labels`` of shape (S, T).

        A label of ``harness.core.rows.NO_LOSS`` has no loss.
        """

    @abstractmethod
    def trainer(self) -> type[Trainer]:
        """Return the Trainer class whose loop learns from the batches."""

    @property
    def samples(self) -> int:
        """Answers drawn for each prompt, for an objective that generates them."""
        return 1

    def answer(self, step: Step, context: LearningContext, pad_id: int) -> Rollouts:
        """Answer the prompts of a step with the live model, and reward the answers.

        Called in training, and only for an objective that learns rewards.
        """
        raise NotImplementedError(f"{type(self).__name__} learns {self.learns} and answers no prompts")


class Mitigation:
    """Protection of the past: in data, loss, or weights after training.

    A mitigation derives from this class and overrides what it changes; each default does nothing.

    Attributes:
        strength: name of the field that switches the mitigation off at 0.
        off: values of fields that switch it off, for a mitigation without such a field. Switched
            off, it equals ``none`` bit for bit.
    """

    strength: ClassVar[str] = ""
    off: ClassVar[Mapping[str, Any]] = {}

    @property
    def models(self) -> tuple[str, ...]:
        """Members of conf/model that it needs in addition to the start model."""
        return ()

    @property
    def needs_anchor(self) -> bool:
        """Whether it draws on the anchor."""
        return False

    @property
    def trains_on_anchor(self) -> bool:
        """Whether anchor rows are trained on, so that the objective has to accept their kind."""
        return self.needs_anchor

    @property
    def needs_weights(self) -> bool:
        """Whether it computes with weights in floating point, which quantised ones are not."""
        return bool(self.coefficients)

    def rejects(self, objective: Objective, tuning: Tuning, data: Source) -> str:
        """Return why it cannot be combined with these, as a noun phrase for "got".

        Empty if it can.
        """
        return ""

    def anchor_rows(self, target_rows: int) -> int:
        """Return the number of anchor rows that a run draws, or an estimate.

        An estimate if it depends on the length of rows.
        """
        return 0

    def least_anchor_rows(self, target_rows: int) -> int:
        """Return a lower bound of ``anchor_rows``, for rows of any length."""
        return self.anchor_rows(target_rows)

    @property
    def writes(self) -> Literal["", "targets", "anchor"]:
        """Which rows ``write`` generates before training; empty if it is not called."""
        return ""

    def write(self, rows: Sequence[Row], context: WritingContext) -> list[GeneratedRow]:
        """Return generated rows.

        The outcome for a row depends on that row and the seed alone, so that it can be stored.

        Args:
            rows: ``targets``: target rows, with one ``GeneratedRow`` returned for each. ``anchor``:
                the target rows of the run; ``anchor_rows`` rows are returned, and the i-th one does
                not depend on their number.
            context: authors.
        """
        return []

    def mix(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> list[list[Example]]:
        """Return the rows of every step, target and anchor.

        Args:
            steps: target rows by optimizer step, in permutation order.
            anchor: anchor rows in permutation order.

        Returns:
            As many steps; a prefix of them depends only on the same prefix of the arguments, so
            that volumes nest.
        """
        return [list(step) for step in steps]

    def penalty(self, context: PenaltyContext) -> Penalty | None:
        """Return the penalty that is added once to the loss of a step, or None.

        It depends on the step, the live model and the global random streams alone: training may
        resume from a checkpoint, or run in several processes.
        """
        return None

    def extra_tokens(self, steps: Sequence[Sequence[Example]], anchor: Sequence[Example]) -> int:
        """Return the tokens of other forward passes than training's: reference, Fisher, anchor."""
        return 0

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Coefficients at which ``weights`` is measured at each volume.

        Empty for a mitigation that changes no weights after training.
        """
        return ()

    @property
    def coefficient(self) -> float | None:
        """The coefficient whose results are the run's.

        None: chosen at each volume on the target's select items.
        """
        return None

    def weights(self, context: WeightsContext, coefficient: float) -> dict[str, torch.Tensor]:
        """Return the weights to measure, by plain name.

        Without further training: one trained run serves every coefficient.
        """
        return dict(context.tuned)

    @property
    def keeps_best(self) -> bool:
        """Whether a volume reports the best volume so far, chosen on the target's select items."""
        return False

    @property
    def switched_off(self) -> Mapping[str, Any]:
        """Values of its fields at which it equals ``none``; empty if undeclared."""
        return self.off or ({self.strength: 0.0} if self.strength else {})

    @property
    def is_off(self) -> bool:
        """Whether its own settings switch it off."""
        off = self.switched_off
        return bool(off) and all(getattr(self, name) == value for name, value in off.items())
