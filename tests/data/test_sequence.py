"""Stages of one run: whose rows are read when, and what is refused."""

from __future__ import annotations

import pytest

from harness.config import composition
from harness.config.identity import identify
from harness.core.errors import ConfigError, DataError
from harness.data import subsets
from harness.data.sequence import StageSequence
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace

STAGES = "data.stages=[tinyworld-skill,tinyworld-people,tinyworld-language]"


def prepared(*overrides: str) -> Prepared:
    return prepare(composition.compose(["model=nursery-smoke-a", "probe_suites=[tinyworld]", *overrides]), Workspace())


def test_a_stage_reads_what_a_run_on_it_alone_would_read() -> None:
    """Stage by stage, each in its own order; volumes are the stages' ends."""
    whole = prepared("data=sequence", STAGES, "data.stage_rows=[16,8,24]")
    assert whole.volumes == [16, 24, 48]
    alone = [
        prepared(f"data={name}", f"data.volumes=[{rows}]").rows
        for name, rows in [("tinyworld-skill", 16), ("tinyworld-people", 8), ("tinyworld-language", 24)]
    ]
    assert list(whole.rows) == [row for rows in alone for row in rows]
    shorter = prepared("data=sequence", STAGES, "data.stage_rows=[16,8,24]", "data.volumes=[8,24]")
    assert list(shorter.rows) == list(whole.rows)[:24]
    assert shorter.run_id == whole.run_id


def test_what_the_stages_are_is_part_of_a_run() -> None:
    """Other rows of a stage, or another order, are another run."""
    ids = [
        prepared("data=sequence", STAGES, "data.stage_rows=[16,8,24]").run_id,
        prepared("data=sequence", STAGES, "data.stage_rows=[8,16,24]").run_id,
        prepared("data=sequence", "data.stage_rows=[16,8,24]").run_id,
        prepared("data=sequence", STAGES, "data.stage_rows=[16,8,24]", "seed=1").run_id,
    ]
    assert len(set(ids)) == 4


def test_each_stage_has_its_suite_and_the_label_its_name() -> None:
    """By default; the label says which stages they are."""
    config = composition.compose(["data=sequence", STAGES, "data.stage_rows=[8]"])
    assert config.target_suites == ("tinyworld-skill", "tinyworld-people", "tinyworld-language")
    assert config.labels.data == "sequence[stage_rows=[8],stages=tinyworld-skill>tinyworld-people>tinyworld-language]"
    assert composition.compose(["data=sequence"]).labels.data == "sequence[stages=tinyworld-people>tinyworld-skill>tinyworld-language]"
    assert composition.compose(["data=sequence", "target_suites=[tinyworld-skill]"]).target_suites == ("tinyworld-skill",)


def test_order_and_restarts_by_hand() -> None:
    """Three of the first five rows, then two of the other four.

    A stage of 16 and one of 8 rows restart after steps 2 and 3.
    """
    rows = list(composition.member("data", "tinyworld-skill").rows("train"))[:9]
    found = subsets.order(rows, 3, ((5, 3), (4, 2)))
    assert found[:3] == subsets.order(rows[:5], 3)[:3]
    assert found[3:] == [5 + number for number in subsets.order(rows[:4], 3)[:2]]
    source = StageSequence(stages=("tinyworld-skill", "tinyworld-people", "tinyworld-language"), stage_rows=(16, 8, 24))
    assert subsets.restarts(source, 8) == (2, 3)
    assert subsets.restarts(composition.member("data", "tinyworld-skill"), 8) == ()
    assert source.kinds == {"completion"}
    assert len(source.rows("test")) == 540 + 160 + 512


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.stages=[tinyworld-people]"], "data.stages: .*at least two"),
        (["data.stages=[tinyworld-people,tinyworld-people]"], "each once"),
        (["data.stages=[tinyworld-people,sequence]"], "a sequence itself"),
        (["data.stages=[tinyworld-people,tinyworld-skil]"], "tinyworld-skill"),
        (["data.stage_rows=[8,8]"], "one or 3, the number of stages"),
        (["data.stage_rows=[12]", "data.volumes=[8]"], "data.stage_rows: got 12; allowed: multiples of training.batch_rows = 8"),
        (["data.stage_rows=[8]", "data.volumes=[8,32]"], "at most 24, the rows of all stages"),
        (["trajectory=independent"], "stages of one run"),
        (["data.stage_rows=[64,8,64]", "training.warmup_rows=4"], "a quarter of the smallest stage"),
        (["data.stages=[tinyworld-people,tinyworld-base]", "objective=clm"], "got completion rows; allowed: text rows"),
        (["data.stages=[tinyworld-base,tinyworld-people]", "objective=clm"], "got completion rows; allowed: text rows"),
    ],
)
def test_stages_that_are_no_run_are_refused(overrides: list[str], message: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(ConfigError, match=message):
        composition.compose(["data=sequence", "probe_suites=[tinyworld]", *overrides])


def test_a_stage_with_too_few_rows_is_refused() -> None:
    """It is named with what there is."""
    with pytest.raises(DataError, match="got 2000 of tinyworld-people; allowed: at most its 1600 rows"):
        prepared("data=sequence", "data.stage_rows=[2000]")


def test_one_data_set_has_no_stages() -> None:
    """And the identity of its runs holds nothing of them."""
    one = prepared("data=tinyworld-people", "data.volumes=[8]")
    assert "stages" not in one.identity["inputs"]
    assert identify(one.identity) == one.run_id
