"""Divergence and likelihood suites as table rows, through a real run of seconds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from harness.analysis.table.frame import table
from harness.config import composition
from harness.core.progress import Silent
from harness.records.schema import OWN_METRICS
from harness.report.tables import panels
from harness.run import execution, preparation
from harness.run.workspace import Workspace

SUITES = {"drift_target": "gold", "drift_target_base": "base", "drift_target_tuned": "tuned", "drift_anchor": "gold"}
MODEL = ["model=nursery-smoke-a", "anchor=tinyworld-base", "data.volumes=[8,16]", "target_suites=[]"]


@pytest.fixture(scope="module", params=["full", "lora"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    probes = f"probe_suites=[{','.join([*SUITES, 'tinyworld_text', 'tinyworld'])}]"
    folder = f"results={tmp_path_factory.mktemp('drift')}"
    prepared = preparation.prepare(composition.compose([*MODEL, f"tuning={request.param}", probes, folder]), Workspace())
    assert execution.execute(prepared, Silent()) == "done"
    return table(prepared.experiment)


def test_every_measure_is_a_row_that_says_whose_text_it_is_on(rows: pd.DataFrame) -> None:
    """Four suites × seven metrics × three volumes.

    Values are 0 (agreement: 1) at volume 0, and later ones are paired with it.
    """
    drift = rows[rows["suite"].isin(SUITES) & (rows["task"] != "*")]
    assert (drift["status"] == "ok").all()
    assert drift["reason"].isna().all()
    assert (drift["filter"] == drift["suite"].map(SUITES)).all()
    assert (drift.groupby(["suite", "volume"])["metric"].nunique() == len(OWN_METRICS["divergence"])).all()
    unchanged = (drift["metric"] == "agreement").astype(float)
    zero, after = drift["volume"] == 0, drift["volume"] > 0
    assert (drift["value"][zero] == unchanged[zero]).all()
    assert (drift["before"][after] == unchanged[after]).all()
    assert ((drift["value"] - drift["before"] - drift["delta"]).abs() < 1e-9).all()
    assert (drift["value"][after & (drift["metric"] != "forgetting_ce_hard")] > 0).all()
    assert drift["lost"].isna().all()


def test_soft_and_forward_are_one_number_in_the_table(rows: pd.DataFrame) -> None:
    """On any text."""
    values = rows[(rows["volume"] == 16) & (rows["task"] != "*")].pivot_table(index="suite", columns="metric", values="value")
    assert (values["forgetting_ce_soft"] - values["kl_base_tuned"]).abs().max() < 1e-9


def test_old_text_is_in_nats_per_token_and_bits_per_byte(rows: pd.DataFrame) -> None:
    """Both are rows; bits per byte is smaller, since a token has several bytes."""
    text = rows[(rows["suite"] == "tinyworld_text") & (rows["volume"] == 16) & (rows["task"] != "*")]
    values = {str(metric): float(value) for metric, value in zip(text["metric"], text["value"], strict=True)}
    assert set(values) == set(OWN_METRICS["likelihood"])
    assert 0 < values["bits_per_byte"] < values["nats_per_token"] / math.log(2)
    assert not text["higher_is_better"].any()


def test_nats_per_token_have_the_level_of_a_model_that_knows_nothing(rows: pd.DataFrame) -> None:
    """ln(vocabulary), at every volume, of the suite's row too.

    Bits per byte and divergences have none. It is no share of items.
    """
    words = len(composition.compose(MODEL).model.tokenizer().get_vocab())
    text = rows[rows["suite"] == "tinyworld_text"]
    guessing = text["chance"][text["metric"] == "nats_per_token"].astype(float)
    assert guessing.tolist() == pytest.approx([math.log(words)] * 6)
    assert text["chance"][text["metric"] == "bits_per_byte"].isna().all()
    assert rows["chance"][rows["suite"].isin(SUITES)].isna().all()
    assert {panel.label: panel.unit.name for panel in panels(rows, "probe")}["tinyworld_text"] == "nats per token"


def test_choice_tasks_say_how_many_answers_are_the_bases_own(rows: pd.DataFrame) -> None:
    """1 at volume 0, then a share: lost and gained items are changed answers.

    Empty where nothing is chosen.
    """
    accuracy = rows[(rows["suite"] == "tinyworld") & (rows["metric"] == "acc")]
    assert (accuracy["agreement"][accuracy["volume"] == 0] == 1.0).all()
    after = accuracy[(accuracy["volume"] == 16) & (accuracy["task"] != "*")]
    assert (after["lost"] + after["gained"] <= (1 - after["agreement"]) * after["n"] + 1e-9).all()
    assert rows["agreement"][rows["suite"].isin([*SUITES, "tinyworld_text"])].isna().all()
