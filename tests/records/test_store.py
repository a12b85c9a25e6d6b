"""Records: atomic, strict, versioned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.config import composition
from harness.config.identity import recorded
from harness.core.errors import ConfigError, RecordError
from harness.records.schema import SAMPLE_COLUMNS, Baseline, Declared, Failure, Score, but_for_volumes
from harness.records.writer import ExperimentWriter


def score(**changes: Any) -> Score:
    values: dict[str, Any] = {
        "suite": "s",
        "task": "t",
        "metric": "acc",
        "filter": "none",
        "primary": True,
        "n": 2,
        "value": 0.5,
        "stderr": 0.5,
        "chance": 0.25,
        "higher_is_better": True,
    }
    return Score(**(values | changes))


@pytest.fixture
def experiment(tmp_path: Path) -> ExperimentWriter:
    return ExperimentWriter(tmp_path / "results" / "exp")


@pytest.fixture
def baseline() -> Baseline:
    return Baseline(baseline_id="b", suite="s", identity={"x": [1]}, weights_sha256="w", scores=(score(),), wall_seconds=1.0, provenance={})


def samples() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in SAMPLE_COLUMNS})


def test_what_is_written_is_read_back_equal(experiment: ExperimentWriter, baseline: Baseline) -> None:
    """A baseline survives the way through JSON, and no temporary file is left."""
    experiment.write_baseline(baseline, samples())
    assert experiment.baseline("b") == baseline
    assert sorted(p.name for p in experiment.baseline_folder("b").iterdir()) == ["baseline.json", "samples.parquet"]


def test_what_is_not_there_is_none(experiment: ExperimentWriter) -> None:
    """A missing record is no error: it is work to do."""
    assert experiment.baseline("b") is None
    assert experiment.record("r") is None
    assert experiment.point("r", 8) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, ["schema_version", "99", "2"]),
        ({"protocol_version": 99}, ["protocol_version", "99"]),
        ({"surprise": 1}, ["surprise", "unknown key"]),
        ({"wall_seconds": "long"}, ["wall_seconds", "a number"]),
    ],
)
def test_a_record_of_another_version_or_shape_is_refused(
    experiment: ExperimentWriter, baseline: Baseline, change: dict[str, Any], words: list[str]
) -> None:
    """The reader fills in nothing and guesses nothing."""
    experiment.write_baseline(baseline, samples())
    path = experiment.baseline_folder("b") / "baseline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError) as caught:
        experiment.baseline("b")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_field_and_a_cut_file_are_refused(experiment: ExperimentWriter, baseline: Baseline) -> None:
    """A damaged record is named with its file."""
    experiment.write_baseline(baseline, samples())
    path = experiment.baseline_folder("b") / "baseline.json"
    values = json.loads(path.read_text())
    del values["scores"]
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match="scores"):
        experiment.baseline("b")
    path.write_text('{"schema_version": 1, ')
    with pytest.raises(RecordError, match="baseline.json"):
        experiment.baseline("b")


def test_a_value_that_is_no_number_is_never_written(experiment: ExperimentWriter, baseline: Baseline) -> None:
    """NaN in a record would read as a measurement; nothing is left behind."""
    import dataclasses

    broken = dataclasses.replace(baseline, wall_seconds=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        experiment.write_baseline(broken, samples())
    assert experiment.baseline("b") is None


def test_the_manifest_says_which_runs_are_current(experiment: ExperimentWriter) -> None:
    """A sweep replaces the set.

    A run adds to it, and takes the place of one with the same configuration and other inputs.
    """
    asked = {name: recorded(composition.compose(texts)) for name, texts in CONFIGS.items()}
    experiment.write_config("a", asked["a"])
    experiment.write_config("b", asked["b"])
    experiment.write_manifest({name: asked[name] for name in "ab"}, keep=False)
    experiment.write_manifest({"c": asked["c"]}, keep=True)
    assert experiment.current() == {"a", "b", "c"}
    experiment.write_manifest({"d": asked["d"]}, keep=True)
    assert experiment.current() == {"b", "c", "d"}
    experiment.write_manifest({"c": asked["c"]}, keep=False)
    assert experiment.current() == {"c"}


CONFIGS = {"a": ["seed=0"], "b": ["seed=1"], "c": ["seed=2"], "d": ["seed=0", "data.volumes=[8,16]"]}
"""Run → its configuration; that of ``d`` asks for further volumes of ``a``."""


PLAIN: dict[str, Any] = {"class": "Declared", "headline": None, "margin": 0.02, "margins": {}, "control": {}}


def test_the_manifest_says_what_was_declared(experiment: ExperimentWriter) -> None:
    """A sweep replaces it.

    A run that declares nothing leaves it, one that declares something replaces it.
    """
    experiment.write_manifest({"a": {"declared": PLAIN | {"headline": "s", "margins": {"t": 0.1}, "control": {"data": "old"}}}}, keep=False)
    declared = Declared(headline="s", margins={"t": 0.1}, control={"data": "old"})
    assert experiment.declared() == declared
    experiment.write_manifest({"b": {"declared": PLAIN}}, keep=True)
    assert experiment.declared() == declared
    experiment.write_manifest({"b": {"declared": PLAIN | {"headline": "u", "margin": 0.05}}}, keep=True)
    assert experiment.declared() == Declared(headline="u", margin=0.05)
    experiment.write_manifest({"b": {"declared": PLAIN}}, keep=False)
    assert experiment.declared() == Declared()


def test_another_margin_makes_no_other_run(experiment: ExperimentWriter) -> None:
    """A run with another declaration takes the place of none that is current: it is the same run."""
    config = {"seed": 0, "trajectory": "shared", "declared": PLAIN}
    changed = config | {"declared": PLAIN | {"margin": 0.05}}
    assert but_for_volumes(config) == but_for_volumes(changed) == but_for_volumes({"seed": 0, "trajectory": "shared"})


def test_the_one_probe_suite_is_the_headline_where_none_is_declared(experiment: ExperimentWriter) -> None:
    """With several there is none: which one counts is said beforehand, or not at all."""
    experiment.write_config("a", {"probe_suites": ["s"], "declared": PLAIN})
    experiment.write_config("b", {"probe_suites": ["s"], "declared": PLAIN})
    experiment.write_manifest({"a": {"declared": PLAIN}, "b": {"declared": PLAIN}}, keep=False)
    assert experiment.declared() == Declared(headline="s")
    experiment.write_config("b", {"probe_suites": ["s", "t"], "declared": PLAIN})
    assert experiment.declared() == Declared()


def test_results_from_before_there_were_declarations_are_read(experiment: ExperimentWriter) -> None:
    """A manifest without the key takes the runs' word, and the default where they have none.

    So does a folder without a manifest.
    """
    assert experiment.declared() == Declared()
    experiment.write_config("a", {"probe_suites": ["s"]})
    assert experiment.declared() == Declared(headline="s")
    (experiment.folder / "manifest.json").write_text('{"experiment": "exp", "run_ids": ["a"], "schema_version": 2, "sweep": null}')
    assert experiment.current() == {"a"}
    assert experiment.declared() == Declared(headline="s")
    experiment.write_config("a", {"probe_suites": ["s", "t"], "declared": PLAIN | {"headline": "t"}})
    assert experiment.declared() == Declared(headline="t")


def test_a_folder_that_cannot_be_written_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A file where the results should go is found before anything runs."""
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ConfigError, match="not writable"):
        ExperimentWriter(tmp_path / "results" / "exp").require_writable()
    fresh = ExperimentWriter(tmp_path / "other" / "exp")
    fresh.require_writable()
    assert not (tmp_path / "other").exists()


def test_an_unknown_experiment_is_named_with_those_that_exist(tmp_path: Path) -> None:
    """The error lists what could have been meant."""
    (tmp_path / "tiny" / "runs").mkdir(parents=True)
    with pytest.raises(RecordError, match="tiny"):
        ExperimentWriter(tmp_path / "tniy").require_readable()


def test_a_failure_is_dropped_when_the_run_succeeds_later(experiment: ExperimentWriter) -> None:
    """A failure tells of the last try only."""
    failure = Failure(run_id="r", experiment="exp", labels={}, config={}, reason="boom", traceback="…")
    experiment.write_failure(failure)
    assert experiment.failure("r") == failure
    assert experiment.run_ids() == ["r"]
