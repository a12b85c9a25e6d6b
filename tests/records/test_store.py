"""Records are atomic, strict and versioned."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.config.identity import recorded
from harness.config.run_config import Declared
from harness.core.errors import ConfigError, RecordError
from harness.records import record_files
from harness.records.schema import SAMPLE_COLUMNS, SCHEMA_VERSION, Failure, Measurement, Score
from harness.records.store import Experiment
from harness.records.writer import ExperimentWriter
from tests.support import sealing


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
def measurement() -> Measurement:
    return Measurement(
        evaluation_id="e",
        weights_sha256=WEIGHTS,
        suite="s",
        identity={"x": [1]},
        scores=(score(),),
        wall_seconds=1.0,
        peak_memory_bytes=1,
        provenance={},
    )


WEIGHTS = "0123456789abcdef" * 4


def samples() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in SAMPLE_COLUMNS})


def test_what_is_written_is_read_back_equal(experiment: ExperimentWriter, measurement: Measurement) -> None:
    """A measurement survives JSON, and no temporary file remains."""
    experiment.write_measurement(measurement, samples())
    found = Experiment(experiment.folder).measurement("e", WEIGHTS)
    assert found is not None
    assert dataclasses.replace(found, samples_sha256="") == measurement
    assert sorted(p.name for p in experiment.measurement_folder("e", WEIGHTS).iterdir()) == ["measurement.json", "samples.parquet"]


def test_a_missing_record_is_none(experiment: ExperimentWriter) -> None:
    """It is not an error: the run is still to do."""
    assert experiment.measurement("e", WEIGHTS) is None
    assert experiment.record("r") is None
    assert experiment.point("r", 8) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, ["schema_version", "99", str(SCHEMA_VERSION)]),
        ({"protocol_version": 99}, ["protocol_version", "99"]),
        ({"surprise": 1}, ["surprise", "unknown key"]),
        ({"wall_seconds": "long"}, ["wall_seconds", "a number"]),
    ],
)
def test_a_record_of_another_version_or_shape_is_an_error(
    experiment: ExperimentWriter, measurement: Measurement, change: dict[str, Any], words: list[str]
) -> None:
    """The reader fills in no missing value."""
    experiment.write_measurement(measurement, samples())
    path = experiment.measurement_folder("e", WEIGHTS) / "measurement.json"
    sealing.edit(path, change)
    with pytest.raises(RecordError) as caught:
        experiment.measurement("e", WEIGHTS)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_missing_field_and_a_cut_file_are_errors(experiment: ExperimentWriter, measurement: Measurement) -> None:
    """The message names the file of the damaged record."""
    experiment.write_measurement(measurement, samples())
    path = experiment.measurement_folder("e", WEIGHTS) / "measurement.json"
    sealing.write(path, {name: value for name, value in sealing.read(path).items() if name != "scores"})
    with pytest.raises(RecordError, match="scores"):
        experiment.measurement("e", WEIGHTS)
    path.write_text('{"schema_version": 1, ')
    with pytest.raises(RecordError, match="measurement.json"):
        experiment.measurement("e", WEIGHTS)


def test_nan_is_never_written(experiment: ExperimentWriter, measurement: Measurement) -> None:
    """Nothing of the record remains on disk."""
    import dataclasses

    broken = dataclasses.replace(measurement, wall_seconds=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        experiment.write_measurement(broken, samples())
    assert experiment.measurement("e", WEIGHTS) is None


def test_the_manifest_says_which_runs_are_current(experiment: ExperimentWriter) -> None:
    """A sweep replaces them; a run is added, and supersedes one of the same configuration."""
    pytest.importorskip("hydra", reason="composing needs the extra `measure`")
    from harness.config import composition

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
"""Run → its overrides; ``d`` adds volumes to ``a``."""


def test_two_runs_that_start_at_once_are_both_in_the_manifest(experiment: ExperimentWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process reads the runs of the other one before it adds its own."""
    pytest.importorskip("filelock", reason="writing needs the extra `measure`")
    write = record_files.write_json

    def slowly(path: Path, record: Any) -> None:
        time.sleep(0.1)  # the other one has read the manifest by now, unless it waits
        write(path, record)

    monkeypatch.setattr(record_files, "write_json", slowly)
    writers = [
        threading.Thread(target=experiment.write_manifest, args=({name: {"settings": name}},), kwargs={"keep": True}) for name in "ab"
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert experiment.asked() == {"a", "b"}


PLAIN: dict[str, Any] = {"headline": None, "margin": 0.02, "margins": {}, "control": {}}


def test_the_manifest_says_what_was_declared(experiment: ExperimentWriter) -> None:
    """A sweep replaces the declarations, a run only if it declares something."""
    experiment.write_manifest({"a": {"declared": PLAIN | {"headline": "s", "margins": {"t": 0.1}, "control": {"data": "old"}}}}, keep=False)
    declared = Declared(headline="s", margins={"t": 0.1}, control={"data": "old"})
    assert experiment.declared() == declared
    experiment.write_manifest({"b": {"declared": PLAIN}}, keep=True)
    assert experiment.declared() == declared
    experiment.write_manifest({"b": {"declared": PLAIN | {"headline": "u", "margin": 0.05}}}, keep=True)
    assert experiment.declared() == Declared(headline="u", margin=0.05)
    experiment.write_manifest({"b": {"declared": PLAIN}}, keep=False)
    assert experiment.declared() == Declared()


def test_the_one_probe_suite_is_the_headline_where_none_is_declared(experiment: ExperimentWriter) -> None:
    """Of several probe suites, none is the headline unless declared."""
    experiment.write_config("a", {"probe_suites": ["s"], "declared": PLAIN})
    experiment.write_config("b", {"probe_suites": ["s"], "declared": PLAIN})
    experiment.write_manifest({"a": {"declared": PLAIN}, "b": {"declared": PLAIN}}, keep=False)
    assert experiment.declared() == Declared(headline="s")
    experiment.write_config("b", {"probe_suites": ["s", "t"], "declared": PLAIN})
    assert experiment.declared() == Declared()


def test_results_of_versions_without_declarations_are_read(experiment: ExperimentWriter) -> None:
    """Without a manifest, or with one of these versions, the configurations of runs count."""
    assert experiment.declared() == Declared()
    experiment.write_config("a", {"probe_suites": ["s"]})
    assert experiment.declared() == Declared(headline="s")
    values = {"experiment": "exp", "run_ids": ["a"], "schema_version": SCHEMA_VERSION, "sweep": None}
    sealing.write(experiment.folder / "manifest.json", values)
    assert experiment.current() == {"a"}
    assert experiment.declared() == Declared(headline="s")
    experiment.write_config("a", {"probe_suites": ["s", "t"], "declared": PLAIN | {"headline": "t"}})
    assert experiment.declared() == Declared(headline="t")


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """Analysis and report hold an Experiment, runs and sweeps an ExperimentWriter."""
    writing = [name for name in dir(ExperimentWriter) if name.startswith(("write_", "drop_", "set_aside", "clear_"))]
    assert len(writing) > 10
    assert [name for name in writing if hasattr(Experiment(tmp_path), name)] == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The check leaves nothing behind where it succeeds."""
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ConfigError, match="not writable"):
        ExperimentWriter(tmp_path / "results" / "exp").require_writable()
    fresh = ExperimentWriter(tmp_path / "other" / "exp")
    fresh.require_writable()
    assert not (tmp_path / "other").exists()


def test_a_failure_is_recorded_and_dropped(experiment: ExperimentWriter) -> None:
    """A run with a failure counts as a run on disk."""
    failure = Failure(run_id="r", experiment="exp", labels={}, config={}, reason="boom", traceback="…")
    experiment.write_failure(failure)
    assert experiment.failure("r") == failure
    assert experiment.run_ids() == ["r"]
    experiment.drop_failure("r")
    assert experiment.failure("r") is None


@pytest.mark.parametrize("name", ["manifest.json", "sweeps/s.json", "runs/r/config.json", "runs/r/record.json"])
def test_advice_on_a_damaged_file_names_that_file(experiment: ExperimentWriter, name: str) -> None:
    """Never a folder, which has results that are whole: the experiment's, for a manifest."""
    path = experiment.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"schema_version": 4, "ru')
    readers = {"manifest": experiment.manifest, "s": lambda: experiment.sweep("s"), "config": lambda: experiment.config("r")}
    with pytest.raises(RecordError) as caught:
        readers.get(path.stem, lambda: experiment.record("r"))()
    assert str(caught.value).startswith(f"{path}: got a file that cannot be read")
    assert str(caught.value).endswith(f"fix: remove {path}, then rerun its sweep or run, which makes what is missing")


def test_the_manifest_keeps_the_claim_of_the_first_command(experiment: ExperimentWriter) -> None:
    """A claim that is changed later, or added to results that had none, was declared afterwards."""
    experiment.write_manifest({}, keep=False, claim="first")
    experiment.write_manifest({}, keep=False, claim="second")
    experiment.write_manifest({}, keep=True)
    found = experiment.manifest()
    assert found is not None
    assert found.claim == "first"
    other = ExperimentWriter(experiment.folder.with_name("other"))
    other.write_manifest({}, keep=False)
    other.write_manifest({}, keep=False, claim="late")
    found = other.manifest()
    assert found is not None
    assert found.claim == ""
