"""What a run trains on, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import compose, plan
from harness.errors import ConfigError, DataError
from harness.interfaces import ModelFacts, Row
from harness.preparation import Prepared, Workspace, _target_rows, check_together


def rows(*overrides: str) -> list[Row]:
    return _target_rows(compose.compose(list(overrides)), Workspace())


def test_smaller_volumes_are_prefixes_of_larger_ones() -> None:
    """The 8-row set is inside the 24-row set, in the same order; another seed takes others."""
    assert rows("data.volumes=[8]") == rows("data.volumes=[8,24]")[:8]
    assert rows("data.volumes=[8]") != rows("data.volumes=[8]", "seed=1")


def test_every_epoch_sees_the_same_rows_in_its_own_order() -> None:
    """Two epochs of 16 rows are 32, the second a permutation of the first."""
    found = rows("data.volumes=[16]", "trajectory=independent", "training.epochs=2")
    assert len(found) == 32
    assert found[:16] != found[16:]
    assert sorted(row.id for row in found[:16]) == sorted(row.id for row in found[16:])


def test_more_rows_than_there_are_is_refused_with_the_largest_volume_that_fits(tmp_path: Path) -> None:
    """Of 20 rows, 16 are whole steps of 8."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"prompt": "a {i}", "completion": "b"}}\n' for i in range(20)))
    with pytest.raises(DataError, match=r"got 64; allowed: at most the 20 rows .*data.volumes=\[16\]"):
        rows("data=files", f"data.train={file}", "data.volumes=[64]", "probe_suites=[tinyworld]")


def test_a_sweep_of_two_dtype_policies_is_refused() -> None:
    """A difference between methods could be one of rounding."""
    facts = ModelFacts(params_total=1000, context_length=64, content={})
    config = compose.compose([])
    resolved = plan.resolve(config, facts, (), cores=1, cuda=False)
    one = Prepared(config, facts, resolved, [], [], {}, {}, Workspace())
    other = dataclasses.replace(one, resolved=dataclasses.replace(resolved, dtype="bfloat16"))
    check_together([one, one])
    with pytest.raises(ConfigError, match="one policy a sweep"):
        check_together([one, other])
