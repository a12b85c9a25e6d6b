"""Special tokens that tokenizers add by themselves, and tokens beyond a model's rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers as hf

from harness.core.errors import ModelError
from harness.data import specials
from tests.support import families, tiny
from tests.support.appending import APPENDING


@pytest.mark.parametrize("kind", APPENDING)
def test_nothing_is_appended_when_texts_are_scored(kind: str) -> None:
    """What a tokenizer writes before a text stays; the given tokenizer is not changed."""
    given = APPENDING[kind]()
    text = "w1 w2 w3"
    plain, whole = given.encode(text, add_special_tokens=False), given.encode(text)
    before, after = specials.added(given)
    assert after
    assert whole == [*before, *plain, *after]
    found = specials.without_appended(given)
    assert found.encode(text) == found(text)["input_ids"] == [*before, *plain]
    assert found.encode(text, add_special_tokens=False) == plain
    assert given.encode(text) == whole


@pytest.mark.parametrize("made", [tiny.tokenizer, families.with_bos])
def test_a_tokenizer_that_appends_nothing_is_used_itself(made: Callable[[], Any]) -> None:
    given = made()
    assert specials.without_appended(given) is given


def test_a_tokenizer_that_cannot_be_kept_from_appending_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose own code appends."""

    class Stubborn(hf.ByT5Tokenizer):
        def encode(self, text: str, add_special_tokens: bool = True, **_: Any) -> list[int]:
            return [5, *([1] if add_special_tokens else [])]

    with pytest.raises(ModelError, match=r"appends </s> to every text; allowed: one that appends nothing"):
        specials.without_appended(Stubborn())
