"""Held-out rows of data without a test split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config import composition
from harness.config.strict import identifying
from harness.core.errors import ConfigError, DataError
from harness.core.rows import Row, Turn
from harness.data import held_out
from harness.data.sources import Files


def texts(*contents: str) -> list[Row]:
    return [Row((Turn("text", content),), "text") for content in contents]


def test_the_two_splits_share_no_row_and_keep_the_order() -> None:
    """Of ten rows three are held out, the same ones each time, and spread over the data."""
    rows = texts(*"abcdefghij")
    train, test = (held_out.part(rows, split, 3, "x") for split in ("train", "test"))
    assert (len(train), len(test)) == (7, 3)
    assert sorted(rows.index(row) for row in [*train, *test]) == list(range(10))
    assert [rows.index(row) for row in train] == sorted(rows.index(row) for row in train)
    assert test == held_out.part(rows, "test", 3, "x") != rows[:3]


def test_copies_of_a_held_out_row_are_not_trained_on() -> None:
    """With b twice and one of two distinct rows held out, the splits are a and b, or b and a."""
    rows = texts("a", "b", "b")
    train, test = (held_out.part(rows, split, 1, "x") for split in ("train", "test"))
    assert len(test) == 1
    assert {row.id for row in train} == {row.id for row in rows} - {test[0].id}


def test_not_every_row_can_be_held_out(tmp_path: Path) -> None:
    """Distinct rows count; data with a test split need none."""
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in "aab"))
    source = Files(train=str(tmp_path / "a.jsonl"), held_out=2)
    with pytest.raises(DataError, match="held_out: got 2; allowed: fewer than its 2 distinct rows"):
        source.rows("train")
    for overrides in (["data=tinyworld-people", "data.held_out=5"], ["anchor=tinyworld-base", "anchor.held_out=-1"]):
        with pytest.raises(ConfigError, match="held_out: got"):
            composition.compose(overrides)


def test_a_file_and_the_base_texts_can_have_one(tmp_path: Path) -> None:
    """Without it, the message names it, and the identity of the data is what it was."""
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in "abcd"))
    source = Files(train=str(tmp_path / "a.jsonl"), held_out=1)
    assert (len(source.rows("train")), len(source.rows("test"))) == (3, 1)
    plain = Files(train=str(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"data.test: got nothing; .*data.held_out=N"):
        plain.rows("test")
    assert "held_out" not in (identifying(plain) or {})
    base = composition.member("data", "tinyworld-base")
    assert not base.has_test
    assert "held_out" not in (identifying(base) or {})
