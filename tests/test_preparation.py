"""What a run trains on, and what is refused before it starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import compose, plan
from harness.errors import ConfigError, DataError
from harness.evaluation import adapter
from harness.evaluation.backends import HfEvaluation
from harness.evaluation.suites import Suite
from harness.interfaces import ModelFacts, Row, Turn
from harness.preparation import Prepared, Workspace, _target_rows, check_together, prepare


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


ANCHOR = ("anchor=tinyworld-base", "probe_suites=[drift_target,drift_anchor]")


def identities(*overrides: str) -> dict[str, str]:
    """Suite → hash of what decides its volume 0."""
    config = compose.compose([*overrides, "model=nursery-smoke-a"])
    return {name: plan.identify(found) for name, found in prepare(config, Workspace()).baseline_identities.items()}


def test_target_and_anchor_of_a_suite_are_the_runs_own_by_content() -> None:
    """Another target is another baseline of drift_target and none of drift_anchor's business, and the other way round."""
    first = identities(*ANCHOR)
    other = identities(*ANCHOR, "data=tinyworld-skill")
    assert first["drift_target"] != other["drift_target"]
    assert first["drift_anchor"] == other["drift_anchor"]
    third = identities("anchor=tinyworld-skill", ANCHOR[1])
    assert third["drift_anchor"] != first["drift_anchor"]
    assert third["drift_target"] == first["drift_target"]


def test_rows_of_two_targets_are_kept_apart_in_one_process() -> None:
    """Suites are prepared once a process, for each data set they stand for."""
    workspace = Workspace()
    rows = [workspace.suite_of("drift_target", compose.compose([f"data={name}"])).rows for name in ("tinyworld-people", "tinyworld-skill")]
    assert not {row.id for row in rows[0]} & {row.id for row in rows[1]}


def test_rows_that_a_prompt_format_cannot_take_are_refused() -> None:
    """Conversations have no plain form; what a chat template writes between texts has no bytes of theirs."""
    chat = Row((Turn("user", "a"), Turn("assistant", "b")), "chat")
    own = {"name": "s", "kind": "likelihood", "data": "d", "metric": "bits_per_byte", "higher_is_better": False, "chance": None}
    suite = Suite(**own)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="conversations.*evaluation.prompt_format=chat"):
        adapter.prepare(suite, HfEvaluation(), [chat])
    with pytest.raises(DataError, match="bits_per_byte: got answers under a chat template"):
        adapter.prepare(suite, HfEvaluation(prompt_format="chat"), [chat])
    adapter.prepare(suite, HfEvaluation(prompt_format="chat"), [Row((Turn("text", "a"),), "text")])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["probe_suites=[drift_anchor]"], "suite drift_anchor: got a run without an anchor"),
        (["probe_suites=[drift_target]", "data=tinyworld-base", "objective=clm", "target_suites=[tinyworld]"], "no test split"),
    ],
)
def test_a_suite_without_its_rows_is_refused_before_anything_is_built(overrides: list[str], words: str) -> None:
    """One line at preparation."""
    with pytest.raises((ConfigError, DataError), match=words):
        identities(*overrides)
