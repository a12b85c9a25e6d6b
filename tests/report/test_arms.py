"""Names of arms in the table, the summary, the page and pairs at equal gain."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.analysis.findings.arms import named_by_arm
from harness.analysis.findings.equal_gain import equal_gain
from harness.analysis.findings.findings import findings
from harness.analysis.table.changes import Changes
from harness.analysis.table.frame import table
from harness.records.schema import Declared
from harness.records.writer import ExperimentWriter
from harness.report import curves, tables
from tests.support.experiments import Task, share, write_run
from tests.support.grids import grid

NAMES = {"none": "gold", "replay[fraction=0.2]": "replay", "replay[fraction=0.5]": "much replay"}


def small(folder: Path, names: dict[str, str]) -> ExperimentWriter:
    """Full and LoRA with three mitigations, in arms of these names."""
    made = grid(folder, tunings=("full", "lora"), mitigations=tuple(NAMES))
    labels = {run_id: str(made.config(run_id)["labels"]["mitigation"]) for run_id in made.run_ids()}
    configs = {run_id: {"declared": {"headline": "old"}} for run_id in labels}
    made.write_manifest(configs, keep=False, arms={run_id: names[label] for run_id, label in labels.items() if names})
    return made


def found(experiment: ExperimentWriter) -> pd.DataFrame:
    return findings(table(experiment), Changes(experiment), Declared(headline="old"))


def test_an_arms_name_is_its_label(tmp_path: Path) -> None:
    """Summary and page show it in place of its mitigation; the table has both."""
    named = small(tmp_path / "named", NAMES)
    whole = table(named)
    assert dict(whole[["mitigation", "arm"]].drop_duplicates().itertuples(index=False)) == NAMES
    columns = [line.split() for line in tables.summary(whole).splitlines() if line.startswith("m0 ")]
    assert [line[1:3] for line in columns][:6] == [["full", "gold"]] * 3 + [["full", "replay"]] * 3
    assert [one.style_name for one in curves.series(found(named))] == [
        f"{tuning} · {name}" for tuning in ("full", "lora") for name in NAMES.values()
    ]
    pairs = equal_gain(whole, Changes(named), Declared(headline="old"))
    assert {"full, mitigation=gold", "lora, mitigation=much replay"} <= {*pairs["first"], *pairs["second"]}


def test_a_name_moves_no_number_and_no_cell(tmp_path: Path) -> None:
    """The findings with and without arms are the same but for their names."""
    named, plain = (found(small(tmp_path / which / "e", names)) for which, names in (("named", NAMES), ("plain", {})))
    assert set(named["arm"]) == set(NAMES.values())
    assert plain["arm"].isna().all()
    pd.testing.assert_frame_equal(named.drop(columns="arm"), plain.drop(columns="arm"))


def test_a_derived_run_has_its_arms_name_and_its_coefficient(tmp_path: Path) -> None:
    """Each coefficient is a method of its own."""
    made, parent = ExperimentWriter(tmp_path / "e"), "0" * 12
    task = Task(suite="old", task="o", values=share(36, 40))
    for run_id in (parent, f"{parent}-0.4"):
        write_run(made, run_id, before=[task], points={8: [task]}, roles={"old": "probe"})
    made.write_manifest({parent: {}}, keep=False, arms={parent: "average"})
    arms = table(made).drop_duplicates("run_id").set_index("run_id")["arm"]
    assert arms.to_dict() == {parent: "average", f"{parent}-0.4": "average[coefficient=0.4]"}


def rows(*values: tuple[str | None, str, str]) -> pd.DataFrame:
    return pd.DataFrame(values, columns=["arm", "mitigation", "tuning"], dtype="string")


def test_only_a_label_that_the_arms_decide_is_replaced() -> None:
    """It differs between arms and is constant within each; runs without an arm keep theirs."""
    by_tuning = rows(("a", "none", "full"), ("b", "none", "lora"), (None, "none", "lora"))
    assert named_by_arm(by_tuning)["tuning"].tolist() == ["a", "b", "lora"]
    crossed = rows(("a", "none", "full"), ("a", "none", "lora"), ("b", "kl", "full"), ("b", "kl", "lora"))
    assert named_by_arm(crossed)["mitigation"].tolist() == ["a", "a", "b", "b"]
    assert named_by_arm(crossed)["tuning"].tolist() == ["full", "lora"] * 2
    within = rows(("a", "none", "full"), ("a", "kl", "full"))
    assert named_by_arm(within).equals(within)
