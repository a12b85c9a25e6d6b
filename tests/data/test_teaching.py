"""Rows that teach: those that are left out, why, and long texts in pieces."""

from __future__ import annotations

import pytest

from harness.core.rows import Row, Turn
from harness.data.teaching import EQUAL, UNTAUGHT, TaughtRows, taught_rows
from harness.methods.contract import tiny
from harness.methods.objective.clm import Clm
from harness.methods.objective.dpo import Dpo
from harness.methods.objective.sft import Sft

FULL = "the prompt fills the 8 tokens of a row"


def completion(prompt: str, answer: str = " w2") -> Row:
    return Row((Turn("user", prompt), Turn("assistant", answer)), "completion")


def text(words: int, first: int = 0) -> Row:
    return Row((Turn("text", " ".join(f"w{i}" for i in range(first, first + words))),), "text")


def chat(*taught: bool, prompt: str = "w1") -> Row:
    turns = [turn for one in taught for turn in (Turn("user", prompt), Turn("assistant", "w2", one))]
    return Row(tuple(turns), "chat")


def pair(prompt: str, better: str, worse: str) -> Row:
    return Row((Turn("user", prompt), Turn("assistant", better), Turn("rejected", worse)), "preference")


def taught(objective: Sft | Clm | Dpo, *rows: Row, max_length: int = 8, parts: tuple[tuple[int, int], ...] = ()) -> TaughtRows:
    return taught_rows(rows, parts, objective, tiny.tokenizer(), max_length)


def test_a_row_whose_prompt_fills_the_length_is_left_out_and_counted() -> None:
    """8 words of prompt leave no room for an answer; 7 leave one token."""
    short, whole, long = completion("w1"), completion("w1 " * 6 + "w1"), completion("w1 " * 7 + "w1")
    found = taught(Sft(), short, long, whole, long)
    assert list(found.rows) == [short, whole]
    assert (found.of, dict(found.left_out)) == (4, {FULL: 2})
    assert found.in_words() == f"2 of 4 rows teach nothing and are left out ({FULL}: 2)"
    assert found.facts() == {"left_out_rows": 2, "split_rows": 0}


def test_a_prompt_that_fills_the_length_under_a_template_is_left_out() -> None:
    """<user> w1…w1 <eos> <assistant> and the answer: three more tokens than in plain text."""
    fits, full = completion("w1 w1 w1 w1"), completion("w1 w1 w1 w1 w1")
    assert list(taught(Sft(prompt_format="chat"), fits, full).rows) == [fits]


def test_a_conversation_without_an_answer_to_learn_is_left_out() -> None:
    """It fits, but every answer has train: false."""
    one, none = chat(False, True), chat(False, False)
    found = taught(Sft(prompt_format="chat"), none, one, max_length=24)
    assert list(found.rows) == [one]
    assert dict(found.left_out) == {UNTAUGHT: 1}


def test_a_pair_whose_answers_are_equal_is_left_out() -> None:
    """Equal from the start, or equal as far as the length lets them be read."""
    good, equal, cut = pair("w1", " w2", " w3"), pair("w1", " w2", " w2"), pair("w1", " w2" * 9, f"{' w2' * 9} w3")
    found = taught(Dpo(), good, equal, cut, pair("w1 " * 9, " w2", " w3"))
    assert list(found.rows) == [good]
    assert dict(found.left_out) == {EQUAL: 2, FULL: 1}


def test_rows_that_all_teach_are_the_rows_of_the_source() -> None:
    """So that volumes are drawn as before, and the identity of a run is what it was."""
    rows = (completion("w1"), completion("w2"))
    found = taught_rows(rows, (), Sft(), tiny.tokenizer(), 8)
    assert found.rows is rows
    assert (found.content, found.in_words()) == (None, "")


def test_what_is_left_out_tells_two_sets_apart() -> None:
    """Otherwise a run on fewer rows would have the identity of one on all of them."""
    full, short = completion("w1 " * 9), completion("w1")
    assert taught(Sft(), full, short).content != taught(Sft(), short, full).content


@pytest.mark.parametrize("words", [8, 9, 14, 15, 29, 200])
def test_every_token_of_a_long_document_is_learned_once(words: int) -> None:
    """Pieces of at most 8 tokens; only the last one ends in EOS."""
    whole = text(words % 40) if words < 40 else Row((Turn("text", " ".join(f"w{i % 40}" for i in range(words))),), "text")
    found = taught(Clm(), whole)
    pieces = [Clm().encode(row, tiny.tokenizer(), 8, "target") for row in found.rows]
    every = Clm().encode(whole, tiny.tokenizer(), 1000, "target").input_ids
    assert all(2 <= len(piece.input_ids) <= 8 and not piece.truncated for piece in pieces)
    learned = [token for piece in pieces for token, on in zip(piece.input_ids[1:], piece.supervised[1:], strict=True) if on]
    assert (pieces[0].input_ids[0], *learned) == every
    assert [piece.input_ids[-1] == tiny.EOS for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len(found.rows) == -(-words // 7)
    assert len({row.id for row in found.rows}) == len(found.rows)


def test_split_documents_are_counted_and_only_under_clm() -> None:
    """Two pieces of the long one; sft cuts it, as before."""
    found = taught(Clm(), text(3), text(9))
    assert found.facts() == {"left_out_rows": 0, "split_rows": 1}
    assert found.in_words() == "1 of 2 texts are longer than 8 tokens and split into 2 rows"
    assert list(taught(Sft(), text(3), text(9)).rows) == [text(3), text(9)]


def test_stages_are_counted_apart() -> None:
    """Of the first stage one of two rows is left out, of the second none."""
    rows = [completion("w1 " * 9), completion("w1"), completion("w2"), completion("w3")]
    found = taught(Sft(), *rows, parts=((2, 1), (2, 2)))
    assert found.parts == ((1, 1), (2, 2))
    assert list(found.rows) == rows[1:]


def test_rows_that_fit_by_their_bytes_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of a large data set must not take as long as its training."""
    encoded: list[Row] = []
    encode = Sft.encode

    def counted(self: Sft, row: Row, *arguments: object) -> object:
        encoded.append(row)
        return encode(self, row, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Sft, "encode", counted)
    taught(Sft(), *(completion(f"w{i} w{i}") for i in range(30)), max_length=24)
    assert len(encoded) == 1  # a row of one letter a turn, for the tokens around its texts


def test_characters_that_a_tokenizer_spells_out_are_counted_by_their_longest_form() -> None:
    """One character of three bytes that compatibility normalisation makes 18 characters."""
    from harness.data.teaching import _bytes

    assert _bytes("\ufdfa") == len("صلى الله عليه وسلم".encode())
    assert _bytes("w1") == 2
