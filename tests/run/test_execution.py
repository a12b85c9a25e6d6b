"""Execution of a run: measuring, resuming, and dropping outdated results."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import composition
from harness.core.errors import TrainingError
from harness.core.progress import Interrupted, Silent
from harness.records.schema import Measurement, Point, Score
from harness.run import execution, preparation
from harness.run.points import Points
from harness.run.preparation import Prepared
from harness.run.workspace import Workspace
from harness.training.step import StepTrainer
from tests.support.small_runs import scores_of, without_time

SMALL = "kind: lm_eval\ntasks: [tinyworld_facts, tinyworld_arithmetic, tinyworld_grammar]\nmetric: acc\nreport: 12\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model with random weights and the nursery's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("model")
    tokenizer = composition.member("model", "nursery-smoke-a").tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class Listening(Silent):
    """Keeps messages, and interrupts training at step ``until``."""

    def __init__(self, until: int = 0) -> None:
        self.until, self.name, self.step, self.messages = until, "", 0, list[str]()

    def stage(self, name: str, total: int) -> None:
        self.name, self.step = name, 0

    def advance(self, units: int = 1) -> None:
        self.step += units
        if self.name.startswith("train") and self.step == self.until:
            self.until = 0
            raise Interrupted

    def say(self, message: str) -> None:
        self.messages.append(message)


@dataclasses.dataclass
class Runs:
    """Runs in an empty folder, on a suite of three tasks.

    Counts evaluated tasks and trained steps; interrupts at the task with number ``stop_at``, and at
    step ``until``.
    """

    monkeypatch: pytest.MonkeyPatch
    evaluated: list[str] = dataclasses.field(default_factory=list)
    trained: int = 0
    stop_at: int = 0
    prepared: Prepared | None = None
    progress: Listening = dataclasses.field(default_factory=Listening)

    def __call__(self, *overrides: str, name: str = "a", stop_at: int = 0, until: int = 0) -> str:
        """Execute a run and return its outcome."""
        self.evaluated.clear()
        self.trained, self.stop_at, self.progress = 0, stop_at, Listening(until)
        self.prepare(*overrides, name=name)
        return execution.execute(self._prepared, self.progress)

    def prepare(self, *overrides: str, name: str = "a") -> Prepared:
        """Prepare a run."""
        fixed = ["model=hf", "model.name=./model", "data.volumes=[8]", "target_suites=[]", f"name={name}"]
        self.prepared = preparation.prepare(composition.compose([*fixed, "probe_suites=[small]", *overrides]), Workspace())
        return self.prepared

    def points(self) -> dict[int, Point]:
        """The points of the last run, without the fields that differ between executions."""
        experiment, run_id = self._prepared.experiment, self._prepared.run_id
        found = {volume: experiment.point(run_id, volume) for volume in experiment.volumes(run_id)}
        return {volume: without_time(point) for volume, point in found.items() if point}

    @property
    def states(self) -> list[int]:
        """Steps with a checkpoint of the last run."""
        return self._prepared.experiment.states(self._prepared.run_id)

    @property
    def measured_before(self) -> list[Measurement]:
        """Every recorded volume 0, the oldest first."""
        experiment = self._prepared.experiment
        places = sorted(experiment.folder.glob("measurements/*/*/measurement.json"), key=lambda path: path.stat().st_mtime_ns)
        found = [experiment.measurement(path.parent.parent.name, path.parent.name) for path in places]
        return [one for one in found if one and one.scores[0].numeric_spread_nats is not None]

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores of the last run's point."""
        return scores_of(self._prepared, self.point)

    @property
    def point(self) -> Point:
        """The point of the last run."""
        found = self._prepared.experiment.point(self._prepared.run_id, 8)
        assert found
        return found

    @property
    def folder(self) -> Path:
        """The folder of the last run."""
        return self._prepared.experiment.run_folder(self._prepared.run_id)

    @property
    def _prepared(self) -> Prepared:
        assert self.prepared
        return self.prepared


@pytest.fixture
def runs(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    import lm_eval

    shutil.copytree(saved, tmp_path / "model")
    (tmp_path / "own" / "benchmarks" / "suites").mkdir(parents=True)
    (tmp_path / "own" / "benchmarks" / "suites" / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_PATH", str(tmp_path / "own"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    made, evaluate = Runs(monkeypatch), lm_eval.evaluate

    def counted(lm: Any, tasks: Any, **settings: Any) -> Any:
        made.evaluated.extend(tasks["tasks"])
        if len(made.evaluated) == made.stop_at:
            raise KeyboardInterrupt
        return evaluate(lm, tasks, **settings)

    step = StepTrainer.training_step

    def noted(*arguments: Any) -> Any:
        made.trained += 1
        return step(*arguments)

    monkeypatch.setattr(lm_eval, "evaluate", counted)
    monkeypatch.setattr(StepTrainer, "training_step", noted)
    return made


def test_volume_0_is_measured_twice_and_shared_by_later_runs(runs: Runs) -> None:
    """Three tasks are evaluated before, again in other batches, and after 8 rows.

    Another seed evaluates those after 8 rows only.
    """
    assert runs() == "done"
    assert len(runs.evaluated) == 9
    (before,) = runs.measured_before
    assert all(score.remeasured is not None and score.numeric_spread_nats is not None for score in before.scores)
    assert all(score.remeasured is None for score in runs.scores)
    assert runs("seed=1") == "done"
    assert len(runs.evaluated) == 3
    assert runs() == "already done"
    assert not runs.evaluated


def test_the_second_measurement_restores_the_number_of_threads(runs: Runs) -> None:
    """It uses another number of threads; the rest of the run does not."""
    import torch

    seen: list[int] = []
    set_num_threads = torch.set_num_threads

    def noted(count: int) -> None:
        seen.append(count)
        set_num_threads(count)

    runs.monkeypatch.setattr(torch, "set_num_threads", noted)
    runs("training.threads=1")
    assert seen[:3] == [1, 2, 1]
    assert set(seen[3:]) <= {1}  # other calls set the same number


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_an_interrupted_evaluation_resumes(runs: Runs, stop_at: int) -> None:
    """Finished tasks are not evaluated again.

    The interruption is at volume 0, in its second measurement, or at a point.
    """
    runs(name="whole")
    whole, (expected,) = runs.scores, runs.measured_before
    with pytest.raises(KeyboardInterrupt):
        runs(stop_at=stop_at)
    assert runs() == "done"
    assert len(runs.evaluated) == 9 - (stop_at - 1)
    assert runs.scores == whole
    (before,) = runs.measured_before
    assert before.scores == expected.scores
    assert not list(Path("results/a").glob("**/partial/*/*"))


def test_finished_tasks_of_other_weights_are_not_reused(runs: Runs) -> None:
    """A run that resumes with other weights evaluates every task of the point."""
    import torch

    with pytest.raises(KeyboardInterrupt):
        runs(stop_at=8)
    change = Points.weight_change

    def disturbed(self: Any, model: Any) -> Any:
        with torch.no_grad():
            model.lm_head.weight[0, 0] += 1e-3
        return change(self, model)

    runs.monkeypatch.setattr(Points, "weight_change", disturbed)
    runs()
    assert len(runs.evaluated) == 3


def test_a_changed_byte_of_the_weights_is_another_volume_0(runs: Runs) -> None:
    """Another model in the same folder has measurements of its own."""
    from safetensors.torch import load_file, save_file

    runs()
    weights = load_file("model/model.safetensors")
    weights["lm_head.weight"][5, 3] += 1e-3
    save_file(weights, "model/model.safetensors", metadata={"format": "pt"})
    runs()
    first, second = runs.measured_before
    assert first.weights_sha256 != second.weights_sha256
    assert len(runs.evaluated) == 9


def test_a_measurement_is_identified_by_items_settings_tokenizer_and_dtype(runs: Runs) -> None:
    """Each of them is in the identity; a change measures again, and trains nothing."""
    runs("evaluation=hf")
    (before,) = runs.measured_before
    identity = before.identity
    assert set(identity["tasks"]) == {"tinyworld_facts", "tinyworld_arithmetic", "tinyworld_grammar"}
    assert {"version", "settings", "items", "prompts"} == set(identity["tasks"]["tinyworld_facts"])
    assert identity["model"]["tokenizer"]
    assert (identity["evaluation"]["dtype"], identity["evaluation"]["class"].rpartition(".")[2]) == ("float32", "HfEvaluation")
    assert {"add_bos", "prompt_format"} <= set(identity["evaluation"])
    assert not {"batch_size", "likelihood_tokens"} & set(identity["evaluation"])
    assert identity["protocol_version"] >= 2
    assert runs("evaluation=hf", "evaluation.batch_size=4") == "already done"
    changes = ["evaluation.dtype=bfloat16", "evaluation.add_bos=false", "evaluation=prefix"]
    for count, change in enumerate(changes, start=2):
        assert runs(*(["evaluation=hf"] if change != "evaluation=prefix" else []), change) == "done"
        assert (runs.trained, len(runs.evaluated), len(runs.measured_before)) == (0, 9, count), change


def test_what_was_measured_on_other_items_stays(runs: Runs) -> None:
    """A changed data set of lm-eval gives other measurements; no result is deleted."""
    from harness.evaluation import evaluator

    runs()
    old = {
        path: path.read_bytes() for path in Path("results/a").glob("**/*.json") if "points" in path.parts or "measurements" in path.parts
    }
    prepare = evaluator._prepare_tasks

    def changed(*arguments: Any) -> Any:
        found = prepare(*arguments)
        return dataclasses.replace(found, content={name: {**known, "items": "others"} for name, known in found.content.items()})

    runs.monkeypatch.setattr(evaluator, "_prepare_tasks", changed)
    runs("data.volumes=[8,16]")
    assert len(runs.evaluated) == 12  # twice before, after 8 rows and after 16
    assert old == {path: path.read_bytes() for path in old}


def test_one_item_of_each_task_is_in_the_folder_of_the_run(runs: Runs) -> None:
    """It is written as the model reads it, special tokens included."""
    runs()
    files = sorted((runs.folder / "prompts" / "small").glob("*.txt"))
    assert [file.stem for file in files] == ["tinyworld_arithmetic", "tinyworld_facts", "tinyworld_grammar"]
    for file in files:
        text = file.read_text()
        assert text.startswith(f"suite small, task {file.stem}: item 1 of 12")
        assert "\n<s> " in text
        assert "choice 0, 1 token" in text


def test_a_record_has_its_protocol_version(runs: Runs) -> None:
    """Numbers of version 3 are not mixed with those of versions before."""
    runs()
    assert json.loads((runs.folder / "record.json").read_text())["protocol_version"] == 3


def test_a_run_whose_suite_fails_is_measured_in_part(runs: Runs) -> None:
    """Each task has the reason, and the next call evaluates all tasks."""
    import lm_eval

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory")

    with runs.monkeypatch.context() as patch:
        patch.setattr(lm_eval, "evaluate", broken)
        assert runs() == "measured in part"
    assert {score.reason for score in runs.scores} == {"RuntimeError: no memory"}
    assert runs() == "done"
    assert len(runs.evaluated) == 9


def test_an_interrupted_training_resumes_at_its_step(runs: Runs) -> None:
    """The points are those of an undisturbed run.

    The interruptions are between two volumes, at the second volume, and in its evaluation.
    """
    volumes = "data.volumes=[8,32]"
    runs(volumes, "tuning=lora", "tuning.dropout=0.2", name="whole")
    whole = runs.points()
    assert runs.trained == 4
    with pytest.raises(Interrupted):
        runs(volumes, "tuning=lora", "tuning.dropout=0.2", until=3)
    assert (runs.trained, runs.states) == (3, [3])
    with pytest.raises(Interrupted):
        runs(volumes, "tuning=lora", "tuning.dropout=0.2", until=4)
    assert (runs.trained, runs.states, len(runs.evaluated)) == (1, [4], 0)
    with pytest.raises(KeyboardInterrupt):
        runs(volumes, "tuning=lora", "tuning.dropout=0.2", stop_at=3)
    assert runs(volumes, "tuning=lora", "tuning.dropout=0.2") == "done"
    assert (runs.trained, len(runs.evaluated)) == (0, 1)
    assert runs.points() == whole


def test_a_larger_volume_resumes_from_the_last_checkpoint(runs: Runs) -> None:
    """Its points equal those of a run with all volumes from the start.

    ``keep_state=false`` keeps no checkpoint once the run is done; nor does the default of a large
    model.
    """
    runs("data.volumes=[8,16,32]", "save_weights=all", name="whole")
    whole = runs.points()
    assert runs.states == [4]
    runs("data.volumes=[8,16]", "save_weights=all")
    assert runs("data.volumes=[8,32]", "save_weights=all", "keep_state=false") == "done"
    assert (runs.trained, len(runs.evaluated), runs.states) == (2, 3, [])
    assert runs.points() == whole
    runs.monkeypatch.setattr(execution, "LARGE_STATE_PARAMS", 1000)
    runs("data.volumes=[8]", name="large")
    assert runs.states == []
    runs("data.volumes=[8]", "keep_state=true", name="asked")
    assert runs.states == [1]


def test_a_new_volume_before_the_checkpoint_is_trained_from_the_start(runs: Runs) -> None:
    """A new volume of 16 rows between 8 and 32 restarts training.

    Recorded points are not evaluated again.
    """
    runs("data.volumes=[8,32]")
    before = runs.points()
    assert runs("data.volumes=[16]") == "done"
    assert (runs.trained, len(runs.evaluated)) == (2, 3)
    assert runs("data.volumes=[8,16,32,40]") == "done"
    assert (runs.trained, len(runs.evaluated)) == (1, 3)
    after = runs.points()
    assert {volume: after[volume] for volume in before} == before


def test_a_failed_point_is_trained_for_and_measured_again(runs: Runs) -> None:
    """Its checkpoint is gone, so training restarts; no other point is evaluated."""
    import lm_eval

    evaluate = lm_eval.evaluate

    def broken(lm: Any, tasks: Any, **settings: Any) -> Any:
        if len(runs.evaluated) == 6 and runs.trained == 1:
            runs.evaluated.append("")
            raise RuntimeError("chance")
        return evaluate(lm, tasks, **settings)

    with runs.monkeypatch.context() as patch:
        patch.setattr(lm_eval, "evaluate", broken)
        assert runs("data.volumes=[8,16]") == "measured in part"
    assert runs("data.volumes=[8,16]") == "done"
    assert (runs.trained, len(runs.evaluated)) == (2, 3)


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_run(runs: Runs) -> None:
    """A message reports it, and the run is done."""
    from harness.training.checkpoint import Checkpoints

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    runs.monkeypatch.setattr(Checkpoints, "save", full)
    assert runs() == "done"
    lines = [line for line in runs.progress.messages if "not saved" in line]
    assert lines == ["the checkpoint after step 1 is not saved: [Errno 28] No space left on device"]


def test_the_micro_batch_is_halved_when_memory_runs_out(runs: Runs) -> None:
    """The run equals one with that micro-batch in its configuration, and its record has it.

    A micro-batch of one row cannot be halved.
    """
    import torch

    compute = StepTrainer.compute_loss
    room = 2

    def short(self: Any, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        if inputs["input_ids"].shape[0] > room:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, model, inputs, *rest, **options)

    runs("training.micro_batch_rows=2", "data.volumes=[8,16]", name="small")
    configured = runs.points()
    runs.monkeypatch.setattr(StepTrainer, "compute_loss", short)
    assert runs("data.volumes=[8,16]") == "done"
    lines = [line for line in runs.progress.messages if "memory" in line]
    continuing = "out of memory with micro-batches of {} rows: continuing with {}; the rows of a step stay the same"
    assert lines == [continuing.format(8, 4), continuing.format(4, 2)]
    assert runs.points() == configured
    record = runs.prepared.experiment.record(runs.prepared.run_id) if runs.prepared else None
    assert record
    assert record.micro_batch_rows == 2
    room = 0
    with pytest.raises(TrainingError, match=r"^training: got out of memory with micro-batches of 1 rows; .*max_length"):
        runs("data.volumes=[8,16,32]")


def test_no_micro_batch_is_halved_for_an_update_that_does_not_fit(runs: Runs) -> None:
    """Moments have the size of the weights, in any micro-batch."""
    import torch

    def short(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    runs.monkeypatch.setattr(torch.optim.AdamW, "step", short)
    with pytest.raises(TrainingError, match=r"^training: got out of memory while the optimizer updates the weights"):
        runs("data.volumes=[8,16]")
    assert not [line for line in runs.progress.messages if "continuing with" in line]


def test_volume_0_is_measured_without_training(runs: Runs) -> None:
    """Each suite passes through ``once``; if all are recorded, no model is loaded."""
    from harness.models.hub import HubModel

    prepared, asked = runs.prepare(), list[str]()

    def once(name: str, done: Any, do: Any) -> None:
        asked.append(name)
        assert not done()
        do()
        assert done()

    execution.measure_baselines(prepared, Silent(), once)
    assert asked == [f"baseline-{one.evaluation_id}-{one.weights_sha256[:8]}" for one in runs.measured_before]
    assert (len(runs.evaluated), runs.trained) == (6, 0)
    runs.monkeypatch.setattr(HubModel, "load", None)
    execution.measure_baselines(runs.prepare("tuning=lora", "seed=4"), Silent(), once)
    assert len(asked) == 1


def test_two_processes_record_each_point_once(runs: Runs) -> None:
    """One process trains and evaluates; the other only trains, and writes nothing.

    The number of processes moves rounding alone, so it is no part of the run id.
    """
    runs("data.volumes=[8,16]", name="alone")
    alone, folder = runs.points(), runs.folder
    assert runs("data.volumes=[8,16]", "training.processes=2") == "done"
    assert runs.folder.name == folder.name
    together = runs.points()
    assert (runs.trained, len(runs.evaluated)) == (2, 12)
    for volume, point in together.items():
        assert point.counts.train_loss == pytest.approx(alone[volume].counts.train_loss, abs=1e-5)
        assert point.weight_change == pytest.approx(alone[volume].weight_change, rel=1e-4)
    assert runs("data.volumes=[8,16,24]") == "done"


@pytest.mark.parametrize(("rate", "expected"), [("1e-20", 1), ("0.01", 0)])
def test_a_point_whose_answers_are_those_of_volume_0_is_said(runs: Runs, rate: str, expected: int) -> None:
    """A LoRA moves away from 0 at any rate; at a tiny one, no log-likelihood does."""
    runs("tuning=lora", f"training.learning_rate={rate}")
    said = [message for message in runs.progress.messages if "every log-likelihood is the same as at volume 0" in message]
    assert len(said) == expected
    assert (runs.point.weight_change or 0) > 0


@pytest.mark.parametrize("rate", ["1e300", "1e39"])
def test_weights_that_overflow_are_named_as_the_cause(runs: Runs, rate: str) -> None:
    """The step from finite gradients is infinite, and so is the recorded change."""
    with pytest.raises(TrainingError, match="got a weight change of (inf|nan): weights overflowed; .*fix: a lower training.learning_rate"):
        runs("data.volumes=[8]", f"training.learning_rate={rate}")
