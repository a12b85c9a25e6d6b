from __future__ import annotations

import pytest

from harness.methods.objective.clm import Clm
from tests.support import tiny

DOCUMENTS = [tiny.example(5, 6, 7, 2), tiny.example(8, 9, 2), tiny.example(10, 2)]


def test_documents_are_packed_into_blocks() -> None:
    """By hand for nine tokens in blocks of four.

    Blocks share one token; a document's first token is not a target.
    """
    batch = Clm().collate(DOCUMENTS, tiny.PAD, 4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2], [2, 8, 9, 2], [2, 10, 2, tiny.PAD]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, 2], [-100, -100, 9, 2], [-100, -100, 2, -100]]


@pytest.mark.parametrize("max_length", range(2, 12))
def test_every_token_but_a_documents_first_is_a_target_once(max_length: int) -> None:
    """For any block length, so that the recorded supervised tokens are those with a loss."""
    batch = Clm().collate(DOCUMENTS, tiny.PAD, max_length)
    assert batch["input_ids"].shape[1] <= max_length
    targets = [int(label) for row in batch["labels"] for label in row[1:] if label != -100]
    assert targets == [6, 7, 2, 9, 2, 2]
    assert len(targets) == sum(document.supervised_tokens for document in DOCUMENTS)
    before = [
        int(ids[t]) for ids, row in zip(batch["input_ids"], batch["labels"], strict=True) for t in range(len(row) - 1) if row[t + 1] != -100
    ]
    assert before == [5, 6, 7, 8, 9, 10]


def test_little_text_is_not_padded_to_a_whole_block() -> None:
    """A tiny model does not compute hundreds of masked positions."""
    assert Clm().collate(DOCUMENTS, tiny.PAD, 512)["input_ids"].shape == (1, 9)


def test_a_document_ends_with_eos() -> None:
    """So that a packed block shows where one document ends and another begins."""
    (row,) = tiny.rows("text", 1)
    assert Clm().encode(row, tiny.tokenizer(), tiny.MAX_LENGTH, "target").input_ids[-1] == tiny.EOS
