"""Continued pretraining: every token of documents, packed into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.core.methods import Objective
from harness.core.rows import NO_LOSS, Example, Origin, PromptFormat, Row, RowKind
from harness.data import tokens
from harness.methods.objective.sft import supervised_ids
from harness.models.batches import padded_batch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True, kw_only=True)
class Clm(Objective):
    """Cross-entropy on every token of documents.

    The documents of an optimizer step are joined (each ends with EOS) and cut into blocks, with
    almost no padding.

    - Targets: every token of a document except its first, exactly once for any packing. The first
      token is not a target, since its context is another document. Blocks overlap by one token: the
      last token of a block is context, not a target, at the start of the next.
    - A document longer than ``max_length`` tokens is several rows (``harness.data.teaching``) that
      overlap by one token in the same way; a volume counts each.
    - Attention is plain causal attention over the block: a token also sees the documents before its
      own in the block, which end with EOS, as in most pretraining. A block that starts inside a
      document does not see the beginning of that document.

    Attributes:
        prompt_format: has no effect on text; every objective has it.
    """

    needs: ClassVar[frozenset[RowKind]] = frozenset({"text"})
    splits_texts: ClassVar[bool] = True

    prompt_format: PromptFormat = "plain"

    def encode(self, row: Row, tokenizer: PreTrainedTokenizerBase, max_length: int, origin: Origin) -> Example:
        """Return a document, or a piece of one, as tokens, at most ``max_length``."""
        return tokens.encode(row, tokenizer, self.prompt_format, max_length, origin)

    def collate(self, examples: Sequence[Example], pad_id: int, max_length: int) -> dict[str, torch.Tensor]:
        """Pack documents into blocks (S, T), T = ``max_length`` unless all are shorter.

        Only the last block is padded.
        """
        ids = [token for example in examples for token in example.input_ids]
        labels = [label for example in examples for label in [NO_LOSS, *supervised_ids(example)[1:]]]
        stride = max(max_length - 1, 1)
        starts = range(0, max(len(ids) - 1, 1), stride)
        blocks = [ids[start : start + stride + 1] for start in starts]
        targets = [[NO_LOSS, *labels[start + 1 : start + stride + 1]] for start in starts]
        return padded_batch(blocks, targets, pad_id)

    def trainer(self) -> type[Trainer]:
        """Return the plain Trainer."""
        from transformers import Trainer

        return Trainer
