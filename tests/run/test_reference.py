"""A reference model: volume 0 is measured on it instead of the start model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.table.frame import table
from harness.config import composition
from harness.config.identity import content_sha256
from harness.core.errors import ConfigError
from harness.core.progress import Silent
from harness.report import tables
from harness.run import execution
from harness.run.preparation import check_together
from harness.run.workspace import Workspace
from tests.support.small_runs import Runs

A_POINT = 3


def test_a_reference_changes_volume_0_and_no_point(runs: Runs) -> None:
    """Only volume 0 of a run is measured again; it is shown with the reference asked for last."""
    runs("data.volumes=[8]")
    plain, run_id = runs.point(8), runs.prepared.run_id
    assert runs("data.volumes=[8]", "reference=chat") == "done"
    assert (runs.prepared.run_id, runs.trained, len(runs.evaluated)) == (run_id, 0, 2 * A_POINT)
    assert runs.point(8) == plain
    record = runs.prepared.experiment.record(run_id)
    assert record
    assert record.labels["reference"] == "chat"
    assert record.before_sha256 == content_sha256(composition.member("model", "chat").facts().content)
    assert record.start_weights_sha256 == composition.member("model", "start").weights_sha256()
    assert runs("data.volumes=[8]") == "already done"
    shown = runs.prepared.experiment.record(run_id)
    assert shown
    assert (shown.labels["reference"], shown.before_sha256) == (None, runs.prepared.before_sha256)


def test_volume_0_alone_does_not_load_the_start_model(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.models.hub import HubModel

    loaded: list[str] = []
    load = HubModel.load

    def noted(self: HubModel) -> Any:
        loaded.append(self.name)
        return load(self)

    monkeypatch.setattr(HubModel, "load", noted)
    prepared = runs.prepare("reference=chat")
    execution.measure_baselines(prepared, Silent())
    assert loaded == ["./models/chat"]
    execution.measure_baselines(prepared, Silent())
    assert loaded == ["./models/chat"]


def test_tables_name_the_reference(runs: Runs) -> None:
    """It is a column of the table, and in the heading of the summary."""
    runs("data.volumes=[8]", "reference=chat")
    runs("data.volumes=[8]", "seed=1")
    rows = table(runs.prepared.experiment)
    assert {str(name) for name in rows.drop_duplicates("run_id")["reference"]} == {"chat", "<NA>"}
    assert set(rows["model"]) == {"start"}
    assert "for runs with a reference, before is chat" in tables.summary(rows)


def test_only_a_reference_that_differs_from_the_start_model_changes_volume_0(runs: Runs) -> None:
    """The start model itself as reference, under any name, is no reference.

    A sweep cannot show one run with two of them.
    """
    plain, itself, other = runs.prepare(), runs.prepare("reference=start"), runs.prepare("reference=chat")
    assert "reference" not in json.dumps(dict(plain.identity))
    assert (itself.before_sha256, itself.reference) == (plain.before_sha256, None)
    assert plain.before_sha256 != other.before_sha256
    assert {one.run_id for one in (plain, itself, other)} == {plain.run_id}
    assert other.evaluation_ids == plain.evaluation_ids
    check_together([plain, itself])
    with pytest.raises(ConfigError, match="evaluation, suites or reference: got two of them for run"):
        check_together([plain, other])


def test_references_that_cannot_be_compared_are_rejected(runs: Runs) -> None:
    """Suites of the distance from the start model, another vocabulary, a shorter context."""
    with pytest.raises(ConfigError, match="reference=chat: got suite drift, the distance from the start model"):
        runs.prepare("reference=chat", "probe_suites=[drift]")
    config = Path("models/base/config.json")
    config.write_text(config.read_text().replace('"max_position_embeddings": 64', '"max_position_embeddings": 48'))
    with pytest.raises(ConfigError, match="reference=base: got a context of 48 tokens"):
        runs.prepare("reference=base")
    tokenizer = Path("models/chat/tokenizer.json")
    tokenizer.write_text(tokenizer.read_text().replace('"red"', '"rot"'))
    runs.workspace = Workspace()
    with pytest.raises(ConfigError, match="reference=chat: got a model with another vocabulary"):
        runs.prepare("reference=chat")
