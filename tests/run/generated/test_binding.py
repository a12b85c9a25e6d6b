"""A run is bound to its generated rows: if they change, it is restarted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition
from harness.core.contexts import GeneratedRow
from harness.core.progress import Silent
from harness.core.rows import Row
from harness.data import subsets
from harness.run import execution
from harness.run.generated import data as run_data
from harness.run.generated.binding import bind, generated_for
from harness.run.generated.data import Data
from harness.run.generated.store import Store
from harness.run.preparation import Prepared, prepare
from harness.run.workspace import Workspace
from tests.support import small_runs
from tests.support.scripted import row


class Messages(Silent):
    """Keeps messages."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, message: str) -> None:
        self.texts.append(message)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    small_runs.save_models(folder)
    return folder


@pytest.fixture(autouse=True)
def here(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_runs.own_folder(saved, tmp_path, monkeypatch)


def prepared(*overrides: str, volumes: str = "[8,16]") -> Prepared:
    fixed = ["model=start", f"data.volumes={volumes}", "target_suites=[aim]", "probe_suites=[probe]", "name=a"]
    return prepare(composition.compose([*fixed, "training.learning_rate=0.01", *overrides]), Workspace())


def stored(one: Prepared, marks: dict[int, str]) -> None:
    """Fill the store: row i is answered ``told i``, or as ``marks`` has it."""
    store = Store(run_data.recipe(one, one.config.mitigation))
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / "rows.jsonl").unlink(missing_ok=True)
    made = {}
    for i, gold in enumerate(one.rows):
        turns = (*gold.turns[:-1], type(gold.turns[-1])(gold.turns[-1].role, f" told {marks.get(i, i)}"))
        made[gold.id] = GeneratedRow(Row(turns, gold.kind), accepted=True, how="own", generated_tokens=3)
    with store.exclusive():
        store.add(made)


def points(one: Prepared) -> dict[int, Any]:
    return {volume: one.experiment.point(one.run_id, volume) for volume in one.experiment.volumes(one.run_id)}


def test_a_run_whose_rows_changed_is_restarted() -> None:
    """A stored row changes behind the recorded volume, which stays, then inside it."""
    skill = ("data=tinyworld-people", "mitigation=self_output", "mitigation.check=exact")
    first, larger = prepared(*skill, volumes="[8]"), prepared(*skill)
    assert first.run_id == larger.run_id
    stored(larger, {})
    execution.execute(first, Silent())
    hashes = first.experiment.written(first.run_id)
    once = points(first)
    messages = Messages()
    stored(larger, {12: "other"})
    execution.execute(larger, messages)
    assert not any("restarted" in text for text in messages.texts)
    assert larger.experiment.written(larger.run_id).keys() == {"8", "16"}
    assert larger.experiment.written(larger.run_id)["8"] == hashes["8"]
    assert points(larger)[8] == once[8]

    stored(prepared(*skill, volumes="[8,16,24]"), {12: "other", 3: "changed"})
    largest = prepared(*skill, volumes="[8,16,24]")
    execution.execute(largest, messages)
    assert (
        sum(f"run {largest.run_id}: restarted, because its generated rows up to volume 8 changed" in text for text in messages.texts) == 1
    )
    assert set(points(largest)) == {8, 16, 24}
    assert points(largest)[8].counts.train_loss != once[8].counts.train_loss
    assert largest.experiment.written(largest.run_id)["8"] != hashes["8"]
    folder = largest.experiment.run_folder(largest.run_id)
    assert json.loads((folder / "config.json").read_text())["evaluations"]
    assert (folder / "prompts" / "probe").is_dir()
    assert largest.experiment.record(largest.run_id).writing["by"] == ["targets"]  # type: ignore[union-attr]


def test_anchor_rows_due_by_a_volume_are_bound_with_it() -> None:
    """Two anchor rows belong to volume 8, four to volume 16."""
    one, messages, restarts = prepared(), Messages(), []
    target = [row(f"q{i}", f"a{i}") for i in range(16)]

    def bound(*anchor: str) -> dict[str, str]:
        made = Data(target=target, anchor=[row("p", text) for text in anchor], anchor_rows=lambda seen: seen // 4)
        bind(one, made, lambda: restarts.append(1), messages)
        return one.experiment.written(one.run_id)

    before = bound("a", "b", "c", "d")
    assert before["8"] == subsets.fingerprint([*target[:8], row("p", "a"), row("p", "b")])
    after = bound("a", "b", "C", "d")
    assert (before["8"] == after["8"], before["16"] == after["16"], len(restarts)) == (True, False, 1)
    assert "up to volume 16" in messages.texts[-1]
    bound("A", "b", "C", "d")
    assert "up to volume 8" in messages.texts[-1]


def test_uses_of_generated_rows_are_recorded_and_a_plain_run_is_not_bound() -> None:
    assert generated_for(prepared("data=tinyworld-skill", "mitigation=pseudo_replay").config) == {"by": ["anchor"]}
    plain = prepared(volumes="[8]")
    assert generated_for(plain.config) == {}
    execution.execute(plain, Silent())
    assert not (plain.experiment.run_folder(plain.run_id) / "written.json").exists()
