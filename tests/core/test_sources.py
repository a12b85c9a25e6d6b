"""The base class of data sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.config import composition
from harness.core import ConfigError, Row, Source
from harness.core.rows import RowKind, Split
from harness.data.sequence import StageSequence


@dataclass(frozen=True, kw_only=True)
class Own(Source):
    """A data set whose kind has no default."""

    kind: RowKind
    volumes: tuple[int, ...] = (8,)

    def rows(self, split: Split) -> Sequence[Row]:
        return []


def test_a_single_data_set_has_no_stages() -> None:
    """Its kinds are its kind, and a field without a default is required."""
    own = Own(kind="text")
    assert own.kinds == {"text"}
    assert (own.stage_names, own.stage_ends, own.parts) == ((), (), ())
    with pytest.raises(TypeError, match="kind"):
        Own()  # type: ignore[call-arg]


def test_a_sequence_has_stages() -> None:
    """With their names and ends."""
    stages = StageSequence(stages=("tinyworld-people", "tinyworld-skill"), stage_rows=(8,))
    assert (stages.stage_names, stages.stage_ends) == (("tinyworld-people", "tinyworld-skill"), (8, 16))
    assert stages.kinds == {"completion"}
    assert [taken for _, taken in stages.parts] == [8, 8]


def test_a_class_that_is_no_data_set_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names the base class."""
    (tmp_path / "owndata.py").write_text("from dataclasses import dataclass\n\n\n@dataclass\nclass Own:\n    kind: str = 'text'\n")
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(ConfigError, match=r"^data\.class: got Own; allowed: a subclass of harness\.core\.Source$"):
        composition.instantiate("data", {"class": "owndata:Own"}, "data")
