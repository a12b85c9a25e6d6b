"""`harness verify`: every alteration of every recorded file is found, and nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.analysis import verify
from harness.cli.app import main
from harness.core.errors import DamagedError
from harness.records.schema import Failure
from harness.records.store import Experiment
from harness.records.sweep_schema import Sweep
from harness.records.writer import ExperimentWriter
from harness.report import page
from harness.report.verify import page_errors, verify_command
from harness.sweep.claims import Claims
from tests.support import sealing, small_runs
from tests.support.small_runs import Runs

MERGE = ("mitigation=merge", "mitigation.grid=[0.5]")


@pytest.fixture(scope="module")
def clean(saved_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Results of three experiments: two seeds with kept weights; derived runs; generated rows.

    The last also has a checkpoint that waits to be measured, and a run that was interrupted.
    """
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        small_runs.own_folder(saved_models, folder, patch)
        runs = small_runs.counted(patch)
        for seed in (0, 1):
            runs(f"seed={seed}", "save_weights=all", name="seeds")
        for seed in (0, 1):
            runs(f"seed={seed}", *MERGE, name="derived")
        for seed in (0, 1):
            runs(f"seed={seed}", "mitigation=self_output", "evaluation.where=separate", name="generated")
        with pytest.raises(KeyboardInterrupt):
            runs("seed=2", "training.learning_rate=0.02", name="generated", stop_at=2)
        for name in NAMES:
            written = ExperimentWriter(folder / "results" / name)
            sweep = Sweep(id=f"sweep-{name}", experiment=name, command="", time="", cores=1, gpus=0, units=())
            written.write_sweep(sweep)
            written.write_manifest({one: written.config(one) for one in written.asked()}, keep=False, sweep=sweep.id)
        for one in sorted(written.asked())[:2]:
            config = written.config(one)
            written.write_failure(Failure(run_id=one, experiment=name, labels=config["labels"], config=config, reason="x", traceback=""))
        page.write(ExperimentWriter(folder / "results" / "derived"))
        yield folder / "results"


NAMES = ("seeds", "derived", "generated")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_found_in_results_as_they_were_written(clean: Path, name: str) -> None:
    """Page included."""
    shown: list[str] = []
    assert verify_command(Experiment(clean / name), shown.append) == 0, shown
    assert "every file is as it was written" in shown[0]


def test_what_is_no_alteration_is_not_found(clean: Path, tmp_path: Path) -> None:
    """A folder under another name, its manifest rewritten, files of the system and of the user.

    An old summary, as a kill between record and summary leaves it, and weights that were removed.
    """
    experiment = ExperimentWriter(shutil.copytree(clean / "seeds", tmp_path / "renamed"))
    first, second = experiment.run_ids()
    assert list(verify.errors(experiment)) == []
    experiment.write_manifest({one: experiment.config(one) for one in experiment.asked()}, keep=False)
    (experiment.run_folder(first) / "weights" / "16" / ".DS_Store").write_text("x")
    shutil.rmtree(experiment.run_folder(second) / "weights" / "16")
    sealing.edit(experiment.run_folder(second) / "record.json", lr_tuned=True)
    (experiment.folder / "report").mkdir()
    (experiment.folder / "report" / "notes.md").write_text("mine")
    shown: list[str] = []
    assert verify_command(experiment, shown.append) == 0, shown


def test_a_run_that_a_process_has_is_not_looked_at(clean: Path, tmp_path: Path) -> None:
    """Its files change while they are read; the last line counts it."""
    experiment = ExperimentWriter(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    run_id = experiment.run_ids()[0]
    (experiment.run_folder(run_id) / "points" / "8" / "point.json").unlink()
    held = Claims(experiment).take(run_id)
    assert held is not None
    shown: list[str] = []
    assert verify_command(experiment, shown.append) == 0
    assert "1 runs under way, not verified" in shown[0]
    held.end("done")
    assert verify_command(experiment, shown.append) == 1


@pytest.mark.parametrize(
    ("file", "other"),
    [("config.json", "record.json"), ("weights/16/sha256.json", "config.json"), ("weights/16/sha256.json", "weights/8/sha256.json")],
)
def test_another_file_of_the_same_run_is_found(clean: Path, tmp_path: Path, file: str, other: str) -> None:
    """Each record names what it is, besides its run."""
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    folder = experiment.run_folder(experiment.run_ids()[0])
    shutil.copy(folder / other, folder / file)
    assert str(folder / file) in str(next(verify.errors(experiment)))


def test_a_finished_run_that_is_gone_is_found(clean: Path, tmp_path: Path) -> None:
    """The manifest names it, and a claim says that it was done; a run not started has neither."""
    experiment = ExperimentWriter(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    run_id = experiment.run_ids()[0]
    held = Claims(experiment).take(run_id)
    assert held is not None
    held.end("done")
    shutil.rmtree(experiment.run_folder(run_id))
    assert f"runs/{run_id}: got no such file" in str(next(verify.errors(experiment)))


def edit(path: Path, _: Path) -> None:
    """Change the last digit of the first number, or a letter in the middle."""
    content = path.read_bytes()
    place = len(content) // 2
    if path.suffix == ".json":
        place = next(i for i in range(content.index(b":"), len(content)) if content[i : i + 1].isalnum())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def copy(path: Path, other: Path) -> None:
    shutil.copy(other, path)


def exchange(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove(path: Path, _: Path) -> None:
    path.unlink()


ALTERATIONS: dict[str, Callable[[Path, Path], None]] = {"edit": edit, "copy": copy, "exchange": exchange, "cut": cut, "remove": remove}


HARMLESS = {("remove", "finished.json"), ("remove", "failure.json")}
"""Alterations after which the next command does again what is lost, and no number is wrong."""


def recorded(experiment: Experiment) -> Iterator[tuple[Path, Path | None]]:
    """Yield one recorded file of each kind, with another of its kind if there is one."""
    files = [path for path in sorted(experiment.folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    seen = set()
    for path in files:
        place = path.relative_to(experiment.folder)
        kind = re.sub(r"/[0-9]+/", "/N/", re.sub(r"[0-9a-f]{12,16}(-[0-9.]+)?", "ID", str(place)))
        if place.parts[0] in {"claims", "report"} or kind in seen:
            continue
        seen.add(kind)
        twins = (one for one in files if one.name == path.name and one.read_bytes() != path.read_bytes())
        yield path, next(twins, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_alteration_of_a_recorded_file_is_found(clean: Path, tmp_path: Path, name: str) -> None:
    """Edited, copied from another of its kind, exchanged with it, cut off, or removed."""
    experiment, missed = Experiment(shutil.copytree(clean / name, tmp_path / name)), []
    for path, other in list(recorded(experiment)):
        for how, alter in ALTERATIONS.items():
            if other is None and how in {"copy", "exchange"}:
                continue
            before = {one: one.read_bytes() for one in (path, other) if one is not None}
            alter(path, other or path)
            if next(verify.errors(experiment), None) is None and (how, path.name) not in HARMLESS:
                missed.append((how, str(path)))
            for one, content in before.items():
                one.write_bytes(content)
    assert missed == []
    assert list(verify.errors(experiment)) == []


def test_the_line_names_the_file_and_what_to_remove(clean: Path, tmp_path: Path) -> None:
    """The advice is never to remove the folder of the experiment or of the whole run."""
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    first, second = (experiment.point_folder(run_id, 8) / "point.json" for run_id in experiment.run_ids())
    copy(first, second)
    line = next(str(error) for error in verify.errors(experiment))
    assert line == (
        f"{first}: got a copy: its run_id is {second.parts[-4]}; allowed: run_id {first.parts[-4]}, as its folder says; "
        f"fix: remove {first}, then rerun its sweep or run, which makes what is missing"
    )


def test_scores_are_derived_from_the_items(clean: Path, tmp_path: Path) -> None:
    """A record with other numbers and a valid seal, as a fault of the harness would write it."""
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    path = sorted(experiment.folder.glob("measurements/*/*/measurement.json"))[0]
    scores = sealing.read(path)["scores"]
    for name in ("n", "value", "stderr", "chance"):
        changed = [scores[0] | {name: (scores[0][name] or 0) + 1}, *scores[1:]]
        sealing.edit(path, scores=changed)
        assert f"{name} {changed[0][name]} of {scores[0]['task']}" in next(str(error) for error in verify.errors(experiment))
    sealing.edit(path, scores=scores[1:])
    assert "no score of" in next(str(error) for error in verify.errors(experiment))


@pytest.mark.parametrize("column", ["delta", "delta_low", "lost", "n"])
def test_rows_are_derived_from_the_items(clean: Path, tmp_path: Path, column: str) -> None:
    """A summary with another number and a valid seal."""
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    path = experiment.run_folder(experiment.run_ids()[0]) / "summary.json"
    columns = sealing.read(path)["columns"]
    columns[column][-1] = (columns[column][-1] or 0) + 1
    sealing.edit(path, columns=columns)
    assert f"summary.json: got another {column} than the items give" in "".join(map(str, verify.errors(experiment)))


def test_the_page_is_rendered_anew_and_compared(clean: Path, tmp_path: Path) -> None:
    """Files of the user in its folder are left alone."""
    experiment = Experiment(shutil.copytree(clean / "derived", tmp_path / "derived"))
    (experiment.folder / "report" / "notes.txt").write_text("mine")
    changed = [experiment.folder / "report" / name for name in ("index.html", "findings.csv", "forgetting.png")]
    for path, alter in zip(changed, (edit, cut, remove), strict=True):
        alter(path, path)
    assert {str(error).partition(":")[0] for error in page_errors(experiment)} == {str(path) for path in changed}


@pytest.mark.parametrize("command", ["table", "report", "status"])
def test_a_command_that_meets_an_altered_file_says_so_and_exits_with_1(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Points of two runs exchanged; then the records restored, and a summary edited.

    An edited summary is computed again: the numbers shown are those of the items.
    """
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    first, second = (experiment.run_folder(run_id) for run_id in experiment.run_ids())
    if command == "status":
        edit(experiment.folder / "manifest.json", tmp_path)
        assert main([command, str(experiment.folder)]) == 1
        assert f"{experiment.folder / 'manifest.json'}: got a file" in capsys.readouterr().err
        return
    assert main(["table", str(experiment.folder)]) == 0
    expected = capsys.readouterr().out
    assert (first / "summary.json").exists()
    exchange(first / "points" / "8" / "point.json", second / "points" / "8" / "point.json")
    assert main([command, str(experiment.folder)]) == 1
    assert "point.json: got a copy: its run_id is" in capsys.readouterr().err
    exchange(first / "points" / "8" / "point.json", second / "points" / "8" / "point.json")
    text = (first / "summary.json").read_text()
    (first / "summary.json").write_text(text.replace('"status":"ok"', '"status":"ko"', 1))
    assert main([command, str(experiment.folder)]) == 1
    said = capsys.readouterr().err
    assert f"{first / 'summary.json'}: got a file that was changed after it was written" in said
    assert "computed again, from the samples" in said
    assert main(["table", str(experiment.folder)]) == 0
    assert capsys.readouterr().out == expected


def test_a_run_is_not_taken_for_done_by_an_altered_record(clean: Path, runs: Runs, tmp_path: Path) -> None:
    """Nothing is trained, nothing is written, and the file is named."""
    shutil.copytree(clean / "seeds", tmp_path / "results" / "seeds")
    assert runs("seed=0", "save_weights=all", name="seeds") == "already done"
    path = runs.prepared.experiment.run_folder(runs.prepared.run_id) / "record.json"
    edit(path, path)
    with pytest.raises(DamagedError, match=re.escape(f"{path}: got a file that was changed after it was written")):
        runs("seed=0", "save_weights=all", name="seeds")
    assert runs.trained == 0
    path.unlink()
    assert runs("seed=0", "save_weights=all", name="seeds") == "done"
    assert list(verify.errors(Experiment(tmp_path / "results" / "seeds"))) == []


@pytest.mark.parametrize("file", ["config.json", "prompts", "points/8/point.json", "measurement"])
def test_a_run_without_a_file_that_it_needs_is_not_done(clean: Path, tmp_path: Path, file: str) -> None:
    """As after the advice to remove one file: the same sweep then makes it again."""
    experiment = Experiment(shutil.copytree(clean / "seeds", tmp_path / "seeds"))
    run_id = experiment.run_ids()[0]
    record, point = experiment.record(run_id), experiment.point(run_id, 8)
    assert record is not None
    assert point is not None
    assert not experiment.lacks_files(run_id)
    measured = experiment.measurement_folder(next(iter(record.evaluations.values())), point.weights_sha256)
    path = measured / "measurement.json" if file == "measurement" else experiment.run_folder(run_id) / file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert experiment.lacks_files(run_id)
