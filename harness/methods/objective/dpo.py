"""Direct preference optimization: prefer the better of two answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.config.strict import check
from harness.core.methods import Learns, Objective
from harness.core.rows import NO_LOSS, Example, Origin, PromptFormat, Row, RowKind
from harness.data import tokens
from harness.methods.objective.sft import supervised_ids
from harness.models.batches import padded_batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True, kw_only=True)
class Dpo(Objective):
    """DPO: -log σ(β[(log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))]).

    The mean over the pairs of a step. π_ref is always the start model: adapters are switched off,
    or the start weights replace the tuned ones. Log-probabilities are summed over the tokens of an
    answer, its end included.

    Reference: Rafailov et al. 2023, arXiv 2305.18290, equation 7. The loss is that of TRL's
    DPOTrainer (``loss_type=sigmoid``). Differs from TRL: dropout in training is that of tuning and
    training settings (0 by default), while TRL switches it off; the reference has none. Checked
    against: the formula in numpy on a model of two layers.

    The default rate is a tenth of that of supervised training: 5e-7 against 5e-6 for the 8B model
    of Lambert et al. 2024, arXiv 2411.15124.

    Attributes:
        beta: strength of the pull to the start model.
        prompt_format: see ``Sft``.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"preference"})
    learns: ClassVar[Learns] = "pairs"
    rate_share: ClassVar[float] = 0.1
    library: ClassVar[str] = "trl"

    beta: float = 0.1
    prompt_format: PromptFormat = "plain"

    def __post_init__(self) -> None:
        """Check ranges."""
        check("objective.beta", self.beta, "greater than 0", lambda value: value > 0)

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a pair as tokens, each answer with its prompt, cut at ``max_length`` tokens."""
        return tokens.encode(row, tokenizer, self.prompt_format, max_length, origin)

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Return the better, then the worse answer of each pair, (2·S, T), right-padded."""
        answers = [answer for example in examples for answer in (example, example.rejected or example)]
        labels = [[NO_LOSS, *supervised_ids(answer)[1:]] for answer in answers]
        return padded_batch([answer.input_ids for answer in answers], labels, pad_id)

    def trainer(self) -> type[Trainer]:
        """Return a Trainer with TRL's loss."""
        from harness.training.trl import pair_trainer

        return pair_trainer(self.beta)
